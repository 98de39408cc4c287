"""Voice activity in streams: a server that remembers each stream between its chunks of 32 milliseconds.

Silero VAD (MIT) comes from its package on PyPI, by name and hash, without being imported. The audio is spoken by
espeak-ng where that is installed, and else, or with --quick, made of vowels. Eight streams are heard at once; what the
server says of every chunk is compared with ONNX Runtime in this process.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from scipy.io import wavfile
from scipy.signal import lfilter, resample_poly

from plansmith_build import BuildOptions, build
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from numpy.typing import NDArray

PACKAGE = "silero-vad==6.2.3 --hash=sha256:7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8"
MODEL = "silero_vad/data/silero_vad_openvino_16k.onnx"
RATE = 16_000
CHUNK = 512
# The model also wants the end of the chunk before.
CONTEXT = 64
STREAMS = 8
# Of vowels, in hertz.
FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (530, 1840, 2480), (570, 840, 2410), (300, 870, 2240))
SENTENCES = ("The train to the coast leaves from platform four.", "Please close the window, it has begun to rain.")


def fetch(folder: Path) -> Path:
    """The model's file, taken from its wheel unless it is there."""
    path = folder / "voice.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        requirements = folder / "requirements.txt"
        requirements.write_text(PACKAGE)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--require-hashes", "-r", requirements, "--dest", folder], check=True)
        with zipfile.ZipFile(next(folder.glob("silero_vad-*.whl"))) as wheel:
            path.write_bytes(wheel.read(MODEL))
    return path


def voice(folder: Path, number: int, *, quick: bool) -> NDArray[np.float32]:
    """A second or more of a voice, samples between -1 and 1."""
    if not quick and shutil.which("espeak-ng"):
        path = folder / f"{number}.wav"
        speed, pitch = str(140 + 10 * number), str(30 + 6 * number)
        subprocess.run(["espeak-ng", "-s", speed, "-p", pitch, "-w", path, SENTENCES[number % 2]], check=True)
        rate, samples = wavfile.read(path)
        return np.asarray(resample_poly(samples / 32768, RATE, rate), np.float32)
    return vowels(number)


def vowels(number: int) -> NDArray[np.float32]:
    """Seven syllables: a falling pitch through the resonances of a mouth, with a breath after each."""
    generator = np.random.default_rng(number)
    pieces = []
    for syllable in range(7):
        times = np.arange(int(RATE * (0.16 + 0.04 * (syllable % 3)))) / RATE
        pitch = (110 + 12 * number) * (1.1 - 0.04 * syllable) * (1 + 0.03 * np.sin(10 * np.pi * times))
        pulses = 2 * (np.cumsum(pitch) / RATE % 1) - 1
        sound = lfilter([1], [1, -0.95], -np.diff(pulses, prepend=0)) + 0.02 * generator.standard_normal(len(times))
        for frequency, width in zip(FORMANTS[(syllable + number) % len(FORMANTS)], (80, 100, 140), strict=True):
            radius = np.exp(-np.pi * width / RATE)
            poles = [1, -2 * radius * np.cos(2 * np.pi * frequency / RATE), radius**2]
            sound = lfilter([sum(poles)], poles, sound)
        sound *= np.minimum(1, np.minimum(times, times[::-1]) / 0.03)
        pieces += [0.3 * sound / np.abs(sound).max(), 0.02 * np.diff(generator.standard_normal(RATE // 20))]
    samples: NDArray[np.float32] = np.concatenate(pieces).astype(np.float32)
    return samples


def chunks_of(folder: Path, number: int, *, quick: bool) -> NDArray[np.float32]:
    """A stream that is silent but for a voice after each pause, as the model takes it: [chunks, 576]."""
    quiet = np.zeros((2 + number % 3) * RATE // 4, np.float32)
    samples = np.concatenate([*[quiet, voice(folder, number, quick=quick)] * (1 if quick else 4), quiet])
    samples = samples + np.random.default_rng(number).normal(0, 1e-4, len(samples)).astype(np.float32)
    padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + CHUNK)[::CHUNK].copy()


def in_process(session: Any, chunks: NDArray[np.float32]) -> list[float]:
    """How probable a voice is in each chunk, by ONNX Runtime; the state goes from run to run by hand."""
    state, said = np.zeros((2, 1, 128), np.float32), []
    for chunk in chunks:
        probability, state = session.run(["output", "stateN"], {"input": chunk[np.newaxis], "state": state})
        said.append(float(probability.item()))
    return said


def as_served(client: Client, chunks: NDArray[np.float32]) -> list[float]:
    """The same by a server: only chunks are sent."""
    with client.model("voice").sequence() as stream:
        answers = [stream(chunk[np.newaxis]) for chunk in chunks[:-1]]
        answers.append(stream.end(chunks[-1:]))
    return [float(answer["output"].item()) for answer in answers]


def draw(path: Path, served: list[list[float]]) -> None:
    """A line for each stream: how probable a voice is, from 0 to 1, over the seconds."""
    left, across, height = 64, 800, 34
    longest = max(map(len, served))
    step, width, bottom = across / longest, left + across + 16, height * len(served)
    parts = [f'<rect width="{width}" height="{bottom + 24}" fill="white"/>']
    for second in range(0, int(longest * CHUNK / RATE) + 1, 2):
        x = left + step * second * RATE / CHUNK
        parts.append(
            f'<path d="M{x:.0f} 4V{bottom}" stroke="#ddd"/><text x="{x:.0f}" y="{bottom + 16}">{second} s</text>'
        )
    for number, said in enumerate(served):
        base = height * (number + 1) - 4
        places = " ".join(f"{left + step * x:.1f},{base - 24 * y:.0f}" for x, y in enumerate(said))
        filled = f"{left},{base} {places} {left + step * (len(said) - 1):.1f},{base}"
        parts.append(f'<polygon fill="#9fa8da" stroke="#3f51b5" points="{filled}"/>')
        parts.append(f'<text x="4" y="{base - 4}">stream {number}</text>')
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {bottom + 24}"'
    path.write_text(f'{head} font-family="sans-serif" font-size="13">{"".join(parts)}</svg>\n')


def main(folder: Path, *, quick: bool) -> None:
    """Build, serve and listen."""
    model = fetch(folder)
    repository = folder / "model_repository"
    build(model, BuildOptions(repository, states=("auto",), serve=not quick, replace=True))
    streams = [chunks_of(folder, number, quick=quick) for number in range(STREAMS)]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    expected = [in_process(session, chunks) for chunks in streams]
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(options) as server, Client(server.grpc_url) as client, ThreadPoolExecutor(STREAMS) as pool:
        started = time.perf_counter()
        served = list(pool.map(lambda chunks: as_served(client, chunks), streams))
        seconds = time.perf_counter() - started
        counted = client.model("voice").statistics()[0]
    for number, said in enumerate(served):
        print(f"stream {number}: " + "".join("#" if probability > 0.5 else "." for probability in said[::3]))  # noqa: PLR2004
    apart = max(np.abs(np.subtract(*pair)).max() for pair in zip(served, expected, strict=True))
    heard = sum(map(len, streams)) * CHUNK / RATE
    print(f"{heard:.0f} seconds of {STREAMS} streams heard in {seconds:.1f} seconds", end=", ")
    print(f"{counted.inferences} chunks in {counted.executions} runs")
    draw(folder / "speech.svg", served)
    print(f"largest difference to ONNX Runtime in this process: {apart:.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/speech"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="one voice in each stream, and no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, quick=arguments.quick)
