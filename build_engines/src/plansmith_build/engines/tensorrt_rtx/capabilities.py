"""The GPUs that TensorRT for RTX compiles for, by compute capability."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_build.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ARCHITECTURES", "WITH_FP8", "in_words", "parse_capabilities"]

ARCHITECTURES = {
    "7.5": "Turing",
    "8.0": "Ampere",
    "8.6": "Ampere",
    "8.9": "Ada",
    "12.0": "Blackwell",
    "12.1": "Blackwell",
}
"""By compute capability, as the enumeration `ComputeCapability` of the bindings has them: no Hopper (9.0) and no
datacentre Blackwell (10.x)."""

WITH_FP8 = ("8.9", "12.0", "12.1")
"""Those that multiply FP8; an engine with FP8 for Ampere is refused by the compiler, if Ampere is named."""

_TURING = "7.5"


def parse_capabilities(text: str) -> tuple[str, ...]:
    """Read `8.6,8.9,12.0`; an empty text is the compiler's default, one engine for Ampere and everything later.

    Raises:
        InvalidOption: the compiler has no such compute capability, or Turing stands beside another.
    """
    found = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for capability in found:
        if capability not in ARCHITECTURES:
            raise InvalidOption(
                f"--compute-capability {capability}: TensorRT for RTX compiles for {', '.join(ARCHITECTURES)}. For "
                "other GPUs, build plans on such a GPU with --target tensorrt"
            )
    if _TURING in found and len(found) > 1:
        raise InvalidOption(
            f"--compute-capability {','.join(found)}: TensorRT for RTX compiles for {_TURING} (Turing) only alone: "
            f"build once with {_TURING} and once with the others"
        )
    return found


def in_words(capabilities: Sequence[str]) -> str:
    """`8.6 and 8.9`, or what the compiler's default means."""
    if not capabilities:
        return "Ampere and later"
    return " and ".join(filter(None, [", ".join(capabilities[:-1]), capabilities[-1]]))
