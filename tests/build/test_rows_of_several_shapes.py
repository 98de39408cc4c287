"""Data whose rows differ in shape: pictures of other sizes, lines of other widths, texts of other lengths."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from build_models import HEADER
from datasets_signatures import IMAGES, PICTURES, TOKENS, signature
from onnx import numpy_helper

from plansmith_build import BuildOptions, build
from plansmith_build.datasets import InvalidData, load_dataset, split
from plansmith_build.datasets.ragged import ragged
from plansmith_build.engines.tensorrt import profile_for
from plansmith_build.errors import VerificationFailed
from plansmith_build.judging.accuracy import measure_accuracy
from plansmith_build.judging.judge import answers_of
from plansmith_build.judging.measures import Measure, Metric, choose_measures
from plansmith_build.repository.model_card import model_card
from plansmith_build.search.search import SearchOptions
from plansmith_build.search.targets import Precision, Target
from plansmith_client.visible import markdown_text

LINES = signature("m (float[N, 3, 8, W] lines) => (float[N, 3, 8, W] y) { y = Relu (lines) }")
MASKED = signature("m (int64[N, S] ids, int64[N, S] mask) => (int64[N, S] y) { y = Mul (ids, mask) }")
WIDTHS = (12, 20, 12, 16, 20, 12, 16, 12, 20, 12)


def lines(count=10, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((3, 8, WIDTHS[number % len(WIDTHS)])).astype(np.float32) for number in range(count)]


def save(folder, rows, **others):
    folder.mkdir(parents=True)
    for number, row in enumerate(rows):
        np.save(folder / f"{number}.npy", row)
    for name, array in others.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)


def reader(path):
    """A recogniser of lines: letters for each column, and a map of the picture."""
    rng = np.random.default_rng(1)
    model = onnx.parser.parse_model(f"""{HEADER}
        reader (float[N, 3, 8, W] lines) => (float[N, W, 6] letters, float[N, 1, 8, W] map) <int64[1] two = {{2}}> {{
            c = Conv <pads = [0, 1, 0, 1]> (lines, w1)
            r = Relu (c)
            d = Conv (r, w2)
            s = Squeeze (d, two)
            t = Transpose <perm = [0, 2, 1]> (s)
            letters = Softmax <axis = 2> (t)
            map = Conv <pads = [1, 1, 1, 1]> (lines, w3)
        }}""")
    for name, shape in {"w1": (16, 3, 8, 3), "w2": (6, 16, 1, 1), "w3": (1, 3, 3, 3)}.items():
        weight = rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]))
        model.graph.initializer.append(numpy_helper.from_array(np.float32(weight), name))
    onnx.save(model, path)
    return path


def test_a_file_for_each_row_in_its_own_shape_and_labels_beside_them(tmp_path):
    rows = lines()
    dataset = load_dataset(save(tmp_path / "data", rows, labels=np.arange(len(rows))), LINES)
    assert len(dataset) == len(rows)
    for given, row in zip(dataset.inputs["lines"], rows, strict=True):
        np.testing.assert_array_equal(given, row)
    assert dataset.labels.tolist() == list(range(len(rows)))


def test_an_npz_file_holds_each_row_by_the_name_of_its_input(tmp_path):
    texts = [np.arange(length) for length in (3, 5, 4, 3)]
    named = {f"ids/{n}": text for n, text in enumerate(texts)} | {f"mask/{n}": text > 1 for n, text in enumerate(texts)}
    np.savez(tmp_path / "texts.npz", **named, labels=np.arange(4))
    dataset = load_dataset(str(tmp_path / "texts.npz"), MASKED)
    assert [row.tolist() for row in dataset.inputs["mask"]] == [(text > 1).astype(int).tolist() for text in texts]
    assert {row.dtype for row in dataset.inputs["mask"]} == {np.dtype(np.int64)}
    np.savez(tmp_path / "same.npz", **{f"ids/{n}": np.arange(3) for n in range(5)})
    assert load_dataset(str(tmp_path / "same.npz"), TOKENS).inputs["ids"].shape == (5, 3)
    np.savez(tmp_path / "missing.npz", **{"ids/0": texts[0], "ids/1": texts[1], "mask/0": texts[0]})
    with pytest.raises(InvalidData, match="has 'ids/1' and no 'mask/1': a row needs each input"):
        load_dataset(str(tmp_path / "missing.npz"), MASKED)
    np.savez(tmp_path / "both.npz", ids=np.ones((2, 3), int), **{"ids/0": texts[0]})
    with pytest.raises(InvalidData, match="has both 'ids' and 'ids/0': keep one of them"):
        load_dataset(str(tmp_path / "both.npz"), TOKENS)


def test_what_the_model_does_not_take_is_refused_by_its_row(tmp_path):
    rows = lines()
    with pytest.raises(
        InvalidData, match=r"7.npy is float32 \[3, 9, 12\], and input 'lines' wants FP32 \[N, 3, 8, any\]"
    ):
        load_dataset(save(tmp_path / "higher", [*rows[:7], np.zeros((3, 9, 12), np.float32)]), LINES)
    with pytest.raises(InvalidData, match=r"1.npy is float32 \[8, 9\], and input 'images' wants FP32 \[N, 8, 8\]"):
        load_dataset(save(tmp_path / "fixed", [np.zeros((8, 8), np.float32), np.zeros((8, 9), np.float32)]), IMAGES)
    rows[4][1, 2, 3] = np.nan
    with pytest.raises(InvalidData, match=r"input 'lines': row 4 holds nan at \[1, 2, 3\]"):
        load_dataset(save(tmp_path / "nan", rows), LINES)


def test_runs_have_rows_of_one_shape_and_the_shapes_take_turns(tmp_path):
    rows = lines()
    labels = np.arange(len(rows)) % 3
    dataset = load_dataset(save(tmp_path / "data", rows, labels=labels), LINES)
    runs = dataset.batches(2)
    assert [run["lines"].shape for run in runs[:3]] == [(2, 3, 8, 12), (2, 3, 8, 16), (2, 3, 8, 20)]
    assert sorted(runs.order) == list(range(len(rows)))
    asked = [row for run in runs for row in run["lines"]]
    for row, number in zip(asked, runs.order, strict=True):
        np.testing.assert_array_equal(row, rows[number])
    for part in split(dataset, seed=3):
        for row, label in zip(part.inputs["lines"], part.labels, strict=True):
            (number,) = (n for n, other in enumerate(rows) if np.array_equal(row, other))
            assert labels[number] == label


def test_few_random_rows_are_checked_and_hashed_in_their_own_shapes(tmp_path):
    folder = save(tmp_path / "data", lines())
    few, others = (load_dataset(folder, LINES, max_rows=4, seed=seed) for seed in (0, 1))
    assert len(few) == len(others) == 4
    assert few.sha256 == others.sha256
    (tmp_path / "data" / "0.npy").unlink()
    assert load_dataset(folder, LINES).sha256 != few.sha256


SCORES = np.random.default_rng(2).dirichlet(np.ones(6), (24, 5)).astype(np.float32)
SIGNS = np.random.default_rng(3).standard_normal((24, 5, 6)).astype(np.float32)


@pytest.mark.parametrize("reference", [SCORES, SIGNS])
@pytest.mark.parametrize("metric", [Metric.TOP1, Metric.TOP5, Metric.DECISION, Metric.RELATIVE_ERROR, Metric.COSINE])
def test_rows_apart_lose_what_they_lose_together(reference, metric):
    given = reference + np.random.default_rng(4).normal(0, 0.2, reference.shape).astype(np.float32)
    measures = {"y": Measure(metric)}
    together = measure_accuracy({"y": reference}, {"y": given}, measures=measures)
    apart = measure_accuracy({"y": ragged(reference)}, {"y": ragged(given)}, measures=measures)
    one, other = (
        {field: value for field, value in vars(accuracy.outputs[0]).items() if isinstance(value, float)}
        for accuracy in (together, apart)
    )
    assert one == pytest.approx(other)
    assert {"value", "bound", "cosine", "signal_to_noise_db"} <= one.keys()


def test_the_measure_of_rows_apart_is_that_of_what_they_are():
    cut = [row[: 2 + number % 4] for number, row in enumerate(SCORES)]
    signs = [row[: 2 + number % 4] for number, row in enumerate(SIGNS)]
    answers = {
        "letters": ragged(cut),
        "map": ragged(signs),
        "number": SIGNS[:, 0, :1],
        "found": ragged(map(np.int64, cut)),
    }
    chosen = {name: str(measure) for name, measure in choose_measures(answers, sigmoids={"letters", "map"}).items()}
    assert chosen == {
        "letters": "top1",
        "map": "relative-error",
        "number": "relative-error",
        "found": "equal",
    }
    # Labels belong to what gives each row one answer.
    assert str(choose_measures(answers, np.arange(24) % 2)["number"]) == "decision by labels"


def test_damage_to_one_row_of_its_own_shape_is_seen_and_another_shape_refused():
    reference = ragged(row[: 2 + number % 4] for number, row in enumerate(SIGNS))
    measures = {"y": Measure(Metric.RELATIVE_ERROR)}
    damaged = ragged(-row if number == 5 else row for number, row in enumerate(reference))
    assert measure_accuracy({"y": reference}, {"y": damaged}, measures=measures).outputs[0].value > 0.3
    overflown = ragged(row * np.float32(np.inf) if number == 5 else row for number, row in enumerate(reference))
    with pytest.raises(VerificationFailed, match="overflows"):
        measure_accuracy({"y": reference}, {"y": overflown}, measures=measures)
    shorter = ragged(row[:1] if number == 5 else row for number, row in enumerate(reference))
    with pytest.raises(
        VerificationFailed, match=r"is float32 \[1, 6\] for row 5 where the FP32 model gives float32 \[3, 6\]"
    ):
        measure_accuracy({"y": reference}, {"y": shorter}, measures=measures)


def test_a_function_of_the_users_own_gets_each_row_in_its_shape(tmp_path, monkeypatch):
    (tmp_path / "own_score_of_rows.py").write_text(
        "def score(answers, reference, labels):\n"
        "    return sum(a.shape == r.shape and (a == r).all() for a, r in zip(answers, reference)) / len(answers)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    reference = ragged(row[: 2 + number % 4] for number, row in enumerate(SIGNS))
    given = ragged(row + (number < 6) for number, row in enumerate(reference))
    measures = {"y": Measure(Metric.FUNCTION, function="own_score_of_rows:score")}
    assert measure_accuracy({"y": reference}, {"y": given}, measures=measures).outputs[0].value == -0.75


def test_rows_of_one_shape_with_answers_of_several_cannot_be_compared():
    class Detector:
        def run(self, inputs):
            return {"found": inputs["x"][inputs["x"] > 0]}

    requests = [{"x": np.array([1.0, 2.0, -1.0])}, {"x": np.array([1.0, -2.0, -1.0])}]
    with pytest.raises(VerificationFailed, match="changes its shape from row to row, such as"):
        answers_of(Detector(), requests, batched=False)


def test_plans_take_every_shape_of_the_data():
    extremes = {"pictures": ((1, 3, 32, 40), (1, 3, 96, 80))}
    free = signature("m (float[N, 3, H, W] pictures) => (float[N, 3, H, W] y) { y = Relu (pictures) }")
    for wanted, least, greatest in [(free, (1, 3, 32, 40), (8, 3, 96, 80)), (PICTURES, (1, 3, 32, 32), (8, 3, 32, 32))]:
        profile = profile_for(wanted, max_batch_size=8, observed={"pictures": (8, 3, 64, 48)}, extremes=extremes)
        assert (profile.minimum["pictures"], profile.maximum["pictures"]) == (least, greatest)


def test_a_model_is_searched_with_lines_of_several_widths(tmp_path, repository):
    data = save(tmp_path / "data", lines(60))
    search = SearchOptions(
        data,
        targets=(Target.ONNXRUNTIME, Target.OPENVINO),
        precisions=(Precision.FP32, Precision.INT8),
        max_drop=0.2,
        max_error=0.2,
    )
    result = build(reader(tmp_path / "reader.onnx"), BuildOptions(repository, search=search, serve=False))
    found = result.manifest.search
    assert {
        (each.target, each.precision) for each in found.candidates if each.status in {"chosen", "kept", "slower"}
    } >= {
        ("onnxruntime", "fp32"),
        ("onnxruntime", "int8"),
        ("openvino", "fp32"),
    }
    assert {output.measure for output in found.fp32.outputs} == {"top1", "relative-error"}
    lengths = "lines [3, 8, 12], [3, 8, 16], [3, 8, 16], [3, 8, 20]"
    assert f"2 rows a run at the middle size of each quarter of the data in turn ({lengths})" in found.measured
    assert markdown_text(lengths) in model_card(result.manifest)
    assert result.manifest.verification.rows_together > 1


def test_samples_of_several_shapes_prove_rows_by_those_of_one_shape(tmp_path, repository):
    path = reader(tmp_path / "reader.onnx")
    several = save(tmp_path / "several", lines(6))
    result = build(path, BuildOptions(repository, "several", samples=several, warmup=6))
    assert result.manifest.server_trial.served == ("config.pbtxt",)
    assert (result.manifest.verification.samples, result.manifest.verification.rows_together) == (6, 3)
    assert "max_batch_size: 32" in (result.path.parent / "config.pbtxt").read_text()
    apart = save(tmp_path / "apart", [np.ones((3, 8, width), np.float32) for width in (12, 14, 16)])
    result = build(path, BuildOptions(repository, "apart", samples=apart, serve=False))
    assert "no two of the inputs have one shape" in result.manifest.batching.reason
    assert "max_batch_size" not in (result.path.parent / "config.pbtxt").read_text()
