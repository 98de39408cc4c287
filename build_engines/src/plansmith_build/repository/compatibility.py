"""Whether clients of a model's newest version can call another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidModel, InvalidOption, ModelNotFound
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.reading.shapes import agree
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.model_repository import CONFIG

if TYPE_CHECKING:
    from collections.abc import Iterator

    from plansmith_build.reading.signatures import Signature
    from plansmith_build.repository.manifest import Tensor
    from plansmith_build.repository.model_repository import RepositoryModel
    from plansmith_client.tensors import TensorSpec

__all__ = ["require_same_clients"]


def require_same_clients(model: RepositoryModel, signature: Signature, *, sequences: bool = False) -> None:
    """Refuse what clients of the newest version would trip over, where there is such a version.

    More outputs, and more optional inputs, do not count, nor does the size of the first dimension: it may be that of a
    batch, which a build makes free.

    Raises:
        InvalidOption: it is another model to them.
    """
    try:
        before = model.manifest(model.versions[-1])
    except (IndexError, FileNotFoundError, ModelNotFound, InvalidModel):
        # Without a manifest nobody says what clients of it send.
        return
    inputs = {spec.name: spec for spec in signature.inputs}
    outputs = {spec.name: spec for spec in signature.outputs}
    named = {tensor.name for tensor in before.inputs}
    changes = (
        *_changes("input", before.inputs, inputs),
        *(f"input {spec.name!r} is new" for spec in signature.inputs if spec.name not in named and not spec.optional),
        *_changes("output", before.outputs, outputs),
        *_change_of_sequences(model, sequences=sequences),
    )
    if changes:
        raise InvalidOption(
            f"{model.name!r} version {model.versions[-1]} in {model.path.parent} is another model to its clients: "
            f"{'; '.join(changes)}; publish under another name with --name, or as the next version with --replace"
        )


def _change_of_sequences(model: RepositoryModel, *, sequences: bool) -> Iterator[str]:
    try:
        before = config_from_text(read_regular(model.path / CONFIG).decode()).HasField("sequence_batching")
    except (OSError, UnicodeDecodeError, InvalidModel):
        # What no server loads has no clients.
        return
    if before != sequences:
        yield "its requests belong to sequences" + (" now" if sequences else " no longer")


def _changes(role: str, before: tuple[Tensor, ...], after: dict[str, TensorSpec]) -> Iterator[str]:
    for tensor in before:
        spec = after.get(tensor.name)
        if spec is None:
            yield f"{role} {tensor.name!r} is gone"
        elif spec.datatype != tensor.datatype:
            yield f"{role} {tensor.name!r} was {tensor.datatype} and is {spec.datatype}"
        elif role == "input" and not _same_shape(tensor.shape, spec.shape):
            yield f"input {tensor.name!r} was {list(tensor.shape)} and is {list(spec.shape)}"


def _same_shape(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    # Single numbers are served as vectors of one.
    return agree((before or (1,))[1:], (after or (1,))[1:])
