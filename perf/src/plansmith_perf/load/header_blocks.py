"""Header blocks of HTTP/2 that repeat, encoded and decoded once.

A block's meaning depends on the table that the blocks before it have filled (RFC 7541). One that leaves the table as it
was means the same until another changes the table: its bytes can be sent again, or looked up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpack import Decoder, Encoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hpack.table import HeaderTable

__all__ = ["BlockDecoder", "RepeatedBlock"]

_KNOWN_BLOCKS = 64
_TABLE_BYTES = 4096


class RepeatedBlock:
    """The same headers for each request of a connection."""

    def __init__(self, headers: Sequence[tuple[str, str]]) -> None:
        self._headers = headers
        self._encoder = Encoder()
        self._settled = b""

    def encode(self) -> bytes:
        """The block to send next."""
        if self._settled:
            return self._settled
        before = _state(self._encoder.header_table)
        block: bytes = self._encoder.encode(self._headers)
        if _state(self._encoder.header_table) == before:
            # Not `block` itself, which may begin with the news of another size of the table.
            self._settled = self._encoder.encode(self._headers)
        return block

    def limit_table(self, size: int) -> None:
        """Obey the other side's limit, in bytes."""
        size = min(size, _TABLE_BYTES)
        # Told the same twice, hpack would forget to pass on the first.
        if size != self._encoder.header_table_size:
            self._encoder.header_table_size = size
            self._settled = b""


class BlockDecoder:
    """Decodes the blocks of a connection; each must be given, in order."""

    def __init__(self) -> None:
        self._decoder = Decoder()
        self._known: dict[bytes, Mapping[str, str]] = {}

    def decode(self, block: bytes) -> Mapping[str, str]:
        """Headers by name; of several of one name the last.

        Raises:
            hpack.HPACKError: the block is not valid.
        """
        headers = self._known.get(block)
        if headers is None:
            before = _state(self._decoder.header_table)
            headers = {str(name): str(value) for name, value in self._decoder.decode(block)}
            if _state(self._decoder.header_table) != before or len(self._known) == _KNOWN_BLOCKS:
                self._known.clear()
            else:
                self._known[block] = headers
        return headers


def _state(table: HeaderTable) -> tuple[int, tuple[tuple[bytes, bytes], ...]]:
    return table.maxsize, tuple(table.dynamic_entries)
