"""A Triton server as an object: started, waited for, watched and stopped."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, TypeVar

import psutil

from plansmith_server.errors import NoModelLoaded, PortInUse, StartFailed
from plansmith_server.launcher import supervisor
from plansmith_server.launcher.admin_access import restrict
from plansmith_server.launcher.command_line import tritonserver_command
from plansmith_server.launcher.endpoint import Endpoint, ModelState
from plansmith_server.launcher.logs import LogFollower, LogRecord, clean_reason
from plansmith_server.launcher.ports import find_free
from plansmith_server.launcher.run_folder import RunFolder
from plansmith_server.launcher.triton_arguments import is_off
from plansmith_server.launcher.triton_wheel import find_triton

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from plansmith_server.launcher.command_line import Ports
    from plansmith_server.launcher.options import ServerOptions, ServerPlan

__all__ = ["TritonServer", "how_it_ended"]

Value = TypeVar("Value")

POLL_SECONDS = 0.05
# Where the command of a backend process names the instance that it runs, such as "double_0_0".
INSTANCE_WORD = 8
# Another process may take a free port between our look and Triton's bind.
PORT_ATTEMPTS = 3


class TritonServer:
    """NVIDIA's Triton over a model repository, for as long as a `with` block lasts.

    ```python
    with TritonServer(ServerOptions(repository=Path("model_repository"), grpc_port=0)) as server:
        print(server.grpc_url)
    ```

    Leaving the block, the end of this process and even a SIGKILL of it stop the server and all its backends. A backend
    process that dies stops it as well, because Triton would go on to call its model ready; `failure` then says so.

    Args:
        options: what to serve and where.
        on_log: called with each line of Triton's log, in another thread.
    """

    def __init__(self, options: ServerOptions, on_log: Callable[[LogRecord], None] | None = None) -> None:
        self.options = options
        self._on_log = on_log
        self._plan: ServerPlan | None = None
        self._ports: Ports = (0, 0, 0)
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._run_folder: RunFolder | None = None
        self._log: LogFollower | None = None
        self._pid: int | None = None
        self._returncode: int | None = None
        self._dead_backend: tuple[list[str], int] | None = None
        self._dying = ""
        self._access = restrict(options)
        self.version = ""
        self.seconds_to_start = 0.0

    def start(self) -> Self:
        """Start the server and wait until its models are loaded.

        Raises:
            InvalidOptions: the repository, a port or a name cannot be used.
            TritonUnavailable: something that Triton needs is missing here.
            StartFailed: Triton ended or hung.
            NoModelLoaded: no model could be loaded or, with `strict`, not every one.
        """
        if self._supervisor is not None:
            raise StartFailed("this server was started before: create another TritonServer")
        began = time.monotonic()
        try:
            self._start(self.options.plan())
            self.version = self._endpoint.version()
            self._check_models()
        except BaseException:
            self.stop()
            raise
        self.seconds_to_start = time.monotonic() - began
        return self

    def stop(self) -> None:
        """Stop the server and its backends, and remove what they left; harmless if it does not run.

        Requests in flight have `options.stop_timeout` seconds to end.
        """
        self._tell(b"s")
        if self._supervisor is not None:
            self._collect(self._supervisor, timeout=self.options.stop_timeout + supervisor.SWEEP_SECONDS + 5.0)
        if self._log is not None:
            self._log.stop()
        if self._run_folder is not None:
            self._run_folder.remove()
            self._run_folder = None

    def kill(self) -> None:
        """Have the server killed at once; `stop` still has to be called. Safe in a signal handler."""
        self._tell(b"k")

    @property
    def is_running(self) -> bool:
        """Whether the server's process exists."""
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def returncode(self) -> int | None:
        """How the server ended, a negative number for a signal; None while it runs."""
        if self._supervisor is not None and not self.is_running:
            self._collect(self._supervisor, timeout=1.0)
        return self._returncode

    @property
    def failure(self) -> str:
        """Why the server ended without being told to, in one sentence, or ""."""
        if self._dead_backend is not None:
            words, status = self._dead_backend
            whose = words[INSTANCE_WORD] if len(words) > INSTANCE_WORD else "a model"
            return (
                f"the backend process of {whose} ended with {how_it_ended(status)}, and Triton 2.51 cannot replace it:"
                " the server was stopped"
            )
        return ""

    @property
    def admin_headers(self) -> Mapping[str, str]:
        """Headers for HTTP requests to the APIs that the server restricts, by its default or by `triton_arguments`.

        They are this run's alone. Every user of this machine can read them in the list of processes.
        """
        return dict(self._access.headers)

    @property
    def pid(self) -> int:
        """The process id of tritonserver."""
        return _started(self._pid)

    @property
    def log_path(self) -> Path:
        """The file with Triton's log as it writes it; unless `options.log_file` names it, it goes with the server."""
        return _started(self._log).path

    @property
    def config_name(self) -> str | None:
        """The NAME of configs/NAME.pbtxt that models use where they have it."""
        return _started(self._plan).config_name

    @property
    def address(self) -> str:
        """The IPv4 address that the server listens on."""
        return _started(self._plan).address

    @property
    def http_url(self) -> str:
        """Where HTTP is served: "http://127.0.0.1:8000"."""
        return f"http://{self._reachable_address}:{_started(self._ports[0])}"

    @property
    def grpc_url(self) -> str:
        """Where gRPC is served: "127.0.0.1:8001"; "" with `--allow-grpc=false`."""
        port = _started(self._ports[1])
        return "" if is_off("--allow-grpc", self.options.triton_arguments) else f"{self._reachable_address}:{port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus finds the metrics: "http://127.0.0.1:8002/metrics"; "" with `--allow-metrics=false`."""
        port = _started(self._ports[2])
        off = is_off("--allow-metrics", self.options.triton_arguments)
        return "" if off else f"http://{self._reachable_address}:{port}/metrics"

    def models(self) -> tuple[ModelState, ...]:
        """Every model of the repository with its state at this moment."""
        plan, log = _started(self._plan), _started(self._log)
        folders = {folder.name: folder for folder in plan.folders}
        states = []
        index = self._endpoint.index()
        # A model that Triton could not choose a version of has no state in its index or is not there; its log tells.
        index += [{"name": name} for name in log.rejected.keys() - {entry["name"] for entry in index}]
        index += [{"name": folder.name, "reason": folder.obstacle} for folder in plan.left_out]
        for entry in sorted(index, key=lambda entry: entry["name"]):
            name = entry["name"]
            reason = clean_reason(entry.get("reason", "")) or log.rejected.get(name, "")
            state = entry.get("state") or "UNAVAILABLE"
            config = folders[name].config_used(plan.config_name) if name in folders else ""
            states.append(
                ModelState(
                    name=name,
                    version=entry.get("version", ""),
                    state=state,
                    reason="" if state == "READY" else reason,
                    config=config,
                )
            )
        return tuple(states)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def _start(self, plan: ServerPlan) -> None:
        """Start; for a model whose backend process dies, for which Triton waits for ever, once more without it."""
        self._plan = plan
        try:
            self._start_on_free_ports(plan)
        except StartFailed as error:
            rest = plan.without(self._dying, str(error))
            if self.options.strict or self.options.control != "none" or rest.folders in (plan.folders, ()):
                raise
            self.stop()
            self._supervisor = self._returncode = self._dead_backend = None
            self._start(rest)

    def _start_on_free_ports(self, plan: ServerPlan) -> None:
        wheel = find_triton()
        options = self.options
        asked = (options.http_port, options.grpc_port, options.metrics_port)
        folder = self._run_folder = RunFolder.make(wheel, plan)
        for attempt in range(1, PORT_ATTEMPTS + 1):
            free = find_free(plan.address, len(asked))
            self._ports = (asked[0] or free[0], asked[1] or free[1], asked[2] or free[2])
            command = tritonserver_command(wheel, plan, self._ports, folder.path, self._access.arguments)
            self._launch(command, wheel.environment(), folder)
            try:
                self._wait_until_live()
            except PortInUse:
                if attempt == PORT_ATTEMPTS or all(asked):
                    raise
            else:
                return

    def _launch(self, command: list[str], environment: dict[str, str], run_folder: RunFolder) -> None:
        log_file = (self.options.log_file or run_folder.path / "triton.log").resolve()
        try:
            log_file.touch(mode=0o600)
        except OSError as error:
            raise StartFailed(f"cannot write the log file {log_file}: {error.strerror}") from error
        self._log = LogFollower(log_file, self._on_log, start_offset=log_file.stat().st_size)
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", supervisor.__file__],
            env=environment,
            cwd=run_folder.path / "work",
            pass_fds=(run_folder.lock,),
            # What the server and its backends make, their shared memory above all, is nobody else's to read.
            umask=0o077,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Ctrl-C in a terminal reaches a whole group: this one is told to stop by us, once.
            start_new_session=True,
        )
        order = {
            "command": command,
            "log": str(log_file),
            "directory": str(run_folder.path),
            "lock": run_folder.lock,
            "grace": self.options.stop_timeout,
            "backends": True,
        }
        stdin, stdout = _started(self._supervisor.stdin), _started(self._supervisor.stdout)
        stdin.write(json.dumps(order).encode() + b"\n")
        stdin.flush()
        answer = json.loads(stdout.readline() or b"{}")
        if "pid" not in answer:
            raise StartFailed(f"tritonserver could not be started: {answer.get('error', 'the supervisor ended')}")
        self._pid = int(answer["pid"])
        self._log.start()

    def _wait_until_live(self) -> None:
        deadline = time.monotonic() + self.options.start_timeout
        # Whoever else took the port while Triton was loading would answer as well.
        while not (self._endpoint.is_live() and self._listens()):
            if not self.is_running:
                raise self._early_end()
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"Triton was not ready after {self.options.start_timeout:g} s, still loading {self._loading()}:"
                    " allow more time with --start-timeout, or see --log-file for what it does"
                )
            time.sleep(POLL_SECONDS)

    def _listens(self) -> bool:
        """Whether our own process listens on the HTTP port."""
        try:
            sockets = psutil.Process(self.pid).net_connections("tcp")
        except psutil.NoSuchProcess:
            return False
        return any(
            socket.status == psutil.CONN_LISTEN and socket.laddr and socket.laddr.port == self._ports[0]
            for socket in sockets
        )

    def _loading(self) -> str:
        """The models that are neither loaded nor refused so far, for a message."""
        return ", ".join(sorted(_started(self._log).loading)) or "a model"

    def _early_end(self) -> Exception:
        """What to raise for a server that ended by itself while it started."""
        log = _started(self._log)
        code = self.returncode
        log.stop()
        if self._dead_backend is not None:
            words, status = self._dead_backend
            # The path of the model's file or folder; many may be loading.
            parts = reversed("/".join(words).split("/"))
            whose = next((part for part in parts if part in log.loading), "") or self._loading()
            self._dying = whose
            return StartFailed(
                f"the backend process of {whose} died with {how_it_ended(status)} while it was loaded, and Triton"
                " waits for it for ever: take that model out of the repository, or see --log-file for what the process"
                " printed"
            )
        messages = [clean_reason(record.message) for record in log.errors]
        taken = next((message for message in messages if "already in use" in message.lower()), None)
        if taken is not None:
            return PortInUse(f"another process took a port while Triton started ({taken}): start again")
        if code == -signal.SIGABRT and any("lock_exception" in line for line in log.tail):
            return StartFailed(
                f"Triton ended with signal SIGABRT while it loaded {self._loading()}: version 2.51 does so when a lock"
                " that it shares with a backend process fails, which was seen where many models load at once on a busy"
                " machine: start it again, or let it load one after the other with -- --model-load-thread-count=1"
            )
        if code == -signal.SIGSEGV:
            return StartFailed(
                f"Triton ended with signal SIGSEGV while it loaded {self._loading()}: version 2.51 can crash where a"
                " model's warm-up fails, and `plansmith verify` finds warm-ups that cannot run"
            )
        reason = messages[-1] if messages else next((line for line in reversed(log.tail) if line.strip()), "")
        return StartFailed(f"Triton ended with {how_it_ended(code)} while it started: {reason or 'it logged nothing'}")

    def _check_models(self) -> None:
        models = self.models()
        if self.options.control != "none" and not self.options.models:
            return
        failed = [model for model in models if not model.is_ready and self._is_wanted(model.name)]
        if not failed or (not self.options.strict and any(model.is_ready for model in models)):
            return
        shown = "; ".join(f"{model.name}: {model.reason or model.state}" for model in failed)
        if self.options.strict and any(model.is_ready for model in models):
            raise NoModelLoaded(f"not every model could be loaded: {shown}")
        raise NoModelLoaded(f"no model could be loaded: {shown}")

    def _is_wanted(self, name: str) -> bool:
        return not self.options.models or name in self.options.models

    def _tell(self, word: bytes) -> None:
        if self._supervisor is not None and self._supervisor.stdin is not None:
            # Not through the buffer: a signal may arrive while something else is written to it.
            with contextlib.suppress(OSError, ValueError):
                os.write(self._supervisor.stdin.fileno(), word)

    def _collect(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        """Wait for the supervisor and take the server's status from it."""
        stdin, stdout = _started(process.stdin), _started(process.stdout)
        if stdout.closed:
            return
        # Not communicate(): it would close stdin, through which a second signal may still have the server killed.
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with stdin, stdout:
            for line in stdout.read().splitlines():
                news = json.loads(line)
                if "backend" in news:
                    self._dead_backend = (news["backend"], news["status"])
                else:
                    self._returncode = news["status"]

    @property
    def _endpoint(self) -> Endpoint:
        return Endpoint(self._reachable_address, _started(self._ports[0]), self._access.headers)

    @property
    def _reachable_address(self) -> str:
        address = _started(self._plan).address
        return "127.0.0.1" if address == "0.0.0.0" else address  # noqa: S104 - a comparison


def how_it_ended(code: int | None) -> str:
    """The exit status of a process in words: "signal SIGKILL" or "status 1"."""
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"status {code}"


def _started(value: Value | None) -> Value:
    if not value:
        raise StartFailed("this server was not started")
    return value
