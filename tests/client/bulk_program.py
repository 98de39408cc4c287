"""Scores rows with an engine and says as JSON what became of them: engine, URL, rows, partitions, a folder.

Runs in an environment of the engines' own. A row has an id, and the model doubles [id, 1]. Each partition leaves a
file in the folder when it begins; those after the first half wait until there is one called `away`, and the first
worker that sees it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from plansmith_client.bulk import BulkScorer


@dataclass(frozen=True)
class HeldScorer(BulkScorer):
    """Scores the second half of the partitions once the server is away."""

    folder: Path = Path()
    parts: int = 0

    def __call__(self, batch):
        # Dask calls it with no rows to learn the columns.
        if len(batch["id"]):
            (self.folder / str(np.asarray(batch["id"])[0])).touch()
            while sum(1 for _ in self.folder.iterdir()) > self.parts // 2 and not (self.folder / "away").exists():
                time.sleep(0.02)
        if (self.folder / "away").exists():
            with contextlib.suppress(FileExistsError):
                (self.folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


def with_dask(frame, scorer):
    import dask.dataframe
    from dask.distributed import Client, LocalCluster

    from plansmith_client.dask import score

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        scored = score(dask.dataframe.from_pandas(frame, npartitions=scorer.parts), scorer)
        return client.compute(scored[["id", "y"]]).result()


def with_ray(frame, scorer):
    import ray

    from plansmith_client.ray import score

    # The names of its sockets have to be short.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as temporary:
        # It gives its processes 30 s to start, which is little on a busy machine.
        options = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        for tries_left in (3, 2, 1, 0):
            try:
                ray.init(**options, _temp_dir=temporary)
                break
            except Exception:
                ray.shutdown()
                if not tries_left:
                    raise
        try:
            parts = np.array_split(np.arange(len(frame)), scorer.parts)
            return score(ray.data.from_pandas([frame.iloc[rows] for rows in parts]), scorer).to_pandas()
        finally:
            ray.shutdown()


def with_spark(frame, scorer):
    from pyspark.sql import SparkSession, functions

    from plansmith_client.spark import score

    rows = len(frame)
    os.environ["PYSPARK_PYTHON"] = sys.executable
    # Two tasks at once, each tried four times; a task is one batch.
    builder = SparkSession.builder.master("local[2,4]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.extraJavaOptions", "-XX:+UseSerialGC -XX:TieredStopAtLevel=1")
    builder = builder.config("spark.sql.execution.arrow.maxRecordsPerBatch", -(-rows // scorer.parts))
    builder = builder.config("spark.sql.execution.arrow.pyspark.enabled", "true")
    session = builder.config("spark.driver.host", "127.0.0.1").getOrCreate()
    try:
        ids = session.range(rows, numPartitions=scorer.parts)
        columns = ids.select("id", ids.id.cast("float").alias("a"), functions.lit(1.0).cast("float").alias("b"))
        return score(columns, scorer).select("id", "y").toPandas()
    finally:
        session.stop()


def main(engine, url, rows, parts, folder):
    scorer = HeldScorer(url, "double", columns={"x": ["a", "b"]}, folder=folder, parts=parts)
    ids = np.arange(rows)
    frame = pd.DataFrame({"id": ids, "a": ids.astype("f4"), "b": np.ones(rows, "f4")})
    scored = {"dask": with_dask, "ray": with_ray, "spark": with_spark}[engine](frame, scorer)
    ids, answers = scored["id"].to_numpy(), np.stack([np.asarray(row) for row in scored["y"]])
    seen = np.bincount(ids, minlength=rows)
    wanted = np.stack([ids.astype("f4") * 2, np.full(len(ids), 2, "f4")], axis=1)
    wrong = int((answers != wanted).any(axis=1).sum())
    lost, doubled = int((seen == 0).sum()), int((seen > 1).sum())
    print(json.dumps({"out": len(ids), "lost": lost, "doubled": doubled, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), Path(sys.argv[5]))
