"""The last check before a version is published: a real Triton loads it and answers as was judged.

Each configuration that this machine can load is served from the files that are about to be published. `config.pbtxt`
must answer the reference's inputs as the file that the version is built from, and each other configuration the requests
that its candidate was timed with as the candidate did in process.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plansmith_build.engines.onnxruntime import Session
from plansmith_build.portable.rows import alike, concatenate
from plansmith_build.portable.sequence_states import initial_state
from plansmith_build.reading.signatures import signature_of
from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.manifest import ServerTrial
from plansmith_build.repository.model_repository import CONFIG
from plansmith_build.search.candidates import Status
from plansmith_build.search.served_answers import Exchange, problem_with_answers, problem_with_sequences
from plansmith_build.serving import Entry, serving
from plansmith_client.errors import ClientError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.releasing import Built
    from plansmith_build.repository.publishing import Release
    from plansmith_build.search.candidates import Candidate

__all__ = ["Outcome", "try_on_triton"]


@dataclass(frozen=True)
class Outcome:
    """What a server made of a version.

    Attributes:
        record: for the manifest.
        refused: why a configuration cannot be published, by its path, such as `"config.pbtxt"`.
    """

    record: ServerTrial
    refused: Mapping[str, str]


def try_on_triton(built: Built, release: Release, labels: bytes | None, folder: Path, *, serve: bool) -> Outcome:
    """Serve a release before it is published, and ask it.

    Args:
        built: what it was made from, and how that answers.
        release: what is to be published.
        labels: the content of labels.txt as it will be, None where there will be none.
        folder: where a repository can be made; on the same file system as the release's files.
        serve: whether to start a server at all.
    """
    texts = release.configure(labels)
    exchanges = {path: exchange for path in texts if (exchange := _exchanges(built, path))}
    if not serve:
        return Outcome(ServerTrial(skipped=dict.fromkeys(texts, "--no-serve")), {})
    skipped = {path: _why_not_here(built, path) for path in texts if path not in exchanges}

    names = {path: f"{built.name[:100]}.{number}" for number, path in enumerate(exchanges)}
    entries = {
        name: Entry(config_from_text(texts[path]), release.model_files, labels, release.warmup)
        for path, name in names.items()
    }
    tried = {path: (name, entries[name]) for path, name in names.items()}
    version, refused = _ask(built, tried, exchanges, folder)
    served = tuple(path for path in names if path not in refused)
    return Outcome(ServerTrial(triton=version, served=served, skipped=skipped), refused)


def _ask(
    built: Built, tried: Mapping[str, tuple[str, Entry]], exchanges: Mapping[str, tuple[Exchange, ...]], folder: Path
) -> tuple[str, dict[str, str]]:
    """Triton's version, and why a configuration cannot be published, by its path."""
    from plansmith_server import ServerError  # noqa: PLC0415 - an optional distribution

    refused: dict[str, str] = {}
    path = next(iter(tried))
    try:
        with serving(dict(tried.values()), folder, first=tried[path][0]) as serves:
            for path, (name, entry) in tried.items():
                with serves.loaded(name) as refusal:
                    problem = refusal or (
                        problem_with_sequences(serves.client, name, entry, _sequences(built))
                        if built.states
                        else problem_with_answers(serves.client, name, entry, exchanges[path])
                    )
                    if problem:
                        refused[path] = problem
            return serves.server.version, refused
    except (ClientError, ServerError) as error:
        # What comes after it is tried with what is chosen next.
        return "", {**refused, path: str(error)}
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _exchanges(built: Built, path: str) -> tuple[Exchange, ...]:
    """What is asked of a configuration; nothing of one that this machine cannot load."""
    if path == CONFIG:
        return tuple(_of_reference(built))
    candidate = _candidate(built, path)
    if not candidate.answers or candidate.plans or built.search is None:
        return ()
    return Exchange.of_candidate(candidate, built.search.requests, built.reference.random_outputs)


def _of_reference(built: Built) -> Iterator[Exchange]:
    reference = built.reference
    if not built.portable.batched:
        # The graph takes and gives each single number as a vector of one.
        reference = reference.with_vectors()
        pairs = list(zip(reference.samples, reference.answers, strict=True))
    else:
        pairs = []
        for group in alike(reference.samples[: reference.single_samples]):
            samples, answers = (
                concatenate([arrays[index] for index in group]) for arrays in (reference.samples, reference.answers)
            )
            together = min(len(next(iter(samples.values()))), built.max_batch_size)
            pairs += [(_rows(samples, count), _rows(answers, count)) for count in {1: 0, together: 0}]
    for sample, answer in pairs:
        yield Exchange(sample, answer, reference.random_outputs, reference.noise)


def _sequences(built: Built) -> list[list[Exchange]]:
    """Two sequences of the reference's inputs, and what the portable version answers where it gets back its state."""
    portable, reference = built.portable, built.reference
    if not portable.batched:
        reference = reference.with_vectors()
    hidden = {name for state in built.states for name in (state.input, state.output)}
    session = Session(portable.files[0], signature_of(portable.network.model), optimized=True)
    samples = reference.samples[: reference.single_samples]
    sequences = []
    for steps in (samples, samples[::-1]):
        kept = initial_state(samples[0], built.states)
        exchanges = []
        for sample in steps:
            answer = session.run({**sample, **kept})
            kept = {state.input: answer[state.output] for state in built.states}
            request, expected = (
                {name: array for name, array in arrays.items() if name not in hidden} for arrays in (sample, answer)
            )
            exchanges.append(Exchange(request, expected, reference.random_outputs, reference.noise))
        sequences.append(exchanges)
    return sequences


def _rows(arrays: Arrays, count: int) -> Arrays:
    return {name: array[:count] for name, array in arrays.items()}


def _candidate(built: Built, path: str) -> Candidate:
    assert built.search is not None  # noqa: S101 - only a search makes other configurations than config.pbtxt
    return built.search.selection.named[path.removeprefix("configs/").removesuffix(".pbtxt")]


def _why_not_here(built: Built, path: str) -> str:
    candidate = _candidate(built, path)
    if candidate.status in {Status.UNMEASURED, Status.COMPILED}:
        return candidate.reason
    return "TensorRT plans are served by NVIDIA's container alone"
