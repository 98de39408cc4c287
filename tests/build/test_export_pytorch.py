"""PyTorch modules become ONNX files that compute what they compute, or are refused with the reason."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install torch")

from build_models import answers, snapshot  # noqa: E402

from plansmith_build import InvalidOption, VerificationFailed  # noqa: E402
from plansmith_build.exporting import ExportFailed, UnsafeModelFile, UnsuitableModel, export_pytorch  # noqa: E402
from plansmith_build.exporting.sources import load_model  # noqa: E402

# torch.export and onnxscript use names of Python and of each other that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


class Perceptron(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(4, 8),
            torch.nn.BatchNorm1d(8),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.5),
            torch.nn.Linear(8, 3),
        )

    def forward(self, features):
        return self.layers(features)


class TwoHeads(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(50, 6)

    def forward(self, ids, mask):
        vectors = self.embedding(ids) * mask.unsqueeze(-1)
        return {"mean": vectors.mean(dim=1), "longest": vectors.norm(dim=-1).argmax(dim=1)}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A module in training mode, and its export."""
    module = Perceptron().train()
    return module, export_pytorch(module, torch.randn(1, 4), tmp_path_factory.mktemp("pytorch") / "perceptron.onnx")


def test_a_module_becomes_a_file_with_a_dynamic_batch_and_the_names_of_its_parameters(exported):
    module, result = exported
    assert [(spec.name, spec.datatype, spec.shape) for spec in result.inputs] == [("features", "FP32", (-1, 4))]
    assert [(spec.name, spec.datatype, spec.shape) for spec in result.outputs] == [("output", "FP32", (-1, 3))]
    model = onnx.load(result.path)
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)] == [
        "batch",
        "batch",
    ]
    rows = torch.randn(9, 4)
    with torch.no_grad():
        wanted = module.eval()(rows).numpy()
    module.train()
    np.testing.assert_allclose(answers(result.path, features=rows.numpy())["output"], wanted, rtol=1e-4, atol=1e-5)
    assert result.max_relative_error < 1e-5
    assert result.samples == 3
    assert {"torch", "onnxscript", "onnxruntime"} <= result.versions.keys()
    assert list(result.path.parent.iterdir()) == [result.path]


def test_a_module_in_training_is_exported_for_inference_and_left_in_training(exported):
    module, result = exported
    assert module.training
    assert "Dropout" not in {node.op_type for node in onnx.load(result.path).graph.node}


def test_an_exported_file_can_be_built(exported, plansmith, repository):
    done = plansmith("build", exported[1].path, "--repository", repository)
    assert "perceptron version 1" in done.stdout
    assert "up to 32 rows" in done.stdout


class NamedLikeOperators(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 4)
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, ids):
        mean = self.embedding(ids).mean(1)
        return {"mean": self.linear(mean), "embedding": mean, "softmax": torch.softmax(mean, 1), "linear": mean + 1}


