# SPDX-License-Identifier: Apache-2.0
"""Node, recorder and replay, each a process of its own in a ROS graph of their own."""

import json
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

from tqdm import tqdm

from segmentation_node import topics
from segmentation_node.bags import messages
from segmentation_node.bags.qos import LATCHED
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.topic import Topic
from segmentation_node.demo.domain import environment_of
from segmentation_node.demo.footage import Footage
from segmentation_node.demo.processes import Child, DemoError, wait_for
from segmentation_node.demo.recording import LABEL_TOPIC, OVERLAY_TOPIC
from segmentation_node.demo.results import Outcome
from segmentation_node.transport import local_environment

LABEL_INFO_TOPIC: Final = topics.resolved(topics.LABEL_INFO_JSON)

#: A large model is fetched from a hub within this, a bundled one is loaded in seconds.
START_PATIENCE_S: Final = 300.0
#: A camera may pause, but not for so long.
STALL_PATIENCE_S: Final = 120.0
#: For the frames in work at the end of the bag; large models take seconds for one.
SETTLE_PATIENCE_S: Final = 60.0
#: For masks that are published and not yet recorded; the table tells if some never are.
RECORD_PATIENCE_S: Final = 5.0
#: A publisher learns of a subscriber a moment before the subscriber learns of it; what is sent in
#: between never arrives.
MATCH_S: Final = 0.5


