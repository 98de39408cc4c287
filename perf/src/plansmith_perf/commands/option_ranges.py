"""Checks the numbers on a command line before anything is measured."""

from __future__ import annotations

import math

from plansmith_perf.errors import LoadTestMisconfigured

__all__ = ["check_not_negative", "check_positive", "positive_numbers", "positive_whole_numbers"]


def check_positive(**options: float) -> None:
    """Refuse what is not above 0 and finite.

    Args:
        options: by the option's name, without its dashes.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    for name, number in options.items():
        if not 0 < number < math.inf:
            raise LoadTestMisconfigured(f"{_option(name)} must be above 0 and finite, got {number:g}")


def check_not_negative(**options: float) -> None:
    """Refuse what is below 0 or not finite.

    Args:
        options: by the option's name, without its dashes.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    for name, number in options.items():
        if not 0 <= number < math.inf:
            raise LoadTestMisconfigured(f"{_option(name)} must be 0 or more and finite, got {number:g}")


def positive_numbers(option: str, text: str, *, below: float = math.inf) -> list[float]:
    """Numbers above 0, separated by commas.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or not all(0 < number < below for number in numbers):
        limit = "" if below == math.inf else f" and below {below:g}"
        raise LoadTestMisconfigured(f"{option} must be numbers above 0{limit}, separated by commas, got {text!r}")
    return numbers


def positive_whole_numbers(option: str, text: str) -> list[int]:
    """Whole numbers above 0, separated by commas.

    Raises:
        LoadTestMisconfigured: names the option.
    """
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise LoadTestMisconfigured(f"{option} must be whole numbers above 0, separated by commas, got {text!r}")
    return numbers


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
