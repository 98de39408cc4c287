"""Keyword spotting: a small CNN trained on spoken words, and a server that takes WAV files and gives the word.

espeak-ng of Debian speaks the words in many voices, of which some are kept for the test. The network learns from what
the pipeline's own first step makes of the files, is exported, calibrated and judged in INT8 against FP32 on voices that
it has not heard, and served in the precision that won. Recordings that cannot be used are refused alone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from scipy.io import wavfile
from scipy.signal import resample_poly
from torch import nn

from plansmith_build import BuildOptions, SearchOptions, build_pipeline
from plansmith_build.exporting import export_pytorch
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.search.targets import Precision, Target
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.backends.pipeline_step.audio import AudioStep

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_classified

if TYPE_CHECKING:
    from numpy.typing import NDArray

PIPELINE = Path(__file__).with_name("words.toml")
WORDS = ("go", "left", "no", "stop", "yes")
ACCENTS = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp")
VOICES = {"learn": ("m1", "m2", "m3", "m4", "m5", "f1", "f2", "f3"), "unseen": ("m6", "m7", "f4", "f5")}
# One second in frames of 25 milliseconds, every 10; and how fine the spectrum is.
FRAMES, BANDS = 98, 40
RATE = 16_000


def speak(path: Path, word: str, voice: str, seed: int) -> None:
    """Write a second of 16-bit PCM: the word somewhere in it, with a little noise."""
    generator = np.random.default_rng(seed)
    speed, pitch = str(generator.integers(130, 190)), str(generator.integers(25, 75))
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["espeak-ng", "-v", voice, "-s", speed, "-p", pitch, "-w", path, word], check=True)
    rate, samples = wavfile.read(path)
    spoken = resample_poly(samples / 2**15, RATE, rate)[: RATE - 240]
    second = generator.normal(0, 10 ** generator.uniform(-4, -2), RATE - 240)
    start = generator.integers(0, len(second) - len(spoken) + 1)
    second[start : start + len(spoken)] += generator.uniform(0.3, 1) * spoken
    write_wav(path, second, RATE)


def write_wav(path: Path, samples: NDArray[Any], rate: int) -> None:
    """Write samples between -1 and 1 as 16-bit PCM."""
    wavfile.write(path, rate, np.clip(samples * 2**15, -(2**15), 2**15 - 1).astype(np.int16))


def recordings(folder: Path, *, quick: bool) -> tuple[list[Path], list[Path]]:
    """Files to learn from and files of voices that are kept for the test, in a folder for each word."""
    paths: dict[str, list[Path]] = {}
    calls: list[tuple[Path, str, str, int]] = []
    for part, variants in VOICES.items():
        voices = [f"{accent}+{variant}" for accent, variant in product(ACCENTS[: 2 if quick else None], variants)]
        for word, voice in product(WORDS, voices):
            path = folder / part / word / f"{voice}.wav"
            paths.setdefault(part, []).append(path)
            calls.append((path, word, voice, len(calls)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda call: speak(*call), calls))
    return paths["learn"], paths["unseen"]


def features_of(paths: list[Path]) -> NDArray[Any]:
    """What the pipeline's first step gives the model: FP32 [files, 1, bands, frames]."""
    options = tomllib.loads(PIPELINE.read_text())["step"][0]
    step = AudioStep(shape=(1, BANDS, FRAMES), **{k: v for k, v in options.items() if k != "kind"})
    return np.stack([step.features(path.read_bytes()) for path in paths])


def spectrum(path: Path) -> Image.Image:
    """What the network gets of a file: a column a frame, low notes below, bright where it is loud."""
    bands = features_of([path])[0, 0, ::-1]
    return Image.fromarray((255 * (bands - bands.min()) / np.ptp(bands)).astype(np.uint8))


def words_of(paths: list[Path]) -> NDArray[Any]:
    """The number of each file's word."""
    return np.array([WORDS.index(path.parent.name) for path in paths])


