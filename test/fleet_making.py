# SPDX-License-Identifier: Apache-2.0
"""Bags for the tests of label_fleet, and their labels by segment_bag."""

import json
from pathlib import Path
from typing import Any

from bag_making import image_cdr, image_topic, picture, stamp_ns, string_cdr, string_topic
from rosbags.rosbag2 import Reader

from segmentation_node.bags import segment_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.fleet import label_fleet

#: A bundled model needs no torch, which takes seconds to load in every worker.
MODEL = [
    '--model', 'deeplabv3plus', '--precision', 'fp32', '--runtime', 'openvino', '--device', 'cpu',
    '--input-size', '64x48', '--outputs', 'label_mask,confidence',
]  # fmt: skip


def write_drive(path: Path, frames: int, storage: str = 'mcap') -> Path:
    """Write a bag with a camera of 10 Hz and notes between its frames, at equal stamps, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with BagWriter(path, storage) as bag:
        for index in range(frames):
            bag.write(string_topic(), stamp_ns(index), string_cdr(f'{index}'))
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, picture(index, 48, 64)))
            bag.write(string_topic(), stamp_ns(index) + 5, string_cdr('x'))
    return path


def label(*arguments: object) -> int:
    """Run label_fleet; returns its exit status."""
    return label_fleet.main([*map(str, arguments), *MODEL, '--quiet'])


def segmented(bag: Path, output: Path) -> list[tuple[str, int, bytes]]:
    """Return the messages that segment_bag writes."""
    assert segment_bag.main([str(bag), '-o', str(output), *MODEL, '--quiet']) == 0
    return messages_of(output)


def messages_of(path: Path) -> list[tuple[str, int, bytes]]:
    """Return topic, stamp and bytes of all messages."""
    with Reader(path) as bag:
        return [(c.topic, stamp, bytes(data)) for c, stamp, data in bag.messages()]


def record_of(output: Path, name: str) -> dict[str, Any]:
    """Return the record of a bag in the manifest."""
    record: dict[str, Any] = json.loads((output / 'manifest' / f'{name}.json').read_text())
    return record
