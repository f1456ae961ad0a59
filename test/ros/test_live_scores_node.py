# SPDX-License-Identifier: Apache-2.0
"""Scores of the real node over real DDS: equal to those of score_bag, and robust to bad truth."""

import json
import subprocess
import sys
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_making import image_topic, string_cdr, string_topic
from ros_process import (
    LATCHED,
    NodeProcess,
    Probe,
    image_message,
    isolated_environment,
    pixels_of,
    stamp_ns,
)
from std_msgs.msg import String

from segmentation_node.arrays import UInt8Array
from segmentation_node.bags import messages
from segmentation_node.bags.score_bag import TRUTH_TOPIC, score_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.labels import load_scheme
from training.scenes.render import Renderer
from training.scenes.street import Street

WINDOW = 3
#: The truth has other classes than the masks.
TRUTH_SCHEME = load_scheme('camvid11')
MASKS = '/segmentation_node/label_mask'
START_NS = 1_700_000_000_000_000_000


@pytest.fixture(scope='module')
def probe(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Probe]:
    """A probe beside a node that scores a camera."""
    arguments = (
        '-p', f'model:={tiny_checkpoint}', '-p', 'precision:=fp32',
        '-p', 'truth_topic:=truth/label_mask', '-p', f'score_window:={WINDOW}',
    )  # fmt: skip
    with NodeProcess(tmp_path_factory.mktemp('scored') / 'log', *arguments, namespace='scored'):
        probe = Probe('scored')
        probe.wait_until_active()
        yield probe
        probe.close()


class ScoredCamera:
    """Camera with truth, and the scores of the node."""

    def __init__(self, probe: Probe) -> None:
        self.probe = probe
        self.images, self.truths = probe.publisher(), probe.publisher('truth/label_mask')
        self.infos = probe.node.create_publisher(String, 'truth/label_info_json', LATCHED)
        self.reports = probe.collect('scores', String)
        self.masks = probe.collect('label_mask')

    def newest(self) -> dict[str, Any]:
        return dict(json.loads(self.reports[-1].data)) if self.reports else {}

    def count(self, name: str) -> int:
        return int(self.newest()['truth']['counts'][name]) if self.reports else -1

    def wait_for(self, name: str, count: int) -> dict[str, Any]:
        self.probe.wait_for(f'{count} {name}', lambda: self.count(name) == count)
        return self.newest()

    def connect(self) -> None:
        """Send unscored frames until the node has discovered all subscribers."""
        stamps = iter(range(1, 10**6))

        def answered() -> bool:
            if not self.masks:
                self.send_image(next(stamps), np.zeros((16, 16, 3), np.uint8))
            return bool(self.masks and self.reports)

        self.probe.wait_for('a mask and a report', answered)
        self.probe.settled()

    def send_image(self, stamp: int, image_rgb: UInt8Array) -> None:
        self.images.publish(_stamped(image_message(image_rgb), stamp))

    def send_truth(self, stamp: int, labels: UInt8Array, encoding: str = 'mono8') -> None:
        self.truths.publish(_stamped(image_message(labels, encoding), stamp))

    def mask_of(self, stamp: int) -> UInt8Array:
        def answer() -> Any:
            return next((mask for mask in self.masks if stamp_ns(mask) == stamp), None)

        return pixels_of(self.probe.wait_for('a label mask', answer))

    def all_masks_of(self, stamps: Container[int], matched_before: int) -> dict[int, UInt8Array]:
        """Wait for all masks of a replayed bag; the node may have superseded some frames."""
        self.probe.settled()
        self.next_report()

        def masks() -> dict[int, UInt8Array]:
            found = {stamp_ns(m): pixels_of(m) for m in self.masks if stamp_ns(m) in stamps}
            return found if len(found) == self.count('matched') - matched_before else {}

        found: dict[int, UInt8Array] = self.probe.wait_for('the masks of the bag', masks)
        return found

    def next_report(self) -> None:
        seen = len(self.reports)
        self.probe.wait_for('a report', lambda: len(self.reports) >= seen + 2)


def _stamped(message: Any, stamp: int) -> Any:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp, 10**9)
    return message


def frames(first: int, count: int) -> Iterator[tuple[int, UInt8Array, UInt8Array]]:
    """Stamp, image, (480, 640, 3), and truth, (480, 640), of a street."""
    renderer, street = Renderer(640, 480), Street(4001)
    to_truth = np.full(256, 11, np.uint8)  # unlabelled
    to_truth[[7, 11, 21, 23, 26]] = 3, 1, 5, 0, 8  # road, building, tree, sky, car
    for index in range(first, first + count):
        frame = renderer.render(street, index / 10)
        yield START_NS + index * 10**8, frame.image_rgb, to_truth[frame.label_ids]


