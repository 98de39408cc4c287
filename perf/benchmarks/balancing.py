"""How clients should spread requests over servers: round robin, least outstanding and two choices, simulated.

Servers take one request at a time, first come, first served. Requests arrive at random and belong to one of many
clients at random; a client knows its own requests in flight and no others, as a real one does. "all known" is least
outstanding with every request known: the best that a proxy in front of all could do.

    python perf/benchmarks/balancing.py > table.md
"""

from __future__ import annotations

import heapq
import sys

import numpy as np

POLICIES = ("round robin", "least outstanding", "two choices", "all known")
REQUESTS = 100_000
USED = 0.8
SLOW_SHARE, SLOW = 0.25, 2.0


def simulate(policy: str, servers: int, clients: int, *, slow: bool, seed: int = 0) -> np.ndarray:
    """The latency of each request, in mean service times of a fast server; the first fifth is left out."""
    rng = np.random.default_rng(seed)
    factor = np.ones(servers)
    if slow:
        factor[: max(1, round(servers * SLOW_SHARE))] = SLOW
    arrivals = np.cumsum(rng.exponential(1 / (USED * (1 / factor).sum()), REQUESTS))
    work = rng.exponential(1.0, REQUESTS)
    clients_of = rng.integers(clients, size=REQUESTS)
    pairs = rng.integers(servers, size=(REQUESTS, 2))
    # What each client has in flight at each server; one row for all of them where everything is known.
    outstanding = np.zeros((1 if policy == "all known" else clients, servers), int)
    following = rng.integers(servers, size=clients)
    free_at = np.zeros(servers)
    ends: list[tuple[float, int, int]] = []
    latencies = np.empty(REQUESTS)
    for number, now in enumerate(arrivals):
        while ends and ends[0][0] <= now:
            _, row, server = heapq.heappop(ends)
            outstanding[row, server] -= 1
        client = clients_of[number]
        row = 0 if policy == "all known" else int(client)
        offset = following[client] % servers
        following[client] += 1
        if policy == "round robin":
            chosen = offset
        elif policy == "two choices":
            chosen = min(pairs[number], key=outstanding[row].__getitem__)
        else:
            # As the client does it: the first of the least in turn.
            chosen = (offset + int(np.roll(outstanding[row], -offset).argmin())) % servers
        free_at[chosen] = max(free_at[chosen], now) + work[number] * factor[chosen]
        latencies[number] = free_at[chosen] - now
        outstanding[row, chosen] += 1
        heapq.heappush(ends, (free_at[chosen], row, int(chosen)))
    return latencies[REQUESTS // 5 :]


def main() -> None:
    """Write the table."""
    sys.stdout.write("| servers | clients | | " + " | ".join(POLICIES) + " |\n")
    sys.stdout.write("|---" * (3 + len(POLICIES)) + "|\n")
    for servers, clients in ((4, 1), (4, 16), (100, 4), (100, 100), (1000, 4), (1000, 100)):
        for slow in (False, True):
            found = [np.percentile(simulate(policy, servers, clients, slow=slow), (50, 99)) for policy in POLICIES]
            cells = " | ".join(f"{median:.1f} / {p99:.1f}" for median, p99 in found)
            kind = "a quarter half as fast" if slow else "all alike"
            sys.stdout.write(f"| {servers} | {clients} | {kind} | {cells} |\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
