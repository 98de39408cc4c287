"""`plansmith build`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from plansmith_build.commands.build_display import current_step, result_as_json, show_result
from plansmith_build.commands.confinement import Limits, MemoryOption, TimeOption, confined
from plansmith_build.commands.recipe import recipe_of
from plansmith_build.commands.shared_options import StagingOption  # noqa: TC001 - typer reads the annotations
from plansmith_build.engines.tensorrt.options import HardwareCompatibility, PlanOptions, default_timing_cache
from plansmith_build.engines.tensorrt_rtx.capabilities import parse_capabilities
from plansmith_build.errors import InvalidOption
from plansmith_build.fetching import local_model, without_secrets
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable

    from plansmith_build.progress import BuildStep

__all__ = ["build"]

_PLANS = "TensorRT plans (need a GPU and TensorRT)"
_RTX = "Compiled without a GPU, by TensorRT for RTX (needs the extra rtx)"
_SEARCH = "The fastest version that is accurate enough (needs --data)"


# The enumerations of `search.targets` come with ONNX Runtime, which `--help` does not wait for.
_Target = StrEnum("_Target", ["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"])
_Precision = StrEnum("_Precision", ["auto", "fp32", "fp16", "bf16", "int8", "int8-fp16", "w8a16", "w4a16", "fp8", "w4"])


def build(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL.onnx",
            help="The ONNX file: its path, a folder of Hugging Face, MLflow or OCI with one, oci://HOST/REPOSITORY:TAG "
            "in a registry, or another URL (extra remote).",
        ),
    ],
    *,
    repository: Annotated[
        Path, typer.Option("--repository", "-r", help="Model repository to publish into; made if it does not exist.")
    ] = Path("model_repository"),
    name: Annotated[str | None, typer.Option(help="Name of the model.", show_default="the file's")] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Publish the next version even if its inputs or outputs are not those of the last."
        ),
    ] = False,
    pipeline: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Publish the model with its steps before and after it, as one ensemble: images or text in, labels, "
            "vectors or boxes out.",
        ),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Text file with one class name a line, in the order of the outputs.")
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=OUTPUT",
            help="Serve sequences: what the model gives as OUTPUT, the sequence's next request takes as INPUT. May be "
            "repeated; `auto` finds pairs such as state and stateN.",
        ),
    ] = None,
    max_batch_size: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Largest batch that the server may make; 0 for no batches.")
    ] = 32,
    no_optimize: Annotated[bool, typer.Option("--no-optimize", help="Leave the graph's nodes as they are.")] = False,
    no_dynamic_batch: Annotated[
        bool, typer.Option("--no-dynamic-batch", help="Leave a fixed number of rows as it is.")
    ] = False,
    batch_axis: Annotated[
        Literal["auto", "none", "0"],
        typer.Option(
            help="Dimension that is the batch in every input and output: found by itself, `none`, or `0` for the first."
        ),
    ] = "auto",
    samples: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Verify on inputs of your own instead of random ones: what --data takes, such as a .npz file with an "
            "array per input.",
        ),
    ] = None,
    warmup: Annotated[
        int,
        typer.Option(
            min=0,
            help="Let servers run this many inputs of the verification, which are those of --samples, before the "
            "version is ready.",
        ),
    ] = 0,
    max_queue_size: Annotated[
        int,
        typer.Option(
            min=0,
            max=2**31 - 1,
            help="Requests that may wait for the model, which then has two instances; more are turned away. 0 for any "
            "number.",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Makes the random inputs and the split of the data repeatable.")] = 0,
    staging: StagingOption = None,
    no_serve: Annotated[
        bool,
        typer.Option(
            "--no-serve", help="Start no Triton: publish without trying the version on one, time in process only."
        ),
    ] = False,
    sign_key: Annotated[Path | None, typer.Option(help="Sign the version with this private key (PEM).")] = None,
    data: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_SEARCH,
            help="A .npz or .npy file, a folder of .npy files or of images, module:function, or `random`. Half "
            "calibrates, half validates.",
        ),
    ] = None,
    validation_data: Annotated[
        str | None, typer.Option(rich_help_panel=_SEARCH, help="Other data to validate with; --data then calibrates.")
    ] = None,
    preprocess: Annotated[
        str | None,
        typer.Option(
            help="How images become rows: `imagenet`, `size=224,scale=...`, or a file; for --data, and recorded for "
            "`plansmith infer`."
        ),
    ] = None,
    labels_key: Annotated[
        str | None, typer.Option(rich_help_panel=_SEARCH, help="Name of the labels in the data.", show_default="labels")
    ] = None,
    target: Annotated[
        list[_Target] | None,
        typer.Option(rich_help_panel=_SEARCH, help="Engine to build for; may be repeated.", show_default="auto"),
    ] = None,
    precision: Annotated[
        list[_Precision] | None,
        typer.Option(rich_help_panel=_SEARCH, help="What to compute in; may be repeated.", show_default="auto"),
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_SEARCH,
            help="The share of right answers (classes, decisions, whole numbers) that may be lost.",
            show_default="0.5%",
        ),
    ] = None,
    max_error: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_SEARCH,
            help="The largest error of all other answers.",
            show_default="5% of a relative error, 0.5% of a cosine",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[OUTPUT=]METRIC",
            rich_help_panel=_SEARCH,
            help="What an output is judged by: top1, top5, decision, relative-error, cosine or module:function; may be "
            "repeated.",
            show_default="by what the output is",
        ),
    ] = None,
    prove: Annotated[
        bool,
        typer.Option(
            "--prove", rich_help_panel=_SEARCH, help="Accept only what is inside the budget with 95 % confidence."
        ),
    ] = False,
    calibration: Annotated[
        Literal["auto", "minmax", "entropy", "percentile"],
        typer.Option(rich_help_panel=_SEARCH, help="How INT8 ranges are chosen."),
    ] = "auto",
    calibration_rows: Annotated[
        int, typer.Option(min=1, rich_help_panel=_SEARCH, help="Calibrate with no more rows than this.")
    ] = 128,
    validation_rows: Annotated[
        int, typer.Option(min=1, rich_help_panel=_SEARCH, help="Validate with no more rows than this.")
    ] = 512,
    sparsity: Annotated[
        str | None,
        typer.Option(rich_help_panel=_SEARCH, help="Prune weights: `2:4`, or a fraction by magnitude such as 30%."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PLANS,
            help="name:min,opt,max shapes, such as x:1x64,8x64,32x64; separate several profiles "
            "with |, the preferred one first.",
            show_default="from the data and --max-batch-size",
        ),
    ] = None,
    optimization_level: Annotated[
        int, typer.Option(min=0, max=5, rich_help_panel=_PLANS, help="0 is quick to build, 5 quick to run.")
    ] = 3,
    workspace: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_PLANS, help="MiB that kernels may use.", show_default="all")
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=_PLANS, help="Kernel timings, kept and reused.", show_default="in the user's cache"
        ),
    ] = None,
    hardware_compatibility: Annotated[
        HardwareCompatibility,
        typer.Option(
            rich_help_panel=_PLANS,
            metavar="LEVEL",
            help="Other GPUs that plans are to run on: none, ampere_plus or same_compute_capability.",
        ),
    ] = HardwareCompatibility.NONE,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", rich_help_panel=_PLANS, help="For later versions of TensorRT, too.")
    ] = False,
    strip_weights: Annotated[
        bool,
        typer.Option("--strip-weights", rich_help_panel=_PLANS, help="Keep plans without weights as well, to refit."),
    ] = False,
    compute_capability: Annotated[
        str,
        typer.Option(
            rich_help_panel=_RTX,
            help="What TensorRT for RTX compiles for, such as 8.6,8.9,12.0. By default for Ampere and later.",
        ),
    ] = "",
    source_sha256: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HASH",
            help="Build from no other file: the SHA-256 that a manifest has of its source, weights included. May be "
            "repeated.",
        ),
    ] = None,
    memory_limit: MemoryOption = None,
    time_limit: TimeOption = 1800.0,
    as_json: JsonOption = False,
) -> None:
    """Build a verified version from an ONNX file and publish it in a model repository.

    The file is checked, repaired where it is awkward, made to take batches of any size where its graph allows, and
    optimised; what comes out must answer random inputs as the file itself does, or nothing is published.

    With --data, candidates in several precisions and engines are made, judged by what they lose on that data, and
    timed; the fastest inside the budget becomes configs/cpu.pbtxt or configs/gpu.pbtxt, which `plansmith serve` picks
    by the hardware it finds.

    A Triton of this machine then has to load every configuration that can run here, and to answer as was judged.

    For example:

        plansmith build resnet50.onnx
        plansmith build resnet50.onnx --data held_out.npz --max-drop 0.5%
        plansmith build resnet50.onnx --data pictures --preprocess imagenet --precision int8
        plansmith build resnet50.onnx --data pictures --preprocess imagenet --pipeline scenes.toml
        plansmith build s3://models/resnet50.onnx#sha256=...
    """
    chosen = {
        "--validation-data": validation_data,
        "--labels-key": labels_key,
        "--target": target,
        "--precision": precision,
        "--max-drop": max_drop,
        "--max-error": max_error,
        "--metric": metric,
        "--prove": prove,
        "--sparsity": sparsity,
        "--profile": profile,
        "--compute-capability": compute_capability,
    }
    given = [option for option, value in chosen.items() if value]
    if data is None and given:
        raise InvalidOption(
            f"{given[0]} needs data to judge by: give it with --data calibration.npz; --data random is possible, and "
            "says little of real data"
        )

    if pipeline is not None and warmup:
        raise InvalidOption("Triton runs no warm-up for a pipeline: leave out --warmup")

    recipe = recipe_of(context)

    def work(alive: Callable[[], None]) -> None:
        # onnx and ONNX Runtime, not for `--help`; below, what only a search uses.
        from plansmith_build.building import BuildOptions  # noqa: PLC0415
        from plansmith_build.building import build as build_version  # noqa: PLC0415
        from plansmith_build.datasets import read_preprocessing  # noqa: PLC0415
        from plansmith_build.portable.batch_obstacles import BatchAxis  # noqa: PLC0415
        from plansmith_build.repository.model_repository import name_from_file  # noqa: PLC0415

        path, own = local_model(model, Path(mkdtemp()))
        preprocessing = read_preprocessing(preprocess) if preprocess is not None else None
        search = None
        if data is not None:
            from plansmith_build.judging.budget import parse_drop  # noqa: PLC0415
            from plansmith_build.judging.measures import parse_metrics  # noqa: PLC0415
            from plansmith_build.precision.calibration import CalibrationMethod  # noqa: PLC0415
            from plansmith_build.precision.sparsity import parse_sparsity  # noqa: PLC0415
            from plansmith_build.search.search import SearchOptions  # noqa: PLC0415
            from plansmith_build.search.targets import Precision, Target  # noqa: PLC0415

            search = SearchOptions(
                data=data,
                validation_data=validation_data,
                preprocessing=preprocessing,
                labels_key=labels_key,
                targets=tuple(Target(entry.value) for entry in target or [] if entry != "auto"),
                precisions=tuple(Precision(entry.value) for entry in precision or [] if entry != "auto"),
                max_drop=parse_drop(max_drop or "0.5%"),
                max_error=parse_drop(max_error, option="--max-error") if max_error is not None else None,
                metrics=parse_metrics(metric or []),
                prove=prove,
                calibration=tuple(CalibrationMethod) if calibration == "auto" else (CalibrationMethod(calibration),),
                calibration_rows=calibration_rows,
                validation_rows=validation_rows,
                sparsity=parse_sparsity(sparsity) if sparsity is not None else None,
                plan=PlanOptions(
                    optimization_level=optimization_level,
                    workspace_bytes=workspace * 2**20 if workspace is not None else None,
                    timing_cache=timing_cache or default_timing_cache(),
                    hardware_compatibility=hardware_compatibility,
                    version_compatible=version_compatible,
                    strip_weights=strip_weights,
                    profile=profile or "",
                    compute_capabilities=parse_capabilities(compute_capability),
                ),
            )
        options = BuildOptions(
            repository=repository,
            name=name
            if name is not None or own is None or pipeline is not None
            else name_from_file(Path(f"{own}.onnx")),
            labels=labels,
            max_batch_size=max_batch_size,
            optimize=not no_optimize,
            dynamic_batch=not no_dynamic_batch,
            batch_axis=BatchAxis(batch_axis),
            samples=samples,
            preprocessing=preprocessing,
            states=tuple(state or ()),
            seed=seed,
            staging=staging,
            search=search,
            replace=replace,
            serve=not no_serve,
            sign_key=sign_key,
            warmup=warmup,
            max_queue_size=max_queue_size,
            recipe=recipe,
            source_sha256=tuple(source_sha256 or ()),
        )
        # What it is doing goes to standard error, so that standard output holds the result alone.
        display = Terminal(stderr=True, highlight=False, soft_wrap=True)
        with display.status("Loading onnx and ONNX Runtime") as status:

            def progress(step: BuildStep) -> None:
                alive()
                if step.outcome:
                    display.print(f"[green]✓[/] {escape(step.title)}: {escape(step.outcome)}")
                else:
                    status.update(current_step(step))

            if pipeline is not None:
                from plansmith_build.pipelines.building import build_pipeline  # noqa: PLC0415 - as above

                result = build_pipeline(path, pipeline, options, progress)
            else:
                result = build_version(path, options, progress)
        if as_json:
            typer.echo(result_as_json(result))
        else:
            show_result(result, repository)

    confined(work, Limits(memory_limit, time_limit), subject=without_secrets(model))