def write_bag(path: Path, labels: dict[str, dict[int, UInt8Array]]) -> Path:
    schemes = {MASKS: load_scheme('cityscapes8'), TRUTH_TOPIC: TRUTH_SCHEME}
    with BagWriter(path) as bag:
        for name, by_stamp in labels.items():
            info = string_topic(f'{name.rpartition("/")[0]}/label_info_json')
            bag.write(info, START_NS, string_cdr(schemes[name].to_json()))
            topic = messages.known_topic(name, messages.IMAGE, info.qos[0])
            for stamp, pixels in by_stamp.items():
                header = messages.header(stamp, 'camera')
                cdr = messages.serialize(messages.image(pixels, 'mono8', header))
                bag.write(topic, stamp, cdr)
    return path


def test_live_scores_equal_those_of_score_bag_and_bad_truth_does_no_harm(
    probe: Probe, tmp_path: Path
) -> None:
    camera = ScoredCamera(probe)
    camera.connect()
    sent = list(frames(0, 4))
    masks, truths = {}, {}
    for index, (stamp, image_rgb, truth) in enumerate(sent):
        if index % 2:  # truth before its mask; otherwise late
            camera.send_truth(stamp, truth)
        camera.send_image(stamp, image_rgb)
        masks[stamp], truths[stamp] = camera.mask_of(stamp), truth
        if not index % 2:
            camera.send_truth(stamp, truth)
    report = camera.wait_for('matched', len(sent))
    assert 'no message on /scored/truth/label_info_json' in report['problem']
    camera.infos.publish(String(data=TRUTH_SCHEME.to_json()))
    report = camera.wait_for('scored', len(sent))
    assert report['problem'] == ''
    compare_with_score_bag(report, masks, truths, tmp_path / 'published')
    assert report['truth']['label_scheme'] == 'camvid11'
    assert report['consistency']['frames'] == WINDOW
    assert 0.5 < report['consistency']['mean'] <= 1

    replayed = replay(camera, tmp_path / 'replayed')
    masks |= camera.all_masks_of(replayed, matched_before=len(sent))
    truths |= {stamp: replayed[stamp] for stamp in masks.keys() & replayed.keys()}
    report = camera.wait_for('scored', len(masks))
    compare_with_score_bag(report, masks, truths, tmp_path / 'both')
    values = probe.next_diagnostics()
    assert values['score_total_frames'] == str(len(masks))
    assert values['score_window_miou'] == f'{report["truth"]["window"]["miou"]:.4f}'
    hostile_truth(camera, report['truth']['total'])


def compare_with_score_bag(
    report: dict[str, Any],
    masks: dict[int, UInt8Array],
    truths: dict[int, UInt8Array],
    folder: Path,
) -> None:
    """Check that the figures of the node are exactly those of the command on the same frames."""
    for span, stamps in (('total', list(masks)), ('window', list(masks)[-WINDOW:])):
        bag = write_bag(
            folder / span,
            {MASKS: {s: masks[s] for s in stamps}, TRUTH_TOPIC: {s: truths[s] for s in stamps}},
        )
        expected = score_bag(bag)
        iou = expected.scores.class_iou().items()
        assert report['truth'][span] == {
            'frames': expected.scored_frames,
            'miou': expected.scores.miou(),
            'pixel_accuracy': expected.scores.pixel_accuracy(),
            'class_iou': {name: None if np.isnan(value) else value for name, value in iou},
        }
    assert 0 < report['truth']['total']['miou'] < 1


def replay(camera: ScoredCamera, path: Path) -> dict[int, UInt8Array]:
    """Replay a bag with a camera and its truth to the node; returns the truth by stamp."""
    names = [f'{camera.probe.namespace}/{name}' for name in ('image', 'truth/label_mask')]
    truths = {}
    with BagWriter(path) as bag:
        info = string_topic(f'{camera.probe.namespace}/truth/label_info_json')
        bag.write(info, START_NS, string_cdr(TRUTH_SCHEME.to_json()))
        for stamp, image_rgb, truth in frames(4, 4):
            truths[stamp] = truth
            for name, pixels, encoding in zip(
                names, (image_rgb, truth), ('rgb8', 'mono8'), strict=True
            ):
                message = messages.image(pixels, encoding, messages.header(stamp, 'camera'))
                bag.write(image_topic(name), stamp, messages.serialize(message))
    command = [sys.executable, '-m', 'segmentation_node.bags.replay_bag', str(path)]
    options = ['--rate', '0.5', '--quiet', '--wait-for-subscribers', *names]
    with subprocess.Popen([*command, *options], env=isolated_environment()) as process:
        try:
            # The probe receives the masks meanwhile.
            camera.probe.wait_for('the end of the bag', lambda: process.poll() is not None)
        finally:
            process.kill()
    assert process.returncode == 0
    return truths


