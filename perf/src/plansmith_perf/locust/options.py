"""What a load test with Locust can be told: its options, and what they mean together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.load.arrivals import Profile, Segment
from plansmith_perf.load.measuring import MeasuringOptions
from plansmith_perf.load.samples import RequestOptions
from plansmith_perf.results.writing import check_writable
from plansmith_perf.slo import Slo

if TYPE_CHECKING:
    from collections.abc import Mapping

    from locust.argument_parser import LocustArgumentParser

__all__ = ["LoadOptions", "add_options", "parse_options"]

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)
FEWEST_STEPS = 2


@dataclass(frozen=True)
class _Option:
    """An option of the command line.

    Attributes:
        default: never None: the web page would turn an empty field into other than what it was.
        words: its line in --help.
        on_page: whether the web page has a field for it. A file never has: whoever opens the page must not read or
            write files of this machine.
    """

    default: str | float
    words: str
    on_page: bool = True


@dataclass(frozen=True)
class LoadOptions:
    """The options of a load test, in the order of --help and of the web page; times are seconds.

    An option that is not given is "" or 0 on the command line, and None here where its type says so.
    """

    model: Annotated[str, _Option("", "Model to ask; needed where the server has several.")]
    model_version: Annotated[str, _Option("", "A version of it; the server's choice if not given.")]
    protocol: Annotated[Literal["grpc", "http", "both"], _Option("both", "Which users take part.")]
    grpc_url: Annotated[str, _Option("localhost:8001", "Where users that speak gRPC find the server.")]
    http_url: Annotated[str, _Option("http://localhost:8000", "Where users that speak HTTP find the server.")]
    batch_size: Annotated[int, _Option(1, "Rows a request, for a model that batches.")]
    arrival_rate: Annotated[
        float, _Option(0.0, "Open loop instead: requests per second of all users and workers together.")
    ]
    arrivals: Annotated[Literal["poisson", "constant"], _Option("poisson", "How an open loop spaces its requests.")]
    think_time: Annotated[float, _Option(0.0, "Closed loop: seconds between an answer and the user's next request.")]
    load_shape: Annotated[
        Literal["constant", "ramp", "step", "spike", "replay"],
        _Option("constant", "How users, or the arrival rate, change in the run time."),
    ]
    shape_base: Annotated[float, _Option(0.1, "Share of the peak at which ramp, step and spike begin.")]
    shape_steps: Annotated[int, _Option(5, "How many levels the steps have.")]
    shape_spike: Annotated[float, _Option(0.2, "Share of the run time that the spike takes, in its middle.")]
    warmup: Annotated[float, _Option(0.0, "Seconds of load at the beginning that do not count.")]
    slo: Annotated[Slo | None, _Option("", "Exit with 3 unless this is kept, such as p99=50ms.")]
    samples: Annotated[
        Path | None,
        _Option(
            "", "File of real inputs, .npz, .npy or .json, samples first; random values if not given.", on_page=False
        ),
    ]
    golden: Annotated[Path | None, _Option("", "File of the right outputs for --samples, row by row.", on_page=False)]
    distinct_inputs: Annotated[int, _Option(16, "How many different requests to send.", on_page=False)]
    tolerance: Annotated[
        float,
        _Option(1e-3, "Greatest difference of an answer, relative to the output's greatest value.", on_page=False),
    ]
    seed: Annotated[int, _Option(0, "Makes inputs and Poisson arrivals repeatable.", on_page=False)]
    timeout: Annotated[float, _Option(30.0, "Seconds that a request may take.", on_page=False)]
    arrival_log: Annotated[
        Path | None,
        _Option(
            "", "File of recorded arrivals for --load-shape replay: a time a line, CSV or JSON lines.", on_page=False
        ),
    ]
    arrival_column: Annotated[
        str, _Option("timestamp", "Name of the times in a CSV or JSON lines file.", on_page=False)
    ]
    result: Annotated[Path | None, _Option("", "Write the result to this JSON file.", on_page=False)]
    page_host: Annotated[
        str, _Option("", "Other host names of the web page, such as a proxy's, separated by commas.", on_page=False)
    ]
    # Locust's own: users at the peak, how many of them are started in a second, and None for no end.
    users: int
    spawn_rate: float
    run_time: float | None

    @property
    def is_open_loop(self) -> bool:
        """Whether requests are sent on a schedule, whatever the server does."""
        return bool(self.arrival_rate) or self.load_shape == "replay"

    @property
    def requests(self) -> RequestOptions:
        """What is sent."""
        return RequestOptions(
            measuring=MeasuringOptions(0.0, 0.0, 1, self.timeout, self.tolerance, seed=self.seed),
            samples=self.samples,
            golden=self.golden,
            distinct_inputs=self.distinct_inputs,
            batch_size=self.batch_size,
        )

    @property
    def percentiles(self) -> list[float]:
        """Those to report, in per cent."""
        return sorted({*PERCENTILES} | ({self.slo.percentile} if self.slo else set()))

    @property
    def profile(self) -> Profile:
        """How the arrival rate changes with time, in a closed loop the number of users.

        A replay has none: its log says when requests arrive, and its users are as many from beginning to end.
        """
        peak = self.arrival_rate or float(self.users)
        base, end = self.shape_base * peak, self.run_time or math.inf
        if self.load_shape == "ramp":
            return Profile((Segment(0.0, end, base, peak),))
        if self.load_shape == "step":
            edges = np.linspace(0.0, end, self.shape_steps + 1).tolist()
            levels = np.linspace(base, peak, self.shape_steps).tolist()
        elif self.load_shape == "spike":
            begin = end * (1 - self.shape_spike) / 2
            edges, levels = [0.0, begin, end - begin, end], [base, peak, base]
        else:
            edges, levels = [0.0, end], [peak]
        return Profile(tuple(map(Segment, edges[:-1], edges[1:], levels, levels)))


_CHOICES = {name: get_args(hint) for name, hint in get_type_hints(LoadOptions).items() if get_origin(hint) is Literal}


def add_options(parser: LocustArgumentParser) -> None:
    """Declare the options; each is an environment variable too, such as PLANSMITH_ARRIVAL_RATE."""
    # Locust's own are all interfaces, and whoever reaches its page directs the load.
    parser.set_defaults(web_host="127.0.0.1", master_bind_host="127.0.0.1")
    group = parser.add_argument_group("plansmith")
    for name, option in _options().items():
        action = group.add_argument(
            f"--{name.replace('_', '-')}",
            env_var=f"PLANSMITH_{name.upper()}",
            default=option.default,
            help=option.words + (f" [{option.default}]" if option.default else ""),
            type=type(option.default),
            choices=_CHOICES.get(name),
        )
        # What Locust's parser does to options that are in no group.
        vars(action).update(include_in_web_ui=option.on_page, is_secret=False, is_required=False, is_multiple=False)


def _options() -> dict[str, _Option]:
    hints = get_type_hints(LoadOptions, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def parse_options(given: Mapping[str, Any]) -> LoadOptions:
    """Read what Locust has parsed.

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
        _check(0 <= given[name] < math.inf, name, given[name], "must be 0 or more and finite")
    for name in shares:
        _check(given[name] < 1, name, given[name], "is a share and must be below 1")
    for name, choices in _CHOICES.items():
        # Locust does not check what its web UI sends.
        _check(given[name] in choices, name, given[name], f"must be one of {', '.join(choices)}")
    _check(given["shape_spike"] > 0, "shape_spike", given["shape_spike"], "must be above 0")
    _check(0 < given["timeout"] < math.inf, "timeout", given["timeout"], "must be above 0 and finite")
    _check(given["shape_steps"] >= FEWEST_STEPS, "shape_steps", given["shape_steps"], "must be 2 or more")


def _check(right: bool, name: str, value: float | str, rule: str) -> None:  # noqa: FBT001 - the condition is the point
    if not right:
        shown = value if isinstance(value, str) else f"{value:g}"
        raise LoadTestMisconfigured(f"--{name.replace('_', '-')} {rule}, got {shown}")


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
    check_writable(options.result, "--result")
