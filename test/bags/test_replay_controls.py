# SPDX-License-Identifier: Apache-2.0
"""Options that choose what replay_bag plays and how, and its keys; real DDS, a real terminal."""

import os
import pty
import re
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from patience import PATIENCE_S

from ros_process import Probe, isolated_environment  # isort: skip

from bag_making import image_cdr, image_topic, stamp_ns, string_cdr, string_topic, write_camera_bag
from rclpy.duration import Duration
from rclpy.qos import (
    QoSDurabilityPolicy,
    QoSHistoryPolicy,
    QoSProfile,
    QoSReliabilityPolicy,
)
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image

from segmentation_node.bags import messages, player
from segmentation_node.bags.playback_part import Selection, play_extent
from segmentation_node.bags.player import PlayClock
from segmentation_node.bags.publisher_qos import read_overrides
from segmentation_node.bags.qos import qos_profile
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.replay_bag import main
from segmentation_node.bags.writer import BagWriter
from segmentation_node.errors import BagError, SegmentationError

COMMAND = [sys.executable, '-m', 'segmentation_node.bags.replay_bag']
#: Makes standard input the terminal that a new session is controlled by.
TAKE_TERMINAL = 'import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)'
RELIABLE = QoSProfile(depth=1000)
SECOND_NS = messages.SECOND_NS


@pytest.fixture(scope='module')
def probe() -> Iterator[Probe]:
    probe = Probe('controls')
    yield probe
    probe.close()


@pytest.fixture(scope='module')
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bag of /front/image, /rear/image, /notes and /clock, at 0.0, 0.1 and 0.2 s."""
    path = tmp_path_factory.mktemp('bags') / 'cameras'
    with BagWriter(path) as bag:
        for index in range(3):
            for name in ('/front/image', '/rear/image'):
                bag.write(image_topic(name), stamp_ns(index), image_cdr(index))
            bag.write(string_topic(), stamp_ns(index), string_cdr('x'))
            clock = messages.known_topic('/clock', 'rosgraph_msgs/msg/Clock', qos_profile())
            bag.write(clock, stamp_ns(index), b'\0\1\0\0' + bytes(8))
    return path


def replay(*arguments: object) -> tuple[int, str, str]:
    """Run the command in this process; exit status, output, errors."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=PATIENCE_S,
        env=isolated_environment(), check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


@pytest.mark.parametrize(
    ('selection', 'expected'),
    [
        (Selection(), '/clock /front/image /notes /rear/image'),
        (Selection(exclude_topics=['/notes', '/clock']), '/front/image /rear/image'),
        # A pattern has to match the whole name.
        (Selection(regex=pattern('/f')), ''),
        (Selection(regex=pattern('/[fr].*')), '/front/image /rear/image'),
        (Selection(['/notes'], regex=pattern('/f.*')), '/front/image /notes'),
        (Selection(exclude_regex=pattern('.*/image')), '/clock /notes'),
        (Selection(exclude_regex=pattern('image')), '/clock /front/image /notes /rear/image'),
        # What is excluded is out, however it was chosen.
        (Selection(['/notes', '/clock'], exclude_topics=['/notes']), '/clock'),
        (Selection(regex=pattern('/.*'), exclude_regex=pattern('/[frc].*')), '/notes'),
        (Selection(['/notes'], exclude_topics=['/notes']), ''),
    ],
)
def test_topics_are_chosen_as_ros2_bag_play_does(
    cameras: Path, selection: Selection, expected: str
) -> None:
    with open_bag(cameras) as bag:
        if expected:
            assert [topic.name for topic in selection.of(bag)] == expected.split()
        else:
            with pytest.raises(BagError, match=r'no topic that is selected; it has /clock \(ros'):
                selection.of(bag)


def test_a_topic_to_exclude_has_to_exist(cameras: Path) -> None:
    with open_bag(cameras) as bag, pytest.raises(BagError, match="no topic '/imgae'; it has"):
        Selection(exclude_topics=['/imgae']).of(bag)


