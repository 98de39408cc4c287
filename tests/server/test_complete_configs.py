"""Whether a repository leaves anything for Triton to complete, before a server is started."""

from __future__ import annotations

import pytest

from plansmith_server import ServerOptions
from plansmith_server.launcher.command_line import tritonserver_command
from plansmith_server.launcher.complete_configs import is_complete
from plansmith_server.launcher.triton_wheel import find_triton

COMPLETE = """
# A comment with a { bracket.
name: "m" backend: "onnxruntime"
max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ -1, 64 ] }, { name: "}" data_type: TYPE_INT64 dims: 1 } ]
output { name: 'y', data_type: TYPE_FP32; dims: [ 10 ] }
parameters < key: "intra_op_thread_count" value: < string_value: "1" > >
"""


@pytest.mark.parametrize(
    ("before", "after", "complete"),
    [
        ("", "", True),
        ('backend: "onnxruntime"', 'platform: "ensemble"', True),
        ("data_type: TYPE_INT64", "", False),
        ("TYPE_INT64", "TYPE_INVALID", False),
        ("dims: [ 10 ]", "", False),
        ("dims: [ 10 ]", "dims: [ ]", False),
        ("output {", "result {", False),
        # A Python model may complete its configuration itself.
        ('"onnxruntime"', '"python"', False),
        ('backend: "onnxruntime"', 'platform: "onnxruntime_onnx"', False),
        ("> >", ">", False),
        ("64", '"', False),
    ],
)
def test_a_server_starts_no_process_for_a_configuration_that_says_everything(before, after, complete, tmp_path):
    config = tmp_path / "config.pbtxt"
    config.write_text(COMPLETE.replace(before, after), encoding="utf-8")
    assert is_complete(config) is complete
    assert not is_complete(tmp_path / "missing.pbtxt")


def test_a_configuration_that_ends_anywhere_is_left_to_triton(tmp_path):
    config = tmp_path / "config.pbtxt"
    for end in range(COMPLETE.index("parameters")):
        config.write_text(COMPLETE[:end], encoding="utf-8")
        # Cut behind the last tensor, all is there.
        assert not is_complete(config) or not COMPLETE[end : COMPLETE.index("parameters")].strip()


@pytest.mark.parametrize(
    ("words", "skipped"),
    [
        ((), True),
        (("--model-load-thread-count=2",), True),
        (("--model-repository=others",), False),
        (("--model-store", "others"), False),
        (("--model-control-mode=poll",), False),
        (("--model-config-name", "large"), False),
    ],
)
def test_completion_is_skipped_only_where_the_server_reads_the_configurations_that_were_seen(words, skipped, tmp_path):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").touch()
    (tmp_path / "m" / "config.pbtxt").write_text(COMPLETE, encoding="utf-8")
    options = ServerOptions(repository=tmp_path, triton_arguments=words, http_port=0, grpc_port=0, metrics_port=0)
    command = tritonserver_command(find_triton(), options.plan(), (1, 2, 3), tmp_path / "run", ())
    assert ("--disable-auto-complete-config" in command) == skipped
