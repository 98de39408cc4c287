"""Scores rows inside an engine and says as JSON what became of them: engine, URL, rows, partitions.

Runs in the engine's own environment. A row has an id, and the model doubles [id, 1].
"""

from __future__ import annotations

import json
import os
import sys

import numpy as np

from plansmith_client.bulk import BulkScorer


def columns(ids):
    return {"id": ids, "a": ids.astype("f4"), "b": np.ones(len(ids), "f4")}


def with_dask(scorer, rows, parts):
    import dask.dataframe
    import pandas as pd
    from dask.distributed import Client, LocalCluster

    from plansmith_client.dask import score

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        print("workers", *(worker.pid for worker in cluster.workers.values()), file=sys.stderr, flush=True)
        frame = dask.dataframe.from_pandas(pd.DataFrame(columns(np.arange(rows))), npartitions=parts)
        scored = client.compute(score(frame, scorer)[["id", "y"]]).result()
        yield scored["id"].to_numpy(), np.stack(scored["y"].to_numpy())


def with_spark(scorer, rows, parts):
    from pyspark.sql import SparkSession
    from pyspark.sql.functions import col, lit

    from plansmith_client.spark import score

    os.environ["PYSPARK_PYTHON"] = sys.executable
    spark = (
        SparkSession.builder.master("local[2, 4]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.execution.arrow.pyspark.enabled", "true")
        .getOrCreate()
    )
    frame = spark.range(0, rows, 1, parts).select("id", col("id").cast("float").alias("a"), lit(1.0).alias("b"))
    scored = score(frame, scorer).select("id", "y").toPandas()
    yield scored["id"].to_numpy(), np.stack(scored["y"].to_numpy())
    spark.stop()


def main(engine, url, rows, parts):
    scorer = BulkScorer(url, "double", columns={"x": ["a", "b"]})
    score = {"dask": with_dask, "spark": with_spark}[engine]
    seen, out, wrong = np.zeros(rows, int), 0, 0
    for ids, answers in score(scorer, rows, parts):
        np.add.at(seen, ids, 1)
        out += len(ids)
        wrong += int(
            (answers != np.stack([ids.astype("f4") * 2, np.full(len(ids), 2, "f4")], axis=1)).any(axis=1).sum()
        )
    print(json.dumps({"out": out, "lost": int((seen == 0).sum()), "doubled": int((seen > 1).sum()), "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