class Session:
    """Runs the node on footage and records what comes back; a context manager."""

    def __init__(
        self,
        footage: Footage,
        model: str,
        output: Path,
        domain_id: int,
        large_frames: bool = False,
    ) -> None:
        """Prepare.

        Args:
            footage: frames to replay.
            model: bundled name, checkpoint folder or hub id.
            output: folder for the recording and the logs.
            domain_id: of the ROS graph.
            large_frames: whether Fast DDS gets room for large frames, not its default transports.
        """
        self._footage, self._model = footage, model
        self._log = output / 'log'
        self.bag = output / 'segmentation.mcap'
        self.environment = {
            **environment_of(domain_id),
            **local_environment(large_frames),
            'ROS_LOG_DIR': str((self._log / 'ros').resolve()),
            'RCUTILS_COLORIZED_OUTPUT': '0',
        }
        self._stack = ExitStack()

    def __enter__(self) -> 'Session':
        """Start node and recorder; ready or not, they are there."""
        try:
            self._recorder = self._child('recorder', self._recorder_command(), reports=True)
            self.node = self._child('the node', self._node_command())
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        self._stack.close()
        if error is None and self._recorder.exit_status != 0:
            raise self._recorder.failure()

    def _child(self, name: str, command: list[str], reports: bool = False) -> Child:
        log = self._log / f'{name.rpartition(" ")[2]}.log'
        return self._stack.enter_context(Child(name, command, log, self.environment, reports))

    def _node_command(self) -> list[str]:
        camera = self._footage.camera.name
        transport = 'compressed' if self._footage.compressed else 'raw'
        suffix = topics.COMPRESSED_SUFFIX if self._footage.compressed else ''
        return [
            sys.executable, '-c', 'from segmentation_node.ros.node import main; main()',
            '--ros-args',
            # JSON strings are YAML strings: no path can be taken for anything else.
            '-p', f'model:={json.dumps(self._model)}',
            '-p', f'image_transport:={transport}',
            '-p', f'image_size:={list(self._footage.image_hw or (0, 0))}',
            # The time of the bag, or latencies would count from when it was recorded.
            '-p', 'use_sim_time:=true',
            # The node puts the suffix behind the remapped name, where it is remapped once more.
            '-r', f'{topics.IMAGE}{suffix}:={camera}',
        ]  # fmt: skip

    def _recorder_command(self) -> list[str]:
        recorded = [
            self._footage.camera,
            *self._footage.truth,
            Topic(LABEL_TOPIC, messages.IMAGE),
            Topic(OVERLAY_TOPIC, messages.IMAGE),
            Topic(LABEL_INFO_TOPIC, messages.STRING, qos=(LATCHED,)),
            Topic(topics.DIAGNOSTICS, messages.DIAGNOSTIC_ARRAY),
        ]
        command = [sys.executable, '-m', 'segmentation_node.ros.recorder', str(self.bag)]
        for topic in recorded:
            command += ['--topic', topic.name, topic.msgtype, _word(topic)]
        return command

    # What goes on

    @property
    def status(self) -> dict[str, str]:
        """The node's last diagnostics, empty before the first."""
        return dict(self._recorder.report.get('status', {}))

    def check(self) -> None:
        """Raise DemoError where node or recorder ended, or the node cannot start."""
        for child in (self.node, self._recorder):
            if child.exit_status is not None:
                raise child.failure()
        status = self.status
        if status.get('state') not in (None, 'active') and status.get('last_error'):
            raise DemoError(
                f'the node cannot start: {status["last_error"]}\n'
                f"the node's own words:\n{self.node.log_text()}"
            )

    def wait_until_active(self) -> None:
        """Wait for the node."""

        def active() -> bool:
            self.check()
            return self.status.get('state') == 'active'

        wait_for(active, START_PATIENCE_S, lambda: DemoError(
            f'the node is {self.status.get("state", "silent")} after {START_PATIENCE_S:.0f} s, '
            f'expected active; its own words:\n{self.node.log_text()}'
        ))  # fmt: skip

    def replay(self) -> Outcome:
        """Replay the bag in real time and wait until the node is done with it."""
        with open_bag(self._footage.bag) as bag:
            sent = bag.counts[self._footage.camera]
        replay = self._child('replay', self._replay_command())
        with tqdm(total=sent, desc='masks', unit='', disable=None) as progress:

            def ended() -> bool:
                self.check()
                progress.update(self._recorded(LABEL_TOPIC) - progress.n)
                if replay.exit_status not in (None, 0):
                    raise replay.failure()
                return replay.exit_status == 0

            wait_for(ended, STALL_PATIENCE_S, lambda: DemoError(
                f'the replay has sent nothing for {STALL_PATIENCE_S:.0f} s; its own words:\n'
                f'{replay.log_text()}'
            ), sign_of_life=lambda: self._recorded(self._footage.camera.name))  # fmt: skip
            status = self._settle(sent)
            progress.update(self._recorded(LABEL_TOPIC) - progress.n)
        return Outcome(self._footage, self.bag, sent, status)

    def _settle(self, sent: int) -> dict[str, str]:
        """Wait until every frame has met its fate and every mask is recorded."""
        seen = [self._recorder.report]

        def settled() -> bool:
            self.check()
            report = self._recorder.report
            if report['reports'] == seen[-1]['reports']:
                return False
            seen.append(report)
            known = [_known(r['status']) for r in seen[-2:]]
            all_came = known[1] == sent or known[1] == known[0]
            return report['status']['in_flight'] == '0' and all_came

        wait_for(settled, SETTLE_PATIENCE_S, lambda: DemoError(
            f'{self.status["in_flight"]} frames are still in work {SETTLE_PATIENCE_S:.0f} s after '
            f'the last was sent; take a smaller model or a faster device'
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
        played = (self._footage.camera, *self._footage.truth)
        names = [topic.name for topic in played]
        # The camera once more, for it is to have two subscribers: the recorder and the node.
        awaited = [self._footage.camera.name, *names]
        return [
            sys.executable, '-m', 'segmentation_node.ros.replay_bag', str(self._footage.bag),
            '--topics', *names, '--wait-for-subscribers', *awaited,
            '--delay', str(MATCH_S), '--clock', '--quiet', '--ros-args',
            # Whatever the camera of the bag offered: what is recorded is to be complete.
            *(word for topic in played for word in _reliable(topic)),
        ]  # fmt: skip


def _known(status: Mapping[str, str]) -> int:
    """Frames that the node received or knows to be lost."""
    return int(status['received']) + int(status['lost'])


def _reliable(topic: Topic) -> tuple[str, str]:
    """ROS arguments that make a publisher of the topic reliable."""
    return '-p', f'qos_overrides.{topic.name}.publisher.reliability:=reliable'


def _word(topic: Topic) -> str:
    """Name of the quality of service with which the recorder subscribes."""
    return 'latched' if any(qos.latched for qos in topic.qos) else 'reliable'
