"""`plansmith export`."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from plansmith_build.errors import InvalidOption
from plansmith_client.commands.options import JsonOption  # noqa: TC001 - typer reads the annotations
from plansmith_client.terminal import Terminal, facts_table

if TYPE_CHECKING:
    from plansmith_build.exporting import ExportResult
    from plansmith_build.exporting.sources import LoadedModel
    from plansmith_client.tensors import TensorSpec

__all__ = ["export"]


def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="module:function that returns the model (this runs the function), a .pt2 file, a .keras file or a "
            "Hugging Face folder (config.json and .safetensors).",
        ),
    ],
    *,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write, replaced if it is there.",
            show_default="the model's name.onnx",
        ),
    ] = None,
    opset: Annotated[
        int | None,
        typer.Option(min=1, help="Operator set of the standard domain.", show_default="the exporter's choice"),
    ] = None,
    no_dynamic_batch: Annotated[
        bool, typer.Option("--no-dynamic-batch", help="Leave the number of rows as it is in the example inputs.")
    ] = False,
    dynamic_axes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="INPUT=AXIS[,AXIS]",
            help="PyTorch: dimensions besides the first that may have any size, such as input_ids=1 for the length "
            "of a text; may be repeated.",
        ),
    ] = None,
    input_names: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,NAME]", help="PyTorch: names for the inputs.", show_default="those of forward's parameters"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Makes the random inputs of the check repeatable.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Write a PyTorch, scikit-learn or Keras model as ONNX, and check that it computes the same.

    A PyTorch function returns (module, example_inputs); a scikit-learn one a fitted estimator, or (estimator, rows); a
    Keras one a model. A Hugging Face folder is exported with texts of any length. Pickles are refused, because loading
    one runs what is in it.

    For example:

        plansmith export my_models:classifier --output classifier.onnx
        plansmith export my_models:sentence_encoder --dynamic-axes input_ids=1
        plansmith export ./distilbert-sst2
    """
    from plansmith_build.exporting.sources import load_model  # noqa: PLC0415 - ONNX Runtime, not for `--help`

    asked = _axes(dynamic_axes or [])
    names = [name.strip() for name in input_names.split(",")] if input_names is not None else None
    display = Terminal(stderr=True, highlight=False, soft_wrap=True)
    with display.status(escape(f"Loading {model}")) as status:
        loaded = load_model(model)
        status.update(escape(f"Exporting the {loaded.framework} model {loaded.name}"))
        target = output if output is not None else Path(f"{loaded.name}.onnx")
        axes = {**loaded.dynamic_axes, **asked}
        options = {"opset": opset, "dynamic_batch": not no_dynamic_batch, "seed": seed}
        result = _exported(loaded, target, axes, names, options)
    if as_json:
        typer.echo(_json(loaded, result))
    else:
        _show(loaded, result)


def _axes(texts: list[str]) -> dict[str | int, list[int]]:
    """`input_ids=1` and `image=2,3` as axes by input."""
    axes: dict[str | int, list[int]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        if not name or not all(number.strip().isdecimal() for number in numbers.split(",")):
            raise InvalidOption(f"--dynamic-axes must be INPUT=AXIS[,AXIS], such as input_ids=1, got {text!r}")
        axes.setdefault(name, []).extend(map(int, numbers.split(",")))
    return axes


def _exported(
    loaded: LoadedModel,
    target: Path,
    axes: dict[str | int, list[int]],
    names: list[str] | None,
    options: dict[str, Any],
) -> ExportResult:
    from plansmith_build import exporting  # noqa: PLC0415 - as above

    if loaded.framework != "pytorch" and (axes or names is not None):
        raise InvalidOption(
            f"{'--dynamic-axes' if axes else '--input-names'} is for PyTorch models, and this is a {loaded.framework} "
            "one, which says itself what its inputs are called and what varies"
        )
    if loaded.framework == "scikit-learn":
        chosen = {} if options["opset"] is None else {"opset": options["opset"]}
        return exporting.export_scikit_learn(
            loaded.model, target, example=loaded.examples, seed=options["seed"], **chosen
        )
    if loaded.framework == "keras":
        return exporting.export_keras(loaded.model, target, example_inputs=loaded.examples, **options)
    return exporting.export_pytorch(
        loaded.model, loaded.examples, target, dynamic_axes=axes, input_names=names, **options
    )


def _json(loaded: LoadedModel, result: ExportResult) -> str:
    def records(objects: Any, *fields: str) -> list[dict[str, Any]]:
        return [{field: getattr(each, field) for field in fields} for each in objects]

    return json.dumps(
        {
            "path": str(result.path),
            "weights": None if result.weights is None else str(result.weights),
            "framework": loaded.framework,
            "inputs": records(result.inputs, "name", "datatype", "shape"),
            "outputs": records(result.outputs, "name", "datatype", "shape"),
            "opsets": dict(result.opsets),
            "samples": result.samples,
            "comparisons": records(result.comparisons, "name", "max_absolute_error", "max_relative_error", "tolerance"),
            "versions": dict(result.versions),
        },
        indent=2,
    )


def _fixed_lengths(loaded: LoadedModel, result: ExportResult) -> list[TensorSpec]:
    """Whole numbers in rows of a fixed length, which are mostly texts that the example happened to give that length."""
    if loaded.framework != "pytorch":
        return []
    return [
        spec
        for spec in result.inputs
        if spec.datatype in {"INT32", "INT64"} and len(spec.shape) == 2 and spec.shape[1] > 1  # noqa: PLR2004
    ]


def _show(loaded: LoadedModel, result: ExportResult) -> None:
    table = facts_table()
    written = str(result.path) if result.weights is None else f"{result.path}, weights in {result.weights}"
    table.add_row("written", escape(written))
    for word, specs in (("inputs", result.inputs), ("outputs", result.outputs)):
        table.add_row(word, escape("\n".join(f"{spec.name} {spec}" for spec in specs)))
    table.add_row("opset", escape(", ".join(f"{domain} {number}" for domain, number in result.opsets.items())))
    worst = max(result.comparisons, key=lambda comparison: comparison.max_relative_error)
    table.add_row(
        "verified",
        escape(
            f"relative error {worst.max_relative_error:.2g} ({worst.tolerance:g} allowed) "
            f"against {loaded.framework} on {result.samples} sample{'' if result.samples == 1 else 's'}"
        ),
    )
    for spec in _fixed_lengths(loaded, result):
        # A program of torch.export has its own dynamic dimensions.
        remedy = (
            "dynamic_shapes of torch.export"
            if hasattr(loaded.model, "graph_module")
            else f"--dynamic-axes {spec.name}=1"
        )
        table.add_row("note", escape(f"{spec.name} {spec}: only that length is taken; {remedy} makes it any"))
    table.add_row("with", escape(", ".join(f"{package} {number}" for package, number in result.versions.items())))
    console = Terminal(highlight=False)
    console.print(table)
    console.print(f"\nNext: plansmith build {shlex.quote(str(result.path))}", markup=False, soft_wrap=True)
