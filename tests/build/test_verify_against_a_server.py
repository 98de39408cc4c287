"""`plansmith verify` and a real server give the same verdict on right configurations and on single mistakes."""

from __future__ import annotations

import pytest
from build_models import write

from plansmith_build.repository.linting import Severity, lint_repository
from plansmith_build.repository.model_repository import ModelRepository
from plansmith_client import Client
from plansmith_client.errors import InferenceFailed, InvalidInput, ModelNotReady, ProtocolError, ServerUnavailable
from plansmith_server import ServerOptions, TritonServer

ROWS = "rows (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }"
FIVE = ROWS.replace("4]", "5]")
WHOLE = ROWS.replace("float", "int64").replace("Relu", "Identity")
IMAGES = ROWS.replace("N, 4", "N, 3, 8, 8")
CONTROLLED = (
    "controlled (float[N, 4] x, int32[N, 1] START) => (float[N, 4] y) "
    "{ start = Cast <to = 1> (START) y = Mul (x, start) }"
)
STATEFUL = (
    "stateful (float[N, 4] x, float[N, 4] h) => (float[N, 4] y, float[N, 4] h_out) "
    "{ y = Add (x, h) h_out = Add (x, h) }"
)
WEIGHTED = "weighted (float[N, 4] x, float[1] w) => (float[N, 4] y) <float[1] w = {2.0}> { y = Mul (x, w) }"
SUM = "sum (float[N, 4] x, float[N, 4] z) => (float[N, 4] y) { y = Add (x, z) }"
X = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }'
Y = 'output { name: "y" data_type: TYPE_FP32 dims: 4 }'
BASE = f'backend: "onnxruntime" max_batch_size: 8 {X} {Y}'


def image(more, dims="[ 3, 8, 8 ]"):
    return (
        f'backend: "onnxruntime" max_batch_size: 8 input {{ name: "x" data_type: TYPE_FP32 dims: {dims} {more} }} '
        f'output {{ name: "y" data_type: TYPE_FP32 dims: {dims} }}'
    )


def batching(fields):
    return f"{BASE} dynamic_batching {{ {fields} }}"


def control(fields, *, names=("START",), more=""):
    given = " ".join(f'control_input {{ name: "{name}" control {{ {fields} }} }}' for name in names)
    return f"{BASE} sequence_batching {{ {given} {more} }}"


STATES = (
    'sequence_batching { oldest { } state { input_name: "h" output_name: "h_out" data_type: TYPE_FP32 dims: 4 '
    'initial_state { name: "zeros" data_type: TYPE_FP32 dims: 4 zero_data: true } } }'
)
SECOND_INPUT = 'input_map { key: "z" value: "x" } output_map'
START = "kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ]"
CORRELATION = "kind: CONTROL_SEQUENCE_CORRID"


def states(before, after):
    return f"{BASE} {STATES.replace(before, after)}"


def warm(fields="data_type: TYPE_FP32 dims: 4 zero_data: true", *, name="x"):
    return f'{BASE} model_warmup {{ name: "w" batch_size: 1 inputs {{ key: "{name}" value {{ {fields} }} }} }}'


def step(model="plain", *, given="x", made="y", key="x", out="y", version="model_version: -1"):
    return (
        f'{{ model_name: "{model}" {version} input_map {{ key: "{key}" value: "{given}" }} '
        f'output_map {{ key: "{out}" value: "{made}" }} }}'
    )


def ensemble(*steps, inputs=X, outputs=Y, size=8, more=""):
    return (
        f'platform: "ensemble" max_batch_size: {size} {inputs} {outputs} '
        f"ensemble_scheduling {{ step [ {', '.join(steps)} ] }} {more}"
    )


