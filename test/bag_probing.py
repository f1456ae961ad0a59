# SPDX-License-Identifier: Apache-2.0
"""Drives all that reads bags over a bag, as the commands do, in this process."""

import random
import shutil
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages, score_bag, segment_bag
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.writer import check_output
from segmentation_node.cli import EXIT_INCOMPLETE
from segmentation_node.errors import BagError
from segmentation_node.images.rendering import Rendered
from segmentation_node.labels import load_scheme


class Plain:
    """Segments without a network: every pixel is class 1."""

    scheme = load_scheme('cityscapes8')

    min_confidence = 0.0

    def render(self, image_rgb: UInt8Array, overlay_alpha: float, **_: object) -> Rendered:
        labels = np.ones(image_rgb.shape[:2], np.uint8)
        return Rendered(
            image_rgb, labels, lambda: np.zeros_like(labels), self.scheme, overlay_alpha
        )


def read_all(path: Path, salvage: bool) -> list[str]:
    """Read a bag with all that is in it; gives back what was said about it."""
    said = []
    with open_bag(path, salvage) as bag:
        said.append(bag.listing())
        try:
            said.append(find_camera(bag).shown)
        except BagError as error:
            said.append(str(error))
        for message in bag.messages():
            if message.topic.msgtype in (*messages.DECODERS, messages.STRING):
                try:
                    messages.deserialize(message)
                except BagError as error:
                    said.append(str(error))
    return said


def said_by(main: Callable[[list[str]], int], *arguments: object) -> tuple[int, str]:
    """Run a command in this process; exit status, and what it said."""
    said = StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        status = main([str(argument) for argument in arguments])
    return status, said.getvalue()


def probe(path: Path, output: Path, salvage: bool = False) -> str:
    """'read' or 'refused'; raises whatever else the reader or a command raises.

    `segment_bag.load_segmenter` must give back a `Plain`.
    """
    options = ['--salvage'] if salvage else []
    status, said = said_by(segment_bag.main, path, '-o', output, '--quiet', *options)
    assert status in (0, 1, EXIT_INCOMPLETE)
    scored, more = said_by(score_bag.main, path, '--quiet', *options)
    assert scored in (0, 1)
    shutil.rmtree(output, ignore_errors=True)
    with suppress(BagError):
        check_output(path, 'mcap', overwrite=True)
    lines = f'{said}\n{more}'.split('\n')
    result = 'read'
    try:
        lines += read_all(path, salvage)
    except BagError as error:
        result = 'refused'
        lines.append(str(error))
    for line in lines:
        assert line.isprintable(), line
        assert len(line) < 5000
    return result


#: Values that a parser or a consumer may stumble over.
VALUES: Any = (
    None, True, -1, 0, 2**31, 2**63, 2**64, -(2**63), 10**400, 1.5, float('inf'), float('nan'), '',
    '\0', '\x1b[31m', '..', '/', 'x' * 10_000, [], {}, [[]], [None], {'a': 1}, '{[', 'file',
    'message', 'mcap', 'sqlite3', 'zstd',
)  # fmt: skip


def mutated_metadata(text: str, random_: random.Random) -> str:
    """metadata.yaml with some of its values replaced, removed or repeated."""
    content = yaml.safe_load(text)
    for _ in range(random_.randint(1, 3)):
        node: Any = content
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = random_.choice(keys)
            deeper = isinstance(node[key], dict | list) and len(node[key]) > 0
            if deeper and random_.random() < 0.8:
                node = node[key]
                continue
            if random_.random() < 0.2:
                del node[key]
            else:
                node[key] = random_.choice(VALUES)
            break
    changed: str = yaml.safe_dump(content)
    return changed


def mutated_bytes(data: bytes, random_: random.Random) -> bytes:
    """UInt8Array with some bits flipped, parts cut out, repeated or overwritten, or cut short."""
    changed = bytearray(data)
    for _ in range(random_.choice((1, 1, 2, 5, 20))):
        if not changed:
            break
        at = random_.randrange(len(changed))
        kind = random_.randrange(6)
        if kind == 0:
            changed[at] ^= 1 << random_.randrange(8)
        elif kind == 1:
            changed[at : at + 8] = random_.choice((0, 2**31, 2**63, 2**64 - 1)).to_bytes(
                8, 'little'
            )
        elif kind == 2:
            del changed[at:]
        elif kind == 3:
            del changed[at : at + random_.randrange(1, 64)]
        elif kind == 4:
            changed[at:at] = changed[at : at + random_.randrange(1, 64)]
        else:
            changed[at : at + 4] = random_.randbytes(4)
    return bytes(changed)
