"""Scoring a dataset of Ray Data: the extra `ray`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plansmith_client.bulk import BulkScorer

__all__ = ["score"]


def score(dataset: Any, scorer: BulkScorer, **options: Any) -> Any:
    """A Ray dataset with the model's outputs as further columns; nothing runs until it is consumed.

    Each worker process has one connection, and holds one batch, by default a block. Ray runs the blocks of a lost
    worker again. The columns that are there stay as they are.

    Args:
        dataset: a `ray.data.Dataset`.
        scorer: what to ask, and how.
        options: of `Dataset.map_batches`, such as `batch_size`, `concurrency` or `num_cpus`.

    Returns:
        A `ray.data.Dataset` of as many rows.

    Example:
        ```python
        scored = plansmith_client.ray.score(dataset, BulkScorer("triton:8001", "prices"), batch_size=10_000)
        ```
    """

    def scored(table: Any) -> Any:
        from ray.data.block import BlockAccessor  # noqa: PLC0415 - the package stays free of engines

        # Only the model's own columns pass through numpy, which would make floats of integers beside nulls.
        outputs = BlockAccessor.batch_to_arrow_block(scorer(_Columns(table)))
        for name in outputs.column_names:
            table = table.append_column(outputs.schema.field(name), outputs.column(name))
        return table

    return dataset.map_batches(scored, batch_format="pyarrow", **options)


class _Columns(dict[str, Any]):
    """The columns of an Arrow table, each converted to numpy when it is asked for."""

    def __init__(self, table: Any) -> None:
        super().__init__(dict.fromkeys(table.column_names))
        self._table = table

    def __getitem__(self, name: str) -> Any:
        from ray.data.block import BlockAccessor  # noqa: PLC0415 - the package stays free of engines

        return BlockAccessor.for_block(self._table).to_numpy(name)
