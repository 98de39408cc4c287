"""Detection: a small detector trained on synthetic scenes, served with non-maximum suppression, boxes drawn.

Scenes of discs, squares and triangles are drawn on noise, and a fully convolutional network learns in seconds to say at
each of 12 x 12 places what is there and how large it is, as a YOLO does. It is exported, calibrated and judged in INT8
against FP32 on scenes that it has not seen, and served as a pipeline: image files in, boxes out. The same network with
the suppression in its own graph gives as many boxes as it finds, so it is served without a batch.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw
from torch import nn

from plansmith_build import BuildOptions, SearchOptions, build, build_pipeline
from plansmith_build.datasets import read_preprocessing
from plansmith_build.exporting import export_pytorch
from plansmith_build.search.targets import Precision, Target
from plansmith_client import Client
from plansmith_client.commands.predictions import draw_boxes
from plansmith_server import ServerOptions, TritonServer
from plansmith_server.backends.pipeline_step.boxes import BoxesStep

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

HERE = Path(__file__).parent
THINGS = ("disc", "square", "triangle")
SIZE, STRIDE = 96, 8
PLACES = SIZE // STRIDE
# Left, top, right, bottom and which of THINGS.
Box = tuple[float, float, float, float, int]


def draw_scene(seed: int) -> tuple[Image.Image, list[Box]]:
    """One to four things that may touch, on noise."""
    generator = np.random.default_rng(seed)
    noise = generator.normal(generator.integers(60, 190), 20, (SIZE, SIZE, 3))
    scene = Image.fromarray(noise.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(scene)
    boxes: list[Box] = []
    while len(boxes) < 1 + seed % 4:
        side = int(generator.integers(16, 34))
        left, top = (int(place) for place in generator.integers(0, SIZE - side, 2))
        if any(abs(left - box[0]) < side and abs(top - box[1]) < side for box in boxes):
            continue
        colour = tuple(int(part) for part in generator.integers(0, 2, 3) * 255)
        thing = int(generator.integers(len(THINGS)))
        corners = (left, top, left + side, top + side)
        if THINGS[thing] == "disc":
            pen.ellipse(corners, fill=colour)
        elif THINGS[thing] == "square":
            pen.rectangle(corners, fill=colour)
        else:
            pen.polygon([(left, top + side), (left + side, top + side), (left + side / 2, top)], fill=colour)
        boxes.append((*corners, thing))
    return scene, boxes


class Detector(nn.Module):
    """From pixels between 0 and 1, [N, 3, 96, 96], to predictions [N, 4 + 3, 144], as YOLOv8 gives them."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 16, 2), (16, 32, 2), (32, 64, 2), (64, 64, 1), (64, 64, 1)):
            layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(64, 4 + len(THINGS), 1))
        y, x = torch.meshgrid(torch.arange(PLACES), torch.arange(PLACES), indexing="ij")
        self.register_buffer("middles", (torch.stack([x, y])[None] + 0.5) * STRIDE)

    def parts(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Centres and sizes in pixels, [N, 2, 12, 12], and the logits of each thing, [N, 3, 12, 12]."""
        made = self.layers(pixels)
        return self.middles + made[:, :2] * STRIDE, 32 * torch.exp(made[:, 2:4]), made[:, 4:]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """See the class."""
        centres, sizes, logits = self.parts(pixels)
        return torch.cat([centres, sizes, torch.sigmoid(logits)], 1).flatten(2)


def pixels_of(scenes: Sequence[Image.Image]) -> NDArray[np.float32]:
    """Pixels between 0 and 1, [N, 3, 96, 96]."""
    return np.stack([np.asarray(scene, np.float32).transpose(2, 0, 1) / 255 for scene in scenes])


def train(scenes: list[tuple[Image.Image, list[Box]]], epochs: int) -> Detector:
    """A detector: places near the middle of a thing are to say what it is, and where its sides are."""
    torch.manual_seed(0)
    # So small a network gains nothing by threads, which wait for each other on a busy machine.
    torch.set_num_threads(1)
    detector = Detector()
    pixels = torch.from_numpy(pixels_of([scene for scene, _ in scenes]))
    wanted = torch.zeros(len(scenes), 4 + len(THINGS), PLACES, PLACES)
    for number, (_, boxes) in enumerate(scenes):
        for left, top, right, bottom, thing in boxes:
            x, y = (left + right) / 2, (top + bottom) / 2
            place = (number, slice(None), int(y // STRIDE), int(x // STRIDE))
            wanted[place][:4] = torch.tensor([x, y, right - left, bottom - top])
            wanted[place][4 + thing] = 1
    optimizer = torch.optim.Adam(detector.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(pixels)).split(8):  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            centres, sizes, logits = detector.parts(pixels[batch])
            target = wanted[batch]
            there = target[:, 4:].amax(1, keepdim=True)
            off = nn.functional.smooth_l1_loss(
                torch.cat([centres, sizes], 1) * there, target[:, :4] * there, reduction="sum"
            )
            unlike = nn.functional.binary_cross_entropy_with_logits(logits, target[:, 4:], reduction="sum")
            ((0.2 * off + unlike) / len(batch)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return detector.eval()


def with_suppression(model: Path, path: Path) -> None:
    """Write the network of a file with a NonMaxSuppression behind it: `found` INT64 [boxes, 3] is row, thing, place."""
    made = onnx.load(model)
    weights = {"parts": np.array([4, len(THINGS)]), "most": np.array([20]), "overlap": np.array([0.45], np.float32)}
    weights["least"] = np.array([0.3], np.float32)
    made.graph.initializer.extend(numpy_helper.from_array(array, f"nms.{name}") for name, array in weights.items())
    boxes, scores, given = ("nms.boxes", "nms.scores", made.graph.output[0].name)
    made.graph.node.extend(
        [
            helper.make_node("Split", [given, "nms.parts"], ["nms.columns", scores], axis=1),
            helper.make_node("Transpose", ["nms.columns"], [boxes], perm=[0, 2, 1]),
            helper.make_node(
                "NonMaxSuppression",
                [boxes, scores, "nms.most", "nms.overlap", "nms.least"],
                ["found"],
                center_point_box=1,
            ),
        ]
    )
    made.graph.output.append(helper.make_tensor_value_info("found", TensorProto.INT64, ["boxes", 3]))
    onnx.save(made, path)


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:4], other[2:4])
    shared = np.prod(np.maximum(high - low, 0))
    areas = [np.prod(np.subtract(box[2:4], box[:2])) for box in (one, other)]
    return float(shared / (sum(areas) - shared))


def found_again(scenes: list[tuple[Image.Image, list[Box]]], answers: Sequence[Any]) -> str:
    """How many of the things on scenes are among an answer's boxes: called the same, more than half in common."""
    right = given = there = 0
    for (_, boxes), answer in zip(scenes, answers, strict=True):
        named = [(label.decode(), box) for label, box in zip(answer["label"], answer["box"], strict=True) if label]
        right += sum(any(name == THINGS[box[4]] and overlap(box, own) > 0.5 for name, own in named) for box in boxes)  # noqa: PLR2004
        given, there = given + len(named), there + len(boxes)
    return f"{right / there:.1%} of {there} things found, {given} boxes given"


def in_pytorch(detector: Detector, scenes: list[tuple[Image.Image, list[Box]]]) -> list[dict[str, Any]]:
    """The boxes of each scene by the network itself, with the suppression of the pipeline's step."""
    step = BoxesStep(labels=THINGS, min_score=0.3, max_overlap=0.45, max_boxes=100)
    with torch.no_grad():
        predictions = detector(torch.from_numpy(pixels_of([scene for scene, _ in scenes]))).numpy()
    geometry = np.tile(np.array([1, 1, 0, 0, SIZE, SIZE], np.float32), (len(scenes), 1))
    made = step.run({"predictions": predictions, "geometry": geometry})
    return [{"label": labels, "box": boxes} for labels, boxes in zip(made["label"], made["box"], strict=True)]


def main(folder: Path, *, quick: bool) -> None:
    """Draw, train, build, serve and ask."""
    (folder / "unseen").mkdir(parents=True, exist_ok=True)
    trained = train([draw_scene(seed) for seed in range(400 if quick else 1000)], epochs=10)
    torch.save(trained.state_dict(), folder / "scenes.pt")
    export_pytorch(trained, torch.zeros(1, 3, SIZE, SIZE), folder / "scenes.onnx")
    unseen = {folder / "unseen" / f"{seed}.png": draw_scene(seed) for seed in range(5000, 5040 if quick else 5200)}
    for path, (scene, _) in unseen.items():
        scene.save(path)
    (folder / "things.txt").write_text("".join(f"{thing}\n" for thing in THINGS))
    shutil.copy(HERE / "scenes.toml", folder)
    search = SearchOptions(
        str(folder / "unseen"),
        preprocessing=read_preprocessing("zero-to-one,interpolation=nearest"),
        precisions=(Precision.FP32, Precision.INT8),
        targets=(Target.ONNXRUNTIME,) if quick else (Target.ONNXRUNTIME, Target.OPENVINO),
        max_error=0.05,
    )
    repository = folder / "model_repository"
    shared = BuildOptions(repository, serve=not quick, replace=True)
    build_pipeline(folder / "scenes.onnx", folder / "scenes.toml", replace(shared, search=search))
    with_suppression(folder / "scenes.onnx", folder / "suppressed.onnx")
    batching = build(folder / "suppressed.onnx", shared).manifest.batching
    print(f"suppressed: batches of {batching.max_batch_size}, {batching.reason}")
    with (
        TritonServer(ServerOptions(repository=repository, http_port=0, grpc_port=0, metrics_port=0)) as server,
        Client(server.grpc_url) as client,
    ):
        scenes = client.model("scenes")
        answers = list(scenes.map([[path.read_bytes()] for path in unseen]))
        print(f"PyTorch: {found_again(list(unseen.values()), in_pytorch(trained, list(unseen.values())))}")
        print(f"served: {found_again(list(unseen.values()), answers)}")
        # Boxes are in pixels of the file that was sent, whatever its size; noise that is smoothed was never learnt.
        scene, boxes = draw_scene(5015)
        scene.resize((4 * SIZE, 4 * SIZE), Image.Resampling.NEAREST).save(folder / "large.png")
        draw_boxes(folder / "large.png", scenes([[(folder / "large.png").read_bytes()]]), folder / "scenes.png")
        alone = client.model("suppressed")(pixels_of([scene]))["found"]
        print(f"{len(alone)} boxes by the network's own suppression, {len(boxes)} things drawn")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, default=Path("out/scenes"), help="folder to work in [%(default)s]")
    parser.add_argument("--quick", action="store_true", help="fewer scenes, one engine, no trial before publishing")
    arguments = parser.parse_args()
    main(arguments.output, quick=arguments.quick)
