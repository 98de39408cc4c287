"""PyTorch's tensors as numpy arrays, and other ones like them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plansmith_build.exporting.errors import UnsuitableModel
from plansmith_build.exporting.frameworks import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

__all__ = ["array_from_tensor", "named_outputs", "tensors_like", "with_rows"]


def array_from_tensor(tensor: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """The values of a tensor, on the CPU; bfloat16 as ml_dtypes has it."""
    torch = require("torch")
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype == torch.bfloat16:
        import ml_dtypes  # noqa: PLC0415 - only for models that need it

        bits: np.ndarray[Any, np.dtype[Any]] = plain.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray[Any, np.dtype[Any]] = plain.numpy()
    return array


def with_rows(tensors: Sequence[Any], rows: int) -> tuple[Any, ...]:
    """The tensors with the given number of rows, the first rows repeated as often as necessary."""
    torch = require("torch")
    return tuple(
        torch.cat([tensor] * -(-rows // tensor.shape[0]))[:rows].contiguous() if tensor.ndim else tensor
        for tensor in tensors
    )


def tensors_like(tensors: Sequence[Any], rows: int | None, seed: int) -> tuple[Any, ...]:
    """Random tensors: normal numbers of the same mean and deviation, whole numbers and truth values drawn from theirs.

    Args:
        tensors: the examples.
        rows: the first dimension of each, None for that of the examples.
        seed: the same seed gives the same values.
    """
    torch = require("torch")
    generator = torch.Generator().manual_seed(seed)
    made = []
    for tensor in tensors:
        plain = tensor.detach().cpu()
        shape = (rows, *plain.shape[1:]) if rows is not None and plain.ndim else tuple(plain.shape)
        if plain.dtype.is_floating_point:
            wide = plain.to(torch.float64)
            spread = float(wide.std(correction=0)) if wide.numel() else 0.0
            middle = float(wide.mean()) if wide.numel() else 0.0
            values = middle + (spread or 1.0) * torch.randn(shape, generator=generator, dtype=torch.float64)
            made.append(values.to(tensor.device, plain.dtype))
        else:
            chosen = torch.randint(0, max(1, plain.numel()), shape, generator=generator)
            made.append((plain.reshape(-1)[chosen] if plain.numel() else plain).to(tensor.device))
    return tuple(made)


def named_outputs(given: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """The tensors that a module gave, by name, in the order in which the exporter writes them.

    A dictionary (or what acts as one, as the results of Hugging Face's models do) names its tensors; one tensor is
    called `output`, several are `output_0`, `output_1`, ...

    Raises:
        UnsuitableModel: there is no tensor among them, or not as many as names.
    """
    torch = require("torch")
    pytree = require("torch.utils._pytree")
    pairs, _ = pytree.tree_flatten_with_path(given)
    tensors = [(path, leaf) for path, leaf in pairs if isinstance(leaf, torch.Tensor)]
    if not tensors:
        raise UnsuitableModel(f"the module gives a {type(given).__name__} without a tensor in it: give tensors")
    if names is not None and len(names) != len(tensors):
        raise UnsuitableModel(f"the module gives {len(tensors)} tensors, and {len(names)} output names were given")
    if names is None:
        keyed = [[entry.key for entry in path if isinstance(entry, pytree.MappingKey)] for path, _ in tensors]
        if all(keyed):
            names = ["_".join(map(str, keys)) for keys in keyed]
        elif len(tensors) == 1:
            names = ["output"]
        if names is None or len(set(names)) != len(names):
            names = [f"output_{number}" for number in range(len(tensors))]
    return dict(zip(names, (leaf for _, leaf in tensors), strict=True))
