# SPDX-License-Identifier: Apache-2.0
"""Mutates bags at random, drives all that reads bags over them, and counts what happens.

    python test/faults_bags.py --count 3000 --seed 1

Most bags are read in this process; every 30th goes through the real commands as well. Prints a
JSON report; a bag that led to a traceback or a hang stays in the folder that the report names.
"""

import argparse
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final

from bag_hostile import hostile_bags
from bag_making import write_camera_bag
from bag_probing import Plain, mutated_bytes, mutated_metadata, probe

from segmentation_node.bags import segment_bag

#: A bag that takes longer hangs; all of them are small.
HANG_S: Final = 30
#: Address space beyond what is taken at the start.
MEMORY_BYTES: Final = 3 << 30
STORAGES: Final = ('mcap', 'sqlite3')


class Hang(BaseException):
    """A bag took too long."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run; the status is 1 where there was a traceback or a hang."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--count', type=int, default=3000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--seconds', type=float, default=600, help='end after this time')
    parser.add_argument('--commands-every', type=int, default=30, metavar='N')
    args = parser.parse_args(argv)
    segment_bag.load_segmenter = lambda _: Plain()  # type: ignore[assignment, attr-defined, misc]
    signal.signal(signal.SIGALRM, _hang)
    begin, found = time.monotonic(), Counter[str]()
    kept: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix='faults_bags_'))
    bags = Bags(folder, random.Random(args.seed))
    limit = _bound_memory()
    while found['count'] < args.count and time.monotonic() - begin < args.seconds:
        path = bags.make(found['count'])
        found['count'] += 1
        results = [_in_process(path, folder / 'out', salvage=bags.random.random() < 0.3)]
        if found['count'] % args.commands_every == 0:
            found['commands'] += 1
            results += [_as_process(name, path, folder / 'out') for name in COMMANDS]
        found.update(results)
        if {'tracebacks', 'hangs'} & set(results):
            kept.append(str(path.rename(folder / f'kept_{found["count"]}{path.suffix}')))
        bags.clean()
    resource.setrlimit(resource.RLIMIT_AS, limit)
    if not kept:
        shutil.rmtree(folder)
    report = {
        'what': 'bags',
        'count': found['count'],
        'through_commands': found['commands'],
        **{key: found[key] for key in ('tracebacks', 'hangs', 'refused', 'read')},
        'peak_mb': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,
        'seconds': round(time.monotonic() - begin, 1),
        'seed': args.seed,
        'kept': kept,
    }
    print(json.dumps(report))
    return 1 if kept else 0


class Bags:
    """Makes one bag after the other, the last one in `folder`/bag."""

    def __init__(self, folder: Path, random_: random.Random) -> None:
        self.random = random_
        self._folder = folder
        self._whole = {
            storage: write_camera_bag(folder / f'whole_{storage}', frames=3, storage=storage)
            for storage in STORAGES
        }
        self._hostile = [make for _, make in hostile_bags(folder / 'hostile')]

    def make(self, number: int) -> Path:
        """A hostile bag, or a whole one with mutated bytes or metadata."""
        if number % 4 == 0:
            (self._folder / 'hostile').mkdir(exist_ok=True)
            return self.random.choice(self._hostile)()
        whole = self._whole[self.random.choice(STORAGES)]
        path = self._folder / 'bag'
        shutil.copytree(whole, path)
        (data,) = (file for file in path.iterdir() if file.suffix in ('.mcap', '.db3'))
        if number % 4 == 1:
            metadata = path / 'metadata.yaml'
            metadata.write_text(mutated_metadata(metadata.read_text(), self.random))
            return path
        data.write_bytes(mutated_bytes(data.read_bytes(), self.random))
        if number % 4 == 2:
            return path
        return data.rename(self._folder / f'file{data.suffix}')

    def clean(self) -> None:
        """Remove all but the whole bags and those that are kept."""
        for entry in self._folder.iterdir():
            if not entry.name.startswith(('whole_', 'kept_')):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _in_process(path: Path, output: Path, salvage: bool) -> str:
    signal.alarm(HANG_S)
    try:
        return probe(path, output, salvage)
    except Hang:
        return 'hangs'
    except Exception:  # noqa: BLE001 (to count them is what this is for)
        traceback.print_exc()
        return 'tracebacks'
    finally:
        signal.alarm(0)


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise Hang


def _bound_memory() -> Any:
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    return before


COMMANDS: Final[dict[str, Callable[[Path, Path], list[object]]]] = {
    'bags.segment_bag': lambda bag, output: [bag, '-o', output, '--device', 'cpu'],
    'bags.score_bag': lambda bag, _: [bag],
    'bags.replay_bag': lambda bag, _: [bag, '--rate', '1e9'],
    # The bag is what would be replaced.
    'bags.images_to_bag': lambda bag, output: ['--images', output, '-o', bag, '--overwrite'],
}


def _as_process(name: str, bag: Path, output: Path) -> str:
    command = [sys.executable, '-m', f'segmentation_node.{name}', *COMMANDS[name](bag, output)]
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=_unbound_memory,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=HANG_S)
    except subprocess.TimeoutExpired:
        # A bag may have its messages centuries apart: a replay ends when it is asked to.
        process.send_signal(signal.SIGINT)
        try:
            said, _ = process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return 'hangs'
    shutil.rmtree(output, ignore_errors=True)
    printable = all(line.isprintable() for line in said.decode(errors='replace').split('\n'))
    if process.returncode < 0 or b'Traceback' in said or not printable:
        sys.stderr.write(f'{name}: {process.returncode}: {said!r}\n')
        return 'tracebacks'
    return 'commands_ended'


def _unbound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


if __name__ == '__main__':
    sys.exit(main())