RIGHT = {
    "plain": BASE,
    "completed": 'backend: "onnxruntime" max_batch_size: 8',
    "empty": "",
    "by_platform": BASE.replace('backend: "onnxruntime"', 'platform: "onnxruntime_onnx"'),
    "by_runtime": f'{BASE} runtime: "model.py"',
    "images": image("format: FORMAT_NCHW"),
    "reshaped": BASE.replace("dims: 4", "dims: [ 2, 2 ] reshape { shape: [ 4 ] }"),
    "prioritized": batching("priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 2 value { } }"),
    "ordered": batching("preserve_ordering: true"),
    "all_versions": f"{BASE} version_policy {{ all {{ }} }}",
    "negative_count": f"{BASE} instance_group {{ kind: KIND_CPU count: -1 }}",
    "controlled": control(START),
    "stateful": f"{BASE} {STATES}",
    "warm": warm(),
    "skipped_warm": warm('data_type: TYPE_FP32 dims: 4 input_data_file: "missing"').replace("batch_size: 1", ""),
    # The server sets max_batch_size to 4 where tensors are left out and dims do not count the batch.
    "half_given": f'backend: "onnxruntime" max_batch_size: 0 {X} dynamic_batching {{ }}',
    "half_reshaped": 'backend: "onnxruntime" output { name: "y" data_type: TYPE_FP32 dims: 1 reshape { shape: [ ] } }',
    "over_completed": ensemble(step("half_given"), size=4),
    "chain": ensemble(step(made="between"), step("completed", given="between")),
    "decoupled": f"{BASE} model_transaction_policy {{ decoupled: true }}",
    "over_decoupled": ensemble(step("decoupled", made="between"), step(given="between")),
    "sum": f'{BASE} input {{ name: "z" data_type: TYPE_FP32 dims: 4 }}',
    "wholes": BASE.replace("FP32", "INT64"),
    "fives": BASE.replace("dims: 4", "dims: 5"),
    "weighted": BASE,
    "ensemble_with_a_file": ensemble(step(), more='default_model_filename: "missing"'),
}
# One mistake each.
WRONG = {
    "backend_onnx": BASE.replace('"onnxruntime"', '"onnx"'),
    "backend_capitals": BASE.replace('"onnxruntime"', '"ONNXRuntime"'),
    "backend_platform": BASE.replace('"onnxruntime"', '"onnxruntime_onnx"'),
    "backend_misspelled": BASE.replace('"onnxruntime"', '"onnxrutime"'),
    "platform_onnx": BASE.replace("backend:", "platform:"),
    "runtime": f'{BASE} runtime: "onnxruntime"',
    "thread_count": f'{BASE} parameters {{ key: "intra_op_thread_count" value {{ string_value: "-2" }} }}',
    "pair": f'{BASE} platform: "tensorrt_plan"',
    "ensemble_backend": ensemble(step(), more='backend: "onnxruntime"'),
    "missing_file": f'{BASE} default_model_filename: "other.onnx"',
    "negative_batch": BASE.replace("8", "-1"),
    "other_name": f'{BASE} name: "another"',
    "latest_none": f"{BASE} version_policy {{ latest {{ num_versions: 0 }} }}",
    "specific_none": f"{BASE} version_policy {{ specific {{ }} }}",
    "specific_missing": f"{BASE} version_policy {{ specific {{ versions: 7 }} }}",
    "zero_dim": BASE.replace("dims: 4", "dims: 0"),
    "negative_dim": BASE.replace("dims: 4", "dims: -2"),
    "other_dims": BASE.replace("dims: 4", "dims: 3"),
    "other_type": BASE.replace("FP32", "INT32"),
    "unknown_input": BASE.replace('"x"', '"z"'),
    "unknown_output": BASE.replace('"y"', '"z"'),
    "optional_batch": BASE.replace("dims: 4 }", "dims: 4 optional: true }", 1),
    "format_two_dims": image("format: FORMAT_NHWC", "[ 3, 64 ]"),
    "shape_tensor": BASE.replace("dims: 4", "dims: 4 is_shape_tensor: true"),
    "non_linear": BASE.replace("dims: 4", "dims: 4 is_non_linear_format_io: true"),
    "reshape_size": BASE.replace("dims: 4", "dims: 5 reshape { shape: [ 4 ] }"),
    "reshape_zero": BASE.replace("dims: 4", "dims: 4 reshape { shape: [ 0 ] }"),
    "reshape_free": BASE.replace("dims: 4", "dims: [ -1, 4 ] reshape { shape: [ 4 ] }"),
    "batch_input_source": f'{BASE} batch_input {{ target_name: "s" data_type: TYPE_FP32 source_input: "z" }}',
    "batch_input_type": f'{BASE} batch_input {{ target_name: "s" data_type: TYPE_INT8 source_input: "x" }}',
    "batch_input_none": f'{BASE} batch_input {{ target_name: "s" data_type: TYPE_FP32 }}',
    "batch_output_target": f'{BASE} batch_output {{ target_name: "z" source_input: "x" }}',
    "batch_output_twice": f'{BASE} batch_output {{ target_name: [ "y", "y" ] source_input: "x" }}',
    "decoupled_cache": f"{BASE} model_transaction_policy {{ decoupled: true }} response_cache {{ enable: true }}",
    "preferred_large": batching("preferred_batch_size: 9"),
    "preferred_zero": batching("preferred_batch_size: 0"),
    "priority_default": batching("priority_levels: 2"),
    "priority_high": batching("priority_levels: 2 default_priority_level: 3"),
    "policy_level": batching("priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value { } }"),
    "policy_zero": batching("priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 0 value { } }"),
    "ordered_levels": batching("preserve_ordering: true priority_levels: 2 default_priority_level: 1"),
    "ordered_delay": batching(
        "preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9 }"
    ),
    "control_none": control("kind: CONTROL_SEQUENCE_START"),
    "control_both": control(f"{START} fp32_false_true: [ 0, 1 ]"),
    "control_three": control("kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1, 2 ]"),
    "control_twice": control(START, names=("START", "OTHER")),
    "control_same_name": control(START, names=("START", "START")),
    "control_unnamed": control(START, names=("",)),
    "unknown_control": control(START),
    "state_type": states("FP32", "INT32"),
    "state_untyped": states("data_type: TYPE_FP32", ""),
    "state_dims": states("dims: 4", "dims: 5"),
    "state_input": states('"h"', '"z"'),
    "state_output": states('"h_out"', '"z"'),
    "state_growing": states("{ input_name", "{ use_growable_memory: true input_name"),
    "initial_type": states('"zeros" data_type: TYPE_FP32', '"zeros" data_type: TYPE_INT32'),
    "initial_dims": states("dims: 4 zero", "dims: 5 zero"),
    "initial_free": states("dims: 4 zero", "dims: -1 zero"),
    "initial_unnamed": states('name: "zeros"', ""),
    "initial_without_data": states("zero_data: true", ""),
    "initial_file": states("zero_data: true", 'data_file: "missing"'),
    "initial_twice": states("initial_state {", 'initial_state { name: "z" } initial_state {'),
    "correlation_type": control(f"{CORRELATION} data_type: TYPE_FP32"),
    "correlation_values": control(f"{CORRELATION} data_type: TYPE_INT32 int32_false_true: [ 0, 1 ]"),
    "sequence_cache": f"{control(START)} response_cache {{ enable: true }}",
    "sequence_preferred": control(START, more="oldest { preferred_batch_size: 9 max_candidate_sequences: 4 }"),
    "sequence_slots": control(START, more="direct { minimum_slot_utilization: 2 }"),
    "cpu_with_gpus": f"{BASE} instance_group {{ kind: KIND_CPU gpus: 0 }}",
    "model_with_gpus": f"{BASE} instance_group {{ kind: KIND_MODEL gpus: 0 }}",
    "profile": f'{BASE} instance_group {{ kind: KIND_CPU profile: "0" }}',
    "warm_type": warm("data_type: TYPE_INT64 dims: 4 zero_data: true"),
    "warm_dims": warm("data_type: TYPE_FP32 dims: 5 zero_data: true"),
    "warm_free": warm("data_type: TYPE_FP32 dims: -1 zero_data: true"),
    "warm_name": warm(name="z"),
    "warm_batch": warm().replace("batch_size: 1", "batch_size: 9"),
    "warm_no_data": warm("data_type: TYPE_FP32 dims: 4"),
    "warm_file": warm('data_type: TYPE_FP32 dims: 4 input_data_file: "missing"'),
    "types_between": ensemble(step(made="between"), step("wholes", given="between")),
    "dims_between": ensemble(step(made="between"), step("fives", given="between")),
    "type_at_the_end": ensemble(step(), outputs=Y.replace("FP32", "INT64")),
    "dims_at_the_start": ensemble(step(), inputs=X.replace("dims: 4", "dims: 5")),
    "unread_input": ensemble(step(), inputs=X + X.replace('"x"', '"z"')),
    "unwritten_output": ensemble(step(), outputs=Y + Y.replace('"y"', '"z"')),
    "unused_tensor": ensemble(step(), step(made="z")),
    "made_twice": ensemble(step(), step("completed")),
    "never_made": ensemble(step(), step(given="a", made="b"), step(given="b", made="a")),
    "untyped_ensemble": ensemble(step(), inputs=X.replace("data_type: TYPE_FP32", "")),
    "dimless_ensemble": ensemble(step(), outputs=Y.replace("dims: 4", "")),
    "mixed_streams": ensemble(
        step("decoupled", made="between"), step("sum", given="between").replace("output_map", SECOND_INPUT)
    ),
    "itself": ensemble(step("itself")),
    "round_and": ensemble(step("round_again")),
    "round_again": ensemble(step("round_and")),
    "nobody": ensemble(step("nobody")),
    "missing_version": ensemble(step(version="model_version: 7")),
    "version_left_out": ensemble(step(version="")),
    "step_input": ensemble(step("completed", key="X")),
    "step_output": ensemble(step(out="Y")),
    "circle": ensemble(
        step(given="b", made="a"), step(given="a", made="b"), step(), outputs=Y + Y.replace('"y"', '"a"')
    ),
    "ensemble_batch": ensemble(step(), size=16),
    "completed_batch": ensemble(step("half_given"), size=8),
    "ensemble_instances": ensemble(step(), more="instance_group { count: 1 }"),
    "stateful_warmup": f"{warm()} {STATES}",
    "ensemble_warmup": ensemble(step(), more='model_warmup { name: "w" batch_size: 1 }'),
    "unnamed_agent": f"{BASE} model_repository_agents {{ agents {{ }} }}",
    "initial_unnamed_file": states("zero_data: true", 'data_file: ""'),
    "input_twice": f"{BASE} {X}",
    "output_twice": f"{BASE} {Y}",
    "negative_gpu": f"{BASE} instance_group {{ gpus: -2 }}",
    "openvino_with_gpus": f"{BASE.replace('onnxruntime', 'openvino')} instance_group {{ gpus: 0 }}",
    "openvino_on_a_model": f"{BASE.replace('onnxruntime', 'openvino')} instance_group {{ kind: KIND_MODEL }}",
    "ensemble_input_twice": ensemble(step(), inputs=X + X),
    "ensemble_output_twice": ensemble(step(), outputs=Y + Y),
    "no_steps": f'platform: "ensemble" max_batch_size: 8 {X} {Y}',
}
GRAPHS = {
    "images": IMAGES,
    "half_reshaped": ROWS.replace(", 4", ""),
    "wholes": WHOLE,
    "fives": FIVE,
    "controlled": CONTROLLED,
    "sum": SUM,
    "weighted": WEIGHTED,
    **{name: STATEFUL for name, text in {**RIGHT, **WRONG}.items() if "state {" in text},
    **{name: CONTROLLED for name in WRONG if name.startswith(("control_", "sequence_"))},
}
# Where the two differ, and why that is right.
EXPLAINED = dict.fromkeys(
    ("ensemble_input_twice", "ensemble_output_twice"),
    "the server loads it, and clients are told of two tensors of one name, which plansmith's own does not take",
)