def test_outputs_are_called_what_the_module_calls_them_also_when_operators_are_called_so(tmp_path):
    module, ids = NamedLikeOperators(), torch.arange(10).reshape(2, 5)
    result = export_pytorch(module, ids, tmp_path / "m.onnx", dynamic_axes={"ids": [1]})
    assert [spec.name for spec in result.outputs] == ["mean", "embedding", "softmax", "linear"]
    longer = torch.arange(21).reshape(3, 7)
    given = answers(result.path, ids=longer.numpy())
    for name, wanted in module(longer).items():
        np.testing.assert_allclose(given[name], wanted.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_dictionaries_name_the_inputs_and_the_outputs(tmp_path):
    examples = {"mask": torch.tensor([[1.0, 1, 1, 0, 1]]), "ids": torch.tensor([[1, 2, 49, 3, 4]])}
    axes = {"ids": [1], "mask": [1]}
    result = export_pytorch(TwoHeads(), examples, tmp_path / "m.onnx", dynamic_axes=axes)
    assert [(spec.name, spec.datatype, spec.shape) for spec in result.inputs] == [
        ("ids", "INT64", (-1, -1)),
        ("mask", "FP32", (-1, -1)),
    ]
    assert [(spec.name, spec.datatype) for spec in result.outputs] == [("mean", "FP32"), ("longest", "INT64")]
    ids, mask = np.arange(14).reshape(2, 7), np.ones((2, 7), np.float32)
    wanted = TwoHeads()(torch.from_numpy(ids), torch.from_numpy(mask))["mean"].detach().numpy()
    np.testing.assert_allclose(answers(result.path, ids=ids, mask=mask)["mean"], wanted, rtol=1e-5)


def test_names_batch_and_operator_set_can_be_chosen(tmp_path):
    result = export_pytorch(
        Perceptron(),
        torch.randn(5, 4),
        tmp_path / "m.onnx",
        input_names=["x"],
        output_names=["logits"],
        dynamic_batch=False,
        opset=18,
    )
    assert (result.inputs[0].name, result.inputs[0].shape) == ("x", (5, 4))
    assert result.outputs[0].name == "logits"
    assert result.opsets["ai.onnx"] == 18


def test_half_precision_is_compared_by_its_own_tolerance(tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(4, 3)).to(torch.float16)
    result = export_pytorch(module, torch.randn(2, 4, dtype=torch.float16), tmp_path / "m.onnx")
    assert result.inputs[0].datatype == "FP16"
    assert result.comparisons[0].tolerance == 1e-2


def test_weights_in_a_file_of_their_own(tmp_path):
    result = export_pytorch(Perceptron(), torch.randn(2, 4), tmp_path / "m.onnx", external_data=True)
    assert result.weights == tmp_path / "m.onnx.data"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert answers(result.path, features=np.ones((2, 4), np.float32))["output"].shape == (2, 3)


class FixedBatch(torch.nn.Module):
    def forward(self, x):
        return x.reshape(2, -1) if x.shape[0] == 2 else x.reshape(x.shape[0] * 0 + 2, -1)


class DataDependent(torch.nn.Module):
    def forward(self, x):
        return x * 2 if float(x.sum()) > 0 else x


class Restless(torch.nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


class Unused(torch.nn.Module):
    def forward(self, x, y):  # noqa: ARG002
        return x * 2


@pytest.mark.parametrize(
    "case",
    [
        ("model", torch.zeros(1), {}, UnsuitableModel, "a str is not a PyTorch model"),
        (Perceptron(), None, {}, UnsuitableModel, "needs example inputs"),
        (Perceptron(), (np.zeros((1, 4)),), {}, UnsuitableModel, "example input 0 is a ndarray"),
        (
            Perceptron(),
            torch.zeros(1, 5),
            {},
            UnsuitableModel,
            "does not run on the example inputs: RuntimeError: mat1",
        ),
        (FixedBatch(), torch.zeros(2, 4), {}, ExportFailed, "torch.onnx cannot export the module: .*dynamic batch"),
        (DataDependent(), torch.ones(2, 4), {}, ExportFailed, "torch.onnx cannot export the module: "),
        (Restless(), torch.ones(2, 4), {}, UnsuitableModel, "output 'output' .* has other values each time"),
        (
            Unused(),
            (torch.ones(2, 4), torch.ones(3, 4)),
            {},
            InvalidOption,
            "which do not all have the same number of rows",
        ),
        (TwoHeads(), (torch.ones(2, 5, dtype=torch.int64), torch.ones(3, 5)), {}, UnsuitableModel, "does not run"),
        (Perceptron(), torch.ones(2, 4), {"dynamic_axes": {0: [5]}}, InvalidOption, "input 0 has 2 dimensions"),
        (Perceptron(), torch.ones(2, 4), {"dynamic_axes": {"y": [1]}}, InvalidOption, "there is no input 'y'"),
        (
            Perceptron(),
            torch.ones(2, 4),
            {"input_names": ["x", "y"]},
            InvalidOption,
            "has 1 inputs, and the input names",
        ),
        (
            Perceptron(),
            torch.ones(2, 4),
            {"output_names": ["a", "b"]},
            UnsuitableModel,
            "gives 1 tensors, and 2 output",
        ),
    ],
)
def test_what_cannot_be_exported_is_refused_and_nothing_is_written(case, tmp_path):
    module, examples, options, error, sentence = case
    (tmp_path / "m.onnx").write_bytes(b"what was there")
    before = snapshot(tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        export_pytorch(module, examples, tmp_path / "m.onnx", **options)
    assert "\n" not in str(caught.value)
    assert snapshot(tmp_path) == before


def test_a_file_that_computes_something_else_is_never_written(tmp_path):
    class Branches(torch.nn.Module):
        # The exporter keeps the branch that it saw with the example's number of rows.
        def forward(self, x):
            return x * (2.0 if torch.compiler.is_exporting() else 3.0)

    with pytest.raises(VerificationFailed, match=r"output 'output' is off by 0\.33 relative to the module"):
        export_pytorch(Branches(), torch.ones(2, 4), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_was_frozen_stays_frozen(tmp_path):
    module = Perceptron().train()
    module.layers[1].eval()
    export_pytorch(module, torch.randn(2, 4), tmp_path / "m.onnx")
    assert module.training
    assert module.layers[3].training
    assert not module.layers[1].training


def test_an_output_that_is_called_as_an_input_gets_a_name_of_its_own(tmp_path):
    class Doubled(torch.nn.Module):
        def forward(self, x):
            return {"x": x * 2}

    result = export_pytorch(Doubled(), torch.ones(2, 4), tmp_path / "m.onnx")
    assert [spec.name for spec in (*result.inputs, *result.outputs)] == ["x", "x_output"]
    with pytest.raises(InvalidOption, match="'x' is the name of an input"):
        export_pytorch(Doubled(), torch.ones(2, 4), tmp_path / "m.onnx", output_names=["x"])


def test_truth_values_go_in_and_come_out(tmp_path):
    class Flip(torch.nn.Module):
        def forward(self, flags):
            return ~flags

    result = export_pytorch(Flip(), torch.tensor([[True, False]]), tmp_path / "m.onnx")
    assert answers(result.path, flags=np.array([[True, True]]))["output"].tolist() == [[False, False]]


def test_what_the_documentation_shows_of_pytorch_and_keras_runs(tmp_path, plansmith):
    page = (Path(__file__).parents[2] / "docs" / "exporting.md").read_text(encoding="utf-8")
    fence = r"<!-- not run: needs PyTorch[^\n]*-->\n+```(python|console)\n(.*?)^```"
    blocks = re.findall(fence, page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 4
    for language, body in blocks:
        if language == "python":
            subprocess.run([sys.executable, "-c", body], check=True, cwd=tmp_path, capture_output=True)
        else:
            for line in body.splitlines():
                plansmith(*line.removeprefix("$ plansmith ").split(), cwd=tmp_path)


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A program of torch.export in a file."""
    path = tmp_path_factory.mktemp("program") / "perceptron.pt2"
    shapes = ({0: torch.export.Dim("rows", min=1)},)
    torch.export.save(torch.export.export(Perceptron().eval(), (torch.randn(2, 4),), dynamic_shapes=shapes), path)
    return path


def test_a_program_of_torch_export_brings_its_own_examples_and_dynamic_shapes(program, plansmith, tmp_path):
    done = plansmith("export", program, "--output", tmp_path / "m.onnx")
    assert "features FP32 [-1, 4]" in done.stdout
    assert "Next: plansmith build" in done.stdout
    refused = plansmith("export", program, "--dynamic-axes", "features=1", cwd=tmp_path, expect=2)
    assert "says itself which dimensions vary" in refused.stderr


def test_a_program_that_brings_code_is_refused_before_it_is_loaded(program, tmp_path, monkeypatch):
    import pickle  # noqa: PLC0415
    import zipfile  # noqa: PLC0415

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    for name in ("constants/opaque_obj_0", "aotinductor/model/x.so", "constants/custom_obj_0"):
        hostile = shutil.copy(program, tmp_path / "hostile.pt2")
        with zipfile.ZipFile(hostile, "a") as archive:
            archive.writestr(f"perceptron/data/{name}", pickle.dumps(Payload()))
        with pytest.raises(UnsafeModelFile, match="which runs when it is loaded"):
            load_model(str(hostile))
    # Where torch itself would fall back to a full unpickler: the examples that are stored with a program.
    hostile = tmp_path / "examples.pt2"
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(hostile, "w") as target:
        replaced = 0
        for member in source.namelist():
            content = source.read(member)
            if "sample_inputs" in member:
                replaced += 1
                content = _torch_archive(Payload())
            target.writestr(member, content)
        assert replaced == 1
    with pytest.raises(UnsuitableModel, match="is not a program that"):
        load_model(str(hostile))
    assert not (tmp_path / "executed").exists()
    monkeypatch.undo()


def _torch_archive(value) -> bytes:
    import io  # noqa: PLC0415

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_a_file_that_is_no_program_is_refused(tmp_path, plansmith):
    (tmp_path / "m.pt2").write_bytes(b"hello")
    done = plansmith("export", tmp_path / "m.pt2", expect=2)
    assert "m.pt2 is not a program that torch.export.save wrote" in done.stderr


def test_a_function_gives_the_module_and_its_examples(tmp_path, plansmith):
    (tmp_path / "mine.py").write_text(
        "import torch\ndef model():\n    return torch.nn.Linear(3, 2), torch.zeros(1, 3)\n"
        "def lonely():\n    return torch.nn.Linear(3, 2)\n"
    )
    assert "input FP32 [-1, 3]" in plansmith("export", "mine:model", cwd=tmp_path).stdout
    assert (tmp_path / "model.onnx").exists()
    assert (
        "let the function `return model, example`" in plansmith("export", "mine:lonely", cwd=tmp_path, expect=2).stderr
    )


TEXTS = """
import torch

class Sentence(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 4)

    def forward(self, input_ids):
        return self.embedding(input_ids).mean(1)

def sentence():
    return Sentence(), torch.zeros(1, 16, dtype=torch.int64)
"""


def test_a_length_that_the_example_fixed_is_said_and_is_made_any_by_the_command(plansmith, tmp_path):
    (tmp_path / "texts.py").write_text(TEXTS)
    fixed = plansmith("export", "texts:sentence", cwd=tmp_path).stdout
    assert "input_ids INT64 [-1, 16]: only that length is taken; --dynamic-axes input_ids=1 makes it any" in fixed
    words = ("--dynamic-axes", "ids=1", "--input-names", "ids")
    free = plansmith("export", "texts:sentence", *words, cwd=tmp_path).stdout
    assert "ids INT64 [-1, -1]" in free
    assert "only that length" not in free
    assert answers(tmp_path / "sentence.onnx", ids=np.zeros((2, 7), np.int64))["output"].shape == (2, 4)
    wrong = plansmith("export", "texts:sentence", "--dynamic-axes", "input_ids", cwd=tmp_path, expect=2).stderr
    assert "--dynamic-axes must be INPUT=AXIS[,AXIS], such as input_ids=1, got 'input_ids'" in wrong
