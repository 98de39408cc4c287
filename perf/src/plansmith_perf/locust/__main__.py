"""`plansmith locust`: Locust with plansmith's locustfile, those that -f names, and its options in --help."""

from __future__ import annotations

import argparse
import os
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
    parser.description = f"For example: {_EXAMPLE}. The environment variable PLANSMITH_URL names the server, too."


def _take_url(words: list[str]) -> None:
    """Let PLANSMITH_URL name the server as for the other commands: it speaks one protocol, which is then loaded.

    What says more counts: an address for each protocol, or which of them to load.
    """
    url = os.environ.get("PLANSMITH_URL", "")
    named = any(word.startswith(("--grpc-url", "--http-url")) for word in words)
    if url and not named and not {"PLANSMITH_GRPC_URL", "PLANSMITH_HTTP_URL"} & os.environ.keys():
        protocol = "http" if url.lower().startswith("http") and "://" in url else "grpc"
        os.environ[f"PLANSMITH_{protocol.upper()}_URL"] = url
        other = {"grpc": "http", "http": "grpc"}[protocol]
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        parser.add_argument("--protocol", default=os.environ.get("PLANSMITH_PROTOCOL") or protocol)
        if parser.parse_known_args(words)[0].protocol != protocol or f"{other.title()}User" in words:
            sys.stderr.write(f"Error: PLANSMITH_URL names a server of {protocol} alone: set --{other}-url as well\n")
            raise SystemExit(2)
        os.environ["PLANSMITH_PROTOCOL"] = protocol


def _run() -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-f", "--locustfile")
    given, others = parser.parse_known_args()
    files = [str(_LOCUSTFILE), *([given.locustfile] if given.locustfile else [])]
    if others[:1] not in ([], ["GrpcUser"], ["HttpUser"]) and not (others[0].startswith("-") or given.locustfile):
        # As the other commands are given a model; users of one's own are named the same way.
        others.insert(0, "--model")
    sys.argv = ["plansmith locust", "-f", ",".join(files), *others]
    _take_url(others)
    # Locust answers --help without a look at its files.
    events.init_command_line_parser.add_listener(add_options)
    events.init_command_line_parser.add_listener(_name_and_example)
    main()


if __name__ == "__main__":
    _run()
