"""Scores rows with Dask and says as JSON what became of them: URL, rows, partitions, a folder.

Runs in an environment of Dask's own. A row has an id, and the model doubles [id, 1]. Each partition leaves a file in
the folder when it begins; those after the first half wait until there is one called `away`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import dask.dataframe
import numpy as np
import pandas as pd
from dask.distributed import Client, LocalCluster

from plansmith_client.bulk import BulkScorer
from plansmith_client.dask import score


def held(frame, folder, parts):
    (folder / str(frame["id"].iloc[0])).touch()
    while sum(1 for _ in folder.iterdir()) > parts // 2 and not (folder / "away").exists():
        time.sleep(0.02)
    return frame


def main(url, rows, parts, folder):
    scorer = BulkScorer(url, "double", columns={"x": ["a", "b"]})
    ids = np.arange(rows)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        frame = dask.dataframe.from_pandas(
            pd.DataFrame({"id": ids, "a": ids.astype("f4"), "b": np.ones(rows, "f4")}), npartitions=parts
        )
        # Dask would call it with no rows to learn the columns.
        frame = frame.map_partitions(held, folder, parts, meta=frame._meta)
        scored = client.compute(score(frame, scorer)[["id", "y"]]).result()
    ids, answers = scored["id"].to_numpy(), np.stack(scored["y"].to_numpy())
    seen = np.bincount(ids, minlength=rows)
    wanted = np.stack([ids.astype("f4") * 2, np.full(len(ids), 2, "f4")], axis=1)
    wrong = int((answers != wanted).any(axis=1).sum())
    lost, doubled = int((seen == 0).sum()), int((seen > 1).sum())
    print(json.dumps({"out": len(ids), "lost": lost, "doubled": doubled, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
