"""The distributions, installed into empty environments, work as built, not as they lie in a checkout."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
import zipfile
from email import message_from_bytes
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from interpreters import interpreter, uv_program
from packaging.requirements import Requirement

if TYPE_CHECKING:
    from email.message import Message

ROOT = Path(__file__).parents[2]
MEMBERS = ("client", "build_engines", "server", "perf", "plansmith")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """What `make dist` makes."""
    # Under a name of its own, else uv takes what it kept of an earlier run's wheels at the same place.
    folder = tmp_path_factory.mktemp(f"dist-{uuid.uuid4().hex}")
    for member in MEMBERS:
        subprocess.run(
            [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT / member],
            check=True,
            capture_output=True,
            env={**os.environ, "PLANSMITH_RELEASE": "1"},
        )
    return folder


@pytest.fixture(scope="module")
def new_environment(tmp_path_factory):
    """Makes an empty virtual environment of a Python that has pip; gives its `bin`."""

    def make(version: str | None = None) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        subprocess.run([python_of(version) if version else sys.executable, "-m", "venv", folder], check=True)
        return folder / "bin"

    return make


def python_of(version: str) -> str:
    """A Python of this version, or a skipped test."""
    return interpreter(version) or pytest.skip(f"Python {version} is not installed: uv python install {version}")


def as_wheels(distributions: Path, *wanted: str) -> list[str]:
    """The same, where our own names are these wheels, of `plansmith` all five: no index is asked for them."""
    wheels = {wheel.name.split("-")[0].replace("_", "-"): wheel for wheel in distributions.glob("*.whl")}
    named = {Requirement(each).name: each for each in wanted}
    if "plansmith" in named:
        named = {name: name for name in wheels} | named
    return [f"{each} @ {wheels[name].as_uri()}" if name in wheels else each for name, each in named.items()]


def install(environment: Path, wanted: list[str], *options: str | Path) -> None:
    """With pip, which the environment brings."""
    command = [environment / "pip", "install", "--quiet", "--disable-pip-version-check", *options]
    subprocess.run([*command, *wanted], check=True)


def install_with_uv(folder: Path, python: str, distributions: Path, *wanted: str) -> Path:
    """Into a new environment in this folder; gives its `bin`."""
    if (uv := uv_program()) is None:
        pytest.skip("uv is not installed")
    subprocess.run([uv, "venv", "--quiet", "--python", python, folder], check=True)
    command = [uv, "pip", "install", "--quiet", "--python", folder / "bin" / "python"]
    subprocess.run([*command, *as_wheels(distributions, *wanted)], check=True)
    ours = list(folder.glob("lib/python*/site-packages/plansmith*.dist-info"))
    assert ours
    # Whoever holds our names on an index does not get into an environment of the tests.
    assert [path.name for path in ours if not (path / "direct_url.json").is_file()] == []
    return folder / "bin"


def installed(environment: Path) -> set[str]:
    listing = subprocess.run(
        [environment / "pip", "list", "--format=json", "--disable-pip-version-check"],
        check=True,
        capture_output=True,
        text=True,
    )
    # Older versions of pip show some names as their wheels spell them.
    return {package["name"].replace("_", "-") for package in json.loads(listing.stdout)}


def test_the_sdk_alone_is_light_and_says_what_its_command_needs(new_environment, distributions, committed_server):
    environment = new_environment()
    install(environment, as_wheels(distributions, "plansmith-client"))
    packages = installed(environment) - {"pip", "setuptools"}
    # tritonclient brings packaging, ml-dtypes, python-rapidjson and urllib3; grpcio brings typing-extensions.
    assert packages == {
        *("plansmith-client", "tritonclient", "numpy", "grpcio", "protobuf", "httptools"),
        *("packaging", "ml-dtypes", "python-rapidjson", "typing-extensions", "urllib3"),
    }
    program = """
import sys, numpy, plansmith_client
print(plansmith_client.__file__)
for url in sys.argv[1:]:
    with plansmith_client.Client(url) as client:
        print(client.model("digits")(numpy.zeros((2, 8, 8), numpy.float32)).array.shape)
for name in ("telemetry", "metrics"):
    try:
        __import__(f"plansmith_client.{name}")
    except ImportError as error:
        print(error)
