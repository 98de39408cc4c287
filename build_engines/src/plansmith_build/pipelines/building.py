"""`build --pipeline`: a model with its steps before and after it, published as one ensemble.

The ensemble has the pipeline's name, and each of its steps is a model of its own: `scenes.3.image`, `scenes.3.model` of
version 3 of `scenes`. These never change. They are put in place before the ensemble, whose folder is exchanged in one
step, so a server finds the whole of the old pipeline or the whole of the new one. The steps of the version before stay;
older ones go.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import onnx
from tritonclient.grpc import model_config_pb2

from plansmith_build.building import BuildResult, build
from plansmith_build.engines.onnxruntime import RunFailed, Session
from plansmith_build.errors import InvalidOption, VerificationFailed
from plansmith_build.pipelines.graphs import GRAPHS
from plansmith_build.pipelines.spec import ImageOptions, ModelOptions, PreparedOptions, TextOptions, read_pipeline
from plansmith_build.pipelines.steps import prepared_step, read_tokenizer, result_step, write_step
from plansmith_build.pipelines.verification import answers_in_process, ask_triton, output_errors
from plansmith_build.pipelines.wiring import Node, Wiring
from plansmith_build.progress import BuildStep, silent
from plansmith_build.reading.regular_files import read_regular
from plansmith_build.reading.signatures import Signature, signature_of
from plansmith_build.repository.compatibility import require_same_clients
from plansmith_build.repository.config import bound_queue, config_from_text, specs_from_config, text_from_config
from plansmith_build.repository.environment import this_environment
from plansmith_build.repository.filesystem import explain_os_error, make_folder
from plansmith_build.repository.labels import labels_of
from plansmith_build.repository.manifest import (
    Batching,
    Graph,
    Manifest,
    ServerTrial,
    Source,
    Tensor,
    Verification,
)
from plansmith_build.repository.model_repository import CONFIG, ModelRepository, name_from_file, valid_name
from plansmith_build.repository.publishing import Release, publish
from plansmith_build.repository.signed_versions import Signer, signer_for
from plansmith_build.repository.staging import staging_folder
from plansmith_client.tensors import TensorSpec, datatype_from_config_type

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from plansmith_build.building import BuildOptions
    from plansmith_build.engines.onnxruntime import Arrays
    from plansmith_build.pipelines.spec import PipelineSpec, StepOptions
    from plansmith_build.progress import Progress

__all__ = ["build_pipeline"]

_DESCRIPTION = "pipeline.toml"


def build_pipeline(model: Path, file: Path, options: BuildOptions, progress: Progress = silent) -> BuildResult:
    """Build a model and its pipeline, verify the whole on a Triton, and publish it.

    Args:
        model: the ONNX file.
        file: the description of the pipeline, TOML.
        options: how the model is built; `name` is that of the ensemble.
        progress: called when a step begins and when it ends.

    Raises:
        InvalidOption: the description cannot be used, its steps do not fit together, or a package is missing.
        VerificationFailed: as `build`; or Triton does not answer as the steps do in this process.
        BuildError: as `build`.
    """
    if find_spec("plansmith_server") is None:
        raise InvalidOption(
            "a pipeline needs plansmith-server with its extra pipelines: plansmith[pipelines] brings them"
        )
    if options.states:
        raise InvalidOption("--state cannot be used with --pipeline yet: build the sequence model alone")
    spec = read_pipeline(file)
    options.require_source(file, _sha256(spec))
    _check_preprocessing(spec, options)
    repository = ModelRepository.at(options.repository)
    name = valid_name(options.name) if options.name is not None else name_from_file(file)
    live = repository.model(name)
    version = live.next_version
    with staging_folder(repository.path, options.staging) as staging:
        made = ModelRepository.at(staging / "models")
        make_folder(made.path)
        sign = signer_for(repository.path, options.sign_key)
        pipeline = _Pipeline(spec, made, f"{name[:100]}.{version}", sign)
        try:
            pipeline.build_models(model, options, progress)
            pipeline.add_steps(options.max_queue_size)
        except OSError as error:
            raise explain_os_error(error, f"write the steps of the pipeline in {staging}") from error
        wiring = pipeline.wiring
        if not options.replace:
            require_same_clients(live, Signature(wiring.inputs, wiring.outputs, {}))
        exchanges = answers_in_process(wiring, spec)
        config = wiring.config(name)
        trial, compared = ServerTrial(skipped={CONFIG: "--no-serve"}), []
        if options.serve:
            step = "Trying the pipeline on a Triton"
            progress(BuildStep(step))
            triton, compared = _try(made, name, config, exchanges)
            trial = ServerTrial(triton=triton, served=(CONFIG,))
            progress(BuildStep(step, trial.in_words()))
        step = f"Publishing in {options.repository}"
        progress(BuildStep(step))
        description = staging / _DESCRIPTION
        description.write_text(spec.text, encoding="utf-8")
        verification = Verification(
            reference="the steps one after the other in this process",
            candidate=f"Triton {trial.triton}" if options.serve else "not on a Triton: --no-serve",
            inputs="given" if spec.samples else "random",
            seed=0,
            samples=len(exchanges),
            rows_together=len(next(iter(exchanges[-1][0].values()))) if config.max_batch_size else 0,
            outputs=output_errors(compared),
        )
        release = replace(
            _release(spec, wiring, config, (description,), verification, trial=trial, recipe=options.recipe),
            sign=sign,
            companions=tuple(made.path / step for step in made.names()),
        )
        published = publish(repository, name, release, staging=staging)
        progress(BuildStep(step, f"{name} version {published.version}"))
    return BuildResult(name, published.version, published.path, published.manifest, published.notes)


class _Pipeline:
    """The models of a pipeline in a repository that nobody serves yet.

    Args:
        spec: the description.
        repository: where to make them.
        prefix: of their names.
        sign: signs their versions.
    """

    def __init__(self, spec: PipelineSpec, repository: ModelRepository, prefix: str, sign: Signer | None) -> None:
        self.wiring = Wiring()
        self._spec = spec
        self._repository = repository
        self._sign = sign
        kinds = [step.kind for step in spec.step]
        self._names = [
            f"{prefix}.{kind}" if kinds.count(kind) == 1 else f"{prefix}.{kind}{kinds[:place].count(kind) + 1}"
            for place, kind in enumerate(kinds)
        ]
        self._models: dict[int, Node] = {}
        self._texts: dict[int, Any] = {}
        self._recorded: dict[str, Any] | None = None
        self._labels: bytes | None = None

    def build_models(self, model: Path, options: BuildOptions, progress: Progress) -> None:
        """Build every model of the pipeline, as `build` does."""

        def tell(step: BuildStep) -> None:
            # It is not published yet where the user looks.
            if not step.title.startswith("Publishing in"):
                progress(step)

        for place, step in enumerate(self._spec.step):
            if not isinstance(step, ModelOptions):
                continue
            own = replace(options, repository=self._repository.path, name=self._names[place], staging=None, recipe=())
            if step.file is not None:
                own = replace(own, search=None, samples=None, labels=None)
            rows = self._rows(place) or 1
            if rows > 1:
                own = replace(own, max_batch_size=rows)
            built = build(self._spec.path(step.file) if step.file is not None else model, own, tell)
            if step.file is None:
                search = built.manifest.search
                self._recorded = search.preprocessing if search is not None else None
                self._labels = labels_of(built.path.parent)
            self._models[place] = node = _model_node(built)
            if rows > 1 and node.max_batch_size < rows:
                raise InvalidOption(
                    f"step {place + 1} of the pipeline gets the lines of an image as one batch, and its model takes "
                    f"none: {built.manifest.batching.reason}"
                )

    def add_steps(self, max_queue_size: int) -> None:
        """Make the other steps and connect all of them.

        Raises:
            InvalidOption: they do not fit together.
        """
        for place, step in enumerate(self._spec.step):
            node = self._models.get(place) or self._step_node(place, step, max_queue_size)
            self.wiring.add(node, step.inputs, step.kind)
        self.wiring.finish()
        for place in self._texts:
            self._check_tokenizer(place)

    def _rows(self, place: int) -> int | None:
        """The most rows that a step gets, None where they are as many as the models take."""
        step, lines = self._spec.step[place], self._spec.lines
        if lines is not None:
            return lines[1].max_lines if place > lines[0] else 1
        return 1 if isinstance(step, ImageOptions) and step.sides is not None else None

    def _step_node(self, place: int, step: StepOptions, max_queue_size: int) -> Node:
        from plansmith_server import ModelError  # noqa: PLC0415 - an optional distribution
        from plansmith_server.backends.pipeline_step.runtime import load_step  # noqa: PLC0415

        tokenizer = None
        if isinstance(step, PreparedOptions):
            following = next((number for number in self._models if number > place), None)
            if following is None:
                raise InvalidOption(f"step {place + 1} ({step.kind}) has no model after it")
            taken = _input_for(step.PRODUCED, self._models[following], self._spec.step[following].inputs)
            if isinstance(step, TextOptions):
                tokenizer = read_tokenizer(step, self._spec)
            made = prepared_step(step, self._recorded, tokenizer, taken)
        elif not self.wiring.last:
            raise InvalidOption(f"a pipeline cannot begin with a step of kind {step.kind}")
        else:
            tensors = self.wiring.tensors
            made = result_step(step, self._spec, self._labels, tensors, tensors[self.wiring.last[0]])
        name = self._names[place]
        with staging_folder(self._repository.path) as staging:
            files = write_step(staging / "files", step.kind, made, tokenizer)
            size = self._rows(place) or min(node.max_batch_size for node in self._models.values()) or 1
            if step.kind in GRAPHS:
                signature, run = _loaded(files[0])
                node = Node(name, signature.inputs, signature.outputs, size, run)
            else:
                try:
                    loaded = load_step(staging / "files")
                except ModelError as error:
                    raise InvalidOption(f"step {place + 1} of the pipeline: {error}") from error
                if tokenizer is not None:
                    self._texts[place] = loaded
                node = Node(name, _specs(loaded.inputs), _specs(loaded.outputs), size, loaded.run)
            config = _step_config(node, step, max_queue_size)
            verification = Verification(
                reference="", candidate="with its pipeline", seed=0, samples=0, rows_together=0, outputs=()
            )
            release = replace(_release(self._spec, node, config, files, verification), sign=self._sign)
            publish(self._repository, name, release, staging=staging)
        return node

    def _check_tokenizer(self, place: int) -> None:
        """Whether the model takes the largest id and the longest text that the tokenizer may give."""
        following = min(number for number in self._models if number > place)
        node, sources, _ = self.wiring.steps[following]
        extremes = self._texts[place].extremes()
        made = dict(zip(("input_ids", "attention_mask", "token_type_ids"), extremes, strict=True))
        _, _, names = self.wiring.steps[place]
        by_tensor = {names[own]: array for own, array in made.items()}
        if not set(sources.values()) <= by_tensor.keys():
            # Something else goes into it, too.
            return
        try:
            node.run({own: by_tensor[tensor] for own, tensor in sources.items()})
        except RunFailed as error:
            ids = made["input_ids"]
            raise InvalidOption(
                f"the tokenizer does not fit the model, which does not run on {ids.shape[1]} tokens with the id "
                f"{ids.max()}: give the model's own tokenizer.json, or a smaller max_length ({error})"
            ) from error


def _check_preprocessing(spec: PipelineSpec, options: BuildOptions) -> None:
    """Whether a build with images prepares them as the pipeline does.

    Raises:
        InvalidOption: it does not.
    """
    from plansmith_build.datasets import read_preprocessing  # noqa: PLC0415 - scipy, and only for pipelines

    for step in spec.step:
        if not isinstance(step, ImageOptions) or step.preprocess is None or options.search is None:
            continue
        calibrated = options.search.preprocessing
        if calibrated is not None and calibrated != read_preprocessing(step.preprocess):
            raise InvalidOption(
                f"the pipeline prepares images by {step.preprocess!r} and --preprocess otherwise: leave preprocess out "
                "of the pipeline, which then does as the build"
            )


def _model_node(built: BuildResult) -> Node:
    config = config_from_text(read_regular(built.path.parent / CONFIG).decode())
    batched = config.max_batch_size > 0
    _, run = _loaded(built.path / "model.onnx")
    inputs, outputs = (specs_from_config(side, batched=batched) for side in (config.input, config.output))
    return Node(built.name, inputs, outputs, config.max_batch_size, run)


def _loaded(file: Path) -> tuple[Signature, Callable[[Arrays], Arrays]]:
    signature = signature_of(onnx.load(file, load_external_data=False))
    return signature, Session(file, signature, optimized=True).run


def _input_for(produced: str, node: Node, given: dict[str, str]) -> TensorSpec:
    """The input of a model that gets a tensor: as said, of the same name, or its only one."""
    names = [own for own, tensor in given.items() if tensor == produced] or [produced]
    found = next((spec for spec in node.inputs if spec.name in names), None)
    if found is None and len(node.inputs) == 1:
        found = node.inputs[0]
    if found is None:
        raise InvalidOption(
            f"it is not clear which input of the model takes {produced}: write one of "
            f"{', '.join(spec.name for spec in node.inputs)} in the model's step, as in inputs = "
            f'{{{node.inputs[0].name} = "{produced}"}}'
        )
    return found


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(tensor.name, datatype_from_config_type(tensor.data_type), tuple(tensor.shape)) for tensor in tensors
    )


def _step_config(node: Node, step: StepOptions, max_queue_size: int) -> Any:
    """Requests are joined where no answer depends on its neighbours: one of a free shape is padded to their longest.

    Not where several processes share the work: the first one that is free would get all that wait.
    """
    wiring = Wiring()
    wiring.add(node, {}, node.name)
    config = wiring.config(node.name)
    config.ClearField("ensemble_scheduling")
    config.platform = ""
    config.backend = "onnxruntime" if step.kind in GRAPHS else "pipeline_step"
    if step.kind in GRAPHS:
        config.parameters["intra_op_thread_count"].string_value = "1"
    instances = step.instances if isinstance(step, PreparedOptions) else 1
    config.instance_group.add(kind=model_config_pb2.ModelInstanceGroup.KIND_CPU, count=instances)
    has_fixed_outputs = all(size > 0 for output in config.output for size in output.dims)
    if config.max_batch_size > 1 and instances == 1 and has_fixed_outputs:
        config.dynamic_batching.SetInParent()
        if max_queue_size:
            bound_queue(config, max_queue_size)
    return config


def _try(made: ModelRepository, name: str, config: Any, exchanges: Any) -> Any:
    from plansmith_server import ServerError  # noqa: PLC0415 - an optional distribution

    folder = made.path / name
    make_folder(folder)
    make_folder(folder / "1")
    (folder / CONFIG).write_text(text_from_config(config), encoding="utf-8")
    try:
        return ask_triton(made.path, name, exchanges)
    except ServerError as error:
        raise VerificationFailed(
            f"no Triton can be started to try the pipeline: {error}; --no-serve publishes without trying it"
        ) from error
    finally:
        shutil.rmtree(folder)


def _sha256(spec: PipelineSpec) -> str:
    return hashlib.sha256(spec.text.encode()).hexdigest()


def _release(
    spec: PipelineSpec,
    whole: Wiring | Node,
    config: Any,
    files: tuple[Path, ...],
    verification: Verification,
    *,
    trial: ServerTrial | None = None,
    recipe: tuple[str, ...] = (),
) -> Release:
    """What is published of a pipeline, or of a step of it."""
    manifest = partial(
        Manifest,
        model=config.name,
        created=datetime.now(UTC).replace(microsecond=0),
        source=Source(
            file=_DESCRIPTION,
            sha256=_sha256(spec),
            size=len(spec.text.encode()),
            producer="",
            ir_version=0,
            opsets={},
        ),
        graph=Graph(
            nodes_before=0,
            nodes_after=0,
            optimized=False,
            optimization=" -> ".join(step.kind for step in spec.step),
            format="pipeline",
            ir_version=0,
            opsets={},
        ),
        batching=Batching(
            max_batch_size=config.max_batch_size,
            made_dynamic=False,
            reason="" if config.max_batch_size else "the model takes none",
        ),
        inputs=tuple(map(Tensor.from_spec, whole.inputs)),
        outputs=tuple(map(Tensor.from_spec, whole.outputs)),
        verification=verification,
        server_trial=trial,
        recipe=recipe,
        environment=this_environment(),
    )
    return Release(
        model_files=files,
        labels=None,
        configure=lambda _: {CONFIG: text_from_config(config)},
        describe=lambda version, published: manifest(version=version, files=published),
    )
