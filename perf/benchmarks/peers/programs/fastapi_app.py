# mypy: disable-error-code="import-not-found, untyped-decorator"
"""ONNX Runtime behind FastAPI, as uvicorn's command line starts it.

The model is loaded in the lifespan handler (https://fastapi.tiangolo.com/advanced/events/). The body is bytes, read
from the request itself (https://fastapi.tiangolo.com/advanced/using-request-directly/), which costs less than JSON. The
path operation is `async` and computes in place, as https://fastapi.tiangolo.com/async/ advises for what only computes;
a model that takes a millisecond or more would keep the others waiting and goes to the thread pool, where FastAPI also
runs path operations that are not `async`.
"""

from __future__ import annotations

import json
import math
import os
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from peer_engine import is_quick, load_engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SETTINGS = json.loads(Path(os.environ["PEER_SETTINGS"]).read_text(encoding="utf-8"))
OUTPUTS = [tensor["name"] for tensor in SETTINGS["outputs"]]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model and see how long it takes."""
    app.state.session = load_engine(SETTINGS)
    inputs = {
        tensor["name"]: np.zeros([max(size, 1) for size in tensor["shape"]], tensor["dtype"])
        for tensor in SETTINGS["inputs"]
    }
    app.state.in_place = is_quick(lambda: app.state.session.run(OUTPUTS, inputs))
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/predict")
async def predict(request: Request) -> Response:
    """Tensors in, tensors out: bytes one after the other, shapes in the header `x-shapes`."""
    inputs = _read(await request.body(), request.headers["x-shapes"])
    session = request.app.state.session
    if request.app.state.in_place:
        outputs = session.run(OUTPUTS, inputs)
    else:
        outputs = await run_in_threadpool(session.run, OUTPUTS, inputs)
    shapes = ";".join(",".join(map(str, output.shape)) for output in outputs)
    return Response(
        b"".join(output.tobytes() for output in outputs),
        media_type="application/octet-stream",
        headers={"x-shapes": shapes},
    )


def _read(body: bytes, shapes: str) -> dict[str, Any]:
    inputs = {}
    offset = 0
    for tensor, text in zip(SETTINGS["inputs"], shapes.split(";"), strict=True):
        shape = tuple(int(size) for size in text.split(",") if size)
        flat = np.frombuffer(body, dtype=tensor["dtype"], count=math.prod(shape), offset=offset)
        inputs[tensor["name"]] = flat.reshape(shape)
        offset += flat.nbytes
    return inputs
