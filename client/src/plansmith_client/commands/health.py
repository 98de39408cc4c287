"""`plansmith health`: whether a server, or one of its models, is ready, and whether it answers."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plansmith_client.commands.known_answers import difference, read_answers
from plansmith_client.commands.options import JsonOption, TimeoutOption, UrlOption  # noqa: TC001
from plansmith_client.errors import AccessDenied, ClientError, InvalidInput, ProtocolError, ServerOverloaded
from plansmith_client.faces.client import Client
from plansmith_client.sampling import random_inputs
from plansmith_client.visible import visible

if TYPE_CHECKING:
    from plansmith_client.faces.model import Model

__all__ = ["health"]

_EXIT_NOT_READY = 3
_POLL_SECONDS = 0.2


def health(
    model: Annotated[str | None, typer.Argument(help="A model; by default the whole server.")] = None,
    url: UrlOption = "localhost:8001",
    wait: Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait until it is ready.")] = 0.0,
    timeout: TimeoutOption = 5.0,
    *,
    infer: Annotated[
        bool,
        typer.Option("--infer", help="Send a request of random values, too: to the model, or to each that is ready."),
    ] = False,
    expect: Annotated[
        Path | None,
        typer.Option(
            "--expect",
            metavar="FILE.npz",
            help="Answers of MODEL that plansmith infer MODEL --random --output FILE wrote: it must give them again.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", min=0, help="Greatest difference, relative to an output's greatest value."),
    ] = 0.001,
    as_json: JsonOption = False,
) -> None:
    """Tell whether a server, or a model of it, is ready: exit code 0 if it is, 3 if not, 1 if nothing answers.

    With --infer it must answer a request as well, since a server can be wedged though it says that it is ready. A full
    queue is no fault as long as requests are run. With --expect the model must also answer as it did before, on another
    server or as another version.

    For example:

        plansmith health --wait 30
        plansmith health resnet50 --infer --url http://localhost:8000
        plansmith health resnet50 --expect before.npz --url new-server:8001
    """
    if expect is not None and model is None:
        raise InvalidInput("--expect needs MODEL: name the model whose answers the file holds")
    known = {} if expect is None else read_answers(expect)
    end = time.monotonic() + wait
    with Client(url, timeout=timeout) as client:
        ready = _is_ready(client, model)
        while not ready and time.monotonic() < end:
            time.sleep(min(_POLL_SECONDS, max(end - time.monotonic(), 0)))
            ready = _is_ready(client, model)
        failure = None if ready else _unreachable(client)
        reason = "" if ready else str(failure or _why_not(client, model))
        if ready:
            _refuse_another_server(client, model)
        if ready and (infer or known):
            reason = _why_no_answer(client, model, known, tolerance, timeout)
            ready = not reason
    subject = f"model {model!r} at {url}" if model else f"the server at {url}"
    if as_json:
        live = failure is None
        typer.echo(json.dumps({"url": url, "model": model, "live": live, "ready": ready, "reason": reason}))
    elif failure is not None:
        raise failure
    else:
        typer.echo(
            visible(f"{subject} is ready" if ready else f"{subject} is not ready{f': {reason}' if reason else ''}")
        )
    if not ready:
        raise typer.Exit(_EXIT_NOT_READY if failure is None else failure.exit_code)


def _is_ready(client: Client, model: str | None) -> bool:
    return client.model(model).is_ready() if model else client.is_ready()


def _refuse_another_server(client: Client, model: str | None) -> None:
    """Some web servers, that of Triton's metrics too, say yes to everything; access may be restricted to health."""
    with suppress(AccessDenied):
        _ = client.model(model).metadata if model else client.server_metadata()


def _why_no_answer(client: Client, model: str | None, known: dict[str, Any], tolerance: float, timeout: float) -> str:
    """What fails of the first model that does not answer a request of random values as is known, or an empty string."""
    try:
        names = [model] if model else sorted({status.name for status in client.models() if status.state == "READY"})
    except ClientError as error:
        return str(error)
    for name in names:
        if reason := _failure(client.model(name), known, tolerance, timeout):
            return reason if model else f"model {name!r} does not answer: {reason}"
    return ""


def _failure(model: Model, known: dict[str, Any], tolerance: float, timeout: float) -> str:
    try:
        # The same values as those of `plansmith infer --random`.
        inputs = random_inputs(model.metadata.inputs)
        config = model.config()
        if config.get("model_transaction_policy", {}).get("decoupled"):
            if known:
                return "it streams its answers, which --expect does not compare"
            for _ in model.stream(inputs):
                pass
            return ""
        if "sequence_batching" in config:
            with model.sequence() as sequence:
                result = sequence.end(**inputs)
        else:
            result = model.infer(inputs)
    except ServerOverloaded as error:
        return str(error) if known else _why_nothing_is_run(model, timeout)
    except ClientError as error:
        return str(error)
    return difference(result, known, tolerance)


def _why_nothing_is_run(model: Model, timeout: float) -> str:
    """Empty if a model whose queue is full runs anything within so many seconds: where a backend hangs, none does."""
    counts, end = set(), time.monotonic() + timeout
    try:
        while time.monotonic() < end:
            counts.add(sum(version.executions for version in model.statistics()))
            if len(counts) > 1:
                return ""
            time.sleep(_POLL_SECONDS)
    except (AccessDenied, ProtocolError):
        # Nobody can tell, and a full queue alone is no fault.
        return ""
    except ClientError as error:
        return str(error)
    return f"its queue is full, and nothing was run for {timeout:g} s"


def _unreachable(client: Client) -> ClientError | None:
    try:
        client.server_metadata()
    except ClientError as error:
        return error
    return None


def _why_not(client: Client, model: str | None) -> str:
    try:
        if model:
            client.model(model).metadata  # noqa: B018 - its error gives the reason
            return ""
        waiting = [status for status in client.models() if status.state not in ("READY", "")]
    except ClientError as error:
        return str(error)
    return "; ".join(
        f"{status.name} version {status.version} is {status.state.lower()}"
        + (f" ({status.short_reason})" if status.reason else "")
        for status in waiting
    )
