# SPDX-License-Identifier: Apache-2.0
"""The bundled streets are what their command renders."""

import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from repository import ROOT

from segmentation_node.bags import messages
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.score_bag import TRUTH_TOPIC, scheme_beside
from segmentation_node.images.files import read_image
from segmentation_node.images.label_files import read_labels
from segmentation_node.labels import load_scheme
from segmentation_node.paths import demo_bag, samples_dir
from segmentation_node.runtimes.machine import describe
from training.scenes.bundle import BAG_WH, FRAMES, SAMPLES, SEEDS, write_samples

#: Frames that are rendered again: some of each street.
AGAIN = (0, 1, FRAMES // len(SEEDS) + 1)
#: Libraries and CPU that the files were rendered with; others draw some edges differently.
SAME_RENDERING = cv2.__version__.startswith('5.0.') and 'avx512f' in describe().cpu_flags


@pytest.fixture(scope='module')
def again(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('bundle') / 'street.mcap'
    # In a new process, as the command: libraries that other tests load change rounding.
    code = f'from training.scenes.bundle import *; write_bag(Path({str(path)!r}), {AGAIN})'
    subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
    return path


def test_the_bag_is_a_drive_of_ten_seconds_with_truth() -> None:
    assert demo_bag().stat().st_size <= 10_000_000
    with open_bag(demo_bag()) as bag:
        camera = find_camera(bag)
        assert (camera.name, camera.msgtype) == ('/image/compressed', messages.COMPRESSED_IMAGE)
        stamps_ns = [m.stamp_ns for m in bag.messages([camera.name])]
        assert np.diff(stamps_ns).tolist() == [10**8] * (FRAMES - 1)
        assert [m.stamp_ns for m in bag.messages([TRUTH_TOPIC])] == stamps_ns
        assert bag.count('/camera_info') == FRAMES
        assert scheme_beside(bag, TRUTH_TOPIC) == load_scheme('cityscapes34')
        image = messages.decode(messages.deserialize(bag.first(camera.name)))
    assert image.shape == (*BAG_WH[::-1], 3)


@pytest.mark.skipif(not SAME_RENDERING, reason='rendered with OpenCV 5.0 on a CPU with AVX-512')
def test_frames_rendered_again_are_the_same_bytes(again: Path) -> None:
    with open_bag(demo_bag()) as bundled, open_bag(again) as bag:
        expected = {(m.topic, m.stamp_ns): m.cdr for m in bundled.messages()}
        rendered = list(bag.messages())
    assert len(rendered) == 1 + 3 * len(AGAIN)
    for message in rendered:
        where = f'{message.topic.name} at {message.stamp_ns}'
        assert expected[message.topic, message.stamp_ns] == message.cdr, where


def test_frames_rendered_again_look_the_same(again: Path) -> None:
    with (
        open_bag(demo_bag(), decode_images=True) as bundled,
        open_bag(again, decode_images=True) as bag,
    ):
        for name, tolerance in (('/image', 1.0), (TRUTH_TOPIC, 0.1)):
            expected = {m.stamp_ns: m for m in islice(bundled.messages([name]), max(AGAIN) + 1)}
            for message in bag.messages([name]):
                pair = [
                    messages.decode(messages.deserialize(m)).astype(int)
                    for m in (message, expected[message.stamp_ns])
                ]
                assert np.abs(pair[0] - pair[1]).mean() < tolerance


def test_samples_rendered_again_look_the_same(tmp_path: Path) -> None:
    write_samples(tmp_path)
    names = [f'street_{number}' for number in range(1, len(SAMPLES) + 1)]
    assert sorted(path.stem for path in (samples_dir() / 'images').iterdir()) == names
    scheme = load_scheme('cityscapes34')
    for name in names:
        folders = (tmp_path, samples_dir())
        images = [read_image(folder / f'images/{name}.jpg').astype(int) for folder in folders]
        labels = [read_labels(folder / f'labels/{name}.png', scheme) for folder in folders]
        assert np.abs(images[0] - images[1]).mean() < 1.0
        assert (labels[0] == labels[1]).mean() > 0.999
