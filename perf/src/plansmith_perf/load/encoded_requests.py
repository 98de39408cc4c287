"""Requests as they travel, and whether what came back is right.

The bytes of a request are made once, before the load; a reply that is byte for byte one that was found right is not
decoded again. So the generator spends its time on sending.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from plansmith_client.errors import ClientError
from plansmith_perf.errors import PerfError
from plansmith_perf.load.requests import check_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

__all__ = ["RIGHT", "WRONG_ANSWER", "EncodedRequest", "judge", "one_line", "outcome_of"]

RIGHT = ""
WRONG_ANSWER = "WRONG ANSWER"
"""What the outcome of a request begins with that was answered, but not with what it must be."""
_SHOWN_CHARACTERS = 200


@dataclass
class EncodedRequest:
    """A request as it travels.

    Attributes:
        body: what is sent.
        headers: of HTTP.
        expected: outputs by name.
        right: a reply that was compared with `expected` and found right; None before there was one.
    """

    body: bytes
    headers: Mapping[str, str]
    expected: Mapping[str, NDArray[Any]]
    right: bytes | None = field(default=None, repr=False)


def judge(
    request: EncodedRequest, reply: bytes, decode: Callable[[], Mapping[str, NDArray[Any]]], *, tolerance: float
) -> str:
    """Compare a reply with what is expected, and remember it where it is right.

    Args:
        request: what was asked.
        reply: what came back.
        decode: gives its arrays, or raises PerfError, ClientError, ValueError or DecodeError.
        tolerance: see `check_answer`.

    Returns:
        RIGHT, or what is wrong, in one line.
    """
    try:
        check_answer(decode(), request.expected, tolerance=tolerance)
    except (PerfError, ClientError, ValueError, DecodeError) as error:
        return one_line(f"{WRONG_ANSWER}: {error}")
    request.right = reply
    return RIGHT


def outcome_of(answer: Mapping[str, NDArray[Any]], expected: Mapping[str, NDArray[Any]], *, tolerance: float) -> str:
    """RIGHT, or what is wrong with an answer, in one line; see `check_answer`."""
    try:
        check_answer(answer, expected, tolerance=tolerance)
    except PerfError as error:
        return one_line(f"{WRONG_ANSWER}: {error}")
    return RIGHT


def one_line(text: str) -> str:
    """The beginning of a text, without line breaks: outcomes are counted by their text."""
    return " ".join(text.split())[:_SHOWN_CHARACTERS]
