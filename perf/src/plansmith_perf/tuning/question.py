"""What is to be tuned: everything that is known before the first server starts."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from dataclasses import dataclass
from importlib.metadata import distributions
from typing import TYPE_CHECKING, Any

from tritonclient.grpc import model_config_pb2

from plansmith_build.repository.linting.context import backend_of
from plansmith_build.repository.manifest import read_manifest
from plansmith_build.repository.model_repository import CONFIG, CONFIGS, MANIFEST, valid_name
from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.results.environment import describe_environment
from plansmith_perf.tuning.publishing import check_publishable
from plansmith_perf.tuning.settings import Setting, config_of, setting_from_config
from plansmith_perf.tuning.space import search_space
from plansmith_perf.tuning.variants import BACKENDS, read_configs, variants_of

if TYPE_CHECKING:
    from pathlib import Path

    from plansmith_build.repository.manifest import Manifest
    from plansmith_build.repository.model_repository import ModelRepository, RepositoryModel
    from plansmith_perf.tuning.options import TuningOptions
    from plansmith_perf.tuning.space import SearchSpace
    from plansmith_perf.tuning.variants import Variant

__all__ = ["Question", "engine_versions", "look"]

# nvidia-pytriton is the wheel that carries the server, plansmith-server its backends.
_ENGINES = ("onnxruntime", "openvino", "nvidia-pytriton", "plansmith-server")


@dataclass(frozen=True)
class Question:
    """A model and its choices.

    Attributes:
        model: in the user's repository.
        version: the newest, which is tuned.
        manifest: of that version; None if it has none.
        portable: the configuration that gives the right answers, an `inference.ModelConfig`.
        in_use: the one that a server with the tuned configuration's name takes today.
        in_use_path: of that one in the model's folder.
        target: path of the configuration that is tuned.
        variant_in_use: how the one in use computes.
        space: the choices.
    """

    model: RepositoryModel
    version: int
    manifest: Manifest | None
    portable: Any
    in_use: Any
    in_use_path: str
    target: str
    variant_in_use: Variant
    space: SearchSpace

    def is_in_use(self, setting: Setting) -> bool:
        """Whether a setting says what the configuration in use says already."""
        present = model_config_pb2.ModelConfig()
        present.CopyFrom(self.variant_in_use.config)
        plain = config_of(setting_from_config(self.variant_in_use))
        del present.instance_group[:]
        present.instance_group.extend(plain.instance_group)
        return bool(config_of(setting) == present)

    def diff(self, text: str) -> str:
        """From the configuration in use to a new text of the tuned one."""
        before = (self.model.path / self.in_use_path).read_text(encoding="utf-8")
        return "".join(
            difflib.unified_diff(
                before.splitlines(keepends=True),
                text.splitlines(keepends=True),
                f"{self.model.name}/{self.in_use_path}",
                f"{self.model.name}/{self.target}",
            )
        )

    def key(self, options: TuningOptions) -> str:
        """A name for the same question on the same machine: trials of another one say nothing about it."""
        digest = hashlib.sha256(json.dumps(self.facts(options), sort_keys=True).encode()).hexdigest()[:16]
        return f"{self.model.name} {options.slo.text} {digest}"

    def facts(self, options: TuningOptions) -> dict[str, Any]:
        """Everything that a trial's figures depend on."""
        environment = describe_environment("")
        version = self.model.version_path(self.version)
        files = {str(f.relative_to(version)): f.stat().st_size for f in sorted(version.rglob("*")) if f.is_file()}
        known = {file.path: file.sha256 for file in self.manifest.files} if self.manifest is not None else files
        return {
            "model": [self.model.name, self.version, known],
            "configs": {path: file.read_text(encoding="utf-8") for path, file in self.model.configurations.items()},
            "load": [options.slo.text, options.protocol, options.batch_size, options.most_concurrency],
            # Samples are the same whatever the seed.
            "inputs": [
                _sha256(options.samples),
                options.distinct_inputs,
                options.measuring.seed if options.samples is None else None,
            ],
            "measuring": [
                *(options.measuring.seconds, options.measuring.warmup_seconds, options.measuring.workers),
                *(options.measuring.timeout, options.measuring.tolerance),
            ],
            "machine": [environment.processor, environment.cores],
            "software": engine_versions(),
            "space": [*self.space.everything(), options.exhaustive],
        }


def look(repository: ModelRepository, options: TuningOptions) -> Question:
    """Read the model and see what there is to choose.

    Raises:
        LoadTestMisconfigured: the model cannot be tuned, or the options do not fit it.
        plansmith_build.ModelNotFound: the repository has no such model.
        plansmith_build.InvalidModel: the result could not be published.
    """
    model = repository.existing_model(options.model)
    configs = read_configs(model)
    if not model.versions:
        raise LoadTestMisconfigured(f"model {model.name!r} has no version: build it with `plansmith build`")
    version = model.versions[-1]
    if not options.dry_run:
        check_publishable(model, version, options.public_key)
    manifest_path = model.version_path(version) / MANIFEST
    manifest = read_manifest(manifest_path) if manifest_path.is_file() else None
    target = f"{CONFIGS}/{valid_name(options.config_name)}.pbtxt"
    in_use_path = target if target in configs else CONFIG
    variants = variants_of(configs, manifest, folder=model.version_path(version))
    own = variants_of({in_use_path: configs[in_use_path]}, manifest, folder=model.version_path(version))
    if not own:
        raise LoadTestMisconfigured(
            f"{model.name}/{in_use_path} has the backend {backend_of(configs[in_use_path])!r} or is for a GPU: only "
            f"{' and '.join(BACKENDS)} on a CPU can be tuned; name another one with --config-name"
        )
    space = search_space(
        variants,
        cores=len(os.sched_getaffinity(0)),
        slo_limit=options.slo.limit,
        batch_size=options.batch_size,
        limits=options.limits,
    )
    return Question(
        model=model,
        version=version,
        manifest=manifest,
        portable=variants[0].config,
        in_use=configs[in_use_path],
        in_use_path=in_use_path,
        target=target,
        variant_in_use=own[0],
        space=space,
    )


def engine_versions() -> dict[str, str]:
    """What computes and serves a trial, by package; "" where it is not installed."""
    found = {distribution.metadata["Name"]: distribution.version for distribution in distributions()}
    # The same runtime from another package, where it can use a GPU.
    found.setdefault("onnxruntime", found.get("onnxruntime-gpu", ""))
    return {name: found.get(name, "") for name in _ENGINES}


def _sha256(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise LoadTestMisconfigured(f"the samples {path} cannot be read: {error.strerror}") from error
