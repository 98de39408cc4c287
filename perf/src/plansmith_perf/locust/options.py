"""What a load test with Locust can be told: its options, and what they mean together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.slo import Slo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locust.argument_parser import LocustArgumentParser

__all__ = ["LoadOptions", "add_options", "parse_options"]

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
CHOICES = {
    "protocol": ("grpc", "http", "both"),
    "arrivals": ("poisson", "constant"),
    "load_shape": ("constant", "ramp", "step", "spike", "replay"),
}
FEWEST_STEPS = 2


@dataclass(frozen=True)
class LoadOptions:
    """The options of a load test; times are seconds.

    Attributes:
        model: its name; "" for the server's only one.
        model_version: "" for the server's choice.
        protocol: which users take part.
        grpc_url: the server, for users that speak gRPC.
        http_url: the server, for users that speak HTTP.
        batch_size: rows a request.
        samples: file of real inputs, or None for random values.
        golden: file of the right answers to them, or None.
        distinct_inputs: at most so many different requests.
        tolerance: see `plansmith_perf.requests.check_answer`.
        seed: of random inputs, of their order and of Poisson arrivals.
        timeout: that a request may take.
        think_time: between an answer and the next request of a user, in closed loop.
        arrival_rate: requests per second of all users together, at its peak; 0 for a closed loop.
        arrivals: how an open loop spaces its requests.
        load_shape: how the load changes.
        shape_base: share of the peak at which a ramp, steps and a spike begin.
        shape_steps: how many levels the steps have.
        shape_spike: share of the run time that the spike takes, in its middle.
        arrival_log: file of recorded arrivals to replay, or None.
        arrival_column: where its times are, in a CSV or JSON lines file.
        warmup: load at the beginning that does not count.
        slo: to be kept, or None.
        result: file to write, or None.
        users: how many there are at the peak.
        spawn_rate: of them are started in a second, where they are the same all the time.
        run_time: None for no end.
    """

    model: str
    model_version: str
    protocol: Literal["grpc", "http", "both"]
    grpc_url: str
    http_url: str
    batch_size: int
    samples: Path | None
    golden: Path | None
    distinct_inputs: int
    tolerance: float
    seed: int
    timeout: float
    think_time: float
    arrival_rate: float
    arrivals: Literal["poisson", "constant"]
    load_shape: Literal["constant", "ramp", "step", "spike", "replay"]
    shape_base: float
    shape_steps: int
    shape_spike: float
    arrival_log: Path | None
    arrival_column: str
    warmup: float
    slo: Slo | None
    result: Path | None
    users: int
    spawn_rate: float
    run_time: float | None

    @property
    def is_open_loop(self) -> bool:
        """Whether requests are sent on a schedule, whatever the server does."""
        return bool(self.arrival_rate) or self.load_shape == "replay"

    @property
    def percentiles(self) -> list[float]:
        """Those to report, in per cent."""
        return sorted({*PERCENTILES} | ({self.slo.percentile} if self.slo else set()))


def add_options(parser: LocustArgumentParser) -> None:
    """Declare the options: each is an environment variable too, and what a test on the web page needs a field there.

    A file is never a field: whoever opens the page must not read or write files of this machine.

    Defaults are never None: the web UI would turn an empty field into other than what it was.
    """
    # Locust's own are all interfaces, and whoever reaches its page directs the load and names files.
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")
    group = parser.add_argument_group("plansmith")

    def add(option: str, default: str | float, words: str, *, in_web_ui: bool = True) -> None:
        name = option.removeprefix("--").replace("-", "_")
        action = group.add_argument(
            option,
            env_var=f"PLANSMITH_{name.upper()}",
            default=default,
            help=words + (f" [{default}]" if default else ""),
            type=type(default),
            choices=CHOICES.get(name),
        )
        # What Locust's parser does to options that are in no group.
        vars(action).update(include_in_web_ui=in_web_ui, is_secret=False, is_required=False, is_multiple=False)

    add("--model", "", "Model to ask; needed where the server has several.")
    add("--model-version", "", "A version of it; the server's choice if not given.")
    add("--protocol", "both", "Which users take part.")
    add("--grpc-url", "localhost:8001", "Where users that speak gRPC find the server.")
    add("--http-url", "http://localhost:8000", "Where users that speak HTTP find the server.")
    add("--batch-size", 1, "Rows a request, for a model that batches.")
    add(
        "--samples",
        "",
        "File of real inputs, .npz, .npy or .json, samples first; random values if not given.",
        in_web_ui=False,
    )
    add("--golden", "", "File of the right outputs for --samples, row by row.", in_web_ui=False)
    add("--distinct-inputs", 16, "How many different requests to send.", in_web_ui=False)
    add(
        "--tolerance",
        1e-3,
        "Greatest difference of an answer, relative to the output's greatest value.",
        in_web_ui=False,
    )
    add("--seed", 0, "Makes inputs and Poisson arrivals repeatable.", in_web_ui=False)
    add("--timeout", 30.0, "Seconds that a request may take.", in_web_ui=False)
    add("--think-time", 0.0, "Closed loop: seconds between an answer and the user's next request.")
    add("--arrival-rate", 0.0, "Open loop instead: requests per second of all users and workers together.")
    add("--arrivals", "poisson", "How an open loop spaces its requests.")
    add("--load-shape", "constant", "How users, or the arrival rate, change in the run time.")
    add("--shape-base", 0.1, "Share of the peak at which ramp, step and spike begin.")
    add("--shape-steps", 5, "How many levels the steps have.")
    add("--shape-spike", 0.2, "Share of the run time that the spike takes.")
    add(
        "--arrival-log",
        "",
        "File of recorded arrivals for --load-shape replay: a time a line, CSV or JSON lines.",
        in_web_ui=False,
    )
    add("--arrival-column", "timestamp", "Name of the times in a CSV or JSON lines file.", in_web_ui=False)
    add("--warmup", 0.0, "Seconds of load at the beginning that do not count.")
    add("--slo", "", "Exit with 3 unless this is kept, such as p99=50ms.")
    add("--result", "", "Write the result to this JSON file.", in_web_ui=False)
    add("--page-host", "", "Other host names of the web page, such as a proxy's, separated by commas.", in_web_ui=False)


def parse_options(given: Mapping[str, Any]) -> LoadOptions:
    """Read what Locust has parsed.

    Args:
        given: the options by name, Locust's own among them.

    Raises:
        LoadTestMisconfigured: a value is out of range, or two options contradict each other.
    """
    _check_ranges(given)
    options = LoadOptions(
        **{name: given[name] for name in LoadOptions.__dataclass_fields__ if name in given}
        | {name: Path(given[name]) if given[name] else None for name in ("samples", "golden", "arrival_log", "result")}
        | {
            "slo": Slo.parse(given["slo"]) if given["slo"] else None,
            # As Locust has them.
            "users": given["num_users"] or 1,
            "spawn_rate": given["spawn_rate"] or 1.0,
            "run_time": given["run_time"] or None,
        }
    )
    _check_together(options)
    return options


def _check_ranges(given: Mapping[str, Any]) -> None:
    at_least_one = ("batch_size", "distinct_inputs")
    at_least_zero = ("seed", "tolerance", "think_time", "arrival_rate", "warmup", "shape_base")
    shares = ("shape_base", "shape_spike")
    for name in at_least_one:
        _check(given[name] >= 1, name, given[name], "must be 1 or more")
    for name in at_least_zero:
        _check(0 <= given[name] < math.inf, name, given[name], "must be 0 or more, and finite")
    for name in shares:
        _check(given[name] < 1, name, given[name], "is a share, and must be below 1")
    for name, choices in CHOICES.items():
        # Locust does not check what its web UI sends.
        _check(given[name] in choices, name, given[name], f"must be one of {', '.join(choices)}")
    _check(given["shape_spike"] > 0, "shape_spike", given["shape_spike"], "must be above 0")
    _check(0 < given["timeout"] < math.inf, "timeout", given["timeout"], "must be above 0 and finite")
    _check(given["shape_steps"] >= FEWEST_STEPS, "shape_steps", given["shape_steps"], "must be 2 or more")


def _check(right: bool, name: str, value: float | str, rule: str) -> None:  # noqa: FBT001 - the condition is the point
    if not right:
        shown = value if isinstance(value, str) else f"{value:g}"
        raise LoadTestMisconfigured(f"--{name.replace('_', '-')} {shown} {rule}")


def _check_together(options: LoadOptions) -> None:
    if options.load_shape == "replay":
        if options.arrival_log is None:
            raise LoadTestMisconfigured("--load-shape replay needs the recorded arrivals: give --arrival-log FILE")
        if options.arrival_rate:
            raise LoadTestMisconfigured("a replay has the rate of its log: leave --arrival-rate out")
    elif options.arrival_log is not None:
        raise LoadTestMisconfigured("--arrival-log is for --load-shape replay: give that too")
    elif options.load_shape != "constant" and options.run_time is None:
        raise LoadTestMisconfigured(f"--load-shape {options.load_shape} is spread over the run time: give --run-time")
    if options.think_time and options.is_open_loop:
        raise LoadTestMisconfigured("--think-time is for a closed loop: in an open one the schedule says when to send")
    if options.run_time is not None and options.warmup >= options.run_time:
        raise LoadTestMisconfigured(
            f"--warmup {options.warmup:g} leaves nothing of --run-time {options.run_time:g}s to measure"
        )
    if options.result is not None and not options.result.absolute().parent.is_dir():
        raise LoadTestMisconfigured(f"--result {options.result}: there is no folder {options.result.parent}")
