# SPDX-License-Identifier: Apache-2.0
"""The common face of all runtimes."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from segmentation_node.decision import Decision


class Runtime(Protocol):
    """Runs one checkpoint on one device; not for several threads at once.

    `device` and `precision` are what it runs on and in, never 'auto'.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def decide(self, images_rgb: npt.NDArray[np.uint8]) -> list[Decision]:
        """(B, H, W, 3) uint8 RGB, C-contiguous, to what each image shows.

        Raises:
            ImageError: an image that would be padded beyond all bounds.
            CheckpointError, SettingError: the network cannot be compiled or run here.
        """
        ...

    def forward(self, images_rgb: npt.NDArray[np.uint8]) -> None:
        """Run the network on what `decide` takes, to its end, and discard its results."""
        ...


@dataclass(frozen=True)
class Candidate:
    """A way to run a checkpoint; `threads` limits the threads of the network, 0 does not."""

    runtime: str
    precision: str
    threads: int = 0

    def __str__(self) -> str:
        threads = f' with {self.threads} threads' if self.threads else ''
        return f'{self.runtime} {self.precision}{threads}'