def hostile_truth(camera: ScoredCamera, before: dict[str, Any]) -> None:
    """Send bad truth; it is counted and explained, and changes no score."""
    good = np.full((16, 16), 3, np.uint8)
    rejected = (
        (np.zeros((8, 16), np.uint8), 'is 16 x 16 but its truth is 16 x 8'),
        (np.full((16, 16), 99, np.uint8), '99 (256 pixels)'),
    )
    for index, (truth, said) in enumerate(rejected, 1):
        stamp = START_NS + (100 + index) * 10**9
        camera.send_truth(stamp, truth)
        camera.send_image(stamp, np.zeros((16, 16, 3), np.uint8))
        assert said in camera.wait_for('rejected', index)['problem']
    unreadable = (
        (np.zeros((16, 16, 3), np.uint8), 'rgb8', 'expected mono8'),
        (np.zeros((16, 16), np.uint8), 'none', 'expected mono8'),
    )
    for index, (pixels, encoding, said) in enumerate(unreadable, 1):
        camera.send_truth(START_NS + index, pixels, encoding)
        assert said in camera.wait_for('truths_unreadable', index)['problem']
    for _ in range(2):
        camera.send_truth(0, good)
    report = camera.wait_for('stamps_repeated', 2)
    assert report['truth']['total'] == before
    probe = camera.probe
    probe.wait_for('a warning', lambda: 'not scored' in probe.diagnostics[-1]['message'])
    stamp = START_NS + 200 * 10**9
    camera.send_truth(stamp, good)
    camera.send_image(stamp, np.zeros((16, 16, 3), np.uint8))
    report = camera.wait_for('scored', before['frames'] + 1)
    assert report['problem'] == ''
    counts = report['truth']['counts']
    assert counts['matched'] == counts['scored'] + counts['rejected'] + counts['dropped']
    assert counts['masks'] == (
        counts['matched'] + counts['masks_without_truth'] + counts['masks_waiting']
    )
    assert counts['truths'] == (
        counts['matched'] + counts['truths_without_mask'] + counts['truths_waiting']
    )


def test_nothing_is_scored_until_it_is_asked_for(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ('-p', f'model:={tiny_checkpoint}', '-p', "cameras:=['front', 'rear']")
    with NodeProcess(tmp_path / 'log', *arguments, namespace='unscored'):
        probe = Probe('unscored')
        probe.wait_until_active()
        front = probe.connect('front/image', 'front/label_mask')
        front.segment(image_message(np.zeros((16, 16, 3), np.uint8)))
        assert not any('confidence' in key for key in probe.next_diagnostics())
        rear = probe.publisher('rear/image')
        # The scores are an output: their subscriber alone has frames segmented.
        reports = probe.collect('rear/scores', String)
        stamps = iter(range(1, 10**6))

        def measured() -> Any:
            message = image_message(np.zeros((16, 16, 3), np.uint8))
            rear.publish(_stamped(message, START_NS + next(stamps) * 10**7))
            report = json.loads(reports[-1].data) if reports else {}
            return report.get('consistency', {}).get('frames') and report

        report = probe.wait_for('a consistency', measured)
        assert report['consistency']['mean'] == 1
        assert report['label_scheme'] == 'cityscapes8'
        assert (report['truth'], report['problem']) == (None, '')
        values = probe.next_diagnostics()
        assert 'rear/consistency_mean' in values
        assert not any(key.startswith('front/') for key in values)
        assert probe.set_parameter('always_score', True).successful
        front.segment(image_message(np.zeros((16, 16, 3), np.uint8)))
        probe.wait_for(
            'the signals of the other camera',
            lambda: 'front/confidence_mean' in probe.diagnostics[-1],
        )
        probe.close()


@pytest.mark.parametrize(
    ('cameras', 'topic', 'said'),
    [
        ("['']", 'no topic', 'give a topic with letters'),
        ("['front', 'rear']", '/truth', 'one topic for 2 cameras'),
    ],
)
def test_a_truth_topic_that_cannot_be_is_refused(
    tmp_path: Path, cameras: str, topic: str, said: str
) -> None:
    arguments = ('-p', f'cameras:={cameras}', '-p', f"truth_topic:='{topic}'")
    log = tmp_path / 'log'
    with NodeProcess(log, *arguments, namespace='refused') as node:
        assert node.ended() == 1
    assert said in log.read_text()
