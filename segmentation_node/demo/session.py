# SPDX-License-Identifier: Apache-2.0
"""Session of node, recorder and replay, separate processes in an isolated ROS graph."""

import heapq
import json
import sys
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from operator import attrgetter
from pathlib import Path
from typing import Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.qos import LATCHED, is_latched
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.topic import RawMessage, Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.demo.footage import Footage
from segmentation_node.demo.recording import LABEL_TOPIC, OVERLAY_TOPIC
from segmentation_node.demo.results import DemoOutcome
from segmentation_node.processes import Child, DemoError, wait_for
from segmentation_node.ros.domain import environment_of
from segmentation_node.ros.transport import local_environment

LABEL_INFO_TOPIC: Final = topics.resolved(topics.LABEL_INFO_JSON)

#: Timeout for the start; it allows for the download of a large model, a bundled one loads in
#: seconds.
START_PATIENCE_S: Final = 300.0
#: Maximum pause of a camera.
STALL_PATIENCE_S: Final = 120.0
#: Timeout for frames in flight at the end of the bag; large models take seconds per frame.
SETTLE_PATIENCE_S: Final = 60.0
#: Timeout for masks that are published but not yet recorded; the table reports missing ones.
RECORD_PATIENCE_S: Final = 5.0
#: Delay before sending. A publisher discovers a subscriber slightly before the subscriber
#: discovers the publisher; messages sent in between are lost.
MATCH_S: Final = 0.5


class DemoSession:
    """Runs the node on footage and records its output; a context manager."""

    def __init__(
        self,
        footage: Footage,
        model: str,
        output: Path,
        domain_id: int,
        large_frames: bool = False,
    ) -> None:
        """Prepare a session.

        Args:
            footage: frames to replay.
            model: bundled name, checkpoint folder or hub id.
            output: folder for the recording and the logs.
            domain_id: domain of the ROS graph.
            large_frames: use the Fast DDS profile for large frames, not its default transports.
        """
        self._footage, self._model = footage, model
        self._log = output / 'log'
        self.bag = output / 'segmentation.mcap'
        #: Bag of the node's output, and table of send times; they are merged into `bag`.
        self._masks, self._sent = output / 'work' / 'masks.mcap', output / 'work' / 'sent.tsv'
        self.environment = {
            **environment_of(domain_id),
            'ROS_LOG_DIR': str((self._log / 'ros').resolve()),
            'RCUTILS_COLORIZED_OUTPUT': '0',
        }
        #: Environment of all processes except the node, which sets its own profile.
        self._profile = local_environment(large_frames)
        self._stack = ExitStack()

    def __enter__(self) -> 'DemoSession':
        """Start node and recorder, without waiting until they are ready."""
        try:
            self._recorder = self._child(
                'recorder', self._recorder_command(), self._profile, reports=True
            )
            self.node = self._child('the node', self._node_command(), {})
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        self._stack.close()
        if error is None and self._recorder.exit_status != 0:
            raise self._recorder.failure()
        if error is None:
            merge(self._footage, self._sent, self._masks, self.bag)

    def _child(
        self, name: str, command: list[str], profile: dict[str, str], reports: bool = False
    ) -> Child:
        log = self._log / f'{name.rpartition(" ")[2]}.log'
        environment = {**self.environment, **profile}
        return self._stack.enter_context(Child(name, command, log, environment, reports))

    def _node_command(self) -> list[str]:
        camera = self._footage.camera.name
        transport = 'compressed' if self._footage.compressed else 'raw'
        suffix = topics.COMPRESSED_SUFFIX if self._footage.compressed else ''
        return [
            sys.executable, '-c', 'from segmentation_node.ros.node_process import main; main()',
            '--ros-args',
            # JSON strings are valid YAML strings, so a path is never parsed as another type.
            '-p', f'model:={json.dumps(self._model)}',
            '-p', f'image_transport:={transport}',
            '-p', f'image_size:={list(self._footage.image_hw or (0, 0))}',
            # Uses the time of the bag; otherwise latencies would count from its recording.
            '-p', 'use_sim_time:=true',
            # The node appends the suffix to the remapped name, which is then remapped again.
            '-r', f'{topics.IMAGE}{suffix}:={camera}',
        ]  # fmt: skip

    def _recorder_command(self) -> list[str]:
        recorded = [
            Topic(LABEL_TOPIC, messages.IMAGE),
            Topic(OVERLAY_TOPIC, messages.IMAGE),
            Topic(LABEL_INFO_TOPIC, messages.STRING, qos=(LATCHED,)),
            Topic(topics.DIAGNOSTICS, messages.DIAGNOSTIC_ARRAY),
        ]
        command = [sys.executable, '-m', 'segmentation_node.demo.recorder', str(self._masks)]
        for topic in recorded:
            command += ['--topic', topic.name, topic.msgtype, _qos_name(topic)]
        return command

    # Progress

    @property
    def status(self) -> dict[str, str]:
        """Last diagnostics of the node; empty before the first."""
        return dict(self._recorder.report.get('status', {}))

    def check(self) -> None:
        """Raise DemoError if node or recorder has ended, or the node cannot start."""
        for child in (self.node, self._recorder):
            if child.exit_status is not None:
                raise child.failure()
        status = self.status
        if status.get('state') not in (None, 'active') and status.get('last_error'):
            raise DemoError(
                f'the node cannot start: {status["last_error"]}\n'
                f'log of the node:\n{self.node.log_text()}'
            )

    def wait_until_active(self) -> None:
        """Wait until the node is active."""

        def active() -> bool:
            self.check()
            return self.status.get('state') == 'active'

        wait_for(active, START_PATIENCE_S, lambda: DemoError(
            f'the node is {self.status.get("state", "silent")} after {START_PATIENCE_S:.0f} s, '
            f'expected active; its log:\n{self.node.log_text()}'
        ))  # fmt: skip

    def replay(self) -> DemoOutcome:
        """Replay the bag in real time and wait until the node has processed it."""
        sent = self._footage.count()
        replay = self._child('replay', self._replay_command(), self._profile)
        with tqdm(total=sent, desc='masks', unit='', disable=None) as progress:

            def ended() -> bool:
                self.check()
                progress.update(self._recorded(LABEL_TOPIC) - progress.n)
                if replay.exit_status not in (None, 0):
                    raise replay.failure()
                return replay.exit_status == 0

            wait_for(ended, STALL_PATIENCE_S, lambda: DemoError(
                f'the replay has sent nothing for {STALL_PATIENCE_S:.0f} s; its log:\n'
                f'{replay.log_text()}'
            ), sign_of_life=lambda: self.status.get('received'))  # fmt: skip
            status = self._settle(sent)
            progress.update(self._recorded(LABEL_TOPIC) - progress.n)
        return DemoOutcome(self._footage, self.bag, sent, status)

    def _settle(self, sent: int) -> dict[str, str]:
        """Wait until the fate of every frame is known and every mask is recorded."""
        seen = [self._recorder.report]

        def settled() -> bool:
            self.check()
            report = self._recorder.report
            if report['reports'] == seen[-1]['reports']:
                return False
            seen.append(report)
            known = [_accounted_frames(r['status']) for r in seen[-2:]]
            all_arrived = known[1] == sent or known[1] == known[0]
            return report['status']['in_flight'] == '0' and all_arrived

        wait_for(settled, SETTLE_PATIENCE_S, lambda: DemoError(
            f'{self.status["in_flight"]} frames are still being processed {SETTLE_PATIENCE_S:.0f} '
            f's after the last one was sent; use a smaller model or a faster device'
        ))  # fmt: skip
        status: dict[str, str] = seen[-1]['status']
        published = int(status['published'])
        with suppress(TimeoutError):
            wait_for(
                lambda: self._recorded(LABEL_TOPIC) >= published, RECORD_PATIENCE_S, TimeoutError
            )
        return status

    def _recorded(self, topic: str) -> int:
        return int(self._recorder.report.get('recorded', {}).get(topic, 0))

    def _replay_command(self) -> list[str]:
        footage, camera = self._footage, self._footage.camera.name
        command = [
            sys.executable, '-m', 'segmentation_node.bags.replay_bag', str(footage.bag),
            '--topics', camera, '--wait-for-subscribers', camera, '--rate', str(footage.rate),
            '--delay', str(MATCH_S), '--clock', '--quiet', '--log', str(self._sent),
            '--decode-video',
        ]  # fmt: skip
        if footage.decode_images:
            command.append('--decode-images')
        if footage.end_ns is not None:
            command += ['--playback-until-nsec', str(footage.end_ns)]
        # Reliable regardless of the QoS of the recorded camera, so that no frame is lost.
        reliable = f'qos_overrides.{camera}.publisher.reliability:=reliable'
        return [*command, '--ros-args', '-p', reliable]


