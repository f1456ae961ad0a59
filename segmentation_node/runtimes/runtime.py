# SPDX-License-Identifier: Apache-2.0
"""Common interface of all runtimes."""

from dataclasses import dataclass
from typing import Protocol

from segmentation_node.arrays import UInt8Array
from segmentation_node.instances import DEFAULT_THRESHOLDS, Thresholds
from segmentation_node.networks.postprocessing import Segmentation


class Runtime(Protocol):
    """Runs one checkpoint on one device; not thread-safe.

    `device` and `precision` are the actual ones, never 'auto'.
    """

    @property
    def name(self) -> str: ...

    @property
    def device(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def run(
        self, images_rgb: UInt8Array, thresholds: Thresholds = DEFAULT_THRESHOLDS
    ) -> list[Segmentation]:
        """Segment (B, H, W, 3) uint8 RGB, C-contiguous; return a segmentation for each image.

        The thresholds are those of the segments of a panoptic model or of one of instances.

        Raises:
            ImageError: padding would make an image too large.
            CheckpointError, SettingError: the network cannot be compiled or run on this machine.
        """
        ...

    def forward(self, images_rgb: UInt8Array) -> None:
        """Run the network on the input of `run`, wait for it, and discard its results."""
        ...


@dataclass(frozen=True)
class Candidate:
    """One way to run a checkpoint; `threads` limits the threads of the network unless it is 0."""

    runtime: str
    precision: str
    threads: int = 0

    def __str__(self) -> str:
        threads = f' with {self.threads} threads' if self.threads else ''
        return f'{self.runtime} {self.precision}{threads}'
