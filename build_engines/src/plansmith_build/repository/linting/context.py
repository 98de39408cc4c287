"""What the checks of one configuration look at."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plansmith_build.repository.config import versions_served
from plansmith_build.repository.linting.backends import PLATFORMS, infer_backend
from plansmith_build.repository.linting.completion import complete_from_onnx
from plansmith_build.repository.linting.findings import Finding, error, warning

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.model_repository import RepositoryModel

__all__ = ["ConfigContext", "backend_of", "model_files"]

# https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_repository.md#model-files
_DEFAULT_FILES = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "tensorrt_rtx": "model.engine",
    "openvino": "model.xml",
    "pipeline_step": "step.json",
    "python": "model.py",
    "pytorch": "model.pt",
}


@dataclass(frozen=True)
class ConfigContext:
    """One configuration of a model.

    Attributes:
        model: the model's folder.
        path: of the configuration, relative to the repository.
        config: an `inference.ModelConfig`.
        siblings: the names of all models in the repository.
        version: whose file completes the configuration; the newest that is served, where it is None.
    """

    model: RepositoryModel
    path: str
    config: Any
    siblings: frozenset[str]
    version: int | None = None

    def error(self, message: str, fix: str) -> Finding:
        """A finding about this configuration that must be fixed."""
        return error(self.path, message, fix)

    def warning(self, message: str, fix: str) -> Finding:
        """A finding about this configuration that may be intended."""
        return warning(self.path, message, fix)

    @cached_property
    def backend(self) -> str:
        """The backend, as named or as the server fills it in from the model file; empty where it cannot tell."""
        return backend_of(self._with_backend)

    @cached_property
    def completed(self) -> Any:
        """The configuration with everything that the server fills in."""
        config = self._with_backend
        if self.backend not in {"onnxruntime", "openvino"}:
            return config
        # Each version is completed by its own file.
        versions = self.served_versions[-1:] if self.version is None else (self.version,)
        files = (path for version in versions for _, path in self.files_of(version))
        path = next((path for path in files if path.suffix == ".onnx" and path.is_file()), None)
        if path is None:
            return config
        return complete_from_onnx(config, path, fixed_batch_allowed=self.backend == "openvino")

    @cached_property
    def _with_backend(self) -> Any:
        if self.config.backend or self.config.platform:
            return self.config
        folder = self.model.path / str(min(self.model.versions, default=1))
        files = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        completed = deepcopy(self.config)
        completed.backend = infer_backend(self.model.name, self.config.default_model_filename, files)
        return completed

    @cached_property
    def filled_inputs(self) -> frozenset[str]:
        """The inputs that no request gives: the sequence batcher and the batcher fill them in."""
        sequence = self.config.sequence_batching
        return frozenset(
            {
                *(control.name for control in sequence.control_input),
                *(state.input_name for state in sequence.state),
                *(name for entry in self.config.batch_input for name in entry.target_name),
            }
        )

    @cached_property
    def served_versions(self) -> tuple[int, ...]:
        """The existing versions that a server would load."""
        return versions_served(self.config, self.model.versions)

    def files_of(self, version: int) -> list[tuple[str, Path]]:
        """The model files of a version: the field that names each, and its path."""
        return model_files(self._with_backend, self.model.path / str(version))


def backend_of(config: Any) -> str:
    """`onnxruntime` for both `backend: "onnxruntime"` and `platform: "onnxruntime_onnx"`."""
    return str(config.backend or PLATFORMS.get(config.platform, config.platform))


def model_files(config: Any, folder: Path) -> list[tuple[str, Path]]:
    """The model files that a configuration names in a version's folder."""
    named = [("cc_model_filenames", name) for name in config.cc_model_filenames.values()]
    if config.default_model_filename:
        named.insert(0, ("default_model_filename", config.default_model_filename))
    if not named:
        default = _DEFAULT_FILES.get(backend_of(config))
        if default == "model.xml" and not (folder / default).exists():
            # The Python-based backend of plansmith-server takes the ONNX file by itself.
            default = "model.onnx"
        named = [("", default)] if default else []
    return [(field, folder / name) for field, name in named]
