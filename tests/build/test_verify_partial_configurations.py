"""`plansmith verify` and the backends agree on configurations that leave something out."""

from __future__ import annotations

import itertools

import pytest
from build_models import write
from google.protobuf import json_format

from plansmith_build.repository.config import config_from_text
from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_server import ModelError
from plansmith_server.backends.autocomplete import complete, is_complete
from plansmith_server.backends.config import ModelConfig
from plansmith_server.backends.onnx_signature import read_onnx_signature
from plansmith_server.backends.validation import check

GRAPHS = {
    "rows": "g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }",
    "images": "g (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y) { y = Relu (x) }",
    "numbers": "g (float[N] x) => (float[N] y) { y = Relu (x) }",
    "fixed": "g (float[2, 4] x) => (float[2, 4] y) { y = Relu (x) }",
    "unrelated": "g (float[N, 4] x) => (float[4, N] y) { y = Transpose (x) }",
}
BATCHES = ("", "max_batch_size: 0", "max_batch_size: 8")
FIELDS = (
    None,
    "",
    "data_type: TYPE_FP32",
    "data_type: TYPE_INT32",
    *(f"data_type: TYPE_FP32 dims: {dims}" for dims in ("4", "[ -1, 4 ]", "[ 2, 4 ]", "[ 3, 8, 8 ]", "-1", "1")),
)


def is_served(text: str, signature) -> bool:
    """Whether backends complete and take it, as Triton hands it over."""
    fields = json_format.MessageToDict(
        config_from_text(text), preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    try:
        if not is_complete(fields):
            fields |= complete(fields, signature)
        config = ModelConfig.from_dict(fields)
        check(config, signature)
    except ModelError:
        return False
    # What only that of a container refuses: an output of a fixed size that varies in the graph.
    batch = (-1,) if config.max_batch_size else ()
    graph = {
        tensor.name: tuple(-1 if isinstance(dim, str) else dim for dim in tensor.shape) for tensor in signature.outputs
    }
    return all((*batch, *tensor.shape) == graph[tensor.name] for tensor in config.outputs)


@pytest.mark.parametrize("name", GRAPHS)
def test_a_partial_configuration_is_an_error_where_backends_refuse_it(name, repository):
    (repository / "graph").mkdir(parents=True)
    graph = repository / "graph" / "model.onnx"
    write(graph, GRAPHS[name])
    signature = read_onnx_signature(graph)
    texts = {}
    for batch, given, made in itertools.product(BATCHES, FIELDS, FIELDS):
        sides = [
            f'{role} {{ name: "{tensor}" {fields} }}'
            for role, tensor, fields in (("input", "x", given), ("output", "y", made))
            if fields is not None
        ]
        model = f"m{len(texts)}"
        texts[model] = " ".join(['backend: "onnxruntime"', batch, *sides])
        (repository / model / "1").mkdir(parents=True)
        (repository / model / "1" / "model.onnx").hardlink_to(graph)
        (repository / model / "config.pbtxt").write_text(texts[model])
    found = lint_repository(ModelRepository.at(repository), [*texts])
    wrong = {finding.path.split("/")[0] for finding in found if finding.severity is Severity.ERROR}
    served = {model for model, text in texts.items() if is_served(text, signature)}
    assert served
    assert not {texts[model] for model in served & wrong}
    assert not {texts[model] for model in texts.keys() - served - wrong}
