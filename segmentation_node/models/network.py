# SPDX-License-Identifier: Apache-2.0
"""The common face of all networks."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from typing_extensions import Self

#: What a library raises where a configuration is wrong in itself or for the weights.
MISFITS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Network(nn.Module, ABC):
    """Turns normalised pixels into class scores; owns the model of its library."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Build from `config.json` and `model.safetensors`; raises CheckpointError."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` in the library's own format."""

    def not_finite(self) -> list[str]:
        """Names of weights with values that are NaN or infinite."""
        return [name for name, each in self.state_dict().items() if not each.isfinite().all()]

    @abstractmethod
    def channels(self) -> int:
        """Number of class scores per pixel, 2 or more."""

    @abstractmethod
    def forward(self, pixels: Tensor) -> Tensor:
        """Score classes.

        Args:
            pixels: (B, 3, H, W) float, normalised RGB, H and W multiples of geometry.DIVISOR.

        Returns:
            (B, C, H / s, W / s) float class scores at the network's own stride s, from 0 up; 1
            is certain, and more than that where several parts of a network are.
        """
