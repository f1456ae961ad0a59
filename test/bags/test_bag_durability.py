# SPDX-License-Identifier: Apache-2.0
"""Whoever writes a bag may be killed, and the disk may fill: at most the last second is lost."""

import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from bag_making import image_cdr, image_topic, picture, stamp_ns, wait_until
from repository import TESTS

from segmentation_node.bags.qos import LATCHED
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.writer import FLUSH_AFTER_S, FLUSH_CHECK_S, BagWriter
from segmentation_node.errors import BagError

FORMS = [('bag', 'mcap'), ('bag.mcap', 'mcap'), ('bag', 'sqlite3')]
ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}


def readable(path: Path, topic: str = '/image') -> list[int]:
    """Stamps of a topic in a bag that was not finished."""
    with open_bag(path, salvage=True) as bag:
        return [message.stamp_ns for message in bag.messages({topic})]


def command(code: str, *arguments: object) -> list[str]:
    paths = [str(TESTS), *sys.path]
    setup = f'import sys; sys.path[:0] = {paths!r}\n'
    return [sys.executable, '-c', setup + code, *map(str, arguments)]


def test_the_promise_is_a_second() -> None:
    assert FLUSH_AFTER_S + FLUSH_CHECK_S <= 1


WRITE_AND_WAIT = """
import time
from bag_making import image_cdr, image_topic, stamp_ns
from segmentation_node.bags.writer import BagWriter
with BagWriter(sys.argv[1], sys.argv[2]) as bag:
    for index in range(int(sys.argv[3])):
        bag.write(image_topic(), stamp_ns(index), image_cdr(index))
    while sum(bag.message_counts.values()) < int(sys.argv[3]):
        time.sleep(0.01)
    print('safe', flush=True)
    for index in range(100, 103):
        bag.write(image_topic(), stamp_ns(index), image_cdr(index))
    print('more', flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_a_killed_writer_leaves_what_it_called_safe(
    tmp_path: Path, name: str, storage: str
) -> None:
    path = tmp_path / name
    process = subprocess.Popen(
        command(WRITE_AND_WAIT, path, storage, 7),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT,
    )  # fmt: skip
    assert process.stdout is not None
    # Nothing comes after the seventh message: it is flushed nevertheless.
    assert process.stdout.readline() == 'safe\n'
    assert process.stdout.readline() == 'more\n'
    process.kill()
    process.communicate()
    stamps = readable(path)
    assert stamps[:7] == [stamp_ns(index) for index in range(7)]
    assert stamps[7:] == [stamp_ns(index) for index in range(100, 103)][: len(stamps) - 7]
    if storage == 'sqlite3':
        with open_bag(path / 'bag_0.db3') as bag:
            assert bag.message_count == len(stamps)
    # And it is replaced like any bag.
    with BagWriter(path, storage, overwrite=True) as again:
        again.write(image_topic(), stamp_ns(0), image_cdr(0))
    assert readable(path) == [stamp_ns(0)]
    if path.is_dir():
        suffix = 'db3' if storage == 'sqlite3' else 'mcap'
        assert sorted(p.name for p in path.iterdir()) == [f'bag_0.{suffix}', 'metadata.yaml']


@contextmanager
def progress_of(command: list[object]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process and the terminal that it shows its progress on."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    process = subprocess.Popen(list(map(str, command)), stdout=its, stderr=its, env=ENVIRONMENT)
    os.close(its)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        os.close(ours)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_killed_segment_bag_leaves_what_it_reported(
    tmp_path: Path, tiny_checkpoint: Path, storage: str
) -> None:
    frames = 2000
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(frames):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, picture(index, 64, 96)))
    out = tmp_path / 'out'
    with progress_of(
        [sys.executable, '-m', 'segmentation_node.bags.segment_bag', tmp_path / 'bag', '-o', out,
         '--storage', storage, '--model', tiny_checkpoint, '--device', 'cpu',
         '--outputs', 'label_mask'],
    ) as (process, terminal):  # fmt: skip
        reported, said = 0, b''
        while reported < 20:
            said += os.read(terminal, 4096)
            reported = max((int(n) for n in re.findall(rb'(\d+)/2000 \[', said)), default=0)
        # What was reported becomes readable while the process goes on.
        wait_until(lambda: _count(out) >= reported, process)
        process.kill()
        process.wait()
    assert not (out / 'metadata.yaml').exists()
    masks = readable(out, '/segmentation_node/label_mask')
    assert reported <= len(masks) < frames
    assert masks == [stamp_ns(index) for index in range(len(masks))]
    assert readable(out)[: len(masks)] == masks
    with open_bag(out, salvage=True) as bag_:
        assert bag_.topic('/segmentation_node/label_info_json').qos == (LATCHED,)
        assert bag_.counts[bag_.topic('/segmentation_node/label_info_json')] == 1


def _count(out: Path) -> int:
    """Masks that can be read, 0 where the bag cannot be read just now."""
    with suppress(BagError):
        return len(readable(out, '/segmentation_node/label_mask'))
    return 0


# --- The disk is full

FILL = """
import shutil, subprocess, time
from pathlib import Path
import numpy as np
from bag_making import image_cdr, image_topic, stamp_ns
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError
disk, out, name, storage, flushed = sys.argv[1:]
subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=3m', 'tmpfs', disk], check=True)
random = np.random.default_rng(0)
written = 0
try:
    with BagWriter(Path(disk, name), storage) as bag:
        for index in range(60):
            noise = random.integers(0, 256, (200, 200, 3), np.uint8)  # does not shrink
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, noise))
            written += 1
            if index % int(flushed) == 0:
                bag._do(lambda file: file.flush())  # as after half a second
