"""Text to the token ids of a transformer."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from plansmith_server.backends.pipeline_step.step import each_row
from plansmith_server.backends.signature import TensorInfo
from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["TOKENIZER", "TextStep"]

TOKENIZER = "tokenizer.json"
_DTYPES = {"INT64": np.int64, "INT32": np.int32}


class TextStep:
    """Tokenizes text with the `tokenizers` library and the tokenizer.json beside step.json.

    Takes `text` (BYTES, [rows, 1], UTF-8). Gives `input_ids`, `attention_mask` and `token_type_ids`, [rows, tokens].

    Args:
        folder: of the version.
        max_length: tokens of the longest text, special ones included.
        too_long: what becomes of a longer one: `truncate` or `refuse`.
        max_bytes: of the longest text, which is refused before it is tokenized.
        pad: lengths to fill up to, in ascending order; longer texts, or all where there are none, to the longest of the
            request.
        datatype: of the outputs, `INT64` or `INT32`.
    """

    def __init__(
        self, folder: Path, *, max_length: int, too_long: str, max_bytes: int, pad: Sequence[int], datatype: str
    ) -> None:
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"{TOKENIZER} is not a tokenizer of the library tokenizers: {error}") from error
        padding = self._tokenizer.padding or {}
        self._pad_id = int(padding.get("pad_id", self._tokenizer.token_to_id("[PAD]") or 0))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        if too_long == "truncate":
            self._tokenizer.enable_truncation(max_length)
        self._max_length = max_length
        self._max_bytes = max_bytes
        self._pad = sorted(pad)
        self._dtype = _DTYPES[datatype]
        self.inputs = (TensorInfo("text", "TYPE_STRING", (-1, 1)),)
        self.outputs = tuple(
            TensorInfo(name, f"TYPE_{datatype}", (-1, -1)) for name in ("input_ids", "attention_mask", "token_type_ids")
        )

    def extremes(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """The outputs, [1, tokens] each, for a text of the greatest length and of the greatest token id."""
        largest = max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        ids = np.full((1, max([self._max_length, *self._pad])), largest, self._dtype)
        return ids, np.ones_like(ids), np.zeros_like(ids)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        rows = each_row(inputs["text"][:, 0], self._encode)
        longest = max([1, *(len(row.ids) for row in rows)])
        place = bisect_left(self._pad, longest)
        width = self._pad[place] if place < len(self._pad) else longest
        ids = np.full((len(rows), width), self._pad_id, self._dtype)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for number, row in enumerate(rows):
            count = len(row.ids)
            ids[number, :count], mask[number, :count], types[number, :count] = row.ids, 1, row.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}

    def _encode(self, content: bytes) -> Any:
        if len(content) > self._max_bytes:
            raise RequestError(
                f"the text has {len(content):,} bytes, and {self._max_bytes:,} are allowed: send it in parts"
            )
        try:
            row = self._tokenizer.encode(content.decode())
        except UnicodeDecodeError as error:
            raise RequestError("the text is not UTF-8") from error
        if len(row.ids) > self._max_length:
            raise RequestError(
                f"the text has {len(row.ids)} tokens, and the model takes {self._max_length}: send it in parts"
            )
        return row
