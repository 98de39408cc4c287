"""All peers, and the choice of some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.peers.local_peers import CLIENT_PEERS, ENGINE_PEERS
from plansmith_perf.peers.server_peers import SERVER_PEERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plansmith_perf.peers.peer import Peer

__all__ = ["PEERS", "choose_peers"]

_OWN = "plansmith"

PEERS: Sequence[Peer] = (*SERVER_PEERS, *CLIENT_PEERS, *ENGINE_PEERS)


def choose_peers(words: str) -> list[Peer]:
    """The peers that a command line names: keys, kinds ("server", "client", "in-process") or "all", by commas.

    plansmith is always among them.

    Raises:
        LoadTestMisconfigured: there is no such peer.
    """
    asked = {word.strip() for word in words.split(",") if word.strip()}
    names = {peer: {peer.key, "all"} | ({peer.kind.replace(" ", "-")} - {_OWN}) for peer in PEERS}
    known = sorted(set[str]().union(*names.values()))
    if unknown := sorted(asked - set(known)):
        raise LoadTestMisconfigured(f"--peers has {unknown[0]!r}; there are: {', '.join(known)}")
    return [peer for peer in PEERS if asked & names[peer] or peer.key == _OWN]