@pytest.mark.parametrize(
    ('offset_s', 'duration_s', 'until_s', 'expected_s'),
    [
        (0.0, None, None, None),
        (0.0, 0.15, None, 0.15),
        (0.1, 0.15, None, 0.25),
        (0.0, None, 0.2, 0.2),
        # The later end counts.
        (0.1, 0.2, 0.2, 0.3),
        (0.1, 0.2, 0.9, 0.9),
    ],
)
def test_the_end_is_where_ros2_bag_play_has_it(
    cameras: Path, offset_s: float, duration_s: float | None, until_s: float | None,
    expected_s: float | None,
) -> None:  # fmt: skip
    until_ns = None if until_s is None else stamp_ns(0) + round(until_s * SECOND_NS)
    with open_bag(cameras) as bag:
        extent = play_extent(bag, offset_s, duration_s, until_ns)
        assert extent.begin_ns == (stamp_ns(0) + round(offset_s * SECOND_NS) if offset_s else 0)
        if expected_s is None:
            assert extent.end_ns is None
        else:
            assert extent.end_ns == stamp_ns(0) + round(expected_s * SECOND_NS)
        assert play_extent(bag, offset_s, None, -1).end_ns is None


@pytest.mark.parametrize(
    ('options', 'published'),
    [
        (['--exclude-topics', '/notes', '/clock', '--playback-duration', 0.1], 4),
        # Both ends belong to what is played; the times are exact to the nanosecond.
        (['--topics', '/rear/image', '--playback-until-nsec', stamp_ns(1)], 2),
        (['--topics', '/rear/image', '--playback-until-nsec', stamp_ns(1) - 1], 1),
        (['--topics', '/rear/image', '--playback-until-sec', '1600000000.099999999'], 1),
        (['--topics', '/rear/image', '--start-offset', 0.05, '--playback-duration', 0.1], 1),
        (['--regex', '/.*image', '-x', '/rear.*', '--playback-duration', -1], 3),
        (['--clock', '--exclude-regex', '.*/image'], 3),  # the recorded time is left out
    ],
)
def test_a_part_of_a_bag_is_played(cameras: Path, options: list[Any], published: int) -> None:
    status, output, errors = replay(cameras, '--rate', 100, *options)
    assert (status, errors) == (0, '')
    assert output.startswith(f'{published} messages published')


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (['--playback-until-sec', '5'], 'is to be played until 5000000000 ns: nothing'),
        (['--start-offset', '9'], 'nothing to publish: the selected part of'),
        (
            ['--start-paused'],
            '--start-paused waits for a key, but standard input is not a terminal',
        ),
        (['--qos-profile-overrides-path', 'nowhere.yaml'], 'nowhere.yaml cannot be read'),
    ],
)
def test_what_would_play_nothing_is_an_error(
    cameras: Path, options: list[str], says: str, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(sys, 'stdin', SimpleNamespace(isatty=lambda: False))
    if '--start-offset' in options:
        options = [*options, '--topics', '/front/image']
    assert main([str(cameras), '--quiet', *options]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (['--regex', '('], "'(' is not a regular expression (missing )"),
        (['--playback-duration', '0'], "'0' is not a number above 0"),
        (['--playback-until-sec', 'nan'], "'nan' is not a time"),
        (['--playback-until-sec', '1e99'], "'1e99' is not a time"),
        (['--playback-until-sec', '1', '--playback-until-nsec', '1'], 'not allowed with'),
    ],
)
def test_wrong_options(options: list[str], says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['bag', *options])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


PROFILE = """
/front/image:
  history: keep_last
  depth: 3
  reliability: best_effort
  durability: transient_local
  deadline: {sec: 1, nsec: 500}
  lifespan: {sec: 2, nsec: 0}
  liveliness: automatic
  liveliness_lease_duration: {sec: 3, nsec: 0}
  avoid_ros_namespace_conventions: false
/typo: {depth: 1}
"""


