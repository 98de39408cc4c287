"""Residual networks for images (He et al., 2015) as PyTorch modules, with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["resnet50", "small_resnet"]


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut around them."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            *convolution(channels, width, 1),
            nn.ReLU(),
            *convolution(width, width, 3, stride),
            nn.ReLU(),
            *convolution(width, 4 * width, 1),
        )
        same = stride == 1 and channels == 4 * width
        self.shortcut = nn.Identity() if same else nn.Sequential(*convolution(channels, 4 * width, 1, stride))
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images to images."""
        result: torch.Tensor = self.activation(self.branch(x) + self.shortcut(x))
        return result


class ResidualNetwork(nn.Module):
    """Images FP32 [rows, 3, side, side] to scores FP32 [rows, 1000].

    Args:
        width: channels of the first convolution.
        depths: blocks of each stage; a stage has twice the channels of the one before, and half its size.
    """

    def __init__(self, width: int, depths: tuple[int, ...]) -> None:
        super().__init__()
        stages = [*convolution(3, width, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        channels = width
        for number, depth in enumerate(depths):
            for block in range(depth):
                stages.append(Bottleneck(channels, width << number, 2 if number and not block else 1))
                channels = 4 * (width << number)
        self.network = nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Images to scores."""
        return {"scores": self.network(images)}


def convolution(before: int, after: int, size: int, stride: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, but for its stride, and its normalization."""
    return [nn.Conv2d(before, after, size, stride, size // 2, bias=False), nn.BatchNorm2d(after)]


def resnet50() -> tuple[nn.Module, Any]:
    """ResNet-50 and an example, as `plansmith export` takes them."""
    torch.manual_seed(0)
    return ResidualNetwork(64, (3, 4, 6, 3)).eval(), torch.zeros(1, 3, 224, 224)


def small_resnet() -> tuple[nn.Module, Any]:
    """The same with few and small layers, for trying things out."""
    torch.manual_seed(0)
    return ResidualNetwork(8, (1, 1)).eval(), torch.zeros(1, 3, 32, 32)
