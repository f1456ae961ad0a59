# SPDX-License-Identifier: Apache-2.0
"""The thread that builds clouds: fates of frames, and settings that change meanwhile."""

from typing import Any

import numpy as np
import pytest
from test_camera import camera_info

from segmentation_node.cloud.points import Points
from segmentation_node.cloud.selection import PointSelection
from segmentation_node.cloud.worker import CloudWorker, MatchedFrame, Recipe
from segmentation_node.errors import ImageError
from segmentation_node.labels import load_scheme
from segmentation_node.pipeline.frames import Accounts
from segmentation_node.pipeline.outputs import ShutDown

SCHEME = load_scheme('cityscapes8')
DEPTH = np.array([[1000, 0], [2000, 3000]], np.uint16)
LABELS = np.array([[1, 1], [6, 6]], np.uint8)
READY = Recipe(scheme=SCHEME, camera_info=camera_info(size_hw=(2, 2)))


class Work:
    """A worker with its accounts, what it publishes and what it reports."""

    def __init__(self, recipe: Recipe, *, shut_down: bool = False) -> None:
        self.depth, self.masks = Accounts(), Accounts()
        self.published: list[tuple[Points, Any]] = []
        self.reports: list[str] = []
        self._shut_down = shut_down
        self.worker = CloudWorker(
            recipe=recipe, depth_accounts=self.depth, mask_accounts=self.masks,
            publish=self._publish, age_ms=lambda _: 0.0, report=self.reports.append,
        )  # fmt: skip
        self.worker.start()

    def _publish(self, points: Points, header: Any) -> None:
        if self._shut_down:
            raise ShutDown
        self.published.append((points.copy(), header))

    def fate(self, **changed: Any) -> str:
        """Process one frame and return its fate, which is that of both messages."""
        before = self.depth.snapshot()
        for accounts in (self.depth, self.masks):
            accounts.arrive()
        values = {'header': 'header', 'source': DEPTH, 'labels': LABELS, **changed}
        self.worker.slots.put(MatchedFrame(**values))
        self.depth.wait_until_settled()
        self.masks.wait_until_settled()
        after = self.depth.snapshot()
        assert after == self.masks.snapshot()
        (fate,) = (key for key in after if after[key] > before[key] and key != 'received')
        return fate

    def close(self) -> None:
        """End the thread."""
        self.worker.stop()


def test_a_frame_is_published_with_its_header() -> None:
    work = Work(READY)
    assert work.fate() == 'published'
    ((points, header),) = work.published
    assert header == 'header'
    assert points['label'].tolist() == [1, 6, 6]
    work.close()


@pytest.mark.parametrize(
    ('recipe', 'said'),
    [
        (Recipe(scheme=SCHEME), 'no calibration has arrived yet; publish camera_info'),
        (Recipe(camera_info=READY.camera_info), 'no label scheme has arrived yet'),
        (
            Recipe(PointSelection(['humen']), scheme=SCHEME, camera_info=READY.camera_info),
            "label scheme cityscapes8 has no class 'humen'",
        ),
        (Recipe(scheme=SCHEME, camera_info=camera_info(fx=0.0)), 'focal lengths above 0'),
    ],
)
def test_a_frame_fails_until_what_it_needs_is_there(recipe: Recipe, said: str) -> None:
    work = Work(recipe)
    assert work.fate() == 'failed'
    assert said in work.reports[0]
    work.worker.recipe = READY
    assert work.fate() == 'published'
    work.close()


def test_images_that_do_not_fit_are_malformed() -> None:
    work = Work(READY)
    assert work.fate(labels=np.zeros((2, 8), np.uint8)) == 'malformed'
    assert 'its label mask is 8 x 2' in work.reports[0]

    def broken() -> Any:
        raise ImageError('cut short')

    assert work.fate(image_rgb=broken) == 'malformed'
    assert work.reports[1] == 'malformed frame: cut short'
    work.close()


def test_a_shut_down_middleware_is_no_problem_of_the_frame() -> None:
    work = Work(READY, shut_down=True)
    assert work.fate() == 'failed'
    assert not work.reports
    work.close()


def test_frames_after_the_end_are_not_wanted() -> None:
    work = Work(READY)
    work.close()
    assert work.fate() == 'not_wanted'
