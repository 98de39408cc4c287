"""A model folder that Hugging Face's transformers wrote: config.json, and weights as safetensors."""

from __future__ import annotations

import inspect
import json
import os
from typing import TYPE_CHECKING, Any

from plansmith_build.errors import InvalidOption
from plansmith_build.exporting.errors import UnsafeModelFile, UnsuitableModel
from plansmith_build.exporting.frameworks import quiet, require

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["CONFIG", "dynamic_axes", "load_folder"]

CONFIG = "config.json"

# The length of the example text; any other is taken.
_TOKENS = 16
_WRITE = "write a function that loads it and returns it with example inputs, and name it as module:function"


def load_folder(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Load the model of a folder that `save_pretrained` wrote, and make example inputs for it.

    No code from the folder is run, no pickle is opened, and nothing is fetched.

    Returns:
        The module, and one tensor for each input: token ids INT64 [1, 16] with the attention mask (and the token types
        where the model knows several), or pixels FP32 [1, channels, height, width].

    Raises:
        UnsuitableModel: it is not a model that transformers has, or it takes neither tokens nor pixels.
        UnsafeModelFile: its weights are a pickle.
        MissingPackage: transformers or torch is not installed.
    """
    # Read when the package is imported.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch = require("torch", "Hugging Face")
    transformers = require("transformers", "Hugging Face")
    if not any(folder.glob("*.safetensors")):
        raise UnsafeModelFile(
            f"{folder} holds no .safetensors, and other weights are loaded with pickle, which runs whatever its author "
            "put into them: save the model with save_pretrained of a current transformers"
        )
    # FP32 is what other precisions are made from, and eager attention is plain operators.
    options = {
        "local_files_only": True,
        "use_safetensors": True,
        "dtype": torch.float32,
        "attn_implementation": "eager",
    }
    try:
        with quiet():
            transformers.utils.logging.disable_progress_bar()
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            kind = _architecture(transformers, folder, config)
            model = kind.from_pretrained(folder, config=config, **options)
    except InvalidOption:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise UnsuitableModel(f"{folder} is not a model that transformers loads: {said}") from error
    if getattr(config, "use_cache", False):
        # What a text was computed from is not an output that a request could use.
        model.config.use_cache = False
    return model, _examples(folder, model)


def _architecture(transformers: Any, folder: Path, config: Any) -> Any:
    name = str(next(iter(config.architectures or ()), ""))
    kind = getattr(transformers, name, None) if name else None
    if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel):
        return kind
    raise UnsuitableModel(
        f"{folder}/{CONFIG} names the architecture {name!r}, which transformers {transformers.__version__} does not "
        f"have, and code in a model folder is not run: {_WRITE}"
    )


def dynamic_axes(examples: Mapping[str, Any]) -> dict[str | int, list[int]]:
    """The length of a text, for each input that has it."""
    return {name: [1] for name, tensor in examples.items() if not tensor.dtype.is_floating_point}


def _examples(folder: Path, model: Any) -> dict[str, Any]:
    torch = require("torch")
    config = model.config
    if model.main_input_name == "pixel_values":
        height, width = _image_size(folder, config)
        return {"pixel_values": torch.zeros(1, int(getattr(config, "num_channels", 3)), height, width)}
    if model.main_input_name != "input_ids" or config.is_encoder_decoder:
        what = "an encoder and a decoder" if config.is_encoder_decoder else f"the input {model.main_input_name}"
        raise UnsuitableModel(f"{folder} is a {type(model).__name__}, which has {what}: {_WRITE}")
    if getattr(config, "vocab_size", None) is None:
        raise UnsuitableModel(f"{folder} is a {type(model).__name__}, which takes other inputs than texts: {_WRITE}")
    length = min(_TOKENS, int(getattr(config, "max_position_embeddings", _TOKENS)))
    tokens = torch.arange(length).remainder(int(config.vocab_size)).unsqueeze(0)
    given = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if int(getattr(config, "type_vocab_size", None) or 0) > 1:
        given["token_type_ids"] = torch.zeros_like(tokens)
    parameters = inspect.signature(model.forward).parameters
    return {name: tensor for name, tensor in given.items() if name in parameters}


def _image_size(folder: Path, config: Any) -> tuple[int, int]:
    """Height and width: what the model is made for, or else what its images are made to beforehand."""
    size: Any = getattr(config, "image_size", None)
    beside = folder / "preprocessor_config.json"
    if size is None and beside.is_file():
        try:
            steps = json.loads(beside.read_bytes())
            size = steps.get("crop_size") or steps.get("size")
        except (ValueError, AttributeError):
            size = None
    if isinstance(size, dict):
        size = (size.get("height", size.get("shortest_edge")), size.get("width", size.get("shortest_edge")))
    pair = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(pair) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in pair):  # noqa: PLR2004 - two edges
        raise UnsuitableModel(f"{folder} does not say the size of its images: {_WRITE}")
    return pair[0], pair[1]
