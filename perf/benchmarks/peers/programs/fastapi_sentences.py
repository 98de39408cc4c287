# mypy: disable-error-code="import-not-found, untyped-decorator"
"""sentence-transformers behind FastAPI, as uvicorn's command line starts it: sentences in, vectors out, both as JSON.

The model is loaded in the lifespan handler (https://fastapi.tiangolo.com/advanced/events/), and the path operation is
not `async`, so that FastAPI runs it in its thread pool (https://fastapi.tiangolo.com/async/).
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Texts(BaseModel):
    """What is asked."""

    sentences: list[str]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the model."""
    app.state.model = SentenceTransformer(os.environ["PEER_MODEL"], device="cpu")
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/embed")
def embed(texts: Texts) -> dict[str, Any]:
    """A vector for each sentence."""
    return {"embeddings": app.state.model.encode(texts.sentences, show_progress_bar=False).tolist()}