# Triton 2.51 may end with SIGSEGV where a warm-up fails: two of its threads race for the instance that is given up.
WARM_UPS = {name: text for name, text in WRONG.items() if name.startswith("warm_") or name == "stateful_warmup"}


@pytest.mark.timeout(2400)
def test_verify_and_a_server_agree_on_right_configurations_and_on_every_single_mistake(repository):
    configurations = {name: text for name, text in {**RIGHT, **WRONG}.items() if name not in WARM_UPS}
    refused = refused_by_verify(repository, configurations)
    with TritonServer(options_for(repository)) as server, Client(server.grpc_url) as client:
        loaded = ready(client)
        for name in EXPLAINED:
            with pytest.raises(ProtocolError, match="occurs twice"):
                client.model(name).infer({"x": [[0.0] * 4]})
    disagreements = {
        name: "verify refuses it" if name in refused else "verify finds no error"
        for name in configurations
        if (name in refused) == (name in loaded)
    }
    assert disagreements.keys() == EXPLAINED.keys(), disagreements
    assert loaded - EXPLAINED.keys() == RIGHT.keys()


@pytest.mark.timeout(2400)
def test_verify_finds_every_warm_up_that_a_server_cannot_run(repository):
    assert refused_by_verify(repository, WARM_UPS) == WARM_UPS.keys()
    for name in WARM_UPS:
        # A server of its own for each, since the one that loads it may be gone afterwards.
        with (
            TritonServer(options_for(repository, control="explicit")) as server,
            Client(server.grpc_url) as client,
            pytest.raises((InferenceFailed, InvalidInput, ModelNotReady, ServerUnavailable)),
        ):
            client.load_model(name)


def refused_by_verify(repository, configurations):
    for name, text in configurations.items():
        (repository / name / "1").mkdir(parents=True)
        if 'platform: "ensemble"' not in text:
            write(repository / name / "1" / "model.onnx", GRAPHS.get(name, ROWS))
        (repository / name / "config.pbtxt").write_text(text)
    found = lint_repository(ModelRepository.at(repository))
    return {finding.path.split("/")[0] for finding in found if finding.severity is Severity.ERROR}


def options_for(repository, *, control="none"):
    return ServerOptions(
        repository=repository,
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        config_name="none",
        control=control,
        start_timeout=800,
    )


def ready(client):
    return {status.name for status in client.models() if status.state == "READY"}
