"""Gradient boosting over a table with missing values and text, served so that it takes rows as people have them.

Trees split categories by their numbers. A node before them, in the same file, makes the numbers out of text, so that
the server takes the text itself. What it answers is compared with LightGBM's own probabilities.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightgbm
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnxmltools import convert_lightgbm
from onnxmltools.convert.common.data_types import FloatTensorType

from plansmith_build import BuildOptions, build
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_bars

if TYPE_CHECKING:
    from numpy.typing import NDArray

CITIES = ("Bergen", "Lisboa", "Łódź", "Napoli", "Tartu")
NUMBERS = ("age", "visits", "spent")
MISSING = 0.1


def customers(rows: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.object_], NDArray[np.int64]]:
    """Numbers [rows, 3] with NaN where nobody knows, cities [rows, 1] with "" there, and who comes back [rows]."""
    generator = np.random.default_rng(seed)
    age, visits = generator.uniform(18, 80, rows), generator.poisson(4, rows)
    spent = generator.gamma(2, 30, rows)
    city = generator.integers(0, len(CITIES), rows)
    likely = 0.5 * visits + np.where(city % 2 == 0, 1.5, -1) - 0.03 * np.abs(age - 40) + 0.01 * spent - 2
    comes_back = (likely + generator.logistic(0, 0.5, rows) > 0).astype(np.int64)
    numbers = np.stack([age, visits, spent], axis=1).astype(np.float32)
    numbers[generator.random(numbers.shape) < MISSING] = np.nan
    cities = np.array(CITIES, np.object_)[city]
    cities[generator.random(rows) < MISSING] = ""
    return numbers, cities[:, np.newaxis], comes_back


def codes(cities: NDArray[np.object_]) -> NDArray[np.float32]:
    """The number of each city; NaN, a missing value, for what is empty or unknown."""
    known = {city: float(number) for number, city in enumerate(CITIES)}
    return np.array([[known.get(city, math.nan)] for city in cities[:, 0]], np.float32)


def export(classifier: Any, path: Path) -> None:
    """Write the trees as ONNX, with inputs `numbers` FP32 [rows, 3] and `city` BYTES [rows, 1]."""
    width = len(NUMBERS) + 1
    model = convert_lightgbm(classifier, initial_types=[("row", FloatTensorType([None, width]))], zipmap=False)
    encode = helper.make_node(
        "LabelEncoder",
        ["city"],
        ["code"],
        domain="ai.onnx.ml",
        keys_strings=CITIES,
        values_floats=[float(number) for number in range(len(CITIES))],
        default_float=math.nan,
    )
    model.graph.node.insert(0, encode)
    model.graph.node.insert(1, helper.make_node("Concat", ["numbers", "code"], ["row"], axis=1))
    for opset in model.opset_import:
        if opset.domain == "ai.onnx.ml":
            # Encoders with a default are newer than trees.
            opset.version = 3
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info("numbers", TensorProto.FLOAT, ["rows", len(NUMBERS)]))
    model.graph.input.append(helper.make_tensor_value_info("city", TensorProto.STRING, ["rows", 1]))
    onnx.save(model, path)


def draw(path: Path, likely: NDArray[np.float32], comes_back: NDArray[np.int64]) -> None:
    """How many customers came back, by how probable that was said to be."""
    tenths = np.minimum(likely * 10, 9).astype(int)
    bars = []
    for tenth in np.unique(tenths):
        truth = comes_back[tenths == tenth]
        bars.append(
            (f"{10 * tenth} to {10 * tenth + 10} %", truth.mean(), f"{truth.mean():.0%} of {len(truth)} customers")
        )
    heading = "How probable it was said to be that customers come back, and how many did"
    save_bars({heading: bars}, path, "Probabilities as served, against the truth")


def main(folder: Path, *, quick: bool) -> None:
    """Train, export, build, serve and ask."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers, cities, comes_back = customers(500 if quick else 5000, seed=0)
    classifier = lightgbm.LGBMClassifier(n_estimators=20 if quick else 100, num_leaves=15, n_jobs=1, verbose=-1)
    classifier.fit(np.hstack([numbers, codes(cities)]), comes_back, categorical_feature=[len(NUMBERS)])
    classifier.booster_.save_model(folder / "customers.txt")
    export(classifier, folder / "customers.onnx")

    numbers, cities, comes_back = customers(200 if quick else 2000, seed=1)
    # Rows with missing values and a city that the training never saw.
    cities[::50] = "Atlantis"
    expected = classifier.predict_proba(np.hstack([numbers, codes(cities)]))
    samples = folder / "samples.npz"
    np.savez(samples, numbers=numbers[:8], city=cities[:8].astype(np.str_))
    repository = folder / "model_repository"
    options = BuildOptions(repository, samples=str(samples), serve=not quick, replace=True)
    build(folder / "customers.onnx", options)
    with (
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Client(server.grpc_url) as client,
    ):
        model = client.model("customers")
        model(numbers=numbers[:1], city=cities[:1])
        started = time.perf_counter()
        answers = list(model.map({"numbers": row, "city": city} for row, city in zip(numbers, cities, strict=True)))
        seconds = time.perf_counter() - started
        served = np.stack([answer["probabilities"] for answer in answers])
        right = (served.argmax(axis=1) == comes_back).mean()
        unknown = model(numbers=np.full((1, 3), np.nan, np.float32), city=[["Atlantis"]])["probabilities"]
    print(f"served: {right:.1%} of {len(served)} rows right, {len(served) / seconds:.0f} rows/s")
    print(f"largest difference to LightGBM: {np.abs(served - expected).max():.1e}")
    draw(folder / "tabular.svg", served[:, 1], comes_back)
    print(f"a customer of whom nothing is known comes back with {unknown[0, 1]:.0%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/tabular"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="fewer rows and trees, no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, quick=arguments.quick)