except BagError as error:
    shutil.copytree(disk, out, dirs_exist_ok=True)
    print(written, error)
    sys.exit(7)
"""


@pytest.mark.skipif(
    shutil.which('unshare') is None
    or subprocess.run(['unshare', '-rm', 'true'], check=False, capture_output=True).returncode
    != 0,
    reason='a small disk is mounted in a namespace of users, which this system does not allow',
)
@pytest.mark.parametrize('flushed', [1, 5])
@pytest.mark.parametrize(('name', 'storage'), FORMS)
def test_a_full_disk_costs_what_was_not_flushed(
    tmp_path: Path, name: str, storage: str, flushed: int
) -> None:
    disk, out = tmp_path / 'disk', tmp_path / 'out'
    disk.mkdir()
    done = subprocess.run(
        ['unshare', '-rm', *command(FILL, disk, out, name, storage, flushed)],
        capture_output=True, text=True, check=False, env=ENVIRONMENT,
    )  # fmt: skip
    assert done.returncode == 7, done.stderr
    written, _, error = done.stdout.partition(' ')
    with open_bag(out / name) as bag:  # finished, metadata and all
        stamps = [message.stamp_ns for message in bag.messages()]
        assert bag.message_count == len(stamps)
    assert stamps == [stamp_ns(index) for index in range(len(stamps))]
    assert f'; {len(stamps)} of ' in error
    # A chunk of MCAP may have to give way to its index.
    assert len(stamps) >= int(written) - (2 if storage == 'mcap' else 1) * flushed
    assert len(stamps) > 15


def test_what_the_flushing_thread_meets_is_raised_by_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BagError, match=r'cannot write .*no space.*1 of 2 messages') as met:
        _write_until_flushed(tmp_path / 'bag.mcap', monkeypatch)
    assert readable(tmp_path / 'bag.mcap') == [stamp_ns(0)]
    assert met.value.__cause__ is not None


def _write_until_flushed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with BagWriter(path) as bag:
        bag.write(image_topic(), stamp_ns(0), image_cdr(0))
        bag._do(lambda file: file.flush())
        file = bag._file
        assert file is not None

        def fail() -> None:
            raise OSError('no space')

        monkeypatch.setattr(file, 'flush', fail)
        bag.write(image_topic(), stamp_ns(1), image_cdr(1))
        bag._flusher.join()
        bag.write(image_topic(), stamp_ns(2), image_cdr(2))