def network() -> nn.Module:
    """From features [N, 1, 40, 98] to scores [N, 5]."""
    layers: list[nn.Module] = [nn.BatchNorm2d(1)]
    for before, after in ((1, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, len(WORDS)))


def train(features: NDArray[Any], words: NDArray[Any], epochs: int) -> nn.Module:
    """A network that tells the words apart."""
    torch.manual_seed(0)
    # So small a network gains nothing by threads, which wait for each other on a busy machine.
    torch.set_num_threads(1)
    made = network()
    rows, labels = torch.from_numpy(features), torch.from_numpy(words)
    optimizer = torch.optim.Adam(made.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(16):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            nn.functional.cross_entropy(made(rows[batch]), labels[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return made.eval()


def main(folder: Path, *, quick: bool) -> None:
    """Speak, train, build, serve and ask."""
    learn, unseen = recordings(folder, quick=quick)
    trained = train(features_of(learn), words_of(learn), epochs=40)
    torch.save(trained.state_dict(), folder / "words.pt")
    export_pytorch(trained, torch.zeros(1, 1, BANDS, FRAMES), folder / "words.onnx")
    np.savez(folder / "unseen.npz", features=features_of(unseen), labels=words_of(unseen))
    (folder / "labels.txt").write_text("".join(f"{word}\n" for word in WORDS))
    shutil.copy(PIPELINE, folder)
    search = SearchOptions(
        str(folder / "unseen.npz"),
        precisions=(Precision.FP32, Precision.INT8),
        targets=(Target.ONNXRUNTIME,) if quick else (Target.ONNXRUNTIME, Target.OPENVINO),
        max_drop=0.02,
    )
    repository = folder / "model_repository"
    options = BuildOptions(repository, search=search, serve=not quick, replace=True)
    built = build_pipeline(folder / "words.onnx", folder / "words.toml", options)
    model = read_manifest(repository / f"words.{built.version}.model" / "1" / "manifest.json").search
    assert model is not None  # noqa: S101 - it was built with data
    print(f"FP32 {model.fp32.top1:.1%}")
    for candidate in model.candidates:
        if candidate.accuracy is not None and candidate.ratio_to_fp32 is not None:
            said = f"{candidate.target} {candidate.precision} {candidate.accuracy.top1:.1%}"
            print(f"{said}, {candidate.ratio_to_fp32:.2f} times the speed of FP32: {candidate.status}")
    write_wav(folder / "silence.wav", np.zeros(RATE // 2), RATE)
    write_wav(folder / "telephone.wav", np.full(4000, 0.5), 8000)
    bad = {"silence": "silence.wav", "8,000 samples a second": "telephone.wav", "not audio": "labels.txt"}
    with (
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Client(server.grpc_url) as client,
    ):
        words = client.model("words")
        files = [path.read_bytes() for path in unseen]
        answers = list(words.map([[file] for file in files]))
        guesses = [item["label"][0].decode() for item in answers]
        right = [word == path.parent.name for word, path in zip(guesses, unseen, strict=True)]
        print(f"served: {np.mean(right):.1%} of {len(unseen)} files of voices that it has not heard")
        # Of each word the first two voices.
        shown = [place + voice for voice in (0, 1) for place in range(0, len(unseen), len(unseen) // len(WORDS))]
        pictures = [
            (spectrum(unseen[place]), guesses[place], answers[place]["probability"][0], unseen[place].parent.name)
            for place in shown
        ]
        save_classified(pictures, folder / "words.png", columns=len(WORDS))
        for what, name in bad.items():
            before, refused, after = words.map([[files[0]], [(folder / name).read_bytes()], [files[1]]])
            assert before.error is None and after.error is None  # noqa: S101, PT018
            print(f"{what}: {refused.error}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/words"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="fewer voices, one engine, no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, quick=arguments.quick)
