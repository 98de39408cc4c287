"""`plansmith locust`: Locust with plansmith's locustfile, those that -f names, and its options in --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from locust import events
from locust.main import main

from plansmith_perf.locust.options import add_options

if TYPE_CHECKING:
    from locust.argument_parser import LocustArgumentParser

_EXAMPLE = "plansmith locust digits --protocol grpc --headless -u 8 -r 8 -t 30s"
_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def _name_and_example(parser: LocustArgumentParser) -> None:
    parser.usage = "plansmith locust [MODEL] [options] [UserClass ...]"
    parser.description = f"For example: {_EXAMPLE}"


def _run() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-f", "--locustfile")
    given, others = parser.parse_known_args()
    files = [str(_LOCUSTFILE), *([given.locustfile] if given.locustfile else [])]
    if others[:1] not in ([], ["GrpcUser"], ["HttpUser"]) and not (others[0].startswith("-") or given.locustfile):
        # As the other commands are given a model; users of one's own are named the same way.
        others.insert(0, "--model")
    sys.argv = ["plansmith locust", "-f", ",".join(files), *others]
    # Locust answers --help without a look at its files.
    events.init_command_line_parser.add_listener(add_options)
    events.init_command_line_parser.add_listener(_name_and_example)
    main()


if __name__ == "__main__":
    _run()
