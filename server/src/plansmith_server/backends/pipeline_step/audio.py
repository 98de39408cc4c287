"""WAV files to log-mel features, the same for training, calibration and serving."""

from __future__ import annotations

import io
import wave
from typing import TYPE_CHECKING, Any

import numpy as np

from plansmith_server.backends.pipeline_step.step import each_row
from plansmith_server.backends.signature import TensorInfo
from plansmith_server.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["AudioStep"]

_SAMPLE_BYTES = 2
# Of the power of a frame: what is quieter is the recorder's own noise.
_FLOOR = 1e-6


class AudioStep:
    """Decodes recordings of 16-bit PCM and gives the logarithm of their mel spectrum.

    Takes `audio` (BYTES, [rows, 1], whole WAV files). Gives `features` (FP32, [rows, *shape]). Channels are averaged; a
    recording that is shorter than the model's frames is followed by silence.

    Args:
        shape: of a row; the last two are mel bands and frames, those before are 1.
        rate: samples a second, of every recording.
        window: samples of a frame.
        hop: samples from one frame to the next.
        min_level: of the loudest sample, between 0 and 1; a quieter recording is refused as silent.

    Raises:
        ValueError: the bands are more than the window tells apart.
    """

    def __init__(self, *, shape: Sequence[int], rate: int, window: int, hop: int, min_level: float) -> None:
        self._shape = tuple(shape)
        self._rate, self._hop = rate, hop
        self._min_level = min_level
        bands, self._frames = self._shape[-2:]
        self._samples = (self._frames - 1) * hop + window
        self._taper = np.hanning(window + 1)[:-1]
        self._mel = _mel_bands(bands, window, rate)
        if not self._mel.any(axis=0).all():
            raise ValueError(f"a window of {window} samples does not tell {bands} mel bands apart: use a longer one")
        self.inputs = (TensorInfo("audio", "TYPE_STRING", (-1, 1)),)
        self.outputs = (TensorInfo("features", "TYPE_FP32", (-1, *self._shape)),)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """See `Step`."""
        rows = each_row(inputs["audio"][:, 0], self.features)
        return {"features": np.stack(rows) if rows else np.zeros((0, *self._shape), np.float32)}

    def features(self, content: bytes) -> NDArray[np.float32]:
        """Of one WAV file: FP32, of the step's shape.

        Raises:
            RequestError: the content cannot be used.
        """
        samples = self._decode(content)
        if not len(samples) or np.abs(samples).max() < self._min_level:
            raise RequestError(
                f"the audio is silent: its loudest sample is below {self._min_level:g} of full scale; record it louder"
            )
        padded = np.pad(samples, (0, self._samples - len(samples)))
        frames = np.lib.stride_tricks.sliding_window_view(padded, len(self._taper))[:: self._hop]
        power = np.abs(np.fft.rfft(frames * self._taper)) ** 2 @ self._mel
        made: NDArray[np.float32] = np.log(np.maximum(power.T, _FLOOR)).astype(np.float32)
        return made.reshape(self._shape)

    def _decode(self, content: bytes) -> NDArray[np.float64]:
        """Samples between -1 and 1, one channel."""
        try:
            with wave.open(io.BytesIO(content)) as recording:
                channels, width, rate, count = recording.getparams()[:4]
                if width != _SAMPLE_BYTES:
                    raise RequestError(f"the audio has {8 * width} bits a sample: convert it to 16-bit PCM")
                if rate != self._rate:
                    raise RequestError(
                        f"the audio has {rate:,} samples a second, and the model takes {self._rate:,}: resample it"
                    )
                if count > self._samples:
                    raise RequestError(
                        f"the audio has {count:,} samples ({count / rate:.2f} s), and the model takes at most "
                        f"{self._samples:,}: send it in parts"
                    )
                data = recording.readframes(count)
        except (wave.Error, EOFError, RuntimeError, ArithmeticError) as error:
            raise RequestError(
                f"{len(content)} bytes are not a WAV file of 16-bit PCM: {str(error) or 'it is cut off'}"
            ) from error
        if len(data) != count * channels * width:
            raise RequestError(f"the audio is cut off: its header says {count} samples, of which some are missing")
        samples: NDArray[np.float64] = np.frombuffer(data, "<i2").reshape(-1, channels).mean(axis=1) / 2**15
        return samples


def _mel_bands(bands: int, window: int, rate: int) -> NDArray[np.float64]:
    """Triangles of equal width on the mel scale, [frequencies, bands], as HTK has them."""
    mels = np.linspace(0, 2595 * np.log10(1 + rate / 2 / 700), bands + 2)
    edges = 700 * (10 ** (mels / 2595) - 1)
    frequencies = np.fft.rfftfreq(window, 1 / rate)[:, np.newaxis]
    rising = (frequencies - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequencies) / (edges[2:] - edges[1:-1])
    triangles: NDArray[np.float64] = np.maximum(0, np.minimum(rising, falling))
    return triangles
