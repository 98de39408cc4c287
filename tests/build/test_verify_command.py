"""`plansmith verify`: what is wrong in a repository, before a server or a GPU machine finds out."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import onnx
import openvino
import pytest
from build_models import HEADER, LINEAR, put, write
from conftest import COMMITTED_REPOSITORY

from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

if TYPE_CHECKING:
    from pathlib import Path

# Without batches, and with a scalar on each side; then with one number a row.
SCALED = (
    "scaled (float[2] x, float factor) => (float[2] y, float sum) "
    "{ y = Mul (x, factor) sum = ReduceSum <keepdims = 0> (y) }"
)
ROWS = "rows (float[N] x) => (float[N] y) { y = Relu (x) }"
WEIGHTED = "weighted (float[N, 4] x) => (float[N, 4] y) <float[4] w = {1, 2, 3, 4}> { y = Mul (x, w) }"
FIXED = "fixed (float[2, 4] x) => (float[2, 4] y) { y = Relu (x) }"
INPUT = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }'
OUTPUT = 'output { name: "y" data_type: TYPE_FP32 dims: 4 }'
RIGHT = f'backend: "onnxruntime" max_batch_size: 8 {INPUT} {OUTPUT}'


def accelerated(parameters, *, name="tensorrt", side="gpu"):
    written = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
    return (
        f"{RIGHT} instance_group {{ kind: KIND_AUTO }} optimization {{ execution_accelerators {{ "
        f'{side}_execution_accelerator {{ name: "{name}" {written} }} }} }}'
    )


# Rows 1 to 4 and 5 to 8, and with a gap between them.
TWO = {"min": "x:1x4,x:5x4", "opt": "x:1x4,x:8x4", "max": "x:4x4,x:8x4"}
GAP = {"min": "x:1x4,x:6x4", "opt": "x:4x4,x:8x4", "max": "x:4x4,x:8x4"}
PROFILE = {
    "trt_profile_min_shapes": "x:1x4",
    "trt_profile_opt_shapes": "x:8x4",
    "trt_profile_max_shapes": "x:8x4",
}
NOBODY = (
    'ensemble_scheduling { step { model_name: "nobody" input_map { key: "x" value: "x" } '
    'output_map { key: "y" value: "y" } } }'
)


def ensemble(*, size=8, given="x", made="y", more=""):
    return (
        f'platform: "ensemble" max_batch_size: {size} {INPUT} {OUTPUT} ensemble_scheduling {{ step {{ '
        f'model_name: "plain" model_version: -1 input_map {{ key: "{given}" value: "x" }} '
        f'output_map {{ key: "{made}" value: "y" }} }} }} {more}'
    )


def scaled(dims, *, output=""):
    return (
        'backend: "onnxruntime" input [ { name: "x" data_type: TYPE_FP32 dims: 2 }, '
        f'{{ name: "factor" data_type: TYPE_FP32 {dims} }} ] output [ {{ name: "y" data_type: TYPE_FP32 dims: 2 }}, '
        f'{{ name: "sum" data_type: TYPE_FP32 {output or dims} }} ]'
    )


def rows(dims):
    return (
        f'backend: "onnxruntime" max_batch_size: 8 input {{ name: "x" data_type: TYPE_FP32 {dims} }} '
        f'output {{ name: "y" data_type: TYPE_FP32 {dims} }}'
    )


# Configurations that are right: nothing is found.
CLEAN = {
    "plain": RIGHT,
    "completed_by_the_server": 'backend: "onnxruntime" max_batch_size: 8',
    "platform": f'platform: "onnxruntime_onnx" max_batch_size: 8 {INPUT} {OUTPUT}',
    "by_openvino": RIGHT.replace("onnxruntime", "openvino").replace("TYPE_FP32", "TYPE_FP64", 1)
    + ' parameters { key: "NUM_STREAMS" value { string_value: "auto" } }',
    "accelerated": accelerated({"precision_mode": "FP16", "trt_engine_cache_enable": "true"}),
    "profiled": accelerated(PROFILE),
    "profiled_twice": accelerated({f"trt_profile_{key}_shapes": shapes for key, shapes in TWO.items()}),
    "threads": f'{RIGHT} parameters {{ key: "intra_op_thread_count" value {{ string_value: "2" }} }}',
    "queued": f"{RIGHT} dynamic_batching {{ max_queue_delay_microseconds: 100 }}",
    "prioritised": (
        f"{RIGHT} dynamic_batching {{ priority_levels: 2 default_priority_level: 1 }} instance_group {{ count: 2 }}"
    ),
    "on_cuda": accelerated({"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}, name="cuda"),
    "one_after_the_other": ensemble(),
    "scalar": scaled("dims: 1"),
    "one_number_a_row": rows("dims: 1 reshape { }"),
    "newest": f"{RIGHT} version_policy {{ latest {{ num_versions: 2 }} }}",
}


def metrics(options, family='family: "nv_inference_first_response_histogram_ms"'):
    return (
        f"model_metrics {{ metric_control {{ metric_identifier {{ {family} }} histogram_options {{ {options} }} }} }}"
    )


# Configurations that are wrong, what is said of them, and whether a server without a GPU refuses them, too.
WRONG = {
    "unknown_field": (f"{RIGHT} max_batch: 3", 'no field named "max_batch"', True),
    "other_name": (f'name: "another" {RIGHT}', 'write name: "other_name"', True),
    "dims": (RIGHT.replace("dims: 4", "dims: 5"), "write dims: [4]", True),
    "open_dims": (RIGHT.replace("dims: 4", "dims: -1"), "write dims: [4]", True),
    "datatype": (RIGHT.replace("TYPE_FP32", "TYPE_INT64"), "write data_type: TYPE_FP32", True),
    "unknown_input": (RIGHT.replace('"x"', '"z"'), "the model has no input 'z'", True),
    "unknown_output": (RIGHT.replace('"y"', '"z"'), "the model has no output 'z'", True),
    "scalar_with_an_empty_reshape": (scaled("dims: 1 reshape { }"), "without reshape", True),
    "scalar_output_with_an_empty_reshape": (
        scaled("dims: 1", output="dims: 1 reshape { }"),
        "write dims: [1] without reshape",
        True,
    ),
    "scalar_of_two": (
        scaled("dims: 2"),
        "input 'factor' is [] in the model, and dims here make [2]: write dims: [1]",
        True,
    ),
    "one_number_a_row_as_a_column": (rows("dims: 1"), "write dims: [1] reshape { shape: [] }", True),
    "negative_batch": (RIGHT.replace("8", "-1"), "max_batch_size is -1", True),
    "missing_file": (f'{RIGHT} default_model_filename: "other.onnx"', "version 1 has no other.onnx", False),
    "leaving_file": (
        f'{RIGHT} default_model_filename: "../../secret.onnx"',
        "points outside the version's folder",
        True,
    ),
    "missing_labels": (
        RIGHT.replace("dims: 4 }", 'dims: 4 label_filename: "labels.txt" }').replace(
            'name: "x" data_type: TYPE_FP32 dims: 4 label_filename: "labels.txt"',
            'name: "x" data_type: TYPE_FP32 dims: 4',
        ),
        "does not exist: 'labels.txt'",
        False,
    ),
    "missing_version": (f"{RIGHT} version_policy {{ specific {{ versions: 7 }} }}", "names version 7", True),
    "accelerator_key": (
        accelerated({"trt_engine_cache_enabled": "1"}),
        "did you mean 'trt_engine_cache_enable'?",
        False,
    ),
    "accelerator_value": (accelerated({"precision_mode": "INT4"}), "'INT4' is not a valid value", False),
    "accelerator_name": (accelerated({}, name="tensorflow"), "'tensorflow' is not a gpu_execution_accelerator", False),
    "accelerator_on_the_cpu": (accelerated({}, name="tensorrt", side="cpu"), "name one of openvino", True),
    "half_a_profile": (accelerated({"trt_profile_min_shapes": "x:1x4"}), "the profile has no", False),
    "narrow_profile": (
        accelerated({**PROFILE, "trt_profile_max_shapes": "x:4x4", "trt_profile_opt_shapes": "x:2x4"}),
        "takes 1 to 4 rows of 'x', and batches up to 8",
        False,
    ),
    "profiles_with_a_gap": (
        accelerated({f"trt_profile_{key}_shapes": shapes for key, shapes in GAP.items()}),
        "takes 1 to 4 and 6 to 8 rows of 'x', and batches up to 8",
        False,
    ),
    "profiles_of_two_numbers": (
        accelerated({**PROFILE, "trt_profile_min_shapes": "x:1x4,x:2x4"}),
        "there are 2 profiles of min, 1 of opt and 1 of max shapes",
        False,
    ),
    "profile_of_another_input": (
        accelerated({key: value.replace("x:", "z:") for key, value in PROFILE.items()}),
        "the profile names an input 'z', which the model does not have",
        False,
    ),
    "profile_of_other_dims": (
        accelerated({key: value.replace("x4", "x5") for key, value in PROFILE.items()}),
        "do not fit dims [4]",
        False,
    ),
    "cuda_value": (accelerated({"cudnn_conv_algo_search": "1"}, name="cuda"), "'1' is not a valid value", False),
    "priority": (f"{RIGHT} dynamic_batching {{ priority_levels: 2 }}", "is not one of the priority_levels", True),
    "step_input": (ensemble(given="z"), "input_map names 'z'", True),
    "step_without_input": (ensemble(given="z"), "the input 'x' of the model 'plain' is not mapped", True),
    "step_output": (ensemble(made="z"), "output_map names 'z'", True),
    "large_ensemble": (ensemble(size=16), "max_batch_size is 16, and the model 'plain' takes 8", True),
    "ensemble_with_instances": (
        ensemble(more="instance_group { count: 1 }"),
        "an ensemble cannot have instance groups",
        True,
    ),
    "ensemble_with_optimization": (
        ensemble(more="optimization { priority: PRIORITY_MAX }"),
        "an ensemble cannot have optimization",
        True,
    ),
    "thread_value": (
        f'{RIGHT} parameters {{ key: "intra_op_thread_count" value {{ string_value: "many" }} }}',
        "'many' is not a valid value",
        True,
    ),
    "preferred_batch": (
        f"{RIGHT} dynamic_batching {{ preferred_batch_size: 16 }}",
        "preferred_batch_size 16 is not within max_batch_size 8",
        True,
    ),
    "plan_on_the_cpu": (
        f'platform: "tensorrt_plan" max_batch_size: 8 {INPUT} {OUTPUT} instance_group {{ kind: KIND_CPU }}',
        "a TensorRT plan cannot run on a CPU",
        True,
    ),
    "metric_without_buckets": (f"{RIGHT} {metrics('')}", "a metric_control has no buckets", True),
    "metric_without_family": (f"{RIGHT} {metrics('buckets: 1', '')}", "a metric_control has no metric family", True),
    "ensemble": (
        f'platform: "ensemble" max_batch_size: 8 {INPUT} {OUTPUT} {NOBODY}',
        "uses the model 'nobody', which does not exist",
        True,
    ),
}
WARNED = {
    "metrics": (f"{RIGHT} {metrics('buckets: [ 1, 10 ]')}", "model_metrics is refused by older servers"),
    "in_flight": (
        ensemble().replace("ensemble_scheduling {", "ensemble_scheduling { max_inflight_requests: 4"),
        "max_inflight_requests is refused by older servers",
    ),
    "misspelled_parameter": (
        f'{RIGHT} parameters {{ key: "intra_op_threads" value {{ string_value: "2" }} }}',
        "did you mean",
    ),
    "idle_preference": (f"{RIGHT} dynamic_batching {{ preferred_batch_size: 4 }}", "helps only plans"),
    "idle_override": (
        (
            f"{RIGHT} dynamic_batching {{ default_queue_policy {{ allow_timeout_override: true }} }} "
            "instance_group { count: 2 }"
        ),
        "a request's own timeout has no effect",
    ),
    "bound_with_one_instance": (
        f"{RIGHT} dynamic_batching {{ default_queue_policy {{ max_queue_size: 9 }} }}",
        "may let each request wait for half a second",
    ),
    "custom_operators": (
        f'{RIGHT} model_operations {{ op_library_filename: "operators.so" }}',
        "the server loads the library operators.so",
    ),
}


# A server takes no model at all from these folders.
WITHOUT_VERSION = "ensemble_without_version"
FIXED_BATCHES = "fixed_batches"
OPENVINO_IR = "openvino_ir"
WITHOUT_WEIGHTS = "openvino_ir_without_weights"
# What the models of these configurations compute; of all others it is LINEAR.
GRAPHS = {name: SCALED for name in [*CLEAN, *WRONG] if name.startswith("scalar")} | {
    name: ROWS for name in [*CLEAN, *WRONG] if name.startswith("one_number_a_row")
}


def findings(repository: Path, *models: str):
    """What is found, save that these models were not built by plansmith."""
    found = lint_repository(ModelRepository.at(repository), models)
    return [finding for finding in found if "there is no manifest" not in finding.message]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """All those configurations in one repository, and for each model whether a real server loads it."""
    repository = tmp_path_factory.mktemp("linted") / "model_repository"
    for name, text in {**CLEAN, **{name: text for name, (text, *_) in WRONG.items()}}.items():
        put(repository, name, text, graph=GRAPHS.get(name, LINEAR))
    put(repository, FIXED_BATCHES, RIGHT, graph=FIXED.replace("2", "8"))
    put(repository, "part_of_the_versions", f"{RIGHT} version_policy {{ specific {{ versions: [1, 7] }} }}")
    shutil.rmtree(put(repository, WITHOUT_VERSION, ensemble()) / "1")
    for name in (OPENVINO_IR, WITHOUT_WEIGHTS):
        version = put(repository, name, RIGHT.replace("onnxruntime", "openvino"), graph=WEIGHTED) / "1"
        openvino.save_model(openvino.convert_model(version / "model.onnx"), version / "model.xml")
        (version / "model.onnx").unlink()
    (repository / WITHOUT_WEIGHTS / "1" / "model.bin").unlink()
    options = ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0, config_name="none")
    with TritonServer(options) as server, Client(server.grpc_url) as client:
        states = {status.name: status.state for status in client.models()}
    return repository, {path.name: states.get(path.name) == "READY" for path in repository.iterdir()}


@pytest.mark.parametrize("name", CLEAN)
def test_a_right_configuration_has_no_findings_and_is_served(served, name):
    repository, loaded = served
    assert findings(repository, name) == []
    assert loaded[name]


def test_a_version_in_openvinos_own_format_is_accepted_and_served_with_both_of_its_files(served):
    repository, loaded = served
    assert findings(repository, OPENVINO_IR) == []
    assert loaded[OPENVINO_IR]
    (missing,) = findings(repository, WITHOUT_WEIGHTS)
    assert (missing.severity, missing.message) == (Severity.ERROR, "version 1 has model.xml without model.bin")
    assert not loaded[WITHOUT_WEIGHTS]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_configuration_is_an_error_with_the_way_out(served, name):
    repository, loaded = served
    _, said, refused = WRONG[name]
    found = [finding for finding in findings(repository, name) if said in f"{finding.message}: {finding.fix}"]
    assert found, findings(repository, name)
    assert found[0].severity is Severity.ERROR
    assert found[0].path.startswith(name)
    if refused:
        assert not loaded[name]


@pytest.mark.parametrize("name", WARNED)
def test_what_may_be_intended_is_a_warning(repository, name):
    text, said = WARNED[name]
    # What the ensemble uses.
    put(repository, "plain", RIGHT)
    put(repository, name, text)
    (finding,) = findings(repository, name)
    assert finding.severity is Severity.WARNING
    assert said in f"{finding.message}: {finding.fix}"


def test_ragged_batches_are_right_though_the_server_from_pip_does_not_take_them(repository):
    ragged = (
        'backend: "onnxruntime" max_batch_size: 16 dynamic_batching { } '
        'input { name: "x" data_type: TYPE_FP32 dims: -1 allow_ragged_batch: true } '
        'batch_input { kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ends" data_type: TYPE_FP32 '
        'source_input: "x" } output { name: "y" data_type: TYPE_FP32 dims: 1 reshape { } }'
    )
    graph = "r (float[n] x, float[rows] ends) => (float[rows] y, float[n] z) { y = Neg (ends) z = Neg (x) }"
    put(repository, "ragged", ragged, graph=graph)
    assert findings(repository) == []


def test_batches_for_a_graph_that_takes_a_fixed_number_are_an_error_whatever_the_number(served):
    repository, loaded = served
    found = findings(repository, FIXED_BATCHES)
    assert any("the first dimension of 'x' is fixed" in finding.message for finding in found)
    assert {finding.severity for finding in found} == {Severity.ERROR}
    assert not loaded[FIXED_BATCHES]


def test_an_ensemble_without_a_version_folder_is_an_error(served):
    repository, loaded = served
    (finding,) = findings(repository, WITHOUT_VERSION)
    assert (finding.severity, finding.fix) == (Severity.ERROR, "create an empty folder named 1")
    assert not loaded[WITHOUT_VERSION]


def test_a_policy_with_a_version_that_is_there_and_one_that_is_not_serves_the_first(served):
    repository, loaded = served
    (finding,) = findings(repository, "part_of_the_versions")
    assert finding.severity is Severity.WARNING
    assert "names version 7" in finding.message
    assert loaded["part_of_the_versions"]


def test_a_profile_of_an_input_that_is_reshaped_is_held_against_the_graphs_shape(repository):
    text = accelerated({key: value.replace("x4", "") for key, value in PROFILE.items()})
    scalars = "scalars (float[N] x) => (float[N] y) { y = Relu (x) }"
    put(repository, "m", text.replace("dims: 4", "dims: 1 reshape { }"), graph=scalars)
    assert findings(repository) == []


def test_more_instances_than_any_machine_has_memory_for_are_an_error(repository):
    put(repository, "many", f"{RIGHT} instance_group {{ count: 100000 }}")
    assert "100000 instances" in findings(repository, "many")[0].message


def test_a_configuration_for_a_gpu_machine_is_checked_like_every_other(repository):
    model = put(repository, "m", RIGHT)
    (model / "configs").mkdir()
    (model / "configs" / "gpu.pbtxt").write_text(accelerated({"trt_max_workspace": "1"}))
    (model / "configs" / "cpu.pbtxt").write_text(f"{RIGHT} instance_group {{ kind: KIND_GPU }}")
    said = {finding.path: finding.message for finding in findings(repository)}
    assert "has no parameter 'trt_max_workspace'" in said["m/configs/gpu.pbtxt"]
    assert "on the GPU in the configuration for CPUs" in said["m/configs/cpu.pbtxt"]


def test_sequences_for_which_a_server_has_no_memory_are_an_error(repository):
    """No server is asked: this ends it."""
    many = RIGHT.replace("max_batch_size: 8", "max_batch_size: 2147483647")
    put(repository, "many", f"{many} sequence_batching {{ }}")
    put(repository, "oldest", f"{many} sequence_batching {{ oldest {{ max_candidate_sequences: 4 }} }}")
    found = {finding.path.split("/")[0]: finding for finding in findings(repository) if finding.severity == "error"}
    assert found.keys() == {"many"}
    assert "takes more memory than a server has" in found["many"].message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ('batch_output { source_input: "x" }', "batch_output has no target_name"),
        ('model_warmup { batch_size: 1 inputs { key: "x" value { dims: 4 input_data_file: "" } } }', "not exist: ''"),
    ],
)
def test_what_may_end_a_server_is_an_error(repository, more, said):
    """No server is asked."""
    put(repository, "m", f"{RIGHT} {more}")
    assert any(said in finding.message for finding in findings(repository) if finding.severity == "error")


def test_files_that_are_not_plans_and_missing_plans_are_named(repository):
    model = put(repository, "m", RIGHT)
    (model / "1" / "model.sm_90.plan").write_bytes(b"not a plan at all, but long enough to be one")
    (model / "config.pbtxt").write_text(
        f'platform: "tensorrt_plan" max_batch_size: 8 {INPUT} {OUTPUT} '
        'cc_model_filenames { key: "9.0" value: "model.sm_90.plan" } '
        'cc_model_filenames { key: "8.6" value: "model.sm_86.plan" }'
    )
    messages = [finding.message for finding in findings(repository)]
    assert "version 1 has no model.sm_86.plan" in messages
    assert "this is not a TensorRT plan" in messages


def test_dangerous_content_is_pointed_at(repository, tmp_path):
    model = put(repository, "m", RIGHT)
    (model / "1" / "weights.pkl").write_bytes(b"x")
    (model / "1" / "custom.so").write_bytes(b"x")
    (tmp_path / "secret").write_text("x")
    (model / "1" / "link").symlink_to(tmp_path / "secret")
    (model / "config.pbtxt").chmod(0o666)
    put(repository, "open", RIGHT).chmod(0o777)
    environment = 'parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/x.tar.gz" } }'
    put(repository, "environment", f"{RIGHT} {environment}")
    put(repository, "code", 'backend: "python"')
    (repository / "code" / "1" / "model.py").write_text("")
    said = {finding.path: finding.message for finding in findings(repository)}
    assert "loading a pickle may run code" in said["m/1/weights.pkl"]
    assert "which is code" in said["m/1/custom.so"]
    assert said["m/1/link"] == "the link points outside the repository"
    assert said["m/config.pbtxt"] == said["open"] == "every user may write to it"
    assert "Python code" in said["code/config.pbtxt"]
    # The backends from pip stand on the Python backend, which reads it.
    assert "brings its own execution environment" in said["environment/config.pbtxt"]


def test_external_weights_outside_the_version_are_refused(repository, tmp_path):
    model = put(repository, "m", RIGHT)
    graph = onnx.parser.parse_model(f"{HEADER} m (float[N, 4] x) => (float[N, 4] y) {{ y = MatMul (x, w) }}")
    tensor = graph.graph.initializer.add(name="w", data_type=onnx.TensorProto.FLOAT, dims=[4, 4])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../secret")
    (model / "1" / "model.onnx").write_bytes(graph.SerializeToString())
    (tmp_path / "secret").write_bytes(bytes(64))
    assert [finding for finding in findings(repository) if finding.path == "m/1/model.onnx"]


def test_folders_that_a_server_would_take_for_models_are_named(repository):
    put(repository, "m", RIGHT)
    (repository / "backup").mkdir()
    (repository / "m" / "01").mkdir()
    said = {finding.path: finding.message for finding in findings(repository)}
    assert "takes this folder for a model" in said["backup"]
    assert "begin with 0" in said["m/01"]


def test_a_changed_file_is_found_by_its_hash_and_told_from_a_changed_configuration(plansmith, repository, tmp_path):
    plansmith("build", write(tmp_path / "linear.onnx", LINEAR), "--repository", repository, "--no-serve")
    assert "1 model checked: 0 errors, 0 warnings" in plansmith("verify", repository).stdout
    config = repository / "linear" / "config.pbtxt"
    config.write_text(config.read_text() + "# mine\n")
    done = plansmith("verify", repository)
    assert "linear/config.pbtxt: warning: it was changed after it was published" in done.stdout
    model = repository / "linear" / "1" / "model.onnx"
    write(model, LINEAR.replace("Relu", "Neg"))
    (model.parent / "extra.bin").write_bytes(b"x")
    done = plansmith("verify", repository, expect=3)
    assert "linear/1/model.onnx: error: it differs from what was published" in done.stdout
    assert "linear/1/extra.bin: warning: it was never published" in done.stdout
    model.unlink()
    done = plansmith("verify", repository, "--json", expect=3)
    assert any(
        "it was published and is missing" in finding["message"] for finding in json.loads(done.stdout)["findings"]
    )


def test_the_committed_repository_is_clean(plansmith):
    assert "0 errors, 0 warnings" in plansmith("verify", COMMITTED_REPOSITORY).stdout


def test_an_unknown_model_or_repository_is_a_wrong_command_line(plansmith, tmp_path):
    assert "has no model 'nobody'" in plansmith("verify", COMMITTED_REPOSITORY, "nobody", expect=2).stderr
    shutil.rmtree(tmp_path / "nowhere", ignore_errors=True)
    assert "no repository" in plansmith("verify", tmp_path / "nowhere", "m", expect=2).stderr
    # `plansmith verify digits` where a repository has to be named must not look like success.
    assert "no repository" in plansmith("verify", "digits", cwd=tmp_path, expect=2).stderr
    shutil.copytree(COMMITTED_REPOSITORY / "digits", tmp_path / "model_repository" / "digits")
    assert "1 model checked" in plansmith("verify", "digits", cwd=tmp_path).stdout


@pytest.mark.parametrize(("labels", "said"), [("a\nb\n", "has 2 labels, and output 'y' has 4"), ("a\r\nb\r\n", "LF")])
def test_labels_that_a_server_would_read_otherwise_are_a_warning(repository, labels, said):
    folder = put(repository, "labelled", RIGHT.removesuffix("}") + 'label_filename: "labels.txt" }')
    (folder / "labels.txt").write_bytes(labels.encode())
    [finding] = findings(repository)
    assert finding.severity is Severity.WARNING
    assert said in finding.message
    (folder / "labels.txt").write_text("a\nb\nc\nd\n")
    assert not findings(repository)


def test_each_version_completes_a_configuration_by_its_own_file(repository):
    config = 'backend: "onnxruntime" version_policy { all {} } input { name: "x" data_type: TYPE_FP32 dims: [-1, 4] }'
    folder = put(repository, "two", config, graph=FIXED)
    (folder / "2").mkdir()
    write(folder / "2" / "model.onnx", LINEAR)
    assert not [finding for finding in findings(repository, "two") if "max_batch_size" in finding.message]
