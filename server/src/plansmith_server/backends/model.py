"""The life of a model in the process that Triton's Python backend gives it: complete, initialize, execute, finalize."""

from __future__ import annotations

import ctypes
import gc
import json
import logging
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, ClassVar

from plansmith_server.backends.autocomplete import complete, is_complete
from plansmith_server.backends.batching import Answering
from plansmith_server.backends.config import ModelConfig
from plansmith_server.backends.engine import Engine, Instance
from plansmith_server.backends.sequences import SequenceAnswering
from plansmith_server.backends.validation import check
from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BackendModel"]


class BackendModel:
    """Base of the class `TritonPythonModel` of each backend's model.py.

    Triton starts a process for each configuration, to complete it, before those that run the model. Where there is
    nothing to complete, that process imports no runtime: it is named as `pkgutil.resolve_name` takes it.

    Attributes:
        triton: the module triton_python_backend_utils.
        runtime: what runs the models, for messages.
        reader: the function from a version's folder and the name of its file to the model's `Signature`.
        loader: the function or class from an `Instance` to an `Engine`.
        fixed_batch_allowed: whether the runtime can give a model's fixed first dimension any size.
        text_as_bytes: whether engines take BYTES as they come, and not as text.
    """

    triton: ClassVar[Any]
    runtime: ClassVar[str]
    reader: ClassVar[str]
    loader: ClassVar[str]
    fixed_batch_allowed: ClassVar[bool] = False
    text_as_bytes: ClassVar[bool] = False

    @classmethod
    def auto_complete_config(cls, auto_complete_model_config: Any) -> Any:
        """Fill in what the configuration leaves out; called by Triton before the model is loaded."""
        _log_to(cls.triton.Logger)
        config: dict[str, Any] = auto_complete_model_config.as_dict()
        if not is_complete(config):
            folder = Path(cls.triton.get_model_dir())
            signature = resolve_name(cls.reader)(folder, config.get("default_model_filename", ""))
            # Written to the object itself: its own methods cannot say `reshape`.
            config.update(complete(config, signature, fixed_batch_allowed=cls.fixed_batch_allowed))
        return auto_complete_model_config

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model; called by Triton once for each instance.

        Raises:
            ModelError: the configuration or the file cannot be served.
        """
        _log_to(self.triton.Logger)
        config = ModelConfig.from_dict(json.loads(args["model_config"]))
        instance = Instance(
            config=config,
            folder=Path(args["model_repository"]) / args["model_version"],
            kind=args["model_instance_kind"],
            device=int(args["model_instance_device_id"]),
        )
        try:
            self._engine: Engine = resolve_name(self.loader)(instance)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{self.runtime} cannot load the model: {error}") from error
        check(config, self._engine.signature, converts=self.fixed_batch_allowed)
        answering = SequenceAnswering if config.states else Answering
        self._answer = answering(self._engine, config, self.triton, text_as_bytes=self.text_as_bytes).answer
        _return_freed_memory()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response for each of `requests`; called by Triton with all requests of a batch."""
        return self._answer(requests)

    def finalize(self) -> None:
        """Free the model; called by Triton when it is unloaded."""
        del self._answer
        self._engine.close()
        gc.collect()


def _return_freed_memory() -> None:
    """Give back what reading the file took, as much as its weights, where the C library can (glibc)."""
    gc.collect()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


class _TritonHandler(logging.Handler):
    """Writes records of this package to Triton's log."""

    def __init__(self, triton_logger: Any) -> None:
        super().__init__()
        self._write = {
            logging.DEBUG: triton_logger.log_verbose,
            logging.INFO: triton_logger.log_info,
            logging.WARNING: triton_logger.log_warn,
            logging.ERROR: triton_logger.log_error,
        }

    def emit(self, record: logging.LogRecord) -> None:
        self._write.get(record.levelno, self._write[logging.ERROR])(record.getMessage())


def _log_to(triton_logger: Any) -> None:
    package = logging.getLogger("plansmith_server")
    package.setLevel(logging.DEBUG)
    package.propagate = False
    package.handlers = [_TritonHandler(triton_logger)]
