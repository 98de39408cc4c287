"""What a pipeline answers in this process and on a Triton, on samples of its own or the user's."""

from __future__ import annotations

import io
import wave
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from plansmith_build.engines.onnxruntime import RunFailed
from plansmith_build.errors import InvalidOption, VerificationFailed
from plansmith_build.pipelines.spec import AudioOptions, ImageOptions, TextOptions
from plansmith_build.portable.comparison import compare
from plansmith_build.portable.sampling import input_kinds, random_sample
from plansmith_build.reading.signatures import Signature
from plansmith_build.repository.manifest import OutputError
from plansmith_build.search.served_answers import as_bytes
from plansmith_build.serving import served_repository
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.pipelines.spec import PipelineSpec
    from plansmith_build.pipelines.wiring import Wiring
    from plansmith_build.portable.comparison import OutputComparison

__all__ = ["Exchange", "answers_in_process", "ask_triton", "output_errors"]

_TEXTS = ("good", "A longer sentence, with a comma.", "Ein Satz mit Umlauten: schöne Grüße!", "")
_SIZES = ((64, 48), (200, 310), (640, 480))
# Of classes that are nearly tied, either may come first.
_TIES = 0.2

Exchange = tuple["Arrays", "Arrays"]


def answers_in_process(wiring: Wiring, spec: PipelineSpec) -> list[Exchange]:
    """Requests, and what the steps answer one after the other in this process: each sample alone, and all as one batch.

    Raises:
        InvalidOption: a sample cannot be read, or the pipeline cannot answer it.
    """
    from plansmith_server import RequestError  # noqa: PLC0415 - an optional distribution

    exchanges = []
    refused: Exception | None = None
    for number, sample in enumerate(_samples(wiring, spec), start=1):
        try:
            exchanges.append((sample, wiring.run(sample)))
        except (RequestError, RunFailed) as error:
            refused = InvalidOption(f"the pipeline cannot answer sample {number} of its verification: {error}")
            # What is made up may be larger than the pipeline allows.
            if spec.samples or isinstance(error, RunFailed):
                raise refused from error
    if refused is not None and not exchanges:
        raise refused
    together = [sample for sample, _ in exchanges]
    if 1 < len(together) <= min(node.max_batch_size for node, _, _ in wiring.steps):
        batch = {name: np.concatenate([sample[name] for sample in together]) for name in together[0]}
        exchanges.append((batch, wiring.run(batch)))
    return exchanges


def ask_triton(repository: Path, name: str, exchanges: Sequence[Exchange]) -> tuple[str, list[OutputComparison]]:
    """Serve every model of a repository, and hold the answers of one against others.

    Returns:
        Triton's version, and each output of each answer compared.

    Raises:
        VerificationFailed: a model is not loaded, or answers otherwise.
        ServerError: the server does not start.
    """
    compared: list[OutputComparison] = []
    with served_repository(repository) as server:
        for model, reason in server.refused.items():
            raise VerificationFailed(
                f"Triton does not load {model!r} of the pipeline, so nothing is published: {reason}"
            )
        for request, made in exchanges:
            expected = {key: as_bytes(array) for key, array in made.items()}
            try:
                answer = server.client.model(name).infer(request)
            except ClientError as error:
                raise VerificationFailed(
                    f"Triton loads the pipeline and does not answer, so nothing is published: {error}"
                ) from error
            ties = {key: _TIES for key, array in expected.items() if array.dtype.kind == "O"}
            compared += compare(expected, {key: answer[key] for key in expected}, noise=ties)
            wrong = next((comparison for comparison in compared if not comparison.passed), None)
            if wrong is not None:
                raise VerificationFailed(
                    f"Triton answers otherwise than the steps in this process, so nothing is published: "
                    f"{wrong.complaint()}"
                )
    return server.server.version, compared


def output_errors(compared: Sequence[OutputComparison]) -> tuple[OutputError, ...]:
    """The greatest error of each output, for the manifest, in the order in which the outputs are declared."""
    greatest: dict[str, OutputComparison] = {}
    for one in compared:
        if one.max_relative_error >= greatest.setdefault(one.name, one).max_relative_error:
            greatest[one.name] = one
    return tuple(OutputError(**asdict(one)) for one in greatest.values())


def _samples(wiring: Wiring, spec: PipelineSpec) -> list[Arrays]:
    first = spec.step[0]
    if isinstance(first, TextOptions):
        return [_one("text", text.encode()) for text in spec.samples or _TEXTS]
    if isinstance(first, (ImageOptions, AudioOptions)):
        try:
            files = [(spec.folder / path).read_bytes() for path in spec.samples] or [
                _recording(first, seed) if isinstance(first, AudioOptions) else _picture(*size, first.formats[0], seed)
                for seed, size in enumerate(_SIZES)
            ]
            return [_one(first.kind, content) for content in files]
        except OSError as error:
            raise InvalidOption(f"the sample {error.filename} cannot be read: {error.strerror}") from error
    if spec.samples:
        raise InvalidOption(
            "samples are texts, images or recordings: leave them out of a pipeline that begins with a model"
        )
    return _arrays(wiring)


def _arrays(wiring: Wiring) -> list[Arrays]:
    """Of the first kind that the pipeline answers: numbers may be indexes, and not every length one that it takes."""
    signature = Signature(wiring.inputs, (), {spec.name: ("",) * len(spec.shape) for spec in wiring.inputs})
    refused: Exception | None = None
    for kind in input_kinds(signature, -1, {}):
        made = [
            random_sample(signature, kind, with_optional=False, rng=np.random.default_rng(seed)) for seed in range(3)
        ]
        try:
            wiring.run(made[0])
        except RunFailed as error:
            refused = refused or error
        else:
            return made
    raise InvalidOption(f"the pipeline answers no made-up arrays: {refused}") from refused


def _one(name: str, content: bytes) -> Arrays:
    return {name: np.array([[content]], dtype=object)}


def _picture(width: int, height: int, form: str, seed: int) -> bytes:
    """A few large patches of colour, which survive compression and resizing."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def _recording(options: AudioOptions, seed: int) -> bytes:
    """A frame or more of noise."""
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as recording:
        recording.setparams((1, 2, options.rate, 0, "NONE", ""))
        recording.writeframes(np.random.default_rng(seed).integers(-9999, 9999, options.window, np.int16).tobytes())
    return buffer.getvalue()
