"""Recommendation by two towers: one network for people, one for films, and near is what suits.

Both towers are trained in PyTorch on what made-up people watched, and each is served as a model of its own. The films'
vectors are computed once, by `map` over the catalogue; for a person it takes one request and a product of matrices.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from plansmith_build import BuildOptions, build
from plansmith_build.exporting import export_pytorch
from plansmith_client import Client
from plansmith_server import ServerOptions, TritonServer

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_bars

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

GENRES, FILMS, SIZE, TOP = 8, 400, 16, 20


def catalogue(generator: np.random.Generator) -> tuple[Floats, Floats]:
    """Films as the tower takes them, [films, 10]: genres, length, age; and how popular each is, [films]."""
    genres = generator.dirichlet(np.full(GENRES, 0.3), FILMS)
    rest = generator.normal(size=(FILMS, 2))
    return np.hstack([genres, rest]).astype(np.float32), generator.normal(0, 0.3, FILMS).astype(np.float32)


def people(
    films: Floats, popular: Floats, count: int, generator: np.random.Generator
) -> tuple[Floats, NDArray[np.int64]]:
    """What each has watched, the mean of ten films, [people, 10]; and what each watches next, [people]."""
    taste = 3 * generator.normal(size=(count, GENRES))
    patience = generator.normal(size=(count, 2))
    likes = np.hstack([taste, patience]) @ films.T + popular
    # The best of what is liked, by chance: eleven different films, as Gumbel's noise draws them.
    watched = np.argsort(-(likes + generator.gumbel(size=likes.shape)), axis=1)[:, :11]
    return films[watched[:, :10]].mean(axis=1).astype(np.float32), watched[:, 10]


def tower() -> nn.Sequential:
    """From 10 numbers to a vector."""
    return nn.Sequential(nn.Linear(GENRES + 2, 64), nn.ReLU(), nn.Linear(64, SIZE))


def train(features: Floats, following: NDArray[np.int64], films: Floats, epochs: int) -> tuple[nn.Module, nn.Module]:
    """Two towers, whose vectors are to have a larger product for the film that is watched next than for all others."""
    torch.manual_seed(0)
    # So small a network gains nothing by threads, which wait for each other on a busy machine.
    torch.set_num_threads(1)
    person, film = tower(), tower()
    optimizer = torch.optim.Adam([*person.parameters(), *film.parameters()], 3e-3)
    rows, after, catalog = torch.from_numpy(features), torch.from_numpy(following), torch.from_numpy(films)
    for _ in range(epochs):
        for batch in torch.randperm(len(rows)).split(256):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            scores = person(rows[batch]) @ film(catalog).T
            nn.functional.cross_entropy(scores, after[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return person.eval(), film.eval()


def hits(scores: Floats, following: NDArray[np.int64]) -> float:
    """How often the film that was watched next is among the best."""
    best = np.argsort(-scores, axis=1)[:, :TOP]
    return float((best == following[:, np.newaxis]).any(axis=1).mean())


def genres_of(features: Floats) -> str:
    """The two genres that a film, or what somebody has watched, has most of."""
    return " and ".join(f"{features[genre]:.0%} genre {genre}" for genre in (-features[:GENRES]).argsort()[:2])


def draw(path: Path, films: Floats, watched: Floats, scores: Floats) -> None:
    """The ten best films for somebody, and how probable each is to be watched next."""
    powers = np.exp(scores - scores.max())
    likely = powers / powers.sum()
    bars = [
        (f"film {film}, {genres_of(films[film])}", likely[film], f"{likely[film]:.1%}")
        for film in (-scores).argsort()[:10]
    ]
    heading = f"Somebody has watched {genres_of(watched)}; how probable each is as the next of {FILMS}"
    save_bars({heading: bars}, path, "The best films for one person")


def main(folder: Path, *, quick: bool) -> None:
    """Train, export, build, serve and ask."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    films, popular = catalogue(generator)
    features, following = people(films, popular, 2000 if quick else 8000, generator)
    asked, then = people(films, popular, 200 if quick else 1000, generator)
    towers = dict(zip(("person", "film"), train(features, following, films, 10 if quick else 30), strict=True))
    repository = folder / "model_repository"
    for name, network in towers.items():
        torch.save(network.state_dict(), folder / f"{name}.pt")
        export_pytorch(network, torch.zeros(1, GENRES + 2), folder / f"{name}.onnx")
        build(folder / f"{name}.onnx", BuildOptions(repository, serve=not quick, replace=True))
    with torch.no_grad():
        own = {
            name: towers[name](torch.from_numpy(rows)).numpy() for name, rows in (("person", asked), ("film", films))
        }
    with (
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Client(server.grpc_url, timeout=300) as client,
    ):
        vectors = np.concatenate([item["output"].reshape(-1, SIZE) for item in client.model("film").map(films)])
        person = client.model("person")
        served = np.concatenate([person(row[np.newaxis])["output"] for row in asked])
    counts = np.bincount(following, minlength=FILMS).astype(np.float32)
    print(f"the film watched next is among the {TOP} best of {FILMS}: {hits(served @ vectors.T, then):.1%}", end=", ")
    print(f"and among the {TOP} most watched: {hits(np.tile(counts, (len(asked), 1)), then):.1%}")
    apart = max(np.abs(served - own["person"]).max(), np.abs(vectors - own["film"]).max())
    print(f"largest difference to PyTorch: {apart:.1e}")
    draw(folder / "recommend.svg", films, asked[0], served[0] @ vectors.T)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/recommend"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="fewer people, and no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, quick=arguments.quick)
