# SPDX-License-Identifier: Apache-2.0
"""Count of the frames that are unlike the images that the model knows."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from segmentation_node.segmenter import Prediction


class DomainCount(NamedTuple):
    """Frames with a known distance, those out of domain, and the newest distance.

    `max_distance` is None if the model has no distances.
    """

    frames: int = 0
    out_of_domain: int = 0
    distance: float = 0.0
    max_distance: float | None = None

    def after(self, prediction: 'Prediction') -> 'DomainCount':
        """Return the count with the frames of a batch added; zero if they have no distances."""
        outside = prediction.out_of_domain
        if prediction.distances is None or outside is None:
            return DomainCount()
        return DomainCount(
            self.frames + len(outside),
            self.out_of_domain + sum(outside),
            prediction.distances[-1],
            prediction.max_distance,
        )