"""
    asked = subprocess.run(
        [environment / "python", "-W", "error", "-c", program, committed_server.grpc_url, committed_server.http_url],
        check=True,
        capture_output=True,
        text=True,
    )
    where, *shapes, tracing, metrics = asked.stdout.splitlines()
    assert "site-packages" in where
    assert shapes == ["(2, 10)", "(2, 10)"]
    # What is missing is named with the command that brings it.
    for sentence, package in ((tracing, "opentelemetry-api"), (metrics, "prometheus-client")):
        assert sentence.endswith(f"pip install {package}")
    command = subprocess.run([environment / "plansmith-client", "models"], check=False, capture_output=True, text=True)
    assert command.returncode == 2
    assert (
        command.stderr == "Error: the plansmith command needs typer and rich: add the extra `cli` of plansmith-client\n"
    )

    install(environment, as_wheels(distributions, "plansmith-client[cli]"))
    command = subprocess.run(
        [environment / "plansmith-client", "serve", "--port", "1"], check=False, capture_output=True, text=True
    )
    assert command.returncode == 2
    assert (
        command.stderr
        == "Error: `plansmith serve` is part of plansmith-server, which is not installed: plansmith brings it\n"
    )


def test_the_hooks_that_name_siblings_are_one_text():
    hooks = [ROOT / member / "hatch_build.py" for member in MEMBERS]
    assert len({hook.read_text() for hook in hooks if hook.exists()}) == 1


def test_every_distribution_is_a_wheel_and_an_sdist_of_one_version(distributions):
    made = sorted(path.name for path in distributions.iterdir())
    names = ("plansmith", "plansmith_build", "plansmith_client", "plansmith_perf", "plansmith_server")
    number = version("plansmith-client")
    assert made == sorted(f"{name}-{number}{end}" for name in names for end in ("-py3-none-any.whl", ".tar.gz"))


def test_released_wheels_name_their_siblings_by_the_version_that_all_share(distributions):
    for member in ("build", "perf", ""):
        (wheel,) = distributions.glob(f"plansmith{'_' * bool(member)}{member}-*.whl")
        metadata = metadata_of(wheel)
        siblings = [line for line in metadata.get_all("Requires-Dist") if line.startswith("plansmith-")]
        assert siblings
        assert all(f"=={metadata['Version']}" in line for line in siblings), siblings


def test_a_wheel_made_in_a_checkout_names_its_siblings_by_their_folders(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", tmp_path, ROOT / "plansmith"],
        check=True,
        capture_output=True,
    )
    required = metadata_of(next(tmp_path.glob("*.whl"))).get_all("Requires-Dist")
    for name, folder in (("client[cli]", "client"), ("build[openvino]", "build_engines"), ("server[triton]", "server")):
        assert f"plansmith-{name} @ {(ROOT / folder).as_uri()}" in required


def version_in(python: Path, name: str) -> str:
    program = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    return subprocess.run([python, "-c", program, name], check=True, capture_output=True, text=True).stdout.strip()


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name))


def test_building_and_serving_leave_numpy_2_to_the_user(distributions, tmp_path, held_out_file):
    wanted = ("plansmith-build", "plansmith-server", "plansmith-client[cli]", "numpy>=2")
    python = install_with_uv(tmp_path / "environment", sys.executable, distributions, *wanted) / "python"
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": f"{Path(uv_program()).parent}{os.pathsep}{os.environ['PATH']}",
    }

    def command_line(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [python.with_name("plansmith-client"), *map(str, words)]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment)

    # The version is published only after a Triton has answered as the file does.
    built = command_line("build", held_out_file.with_name("digits.onnx"), "--json")
    assert json.loads(built.stdout)["manifest"]["server_trial"]["served"] == ["config.pbtxt"]
    assert "fetching Triton and numpy 1.26" in built.stderr
    program = "from plansmith_server.launcher.private_packages import private_packages as folder; print(folder())"
    again = subprocess.run([python, "-c", program], check=True, capture_output=True, text=True, env=environment)
    assert str(tmp_path / "cache") in again.stdout
    assert "fetching" not in again.stderr
    assert version_in(python, "numpy").startswith("2.")
    # What is left of a fetch that was killed, installer and all, is removed by the next one.
    (kept,) = (tmp_path / "cache" / "plansmith").iterdir()
    kept.rename(tmp_path / "kept")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(120)
        silent_index = {"UV_DEFAULT_INDEX": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        fetching = subprocess.Popen([python, "-c", program], env=environment | silent_index, start_new_session=True)
        with silent.accept()[0]:
            os.killpg(fetching.pid, signal.SIGKILL)
        fetching.wait()
    assert list(kept.parent.iterdir())
    subprocess.run([python, "-c", program], check=False, capture_output=True, env=environment | {"UV_OFFLINE": "1"})
    assert not set(kept.parent.iterdir()) - {kept}


@pytest.mark.parametrize(("version", "installer"), [("3.10", "pip"), ("3.12", "uv"), ("3.13", "uv")])
def test_the_client_and_its_command_install_on_other_pythons(
    version, installer, new_environment, distributions, tmp_path
):
    if installer == "uv":
        folder = tmp_path / "environment"
        environment = install_with_uv(folder, python_of(version), distributions, "plansmith-client[cli]")
    else:
        environment = new_environment(version)
        install(environment, as_wheels(distributions, "plansmith-client[cli]"))
    done = subprocess.run(
        [environment / "plansmith-client", "health", "--url", "localhost:1"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")


def test_a_python_that_is_too_new_is_refused_before_anything_is_compiled(new_environment, distributions):
    environment = new_environment("3.13")
    command = [environment / "pip", "install", "--disable-pip-version-check", "--only-binary", ":all:"]
    done = subprocess.run(
        [*command, *as_wheels(distributions, "plansmith")], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "requires a different Python: 3.13" in done.stderr


def test_pipx_takes_the_one_name(distributions, tmp_path):
    environment = by_name(distributions, tmp_path) | {"PIPX_HOME": str(tmp_path), "PIPX_BIN_DIR": str(tmp_path / "bin")}
    pipx = [Path(sys.executable).with_name("pipx"), "install", "--backend", "uv", "--python", sys.executable]
    subprocess.run([*pipx, "plansmith"], check=True, capture_output=True, env=environment)
    done = subprocess.run([tmp_path / "bin" / "plansmith", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout == f"plansmith {version('plansmith')}\n"


def by_name(distributions: Path, folder: Path) -> dict[str, str]:
    """An environment of variables in which uv takes these wheels where it is asked for our names."""
    if (uv := uv_program()) is None:
        pytest.skip("uv is not installed")
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(as_wheels(distributions, "plansmith")))
    return {
        **os.environ,
        "UV_CONSTRAINT": str(constraints),
        "PATH": f"{Path(uv).parent}{os.pathsep}{os.environ['PATH']}",
    }


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("version", "installer"), [("3.11", "uvx"), ("3.12", "pip")])
def test_one_name_brings_the_whole_way_and_its_demonstration(
    version, installer, new_environment, distributions, tmp_path
):
    python = python_of(version)
    began = time.monotonic()
    folders = {"UV_TOOL_DIR": str(tmp_path / "tools"), "UV_TOOL_BIN_DIR": str(tmp_path / "bin")}
    environment = by_name(distributions, tmp_path) | folders
    if installer == "uvx":
        # What is installed is what uvx runs; else it would leave an environment in the user's cache after each run.
        words = ["uv", "tool", "install", "--quiet", "--python", python, "plansmith[perf]"]
        subprocess.run(words, check=True, env=environment)
        command = ["uvx", "plansmith"]
    else:
        # The pip that this Python brings has to find versions that suit each other.
        folder = new_environment(version)
        install(folder, as_wheels(distributions, "plansmith[perf]"), "--no-compile")
        command = [str(folder / "plansmith")]

    def plansmith(*words: str | Path) -> str:
        whole = [*command, *map(str, words)]
        return subprocess.run(whole, check=True, capture_output=True, text=True, cwd=tmp_path, env=environment).stdout

    installed_after = time.monotonic() - began
    shown = json.loads(plansmith("demo", "--json"))
    accuracies = {way["accuracy"] for way in shown["measured"].values()}
    assert len(accuracies) == 1
    assert accuracies.pop() > 0.97
    assert "images/s" in (tmp_path / "plansmith-demo" / "demo.svg").read_text().replace("&#160;", " ")

    # Then what the README says, with a file of one's own: build, serve, ask.
    demo = tmp_path / "plansmith-demo"
    declared = ("--preprocess", "channels=GRAY,layout=NHW,scale=16/255")
    began = time.monotonic()
    plansmith("build", demo / "digits.onnx", "--name", "mine", "--labels", demo / "labels.txt", *declared)
    serve = [*command, "serve", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    started = {"stdout": subprocess.PIPE, "text": True, "cwd": tmp_path, "env": environment, "start_new_session": True}
    with subprocess.Popen([*serve, "--json"], **started) as server:
        try:
            url = json.loads(server.stdout.readline())["grpc_url"]
            answer = plansmith("infer", "mine", demo / "three.png", "--url", url)
            # Told and never asserted, because the machine may be busy: `pytest -rP` shows it.
            answered_after = time.monotonic() - began
            every = json.loads(plansmith("infer", "mine", demo / "images" / "5", "--url", url, "--json"))
        finally:
            os.killpg(server.pid, signal.SIGINT)  # as Ctrl-C does, to all of them
    steps = f"installed in {installed_after:.0f} s; built, served and answered in {answered_after:.0f} s"
    print(f"Python {version}, {installer}: {steps}")  # noqa: T201 - for people
    assert answer.startswith("three.png: 3, 99 %")
    probabilities = np.array(every["outputs"]["probabilities"]["data"])
    assert (probabilities.argmax(axis=1) == 5).mean() > 0.9
