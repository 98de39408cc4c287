"""Time a classifier on one image after the other, from several threads, and count how often it is right."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Classifier = Callable[[NDArray[np.float32]], NDArray[np.float32]]

__all__ = ["Measurement", "measure"]


@dataclass(frozen=True)
class Measurement:
    """What a classifier did with a set of images.

    Attributes:
        probabilities: its answers, FP32 [N, 10], in the order of the images.
        latencies: seconds each call took, FP64 [calls].
        images_per_second: over the whole run.
    """

    probabilities: NDArray[np.float32]
    latencies: NDArray[np.float64]
    images_per_second: float

    def accuracy(self, labels: NDArray[np.int64]) -> float:
        """The share of images, 0 to 1, whose most probable class is the label. `labels` is INT64 [N]."""
        return float((self.probabilities.argmax(axis=1) == labels).mean())

    def percentile(self, percent: float) -> float:
        """The latency in milliseconds that `percent` of the calls did not exceed."""
        return float(np.percentile(self.latencies, percent)) * 1000


def measure(classify: Classifier, images: NDArray[np.float32], *, threads: int, rounds: int = 1) -> Measurement:
    """Send each image alone, `threads` at a time, `rounds` times over.

    Args:
        classify: takes FP32 [1, 8, 8] and gives probabilities FP32 [1, 10]; called from several threads.
        images: FP32 [N, 8, 8].
        threads: how many calls are in flight at once.
        rounds: how many times the images are sent.

    Returns:
        Answers of the last round, latencies of all rounds.
    """

    def timed(image: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
        started = time.perf_counter()
        probabilities = classify(image[np.newaxis])
        return probabilities, time.perf_counter() - started

    sent = [image for _ in range(rounds) for image in images]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(timed, images[:threads]))  # opens connections and warms caches
        started = time.perf_counter()
        answers = list(pool.map(timed, sent))
        elapsed = time.perf_counter() - started
    return Measurement(
        probabilities=np.concatenate([probabilities for probabilities, _ in answers[-len(images) :]]),
        latencies=np.array([latency for _, latency in answers]),
        images_per_second=len(sent) / elapsed,
    )
