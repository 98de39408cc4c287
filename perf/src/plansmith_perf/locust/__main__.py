"""`plansmith locust`: Locust with plansmith's locustfile, those that -f names, and its options in --help."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from locust import events
from locust.main import main

from plansmith_perf.locust.options import add_options

_LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def _run() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-f", "--locustfile")
    given, others = parser.parse_known_args()
    files = [str(_LOCUSTFILE), *([given.locustfile] if given.locustfile else [])]
    sys.argv = ["plansmith locust", "-f", ",".join(files), *others]
    # Locust answers --help without a look at its files.
    events.init_command_line_parser.add_listener(add_options)
    main()


if __name__ == "__main__":
    _run()