def merge(footage: Footage, sent: Path, masks: Path, output: Path) -> None:
    """Merge camera, truth and masks into one bag, ordered by time.

    The camera is not recorded while the node runs: a second subscriber to large frames would slow
    down both.

    Args:
        footage: footage that was replayed.
        sent: table of send times, as written by `replay_bag --log`.
        masks: bag of the node's output.
        output: bag to write.
    """
    rows = [line.split('\t') for line in sent.read_text(encoding='utf-8').splitlines()]
    sent_ns = {int(stamp_ns): int(time_ns) for _, stamp_ns, time_ns in rows}
    stamps_ns = sorted(sent_ns)

    def replayed(bag: Bag) -> Iterator[RawMessage]:
        for message in footage.messages(bag):
            # The truth gets the time of the frame before it.
            index = max(0, bisect_right(stamps_ns, message.stamp_ns) - 1)
            time_ns = sent_ns[stamps_ns[index]]
            yield message._replace(stamp_ns=time_ns, sent_ns=time_ns)

    with (
        footage.open() as bag,
        open_bag(masks) as recorded,
        BagWriter(output, overwrite=True) as writer,
    ):
        for message in heapq.merge(replayed(bag), recorded.messages(), key=attrgetter('stamp_ns')):
            writer.write(message.topic, message.stamp_ns, message.cdr, message.sent_ns)


def _accounted_frames(status: Mapping[str, str]) -> int:
    """Return the number of frames that the node has received or reported as lost."""
    return int(status['received']) + int(status['lost'])


def _qos_name(topic: Topic) -> str:
    """Return the name of the QoS with which the recorder subscribes."""
    return 'latched' if is_latched(topic.qos) else 'reliable'
