# SPDX-License-Identifier: Apache-2.0
"""Small bags and trees of files for the tests of the bag rooms."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from patience import PATIENCE_S
from rosbags.interfaces import (
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer

from segmentation_node.bags import messages
from segmentation_node.bags.qos import CAMERA, LATCHED
from segmentation_node.bags.topic import Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.images.files import encode_jpeg, encode_png

START_NS = 1_600_000_000_000_000_000
PERIOD_NS = 100_000_000


def stamp_ns(index: int) -> int:
    return START_NS + index * PERIOD_NS


def picture(seed: int, height: int = 24, width: int = 32) -> Any:
    """(H, W, 3) uint8, smooth, another for each seed."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3 + seed * 20, y * 5 + seed, x + y + seed * 7], axis=2).astype(np.uint8)


def image_topic(name: str = '/image', qos: Qos = CAMERA) -> Topic:
    return messages.known_topic(name, messages.IMAGE, qos)


def string_topic(name: str = '/notes', qos: Qos = LATCHED) -> Topic:
    return messages.known_topic(name, messages.STRING, qos)


def image_cdr(index: int, pixels: Any = None, frame_id: str = 'front') -> bytes:
    header = messages.header(stamp_ns(index), frame_id)
    pixels = picture(index) if pixels is None else pixels
    return messages.serialize(messages.image(pixels, 'rgb8', header))


def label_cdr(index: int, labels: Any) -> bytes:
    header = messages.header(stamp_ns(index), 'front')
    return messages.serialize(messages.image(np.asarray(labels, np.uint8), 'mono8', header))


def string_cdr(text: str) -> bytes:
    return messages.serialize(messages.string(text))


def write_camera_bag(path: Path, frames: int = 5, storage: str = 'mcap', **more: Any) -> Path:
    """A bag with a latched note and a camera at 10 Hz."""
    with BagWriter(path, storage, **more) as bag:
        bag.write(string_topic(), stamp_ns(0), string_cdr('hello'))
        for index in range(frames):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index))
    return path


def write_with_rosbags(
    path: Path, plugin: StoragePlugin, version: Any = 9, frames: int = 5
) -> Path:
    """The same bag, written by the rosbags library."""
    latched = Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL,
        QosTime(0, 0), QosTime(0, 0), QosLiveliness.AUTOMATIC, QosTime(0, 0), False,
    )  # fmt: skip
    store = messages.typestore()
    with Writer(path, version=version, storage_plugin=plugin) as bag:
        notes = bag.add_connection(
            '/notes', messages.STRING, typestore=store, offered_qos_profiles=[latched]
        )
        camera = bag.add_connection('/image', messages.IMAGE, typestore=store)
        bag.write(notes, stamp_ns(0), string_cdr('hello'))
        for index in range(frames):
            bag.write(camera, stamp_ns(index), image_cdr(index))
    return path


def wait_for_file(path: Path, process: subprocess.Popen[str], size: int = 0) -> None:
    """Wait until a running process has made a file and written as many bytes."""
    wait_until(lambda: path.exists() and path.stat().st_size >= size, process)


def wait_until(there: Callable[[], bool], process: subprocess.Popen[Any]) -> None:
    """Wait for what a running process does."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not there():
        assert process.poll() is None
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def write_pictures(folder: Path, names: list[str], **size: int) -> Path:
    """Image files, JPEG or PNG by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        encode = encode_png if name.endswith('.png') else encode_jpeg
        (folder / name).write_bytes(encode(picture(seed, **size)))
    return folder
