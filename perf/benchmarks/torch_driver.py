"""A PyTorch module in process under load: `python -m torch_driver PLAN`.

The plan and the conversation are those of `plansmith_perf.comparing.engine_driver`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch_network

from plansmith_perf.comparing.engine_driver import CallsPlan, drive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from plansmith_perf.comparing.engines import Compute

__all__ = ["TorchPlan", "load_module", "main"]


class TorchPlan(CallsPlan):
    """What a process has to do.

    Attributes:
        network: function of `torch_network` that makes the module.
        device: "cpu" or "cuda".
    """

    module: ClassVar[str] = "torch_driver"
    module_folder: ClassVar[Path | None] = Path(__file__).parent

    network: str
    device: str


def load_module(network: str, device: str, outputs: Sequence[str]) -> Compute:
    """The module on a device, in inference mode; arrays in, arrays out."""
    module = getattr(torch_network, network)()[0].to(device)

    def compute(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        # torch warns of arrays that it may not write to.
        tensors = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in inputs.items()}
        with torch.inference_mode():
            answers = module(**{name: tensor.to(device) for name, tensor in tensors.items()})
        return [answers[name].cpu().numpy() for name in outputs]

    return compute


def main() -> None:
    """Run the plan that the command line names."""
    plan = TorchPlan.model_validate_json(Path(sys.argv[1]).read_bytes())
    drive(plan, load_module(plan.network, plan.device, plan.outputs))


if __name__ == "__main__":
    main()