def test_profiles_are_read_as_ros2_bag_play_reads_them(tmp_path: Path) -> None:
    path = tmp_path / 'qos.yaml'
    path.write_text(PROFILE)
    qos = read_overrides(path)['/front/image']
    assert (qos.history, qos.depth) == (QoSHistoryPolicy.KEEP_LAST, 3)
    assert qos.reliability == QoSReliabilityPolicy.BEST_EFFORT
    assert qos.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
    assert qos.deadline == Duration(seconds=1, nanoseconds=500)
    assert qos.lifespan == Duration(seconds=2)
    assert qos.liveliness_lease_duration == Duration(seconds=3)


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('[1]', "is \\[1\\], expected a map from topic names"),
        ('/x: 3', "topic '/x': 3 is not a QoS profile"),
        ('/x: {dept: 3}', "unknown key 'dept'; there are history, reliability"),
        ('/x: {depth: -1}', 'depth is -1, expected a number from 0 to 1000'),
        ('/x: {depth: 1000000000}', 'expected a number from 0 to 1000'),
        ('/x: {reliability: best}', "reliability is 'best', expected one of .*best_effort"),
        ('/x: {reliability: [1]}', 'reliability is \\[1\\], expected one of'),
        ('/x: {deadline: 3}', 'deadline is 3, expected sec and nsec'),
        ('/x: {deadline: {sec: 1}}', 'expected sec and nsec'),
        ('/x: {deadline: {sec: -1, nsec: 0}}', 'sec of deadline is -1, expected a number from 0'),
        ('/x: {avoid_ros_namespace_conventions: 1}', 'is 1, expected true or false'),
        ('/x: {reliability: reliable}', "topic '/x': .*[Hh]istory"),
        ('/x: [', 'is not valid YAML'),
    ],
)  # fmt: skip
def test_wrong_profiles_are_refused(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / 'qos.yaml'
    path.write_text(text)
    with pytest.raises(SegmentationError, match=says):
        read_overrides(path)


def test_a_profile_replaces_the_recorded_one(tmp_path: Path, cameras: Path, probe: Probe) -> None:
    path = tmp_path / 'qos.yaml'
    path.write_text(PROFILE)
    process = subprocess.Popen(
        [*COMMAND, cameras, '--qos-profile-overrides-path', path, '--wait-for-subscribers',
         '/rear/image'],
        stderr=subprocess.PIPE, text=True, env=isolated_environment(), stdin=subprocess.DEVNULL,
    )  # fmt: skip
    node = probe.node

    def offered(topic: str) -> Any:
        found = node.get_publishers_info_by_topic(topic)
        return found[0].qos_profile if found else None

    overridden = probe.wait_for('a publisher', lambda: offered('/front/image'))
    recorded = probe.wait_for('the other', lambda: offered('/rear/image'))
    process.send_signal(signal.SIGINT)
    assert 'a QoS profile is given for /typo, which is not played' in process.communicate()[1]
    assert overridden.reliability == QoSReliabilityPolicy.BEST_EFFORT
    assert overridden.durability == QoSDurabilityPolicy.TRANSIENT_LOCAL
    assert recorded.reliability == QoSReliabilityPolicy.RELIABLE


class FakeTime:
    """Time that passes by sleeping alone; events happen when it has come to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.events: list[tuple[float, Any]] = []
        fake = SimpleNamespace(monotonic=lambda: self.now_s, sleep=self._sleep)
        monkeypatch.setattr(player, 'time', fake)

    def _sleep(self, duration_s: float) -> None:
        self.now_s += duration_s
        while self.events and self.events[0][0] <= self.now_s:
            self.events.pop(0)[1]()


def never() -> bool:
    return False


def test_a_clock_that_is_paused_and_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    time_ = FakeTime(monkeypatch)
    clock = PlayClock(rate=2.0)
    assert clock.now_ns() is None
    clock.start(5 * SECOND_NS)
    assert clock.wait_until(6 * SECOND_NS, never) == pytest.approx(0, abs=1e-6)
    assert time_.now_s == pytest.approx(100.5)
    clock.toggle()
    time_.now_s += 50
    assert clock.now_ns() == pytest.approx(6 * SECOND_NS, abs=1000)
    time_.events = [(170.0, clock.toggle)]
    clock.wait_until(8 * SECOND_NS, never)
    assert time_.now_s == pytest.approx(171.0, abs=0.1)
    clock.change_rate(-1.0)
    clock.wait_until(9 * SECOND_NS, never)
    assert time_.now_s == pytest.approx(172.0, abs=0.1)
    clock.change_rate(-5)  # never to a standstill, or backwards
    assert clock.wait_until(9 * SECOND_NS - 1000, never) >= 0
    assert clock.now_ns() == pytest.approx(9 * SECOND_NS, abs=0.1 * SECOND_NS)


def test_a_paused_clock_lets_single_messages_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    time_ = FakeTime(monkeypatch)
    clock = PlayClock(paused=True)
    clock.start(0)
    time_.events = [(101.0, clock.step), (103.0, clock.step)]
    for index, expected_s in ((10, 101.0), (20, 103.0)):
        assert clock.wait_until(index * SECOND_NS, never) == 0
        assert time_.now_s == pytest.approx(expected_s, abs=0.1)
        assert clock.now_ns() == index * SECOND_NS
    time_.events = [(105.0, lambda: stopped.append(True))]
    stopped: list[bool] = []
    clock.wait_until(30 * SECOND_NS, lambda: bool(stopped))
    assert time_.now_s == pytest.approx(105.0, abs=0.1)


def test_late_messages_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    time_ = FakeTime(monkeypatch)
    clock = PlayClock()
    clock.start(0)
    time_.now_s += 3
    assert clock.wait_until(SECOND_NS, never) == pytest.approx(2)


class Terminal:
    """replay_bag with a terminal of its own, as a shell starts it."""

    def __init__(self, *arguments: object) -> None:
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave

        script = f'{TAKE_TERMINAL}; import os, sys; os.execv(sys.executable, sys.argv[1:])'
        self.process = subprocess.Popen(
            [sys.executable, '-c', script, *COMMAND, *map(str, arguments)], stdin=slave,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=isolated_environment(),
            start_new_session=True,
        )  # fmt: skip

    def press(self, key: str) -> None:
        os.write(self.master, key.encode())

    def ended(self) -> tuple[int, str, str]:
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        after = termios.tcgetattr(self.slave)
        os.close(self.slave)
        os.close(self.master)
        assert after[3] == self.before[3], 'the terminal is left as it was'
        return self.process.returncode, output, errors


def test_keys_pause_step_and_resume(tmp_path: Path, probe: Probe) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=6)
    images: list[Any] = []
    clocks: list[Any] = []
    probe.node.create_subscription(Image, '/image', images.append, RELIABLE)
    probe.node.create_subscription(Clock, '/clock', clocks.append, RELIABLE)
    terminal = Terminal(
        path, '--start-paused', '--topics', '/image', '--clock', 20,
        '--wait-for-subscribers', '/image',
    )  # fmt: skip
    # The time of the bag is published while it stands still, and no image is.
    probe.wait_for('the time', lambda: len(clocks) >= 10)
    assert images == []
    assert {m.clock.nanosec for m in clocks} == {stamp_ns(0) % SECOND_NS}
    terminal.press('x\x1b[C')  # other keys do nothing
    probe.wait_for('one image', lambda: len(images) == 1)
    terminal.press('\x1b[C')
    probe.wait_for('another', lambda: len(images) == 2)
    seen = len(clocks)
    probe.wait_for('the time', lambda: len(clocks) >= seen + 10)
    assert len(images) == 2
    assert clocks[-1].clock.nanosec == stamp_ns(1) % SECOND_NS
    terminal.press(' ')
    probe.wait_for('all images', lambda: len(images) == 6)
    status, output, errors = terminal.ended()
    assert status == 0
    assert output.startswith('6 messages published')
    assert 'SPACE pauses and resumes' in errors


def test_a_paused_replay_can_be_interrupted(tmp_path: Path, probe: Probe) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    clocks: list[Any] = []
    probe.node.create_subscription(Clock, '/clock', clocks.append, RELIABLE)
    terminal = Terminal(path, '--start-paused', '--topics', '/image', '--clock')
    probe.wait_for('the time', lambda: len(clocks) >= 2)
    terminal.press('\x03')  # Ctrl-C
    status, output, _ = terminal.ended()
    assert status == 0
    assert output.startswith('0 messages published')


def test_a_job_in_the_background_leaves_the_terminal_alone(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=3)
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    # A group of its own in the session of a shell is what "replay_bag BAG &" is.
    script = (
        f'{TAKE_TERMINAL}; import os, subprocess, sys; '
        'sys.exit(subprocess.Popen(sys.argv[1:], preexec_fn=os.setpgrp).wait())'
    )
    done = subprocess.run(
        [sys.executable, '-c', script, *COMMAND, path, '--rate', '10'],
        stdin=slave, capture_output=True, text=True, env=isolated_environment(), check=False,
        start_new_session=True, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('4 messages published')
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


def test_keys_can_be_disabled(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=3)
    terminal = Terminal(path, '--disable-keyboard-controls', '--rate', 10)
    terminal.press(' ')
    status, output, errors = terminal.ended()
    assert status == 0
    assert output.startswith('4 messages published')
    assert 'SPACE' not in errors
