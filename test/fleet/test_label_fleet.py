# SPDX-License-Identifier: Apache-2.0
"""Bags are labeled by Ray actors, whichever of them are lost."""

import csv
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from bag_making import image_cdr, image_topic, picture, stamp_ns
from fleet_making import label, messages_of, record_of, segmented, write_drive
from patience import PATIENCE_S

from segmentation_node.bags import messages
from segmentation_node.bags.writer import BagWriter
from segmentation_node.cli import EXIT_INCOMPLETE
from segmentation_node.fleet import pool

if find_spec('ray') is None:  # not imported here, since label_fleet sets it up before
    pytest.skip('ray is not installed: pip install ".[fleet]"', allow_module_level=True)


def test_bags_are_labeled_as_by_segment_bag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drives, out = tmp_path / 'drives', tmp_path / 'out'
    bags = [
        write_drive(drives / 'a' / 'mcap', 7),
        write_drive(drives / 'sqlite', 3, 'sqlite3'),
        write_drive(drives / 'single.mcap', 2),
    ]
    (drives / 'damaged.mcap').write_bytes(b'no bag')
    with BagWriter(drives / 'malformed.mcap') as bag:
        cut_off = messages.image(picture(1), 'rgb8', messages.header(stamp_ns(1), 'front'))
        cut_off.step = 7
        bag.write(image_topic(), stamp_ns(0), image_cdr(0))
        bag.write(image_topic(), stamp_ns(1), messages.serialize(cut_off))
    call = [drives, '-o', out, '--part-minutes', 0.004, '--workers', 1]
    assert label(*call) == EXIT_INCOMPLETE
    captured = capsys.readouterr()
    assert '4 of 5 bags labeled, 1 failed; 13 frames' in captured.out
    assert 'failed: damaged: ' in captured.err
    assert f'malformed: malformed: frame 1 at {stamp_ns(1)} ns: step is 7' in captured.err
    for bag_path in bags:
        name = bag_path.relative_to(drives).with_suffix('')
        assert messages_of(out / name) == segmented(bag_path, tmp_path / 'by_one' / name)
    assert len(record_of(out, 'a/mcap')['parts']) == 3
    totals = json.loads((out / 'statistics.json').read_text())
    assert (totals['frames'], totals['malformed']) == (13, 1)
    rows = list(csv.DictReader((out / 'worth_labeling.csv').open()))
    assert len(rows) == 13
    assert [row['confidence'] for row in rows] == sorted(row['confidence'] for row in rows)
    made = {path: path.stat().st_mtime_ns for path in out.rglob('*.mcap')}
    (drives / 'damaged.mcap').unlink()
    assert label(*call) == EXIT_INCOMPLETE
    assert '4 of 4 bags labeled (4 of them earlier); 0 frames' in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob('*.mcap')} == made


@pytest.fixture
def cluster() -> Iterator[Any]:
    pool.require_token()
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={'num_cpus': 0})
    try:
        yield started
    finally:
        started.shutdown()


def wait_for(there: Any) -> Any:
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := there()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found


def workers_of(output: Path, name: str) -> list[str]:
    """Return the workers of the parts that are in the manifest, in the order of the parts."""
    path = output / 'manifest' / f'{name}.json'
    parts = json.loads(path.read_text())['parts'] if path.exists() else {}
    return [part['worker'] for part in parts.values()]


def test_a_lost_worker_and_a_lost_node_lose_and_double_nothing(
    tmp_path: Path, cluster: Any
) -> None:
    cluster.add_node(num_cpus=1)
    leaving = cluster.add_node(num_cpus=1)
    drive, out = write_drive(tmp_path / 'drive.mcap', 120), tmp_path / 'out'
    done_at_loss: list[int] = []

    def disturb() -> None:
        """Kill a worker that has done a part and is in another one; then remove a node."""
        first = wait_for(lambda: workers_of(out, 'drive'))[0]
        os.kill(int(first.rpartition(':')[2]), signal.SIGKILL)
        done_at_loss.append(len(workers_of(out, 'drive')))
        wait_for(lambda: len(workers_of(out, 'drive')) > done_at_loss[0] + 1)
        done_at_loss.append(len(workers_of(out, 'drive')))
        cluster.remove_node(leaving)

    disturber = threading.Thread(target=disturb)
    disturber.start()
    status = label(drive, '-o', out, '--address', cluster.address, '--part-minutes', 0.004)
    disturber.join()
    assert status == 0
    assert messages_of(out / 'drive') == segmented(drive, tmp_path / 'expected')
    record = record_of(out, 'drive')
    assert (record['state'], record['segmented']) == ('done', 120)
    assert done_at_loss[0] < done_at_loss[1] < len(record['spans_ns']) - 2
    assert len({part['worker'] for part in record['parts'].values()}) >= 2
    assert not list(out.glob('drive/.new_*'))


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a bucket of a server on this machine."""
    pytest.importorskip('s3fs')
    server_module = pytest.importorskip('moto.server')
    import boto3

    server = server_module.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        'AWS_ACCESS_KEY_ID': 'test', 'AWS_SECRET_ACCESS_KEY': 'test',
        'AWS_DEFAULT_REGION': 'us-east-1', 'AWS_ENDPOINT_URL': f'http://{host}:{port}',
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    boto3.client('s3').create_bucket(Bucket='drives')
    yield 's3://drives'
    server.stop()


def test_bags_in_an_object_store(tmp_path: Path, bucket: str) -> None:
    import fsspec

    store = fsspec.filesystem('s3')
    drive = write_drive(tmp_path / 'drive', 5)
    single = write_drive(tmp_path / 'single.mcap', 2)
    store.put(str(drive), f'{bucket}/in/drive', recursive=True)
    store.put(str(single), f'{bucket}/in/single.mcap')
    call = [f'{bucket}/in', '-o', f'{bucket}/out', '--part-minutes', 0.004, '--workers', 1]
    assert label(*call) == 0
    store.get(f'{bucket}/out', str(tmp_path / 'out'), recursive=True)
    for bag in (drive, single):
        expected = segmented(bag, tmp_path / 'by_one' / bag.stem)
        assert messages_of(tmp_path / 'out' / bag.stem) == expected
    assert record_of(tmp_path / 'out', 'drive')['bag']['files'][0][2]  # its ETag
    made = store.info(f'{bucket}/out/drive/drive_0.mcap')['LastModified']
    assert label(*call) == 0
    store.invalidate_cache()
    assert store.info(f'{bucket}/out/drive/drive_0.mcap')['LastModified'] == made
