# SPDX-License-Identifier: Apache-2.0
"""The benchmark as a whole: real processes, real DDS, a tiny network."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from segmentation_node.benchmark.image_publisher import frame_id, times_of
from segmentation_node.benchmark.measurements import Results, read_results
from segmentation_node.benchmark.run import PARTS
from segmentation_node.benchmark.variants import COMMON
from segmentation_node.images.files import decode_file

#: Long enough for a loaded machine; nothing waits for it to pass.
PATIENCE_S = 900.0


def command(checkpoint: Path, output: Path, *arguments: str) -> list[str]:
    return [
        sys.executable, '-m', 'segmentation_node.benchmark', '--quick', '--model', str(checkpoint),
        '--runtime', 'torch', '--precision', 'fp32', '--output', str(output), *arguments,
    ]  # fmt: skip


def processes_with(path: Path) -> list[str]:
    """Command lines of processes that name a path."""
    found = []
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            words = (folder / 'cmdline').read_bytes().replace(b'\0', b' ').decode()
        except OSError:  # it has ended, or is somebody else's
            continue
        if str(path) in words and int(folder.name) != os.getpid():
            found.append(words)
    return found


@pytest.fixture(scope='module')
def run(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Output folder and terminal of a run with two cameras."""
    output = tmp_path_factory.mktemp('benchmark') / 'output'
    done = subprocess.run(
        command(
            tiny_checkpoint, output, '--sizes', '256x128', '--cameras', '2', '--rounds', '1',
            '--seconds', '1.0', *(word for part in PARTS for word in ('--only', part)),
        ),
        capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return output, done.stdout


@pytest.fixture(scope='module')
def results(run: tuple[Path, str]) -> Results:
    return read_results(run[0] / 'results.json')


def test_both_nodes_really_published(results: Results) -> None:
    single = {s.runtime: s for s in results.streams if s.cameras == 1}
    assert single.keys() == {COMMON, 'torch'}
    for stream in single.values():
        counted = [m for m in stream.masks if stream.from_s <= m.received_s <= stream.to_s]
        assert len(counted) >= 3
        assert all(mask.sent_s < mask.received_s for mask in stream.masks)
        assert stream.masks[0].received_s > 0
        assert stream.cpu_s > 0
        assert stream.peak_rss_mb[0] >= stream.pss_mb[0] > 50
    assert (single[COMMON].stamps_kept, single['torch'].stamps_kept) == (0.0, 1.0)
    assert single['torch'].stages['infer_p50_ms'] > 0
    assert (single[COMMON].received, single[COMMON].lost) == (None, None)
    assert single['torch'].received
    assert (single['torch'].lost, single['torch'].transport) == (0, 'default')
    # Of all together: cameras report four times a second, and this takes less.
    assert sum(stream.sent for stream in results.streams) > 0
    # Of all together: the clock of processes ticks in hundredths of a second, they work little.
    assert sum(stream.others_cpu_s for stream in results.streams) > 0


def test_cameras_meet_on_one_node_and_on_one_each(results: Results) -> None:
    several = [s for s in results.streams if s.cameras == 2]
    assert sorted((s.nodes, len(s.peak_rss_mb)) for s in several) == [(1, 1), (2, 2)]
    for stream in several:
        assert {mask.camera for mask in stream.masks} == {0, 1}
        assert stream.stamps_kept == 1.0


def test_calls_are_there_with_what_their_labels_are_worth(results: Results) -> None:
    assert {(c.runtime, c.what) for c in results.calls} == {
        (COMMON, 'segment'), ('torch', 'segment'), ('torch', 'network')
    }  # fmt: skip
    assert all(len(calls.wall_ms) == 1 and min(calls.wall_ms[0]) > 0 for calls in results.calls)
    worth = {q.runtime: q for q in results.quality}
    assert worth['torch'].agreement == 1.0
    assert 0.5 < worth[COMMON].agreement < 1.0
    assert all(quality.miou is not None for quality in worth.values())
    assert results.absent == []


def test_files_show_it_and_tell_nothing_of_whose_machine_it_is(
    run: tuple[Path, str], tiny_checkpoint: Path
) -> None:
    output, said = run
    page = (output / 'results.md').read_text()
    for text in (page, said):
        assert f'`{tiny_checkpoint.name}`' in said
        assert '| as commonly written |' in text
    assert '| network ms |' in page
    assert decode_file((output / 'results.png').read_bytes()).shape[1] == 1640
    written = (output / 'results.json').read_text() + page
    for secret in (str(tiny_checkpoint), str(output), socket.gethostname(), str(Path.home())):
        assert secret not in written
    assert json.loads(written.partition('\n# ')[0])['format'] == 3


def test_nothing_is_left_running(run: tuple[Path, str], tiny_checkpoint: Path) -> None:
    assert processes_with(tiny_checkpoint) == []


def test_what_ends_it_ends_its_processes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tiny_checkpoint, tmp_path, '--seconds', '600', '--only', 'segment'),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as benchmark:  # fmt: skip
        deadline = time.monotonic() + PATIENCE_S
        while not any(
            'benchmark.variant_process' in words for words in processes_with(tiny_checkpoint)
        ):
            assert time.monotonic() < deadline, 'waited for a worker'
            time.sleep(0.05)
        benchmark.send_signal(signal.SIGTERM)
        said, _ = benchmark.communicate(timeout=PATIENCE_S)
    assert benchmark.returncode == 130
    assert 'interrupted; nothing is left running' in said
    assert processes_with(tiny_checkpoint) == []


def test_model_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    done = subprocess.run(
        command(Path('/no/such/model'), tmp_path / 'output'),
        capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert "no model '/no/such/model'" in done.stderr
    assert not (tmp_path / 'output').exists()


def test_frame_id_brings_its_times_back() -> None:
    assert times_of(frame_id(123, 456)) == (123, 456)
