"""The options of `plansmith serve`, checked before anything is started."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from plansmith_server.errors import InvalidOptions, InvalidRepository
from plansmith_server.launcher.gpu import gpu_is_usable
from plansmith_server.launcher.ports import check_free, resolve_host
from plansmith_server.launcher.repository import ModelFolder, read_repository
from plansmith_server.launcher.triton_arguments import is_off

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Control", "ServerOptions", "ServerPlan"]

Control = Literal["none", "explicit", "poll"]

LARGEST_PORT = 65535
CONFIG_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """How to serve a model repository.

    Attributes:
        repository: the folder that holds one folder for each model.
        host: the address to listen on; only this machine can reach the default.
        http_port: for HTTP; 0 takes a free one.
        grpc_port: for gRPC; 0 takes a free one.
        metrics_port: for Prometheus; 0 takes a free one.
        config_name: which configs/NAME.pbtxt each model is to use: a NAME, "auto" for gpu where models can use a GPU
            and cpu elsewhere, or "none". A model without that file uses its config.pbtxt.
        control: "none" loads every model once, "poll" follows changes in the repository, "explicit" loads `models`
            and then what clients ask for.
        models: the models to load, with control "explicit".
        poll_seconds: how often to look for changes, with control "poll".
        strict: raise unless every model could be loaded; by default one is enough.
        log_file: where Triton's log goes; by default a temporary file that lives as long as the server.
        start_timeout: seconds to wait for the models to be loaded.
        stop_timeout: seconds that requests in flight and models have to end, before the server is killed.
        open_admin: whether everything that reaches HTTP, web pages in a browser on this machine included, may use the
            APIs for shared memory, logging, trace and (control "explicit") the loading of models. Without it they are
            for requests with `TritonServer.admin_headers`, and for gRPC.
        triton_arguments: further arguments for the tritonserver binary; relative paths in them are taken from here.
    """

    repository: Path
    host: str = "127.0.0.1"
    http_port: int = 8000
    grpc_port: int = 8001
    metrics_port: int = 8002
    config_name: str = "auto"
    control: Control = "none"
    models: tuple[str, ...] = ()
    poll_seconds: int = 5
    strict: bool = False
    log_file: Path | None = None
    start_timeout: float = 300.0
    stop_timeout: float = 10.0
    open_admin: bool = False
    triton_arguments: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        ports = {"http": self.http_port, "grpc": self.grpc_port, "metrics": self.metrics_port}
        for name, port in ports.items():
            if not 0 <= port <= LARGEST_PORT:
                raise InvalidOptions(
                    f"--{name}-port {port} is not a port: use 1 to {LARGEST_PORT}, or 0 (any free one)"
                )
            twin = next((other for other, number in ports.items() if other != name and number == port != 0), None)
            if twin:
                raise InvalidOptions(f"--{name}-port and --{twin}-port are both {port}: use different ports")
        if not CONFIG_NAME.fullmatch(self.config_name):
            raise InvalidOptions(
                f"--config-name {self.config_name!r} is not valid: give the NAME of a configs/NAME.pbtxt"
            )
        if self.control not in get_args(Control):
            raise InvalidOptions(f"--control {self.control!r} is not one of {', '.join(get_args(Control))}")
        if self.models and self.control != "explicit":
            raise InvalidOptions("--model needs --control explicit")
        if self.poll_seconds < 1:
            raise InvalidOptions(f"--poll {self.poll_seconds} must be at least 1 second")
        if self.triton_arguments and not self.triton_arguments[0].startswith("-"):
            # Triton ignores such a word, and would serve another repository than was meant.
            word = self.triton_arguments[0]
            raise InvalidOptions(f"{word!r} is not an option of Triton: name a repository with --repository {word}")
        if is_off("--allow-http", self.triton_arguments):
            raise InvalidOptions(
                "--allow-http=false cannot be used: serve asks over HTTP whether the models are loaded; remove it, and"
                " restrict who can reach the HTTP port instead"
            )

    def plan(self) -> ServerPlan:
        """Check the repository, the ports and the machine, and resolve what the options leave open.

        Raises:
            InvalidRepository: the repository cannot be served: it has no model that can be shown to Triton, or, with
                `strict` or another `control` than "none", one that cannot.
            PortInUse: a port that was asked for is taken.
            InvalidOptions: no model has the configuration or the name that was asked for.
        """
        folders = read_repository(self.repository)
        if not folders and self.control == "none":
            raise InvalidRepository(
                f"there is no model in {self.repository}: build one with `plansmith build MODEL.onnx --repository"
                f" {self.repository}`, or wait for models with --poll"
            )
        left_out = tuple(folder for folder in folders if folder.obstacle)
        if left_out and (self.strict or self.control != "none" or len(left_out) == len(folders)):
            raise InvalidRepository(left_out[0].obstacle)
        missing = sorted(set(self.models) - {folder.name for folder in folders})
        if missing:
            raise InvalidOptions(
                f"there is no model {missing[0]!r} in {self.repository}; it has"
                f" {', '.join(folder.name for folder in folders) or 'none'}"
            )
        address = resolve_host(self.host)
        for option in ("http", "grpc", "metrics"):
            port = getattr(self, f"{option}_port")
            if port:
                check_free(address, port, f"--{option}-port")
        return ServerPlan(
            options=self,
            address=address,
            config_name=self._settle_config_name(folders),
            folders=tuple(folder for folder in folders if not folder.obstacle),
            left_out=left_out,
        )

    def _settle_config_name(self, folders: tuple[ModelFolder, ...]) -> str | None:
        if self.config_name == "none":
            return None
        if self.config_name == "auto":
            return "gpu" if gpu_is_usable() else "cpu"
        known = sorted({name for folder in folders for name in folder.config_names})
        if folders and self.config_name not in known:
            raise InvalidOptions(
                f"no model in {self.repository} has configs/{self.config_name}.pbtxt; --config-name can be"
                f" {', '.join([*known, 'auto', 'none'])}"
            )
        return self.config_name


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerPlan:
    """Options as they apply to this machine and repository.

    Attributes:
        options: as given.
        address: the IPv4 address to listen on.
        config_name: for `--model-config-name`; None if it is not passed.
        folders: the models of the repository at this moment that Triton is shown.
        left_out: those that it is not shown, because they would keep it from serving the others.
    """

    options: ServerOptions
    address: str
    config_name: str | None
    folders: tuple[ModelFolder, ...]
    left_out: tuple[ModelFolder, ...] = ()

    def without(self, name: str, obstacle: str) -> ServerPlan:
        """The plan with one more model left out."""
        kept = tuple(folder for folder in self.folders if folder.name != name)
        return replace(self, folders=kept, left_out=(*self.left_out, ModelFolder(name, obstacle=obstacle)))
