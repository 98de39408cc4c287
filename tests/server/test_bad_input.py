"""Every mistake on the command line of `plansmith serve` ends in one sentence and the right exit code."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from plansmith_server import InvalidOptions, InvalidRepository, ServerOptions
from plansmith_server.errors import NotForProduction
from plansmith_server.launcher.production import refuse_unfit

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FREE_PORT_WORDS = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


@pytest.fixture
def unloadable(repository: Path) -> Path:
    """A repository whose only model cannot be loaded."""
    (repository / "broken" / "1").mkdir(parents=True)
    (repository / "broken" / "1" / "model.onnx").write_bytes(b"no model")
    return repository


def sentence(done) -> str:
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def refusal(repository: Path, **options) -> str:
    """What `serve` says, with the exit code 2, before it starts anything; the command itself is tried below."""
    with pytest.raises(InvalidOptions) as caught:
        ServerOptions(**{"repository": repository, "http_port": 0, "grpc_port": 0, "metrics_port": 0, **options}).plan()
    assert caught.value.exit_code == 2
    return str(caught.value)


def obstacle(repository: Path) -> str:
    """Why one model is kept from Triton, so that it serves the others; where it may not be, that is a refusal."""
    options = {"repository": repository, "http_port": 0, "grpc_port": 0, "metrics_port": 0}
    plan = ServerOptions(**options).plan()
    (left_out,) = plan.left_out
    assert [folder.name for folder in plan.folders] == ["broken"]
    for kind in ({"strict": True}, {"control": "poll"}, {"control": "explicit"}):
        assert refusal(repository, **kind) == left_out.obstacle
    return left_out.obstacle


def test_a_repository_that_is_a_file(tmp_path):
    file = tmp_path / "file"
    file.touch()
    assert f"the model repository {file} is a file" in refusal(file)


def test_a_repository_that_is_missing(plansmith, tmp_path):
    missing = tmp_path / "missing"
    assert f"the model repository {missing} does not exist" in sentence(plansmith("serve", "-r", missing, expect=2))
    assert not missing.exists()


def test_a_repository_without_models(repository):
    said = refusal(repository)
    assert f"there is no model in {repository}: build one with `plansmith build MODEL.onnx" in said


@contextlib.contextmanager
def as_ordinary_user(folder: Path) -> Iterator[None]:
    """Tests often run as root, whom no permission stops: be nobody, who may go as far as `folder`."""
    if os.geteuid() != 0:
        yield
        return
    modes = {path: path.stat().st_mode for path in [folder, *folder.parents][:-2]}
    for path, mode in modes.items():
        path.chmod(mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


@pytest.mark.parametrize("forbidden", [".", "broken"])
def test_a_repository_that_may_not_be_read(forbidden, unloadable):
    (unloadable / forbidden).chmod(0)
    try:
        with (
            as_ordinary_user(unloadable.parent),
            pytest.raises(InvalidRepository, match=f"no permission to read {unloadable}"),
        ):
            ServerOptions(repository=unloadable, http_port=0, grpc_port=0, metrics_port=0).plan()
    finally:
        (unloadable / forbidden).chmod(0o755)


@pytest.mark.parametrize("name", ["with space", "a;b", "$(touch here)", "quote'"])
def test_a_model_folder_that_triton_cannot_start(name, unloadable):
    (unloadable / name).mkdir()
    said = obstacle(unloadable)
    assert f"the model folder {name!r} in {unloadable} has a name that Triton cannot serve: rename it" in said


@pytest.mark.parametrize(
    "place", ["config.pbtxt", "configs/cpu.pbtxt", "labels.txt", "1/model.py", "1/model.onnx/data"]
)
@pytest.mark.parametrize(
    ("make", "kind"),
    [(os.mkfifo, "a FIFO"), (lambda path: path.symlink_to("/dev/zero"), "a device")],
    ids=["FIFO", "device"],
)
def test_what_triton_would_wait_for_is_left_out(place, make, kind, unloadable):
    path = unloadable / "other" / place
    path.parent.mkdir(parents=True)
    make(path)
    said = obstacle(unloadable)
    assert f"{path} is {kind}, which Triton would wait for or read without end" in said


@pytest.mark.parametrize("target", ["nothing", "other"])
def test_a_link_to_nothing_or_to_itself_is_left_out(target, unloadable):
    (unloadable / "other").symlink_to(target)
    said = obstacle(unloadable)
    assert f"{unloadable / 'other'} is a link to nothing, at which Triton gives up" in said


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("config.pbtxt", "is a folder, and Triton reads it as a configuration"),
        ("9" * 20, "is not a version: use a number up to 9223372036854775807"),
    ],
)
def test_a_folder_that_would_end_triton_is_left_out(folder, message, unloadable):
    (unloadable / "other" / folder).mkdir(parents=True)
    assert f"{unloadable / 'other' / folder} {message}" in obstacle(unloadable)
    # Where no other is there, there is nothing to serve.
    shutil.rmtree(unloadable / "broken")
    assert message in refusal(unloadable)


@pytest.mark.parametrize("option", ["http", "grpc", "metrics"])
def test_a_port_in_use(option, unloadable):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = refusal(unloadable, **{f"{option}_port": port})
    assert f"port {port} is in use on 127.0.0.1" in said
    assert f"--{option}-port" in said


def test_no_model_can_be_loaded(plansmith, unloadable):
    said = sentence(plansmith("serve", "-r", unloadable, *FREE_PORT_WORDS, expect=1))
    assert "no model could be loaded: broken: model.onnx is not an ONNX model" in said


def test_strict_wants_every_model(plansmith, unloadable):
    (unloadable / "fine" / "1").mkdir(parents=True)
    (unloadable / "fine" / "1" / "model.py").write_text("class TritonPythonModel:\n    pass\n")
    tensors = 'input { name: "x" data_type: TYPE_FP32 dims: 1 } output { name: "y" data_type: TYPE_FP32 dims: 1 }'
    (unloadable / "fine" / "config.pbtxt").write_text(f'backend: "python" {tensors}')
    said = sentence(plansmith("serve", "-r", unloadable, *FREE_PORT_WORDS, "--strict", expect=1))
    assert "not every model could be loaded: broken: model.onnx is not an ONNX model" in said


def test_a_configuration_that_no_model_has(unloadable):
    (unloadable / "broken" / "configs").mkdir()
    (unloadable / "broken" / "configs" / "tuned.pbtxt").touch()
    said = refusal(unloadable, config_name="tuend")
    assert f"no model in {unloadable} has configs/tuend.pbtxt; --config-name can be tuned, auto, none" in said


def test_a_model_that_is_not_there(unloadable):
    said = refusal(unloadable, control="explicit", models=("brokn",))
    assert f"there is no model 'brokn' in {unloadable}; it has broken" in said


def test_a_host_that_does_not_exist(unloadable):
    said = refusal(unloadable, host="no such host")
    assert "--host 'no such host' is not an IPv4 address of this machine or a name of one" in said


def test_an_address_of_another_machine(unloadable):
    said = refusal(unloadable, host="192.0.2.1")
    assert "--host '192.0.2.1' is not an IPv4 address of this machine" in said


def test_a_log_file_that_cannot_be_written(plansmith, unloadable, tmp_path):
    log = tmp_path / "nowhere" / "log"
    said = sentence(plansmith("serve", "-r", unloadable, "--log-file", log, *FREE_PORT_WORDS, expect=1))
    assert f"cannot write the log file {log}: No such file or directory" in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"http_port": 70000}, "--http-port 70000 is not a port"),
        ({"http_port": 8001}, "--http-port and --grpc-port are both 8001"),
        ({"config_name": "../cpu"}, "--config-name '../cpu' is not valid"),
        ({"control": "sometimes"}, "--control 'sometimes' is not one of none, explicit, poll"),
        ({"triton_arguments": ("../models",)}, "'../models' is not an option of Triton: name a repository with"),
        ({"triton_arguments": ("--allow-http=false",)}, "--allow-http=false cannot be used: serve asks over HTTP"),
        ({"triton_arguments": ("--allow-http", "0")}, "--allow-http=false cannot be used"),
        ({"models": ("a",)}, "--model needs --control explicit"),
        ({"control": "poll", "poll_seconds": 0}, "--poll 0 must be at least 1 second"),
    ],
)
def test_options_that_make_no_sense(options, message, repository):
    with pytest.raises(InvalidOptions, match=message):
        ServerOptions(repository=repository, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--log-level", "loud"), "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
        (("--control", "sometimes"), "'sometimes' is not one of 'none', 'explicit', 'poll'"),
        (("--control", "none", "--poll", "2"), "--poll needs --control poll, not none"),
        (("--control", "poll", "--model", "a"), "--model needs --control explicit, not poll"),
    ],
)
def test_words_that_make_no_sense(words, message, plansmith, repository):
    assert message in plansmith("serve", "-r", repository, *words, expect=2).stderr


def test_what_speaks_against_letting_others_use_a_server_is_named_line_by_line(plansmith, served):
    shutil.copytree(ROOT / "tests" / "models_python" / "slow", served / "slow")
    (served / "double" / "libhook.so").touch()
    config = served / "double" / "config.pbtxt"
    config.write_text(config.read_text() + "max_batch_size: 8 dynamic_batching { }")
    words = ("serve", "-r", served, *FREE_PORT_WORDS, "--production-check")
    said = plansmith(*words, "--host", "0.0.0.0", "--open-admin", expect=3).stderr
    for sentence_about in (
        "Triton 2.51, which has known vulnerabilities",
        "--open-admin lets everyone load models",
        "add --strict",
        "slow is a Python model",
        "double brings libhook.so",
        "double lets any number of requests wait",
    ):
        assert sentence_about in said
    assert "needs --production-check" in plansmith(*words[:-1], "--allow-code", "slow", expect=2).stderr


def test_a_repository_that_is_fit_for_others_passes_once_its_code_is_allowed(served):
    shutil.copytree(ROOT / "tests" / "models_python" / "slow", served / "slow")
    slow = served / "slow" / "config.pbtxt"
    slow.write_text(slow.read_text().replace("count: 1", "count: 2"))
    config = served / "double" / "config.pbtxt"
    bound = "max_batch_size: 8 dynamic_batching { default_queue_policy { max_queue_size: 100 } }"
    config.write_text(config.read_text() + bound)
    plan = ServerOptions(repository=served, http_port=0, grpc_port=0, metrics_port=0, strict=True).plan()
    with pytest.raises(NotForProduction, match="double bounds its queue and has one instance"):
        refuse_unfit(plan, allowed_code=["slow"])
    config.write_text(f"{config.read_text()} instance_group {{ count: 2 }}")
    refuse_unfit(plan, allowed_code=["slow"])
    with pytest.raises(NotForProduction, match="slow is a Python model"):
        refuse_unfit(plan)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (None, "has no configuration that names its backend"),
        ('default_model_filename: "model" ".py"\nbackend: "python"', "has no configuration that names its backend"),
        ('backend: "\\160ython"', "brings its own backend"),
        ('name: "double" backend: "onnxruntime" }', "has no configuration that names its backend"),
        (
            'backend: "onnxruntime" parameters: [{ key: "EXECUTION_ENV_PATH" value: { string_value: "/e.tar" } }]',
            "EXECUTION_ENV_PATH",
        ),
        (
            'backend: "openvino" parameters { key: "CPU_EXTENSION_PATH" value { string_value: "/e" } }',
            "CPU_EXTENSION_PATH",
        ),
        ('backend: "onnxruntime" model_operations { op_library_filename: "/libops.so.1" }', "op_library_filename"),
    ],
)
def test_code_that_a_configuration_names_or_leaves_open_is_not_fit_for_others(served, config, sentence):
    path = served / "double" / "config.pbtxt"
    path.unlink()
    if config is not None:
        path.write_text(config)
    plan = ServerOptions(repository=served, http_port=0, grpc_port=0, metrics_port=0, strict=True).plan()
    with pytest.raises(NotForProduction, match=sentence):
        refuse_unfit(plan)
    refuse_unfit(plan, allowed_code=["double"])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"control": "explicit"}, "--control explicit"),
        ({"control": "poll"}, "--control poll"),
        ({"triton_arguments": ("--http-address=0.0.0.0",)}, "cannot be checked"),
    ],
)
def test_options_that_change_what_was_checked_are_not_fit_for_others(served, words, sentence):
    plan = ServerOptions(repository=served, http_port=0, grpc_port=0, metrics_port=0, strict=True, **words).plan()
    with pytest.raises(NotForProduction, match=sentence):
        refuse_unfit(plan)


def test_a_queue_policy_that_is_no_message_bounds_nothing(served):
    config = served / "double" / "config.pbtxt"
    config.write_text(config.read_text() + "max_batch_size: 8 dynamic_batching { default_queue_policy: 5 }")
    plan = ServerOptions(repository=served, http_port=0, grpc_port=0, metrics_port=0, strict=True).plan()
    with pytest.raises(NotForProduction, match="any number of requests wait"):
        refuse_unfit(plan)
