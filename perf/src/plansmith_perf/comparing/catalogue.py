"""All peers, and the choice of some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.comparing.local_peers import CLIENT_PEERS, ENGINE_PEERS
from plansmith_perf.comparing.server_peers import DEFAULT_TRITON, OWN, SERVER_PEERS
from plansmith_perf.errors import LoadTestMisconfigured

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.comparing.peer import Peer

__all__ = ["PEERS", "baseline_of", "choose_peers"]

PEERS: Sequence[Peer] = (*SERVER_PEERS, *CLIENT_PEERS, *ENGINE_PEERS)


def choose_peers(words: str) -> list[Peer]:
    """The peers that a command line names: keys, kinds ("server", "client", "in-process") or "all", by commas.

    plansmith is always among them.

    Raises:
        LoadTestMisconfigured: a peer is unknown.
    """
    asked = {word.strip() for word in words.split(",") if word.strip()}
    names = {peer: {peer.key, "all"} | ({peer.kind.replace(" ", "-")} - {OWN}) for peer in PEERS}
    known = sorted(set[str]().union(*names.values()))
    if unknown := sorted(asked - set(known)):
        raise LoadTestMisconfigured(f"--peers: {unknown[0]!r} is not a peer; choose from {', '.join(known)}")
    return [peer for peer in PEERS if asked & names[peer] or peer.key == OWN]


def baseline_of(peers: Sequence[Peer], configurations: Sequence[Peer]) -> str:
    """The name of the peer to which ratios are given: the first of the named configurations, else Triton's defaults.

    Where neither is compared it is plansmith, which always is.
    """
    names = [peer.name for peer in (*configurations, *peers)]
    if configurations:
        return names[0]
    return DEFAULT_TRITON if DEFAULT_TRITON in names else OWN
