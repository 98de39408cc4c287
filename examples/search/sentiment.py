"""Text classification with a head: sentences go to a server as they are, and what they say of a film comes back.

Vectors of sentences, as search.py serves them, are what a logistic regression of scikit-learn learns from in a second:
a few hundred sentences that praise or blame, made here. It is served behind the same network as one pipeline, and asked
about sentences with words that it has not learnt from.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
from search import publish, vectors_of
from sklearn.linear_model import LogisticRegression

from plansmith_build import BuildOptions, build_pipeline
from plansmith_build.exporting import export_scikit_learn
from plansmith_client import Client
from plansmith_client.commands.predictions import prediction_lines
from plansmith_server import ServerOptions, TritonServer

# What all examples draw with lies beside their folders.
sys.path.append(str(Path(__file__).parents[1]))
from drawing import save_bars

HERE = Path(__file__).parent
MOODS = ("negative", "positive")
# By mood: words to learn from, and words that are kept for the test.
LEARN = (
    ("awful", "dull", "terrible", "boring", "clumsy", "tedious", "weak", "disappointing", "stupid", "unbearable"),
    ("wonderful", "brilliant", "superb", "delightful", "moving", "excellent", "charming", "gripping", "clever", "fine"),
)
UNSEEN = (("poor", "horrible", "lame", "annoying", "bad"), ("great", "marvellous", "touching", "enjoyable", "good"))
PHRASES = (
    *("{} film", "A {} story.", "What a {} ending!", "The acting was {}.", "I found the whole thing {}."),
    *("This is a {} book.", "The plot is {}, and so is the music.", "Two {} hours.", "The jokes are {}."),
    *("Everybody said that it was {}.", "The second half is {}.", "An evening with {} actors."),
)
SENTENCES = ("great film", "I fell asleep after ten minutes.", "We laughed until it hurt, and saw it twice.")


def made(words: tuple[tuple[str, ...], ...], phrases: tuple[str, ...]) -> tuple[list[str], list[int]]:
    """Every word in every phrase, and the number of its mood."""
    pairs = [(word, mood) for mood, each in enumerate(words) for word in each]
    return [phrase.format(word) for (word, _), phrase in product(pairs, phrases)], [
        mood for _, mood in pairs for _ in phrases
    ]


def main(folder: Path, search: Path, *, quick: bool) -> None:
    """Ask for vectors, train, export, build, serve and ask."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (search / "model_repository" / "sentences").exists():
        publish(search, serve=not quick)
    phrases = PHRASES[: 4 if quick else None]
    (texts, moods), (asked, true) = (made(words, phrases) for words in (LEARN, UNSEEN))
    serving = ServerOptions(repository=search / "model_repository", http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(serving) as server, Client(server.grpc_url) as client:
        vectors, held_out = (vectors_of(client.model("sentences"), part) for part in (texts, asked))
    head = LogisticRegression(C=10).fit(vectors, moods)
    export_scikit_learn(head, folder / "head.onnx", example=vectors)
    (folder / "labels.txt").write_text("".join(f"{mood}\n" for mood in MOODS))
    for path in (HERE / "sentiment.toml", search / "tokenizer.json"):
        shutil.copy(path, folder)
    options = BuildOptions(folder / "model_repository", serve=not quick, replace=True)
    build_pipeline(search / "model.onnx", folder / "sentiment.toml", options)
    with TritonServer(replace(serving, repository=options.repository)) as server, Client(server.grpc_url) as client:
        sentiment = client.model("sentiment")
        answers = list(sentiment.map([[text.encode()] for text in asked]))
        # What `plansmith infer sentiment --text ...` prints.
        few = sentiment([[text.encode()] for text in SENTENCES])
        print("\n".join(prediction_lines(few, SENTENCES)))
    said = np.array([MOODS.index(answer["label"][0].decode()) for answer in answers])
    right, same = (said == true).mean(), (said == head.predict(held_out)).mean()
    print(f"served: {right:.1%} of {len(asked)} sentences right, {same:.1%} as scikit-learn says")
    likely = np.array([answer["probability"][0] for answer in answers])
    praise = np.where(said == 1, likely, 1 - likely).reshape(len(MOODS), -1, len(phrases)).mean(axis=2)
    bars = {
        f"{mood}: how probable praise is in {len(phrases)} phrases with the word": [
            (word, share, f"{share:.0%}") for word, share in zip(words, shares, strict=True)
        ]
        for mood, words, shares in zip(MOODS, UNSEEN, praise, strict=True)
    }
    save_bars(bars, folder / "sentiment.svg", "Words that the classifier has not learnt from")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--search", type=Path, default=Path("out/search"), help="where search.py worked [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("out/sentiment"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="fewer sentences, and no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, arguments.search, quick=arguments.quick)
