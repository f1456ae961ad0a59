# SPDX-License-Identifier: Apache-2.0
"""Common interface of all networks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from torch import Tensor, nn
from typing_extensions import Self

from segmentation_node.errors import CheckpointError
from segmentation_node.instances import SEMANTIC

#: Exceptions that libraries raise if a configuration is invalid or does not match the weights.
MISFITS: Final = (
    ArithmeticError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


class Network(nn.Module, ABC):
    """Network that turns normalized pixels into class scores; owns its library's model."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path) -> Self:
        """Build from `config.json` and `model.safetensors`; raises CheckpointError."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors` in the library's own format."""

    def not_finite(self) -> list[str]:
        """Return the names of weights that contain NaN or infinite values."""
        return [name for name, each in self.state_dict().items() if not each.isfinite().all()]

    @abstractmethod
    def channels(self) -> int:
        """Return the number of class scores per pixel, 2 or more."""

    def forward(self, pixels: Tensor) -> Tensor:
        """Compute class scores, as `scores_and_features` does."""
        return self.scores_and_features(pixels)[0]

    @abstractmethod
    def scores_and_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Compute class scores, and features that tell known images from unknown ones.

        Args:
            pixels: (B, 3, H, W) float, normalized RGB, H and W multiples of geometry.DIVISOR.

        Returns:
            (B, C, H / s, W / s) float class scores at the network's stride s, 0 or greater; 1 is
            certain, and scores above 1 occur where several parts of a network are certain.
            (B, D) float32 features of the image, see `networks.domain`.
        """

    def outputs(self, pixels: Tensor, task: str) -> tuple[Tensor, ...]:
        """Compute the outputs of a graph for one of TASKS, each with a batch dimension.

        Those of a semantic model are the results of `scores_and_features`. Those of the others
        are class logits (B, Q, C + 1), mask logits (B, Q, H / s, W / s) and features (B, D).
        """
        if task != SEMANTIC:
            raise CheckpointError(
                f'{type(self).__name__} has no queries, which a {task} model needs; correct '
                f'"task" in segmentation.yaml'
            )
        return self.scores_and_features(pixels)


def pooled(maps: Sequence[Tensor]) -> Tensor:
    """Return the second-deepest of an encoder's maps averaged over the image, (B, D) float32."""
    return maps[-2].float().mean(dim=(2, 3))
