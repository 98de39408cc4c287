"""A version is published with its named configurations in one step, and what a person wrote among them is kept.

The builds here start no Triton: there are many of them, and what is tried on one is the subject of test_trial.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
from build_models import ADD, no_exchange, snapshot, write

from plansmith_build import BuildOptions, InvalidOption, build, building
from plansmith_build.errors import BuildError, PublishFailed
from plansmith_build.repository import publishing
from plansmith_build.repository.config import config_from_text, text_from_config
from plansmith_build.repository.manifest import read_manifest


@pytest.fixture
def builder(tmp_path, repository, monkeypatch):
    """Builds the adder with the named configurations asked for; each names the model file of its own version."""
    model = write(tmp_path / "adder.onnx", ADD)
    real = building.publish

    def run(*names: str, labels: str | None = None):
        def with_configs(where, name, release, *, staging):
            renamed = tuple(
                file.rename(file.with_name(f"model.{'-'.join(names).replace('/', '_') or 'none'}.onnx"))
                for file in release.model_files
            )

            def configure(present):
                config = config_from_text(release.configure(present)["config.pbtxt"])
                config.default_model_filename = renamed[0].name
                text = text_from_config(config)
                return {"config.pbtxt": text, **{f"configs/{name}.pbtxt": f"# {name}\n{text}" for name in names}}

            changed = dataclasses.replace(release, model_files=renamed, configure=configure)
            return real(where, name, changed, staging=staging)

        monkeypatch.setattr(building, "publish", with_configs)
        return build(model, BuildOptions(repository=repository, serve=False))

    return run


@pytest.fixture(params=["exchange", "in order"])
def way(request, monkeypatch):
    if request.param == "in order":
        monkeypatch.setattr(publishing, "rename_exchange", no_exchange)


def configurations(model: Path) -> set[str]:
    return {str(path.relative_to(model)) for path in model.rglob("*.pbtxt*")}


def test_the_named_configurations_of_a_version_come_and_go_with_it(way, builder, repository):
    model = repository / "adder"
    builder("cpu", "gpu")
    assert configurations(model) == {"config.pbtxt", "configs/cpu.pbtxt", "configs/gpu.pbtxt"}
    builder("cpu", "openvino")
    assert configurations(model) == {"config.pbtxt", "configs/cpu.pbtxt", "configs/openvino.pbtxt"}
    (note,) = builder().notes
    assert note.startswith("configs/cpu.pbtxt, configs/openvino.pbtxt removed: ")
    assert configurations(model) == {"config.pbtxt"}
    assert not (model / "configs").exists()


def test_the_manifest_holds_each_configuration_and_its_hash(builder, repository):
    result = builder("cpu")
    manifest = read_manifest(result.path / "manifest.json")
    assert manifest.configs == {
        name: (repository / "adder" / name).read_text() for name in ("config.pbtxt", "configs/cpu.pbtxt")
    }
    assert {"config.pbtxt", "configs/cpu.pbtxt", "1/model.cpu.onnx"} == {file.path for file in manifest.files}


def test_a_configuration_that_a_person_edited_is_kept_and_one_that_a_person_wrote_stays(way, builder, repository):
    model = repository / "adder"
    builder("cpu", "gpu")
    for name in ("cpu", "gpu"):
        (model / "configs" / f"{name}.pbtxt").write_text(f"# mine, {name}")
    (model / "configs" / "mine.pbtxt").write_text("# mine")
    notes = " ".join(builder("cpu").notes)
    assert (model / "configs" / "cpu.pbtxt.before-2").read_text() == "# mine, cpu"
    assert (model / "configs" / "gpu.pbtxt").read_text() == "# mine, gpu"
    assert (model / "configs" / "mine.pbtxt").read_text() == "# mine"
    assert "configs/cpu.pbtxt was written by hand: the old text is kept as configs/cpu.pbtxt.before-2" in notes
    assert "configs/gpu.pbtxt, configs/mine.pbtxt: written by hand and not changed" in notes


def fits(model: Path) -> dict[str, bool]:
    """Whether each configuration that a server could pick names a file that each version it serves has."""
    found = {}
    versions = sorted(int(entry.name) for entry in model.iterdir() if entry.name.isdecimal())
    for path in [model / "config.pbtxt", *(model / "configs").glob("*.pbtxt")]:
        config = config_from_text(path.read_text())
        served = set(config.version_policy.specific.versions) & set(versions) or versions[-1:]
        found[path.stem] = all((model / str(version) / config.default_model_filename).is_file() for version in served)
    return found


def test_moved_in_one_by_one_each_configuration_always_fits_the_version_that_it_serves(
    builder, repository, monkeypatch
):
    model = repository / "adder"
    builder("cpu", "gpu")
    monkeypatch.setattr(publishing, "rename_exchange", no_exchange)
    states = []
    for name in ("replace", "rename"):
        real = getattr(os, name)

        def watched(source, target, real=real):
            real(source, target)
            if Path(target).is_relative_to(model):
                states.append(fits(model))

        monkeypatch.setattr(os, name, watched)
    builder("cpu", "tensorrt")
    assert len(states) >= 8
    assert all(all(state.values()) for state in states), states
    assert states[-1].keys() == {"config", "cpu", "tensorrt"}


@pytest.mark.parametrize("failing", range(9))
def test_a_step_that_fails_puts_the_named_configurations_back(builder, repository, monkeypatch, failing):
    model = repository / "adder"
    builder("cpu", "gpu")
    before = snapshot(repository)
    monkeypatch.setattr(publishing, "rename_exchange", no_exchange)
    steps = iter(range(100))
    real = {name: getattr(os, name) for name in ("replace", "rename")}
    for name, step in real.items():

        def full(source, target, step=step):
            if Path(target).is_relative_to(model) and next(steps) == failing:
                raise OSError(28, "No space left on device", str(target))
            step(source, target)

        monkeypatch.setattr(os, name, full)
    with pytest.raises(PublishFailed, match="free some space"):
        builder("cpu", "tensorrt")
    assert snapshot(repository) == before


def test_after_a_kill_between_two_steps_the_next_builder_knows_what_was_written(builder, repository, monkeypatch):
    """The pinned configurations of a builder that was killed are nobody's edits."""
    model = repository / "adder"
    builder("cpu")
    monkeypatch.setattr(publishing, "rename_exchange", no_exchange)
    halves = []
    for name in ("replace", "rename"):
        real = getattr(os, name)

        def watched(source, target, real=real):
            real(source, target)
            if Path(target).is_relative_to(model):
                shutil.copytree(model, repository.parent / f"half-{len(halves)}")
                halves.append(repository.parent / f"half-{len(halves)}")

        monkeypatch.setattr(os, name, watched)
    builder("cpu")
    monkeypatch.undo()
    assert len(halves) >= 6
    for half in halves:
        shutil.rmtree(model)
        half.rename(model)
        assert not [note for note in builder("gpu").notes if "by hand" in note]
        assert configurations(model) == {"config.pbtxt", "configs/gpu.pbtxt"}


@pytest.mark.parametrize("folder", ["configs", "warmup"])
def test_a_folder_of_configurations_or_samples_that_is_a_link_is_not_followed(builder, repository, tmp_path, folder):
    builder()
    (tmp_path / "elsewhere").mkdir()
    (repository / "adder" / folder).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidOption, match="not a folder of the model's own"):
        builder("cpu")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("name", ["../cpu", "a/b", ".hidden", ""])
def test_a_configuration_is_written_nowhere_else(builder, repository, name):
    with pytest.raises(BuildError, match="cannot be published with the configurations"):
        builder(name)
    assert not list(repository.iterdir())
