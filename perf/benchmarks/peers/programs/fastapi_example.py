# mypy: disable-error-code="import-not-found, untyped-decorator, attr-defined, no-any-return"
"""One of the examples behind FastAPI: by the framework itself, or with `PEER_SERVED` by plansmith's engine and file.

Bodies come in as callers have them and go out as JSON. Packages of the framework are those of the Python that runs
this; FastAPI's own are added after them. What takes less than a millisecond is computed in place, all else in FastAPI's
thread pool: see fastapi_app.py.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
sys.path += [SETTINGS["benchmarks"], SETTINGS["packages"]]

import uvicorn  # noqa: E402 - of the packages that were just added
from example_applications import APPLICATIONS  # noqa: E402
from fastapi import FastAPI, Request  # noqa: E402
from fastapi.concurrency import run_in_threadpool  # noqa: E402
from peer_engine import load_engine  # noqa: E402

IN_PLACE_SECONDS = 0.001


def loaded() -> Any:
    """From a body to the answer."""
    application, folder = APPLICATIONS[SETTINGS["application"]], Path(SETTINGS["folder"])
    prepare = application.prepare(folder)
    compute = _engine() if os.environ.get("PEER_SERVED") or application.compute is None else application.compute(folder)
    return lambda body: application.answer(folder, compute(prepare(body)))


def _engine() -> Any:
    engine = load_engine(SETTINGS)
    inputs, outputs = SETTINGS["inputs"], SETTINGS["outputs"]
    # A single input is taken whatever its name.
    return lambda arrays: engine.run(
        outputs, dict(zip(inputs, arrays.values(), strict=True)) if len(inputs) == 1 else arrays
    )


def main() -> None:
    """Serve until told to stop."""
    answer = loaded()
    (body,) = APPLICATIONS[SETTINGS["application"]].bodies(Path(SETTINGS["folder"]))[:1]
    took = []
    for _ in range(3):
        started = time.perf_counter()
        answer(body)
        took.append(time.perf_counter() - started)
    in_place = min(took) < IN_PLACE_SECONDS
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        body = await request.body()
        return answer(body) if in_place else await run_in_threadpool(answer, body)

    uvicorn.run(app, host=SETTINGS["host"], port=SETTINGS["http_port"], access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
