# mypy: disable-error-code="import-not-found, untyped-decorator, attr-defined, no-any-return"
"""One of the examples behind FastAPI: by the framework itself, or with `PEER_SERVED` by plansmith's engines and files.

Bodies come in as callers have them and go out as JSON. Packages of the framework are those of the Python that runs
this; FastAPI's own are added after them. What takes less than a millisecond is computed in place, all else in FastAPI's
thread pool: see fastapi_app.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SETTINGS = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
sys.path += [SETTINGS["benchmarks"], *SETTINGS["packages"]]

import uvicorn  # noqa: E402 - of the packages that were just added
from example_answers import SEQUENCE, START, ServedStep  # noqa: E402
from example_applications import APPLICATIONS  # noqa: E402
from fastapi import FastAPI, Request  # noqa: E402
from fastapi.concurrency import run_in_threadpool  # noqa: E402
from peer_engine import is_quick, load_engine  # noqa: E402


def loaded() -> Any:
    """From a body and its headers to the answer."""
    application, folder = APPLICATIONS[SETTINGS["application"]], Path(SETTINGS["folder"])
    if os.environ.get("PEER_SERVED"):
        return application.by_engines(folder, [_step(described) for described in SETTINGS["steps"]])
    return application.by_framework(folder)


def _step(described: dict[str, Any]) -> ServedStep:
    fields = {name: described[name] for name in ("inputs", "outputs", "states")}
    if not described["engine"]:
        from plansmith_server.backends.pipeline_step.runtime import load_step  # noqa: PLC0415 - not for every example

        return ServedStep(run=load_step(Path(described["folder"])).run, is_engine=False, **fields)
    engine = load_engine({"served": described["engine"]})
    names = [*described["outputs"], *described["states"].values()]
    return ServedStep(
        run=lambda arrays: dict(zip(names, engine.run(names, arrays), strict=True)), is_engine=True, **fields
    )


def main() -> None:
    """Serve until told to stop."""
    answer = loaded()
    (body,) = APPLICATIONS[SETTINGS["application"]].bodies(Path(SETTINGS["folder"]))[:1]
    in_place = is_quick(lambda: answer(body, {SEQUENCE: "", START: "True"}))
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Any:
        body = await request.body()
        if in_place:
            return answer(body, request.headers)
        return await run_in_threadpool(answer, body, request.headers)

    # Connections wait while the other servers answer, some of them for seconds.
    quiet = {"access_log": False, "log_level": "warning", "timeout_keep_alive": 600}
    uvicorn.run(app, host=SETTINGS["host"], port=SETTINGS["http_port"], **quiet)


if __name__ == "__main__":
    main()
