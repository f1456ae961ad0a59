# SPDX-License-Identifier: Apache-2.0
"""Bags are replayed by a process of its own and received over real DDS."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S
from rosbags.interfaces import Qos

from ros_process import LATCHED, Probe, isolated_environment  # isort: skip

from bag_hostile import NAMES, QOS, TYPES, mcap_bag
from bag_making import (
    image_cdr,
    image_topic,
    picture,
    stamp_ns,
    string_cdr,
    string_topic,
    write_camera_bag,
)
from mcap.writer import IndexType
from mcap.writer import Writer as McapWriter
from rclpy.qos import QoSProfile, QoSReliabilityPolicy, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image
from std_msgs.msg import String

from segmentation_node.bags import messages, player
from segmentation_node.bags.bounds import MAX_LINE
from segmentation_node.bags.playable import message_class
from segmentation_node.bags.playback_part import play_extent
from segmentation_node.bags.publisher_qos import MAX_DEPTH, recorded_qos
from segmentation_node.bags.qos import CAMERA, qos_profile
from segmentation_node.bags.reader import Bag, open_bag
from segmentation_node.bags.replay_bag import main
from segmentation_node.bags.topic import ALL, RawMessage, Span, Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.images.encodings import encode_png

RELIABLE = QoSProfile(depth=100, reliability=QoSReliabilityPolicy.RELIABLE)


@pytest.fixture(scope='module')
def probe() -> Iterator[Probe]:
    probe = Probe('replay')
    yield probe
    probe.close()


class Replay:
    """replay_bag as a process."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'segmentation_node.bags.replay_bag', *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=isolated_environment(),
        )  # fmt: skip

    def ended(self) -> tuple[int, str, str]:
        """Wait for the end; exit status, output, errors."""
        output, errors = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output, errors

    def interrupt(self) -> tuple[int, str, str]:
        self.process.send_signal(signal.SIGINT)
        return self.ended()


class Received:
    """Messages of a topic with the times they came."""

    def __init__(
        self, probe: Probe, topic: str, kind: Any, qos: Any = RELIABLE, raw: bool = False
    ) -> None:
        self.messages: list[Any] = []
        self.times_s: list[float] = []
        self._subscription = probe.node.create_subscription(kind, topic, self._take, qos, raw=raw)

    def _take(self, message: Any) -> None:
        self.messages.append(message)
        self.times_s.append(time.monotonic())

    def __len__(self) -> int:
        return len(self.messages)


def test_messages_come_verbatim_and_in_time(tmp_path: Path, probe: Probe) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=10)
    images = Received(probe, '/image', Image, raw=True)
    replay = Replay(path, '--wait-for-subscribers', '/image')
    probe.wait_for('ten images', lambda: len(images) == 10)
    status, output, _ = replay.ended()
    assert status == 0
    assert '11 messages published' in output
    assert images.messages == [image_cdr(index) for index in range(10)]
    # Nine periods of 0.1 s; the first may have been on its way for longer than the last.
    assert images.times_s[-1] - images.times_s[0] > 0.5


def test_latched_messages_reach_those_who_come_late(tmp_path: Path, probe: Probe) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=200)
    images = Received(probe, '/image', Image)
    replay = Replay(path)
    probe.wait_for('an image, after the note', lambda: len(images))
    notes = Received(probe, '/notes', String, LATCHED)
    probe.wait_for('the note', lambda: len(notes))
    assert notes.messages[0].data == 'hello'
    assert replay.interrupt()[0] == 0


def test_compressed_images_are_decoded_on_request(tmp_path: Path, probe: Probe) -> None:
    topic = messages.known_topic('/front/image/compressed', messages.COMPRESSED_IMAGE, CAMERA)
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(3):
            header = messages.header(stamp_ns(index), 'front')
            image = messages.compressed_image(encode_png(picture(index)), 'png', header)
            bag.write(topic, stamp_ns(index), messages.serialize(image))
    images = Received(probe, '/front/image', Image, qos_profile_sensor_data)
    replay = Replay(tmp_path / 'bag', '--decode-images', '--wait-for-subscribers', '/front/image')
    probe.wait_for('three images', lambda: len(images) == 3)
    assert replay.ended()[0] == 0
    for index, image in enumerate(images.messages):
        assert image.encoding == 'rgb8'
        assert image.header.stamp.nanosec == stamp_ns(index) % 10**9
        assert bytes(image.data) == picture(index).tobytes()


def test_rate_remap_and_topics(tmp_path: Path, probe: Probe) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=100)  # 10 s
    images = Received(probe, '/front/camera', Image)
    notes = Received(probe, '/notes', String, LATCHED)
    replay = Replay(
        path, '--rate', 1000, '--topics', '/image', '--remap', '/image:=/front/camera',
        '--wait-for-subscribers',
    )  # fmt: skip
    probe.wait_for('the last image', lambda: images.messages[-1:] and
                   images.messages[-1].header.stamp.nanosec == stamp_ns(99) % 10**9)  # fmt: skip
    status, output, _ = replay.ended()
    assert (status, len(notes)) == (0, 0)
    assert '100 messages published' in output
    assert images.times_s[-1] - images.times_s[0] < 5


def test_the_clock_is_that_of_the_bag(tmp_path: Path, probe: Probe) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=200)
    clock = Received(probe, '/clock', Clock)
    replay = Replay(path, '--clock', 50, '--rate', 2)
    probe.wait_for('the time', lambda: len(clock) >= 30)
    assert replay.interrupt()[0] == 0
    times_ns = [m.clock.sec * 10**9 + m.clock.nanosec for m in clock.messages]
    assert stamp_ns(0) <= times_ns[0] < stamp_ns(200)
    assert times_ns == sorted(times_ns)
    # 29 periods of 20 ms are 1.16 s of a bag at twice its pace, however late they came.
    assert 0.5e9 < times_ns[29] - times_ns[0] < 30e9


def test_the_beginning_can_be_left_out_but_for_what_is_latched(
    tmp_path: Path, probe: Probe
) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=10)
    images = Received(probe, '/image', Image)
    notes = Received(probe, '/notes', String, LATCHED)
    replay = Replay(path, '--start-offset', 0.65, '--wait-for-subscribers', '/image', '/notes')
    probe.wait_for('the last images', lambda: len(images) == 3)
    probe.wait_for('the note', lambda: len(notes) == 1)
    assert replay.ended()[0] == 0
    assert [m.header.stamp.nanosec for m in images.messages] == [
        stamp_ns(index) % 10**9 for index in (7, 8, 9)
    ]


def test_when_messages_were_sent_is_written_down(tmp_path: Path, probe: Probe) -> None:
    bag = write_camera_bag(tmp_path / 'bag.mcap', frames=3)
    before_ns = time.time_ns()
    replay = Replay(bag, '--topics', '/image', '--rate', 10, '--log', tmp_path / 'sent.tsv')
    assert replay.ended()[0] == 0
    lines = (tmp_path / 'sent.tsv').read_text(encoding='utf-8').splitlines()
    names, stamps_ns, sent_ns = zip(*(line.split('\t') for line in lines), strict=True)
    assert set(names) == {'/image'}
    assert [int(of) for of in stamps_ns] == [stamp_ns(index) for index in range(3)]
    times_ns = [before_ns, *map(int, sent_ns), time.time_ns()]
    assert times_ns == sorted(times_ns)


def test_the_pace_is_kept_however_long_the_beginning_takes_to_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, published_s = 0.0, []

    def sleep(duration_s: float) -> None:
        nonlocal now_s
        now_s += duration_s

    class SlowBag(Bag):
        def messages(self, names: Any = None, span: Span = ALL) -> Iterator[RawMessage]:
            for message in super().messages(names, span):
                sleep(1.0 if message.stamp_ns < stamp_ns(5) else 0.0)
                yield message

    fake_time = SimpleNamespace(monotonic=lambda: now_s, sleep=sleep, time_ns=time.time_ns)
    monkeypatch.setattr(player, 'time', fake_time)
    publisher: Any = SimpleNamespace(publish=lambda _: published_s.append(now_s))
    with open_bag(write_camera_bag(tmp_path / 'bag.mcap', frames=8)) as bag:
        slow = SlowBag(bag.path, bag._storage)
        publishers = {bag.topic('/image'): publisher}
        extent = play_extent(slow, 0.5, None, None)
        now_s = 0.0
        clock = player.PlayClock()
        player.Player(slow, publishers, clock, extent, lambda: False, quiet=True).play()
    assert np.diff(published_s) == pytest.approx([0.1, 0.1])


def test_the_beginning_is_that_of_the_bag_whatever_topics_are_chosen(
    tmp_path: Path, probe: Probe
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(string_topic(), stamp_ns(0), string_cdr('hello'))
        for index in range(10, 20):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index))
    replay = Replay(tmp_path / 'bag', '--topics', '/image', '--start-offset', 1.55, '--rate', 10)
    status, output, _ = replay.ended()
    assert status == 0
    assert output.startswith('4 messages published')


def test_what_is_out_of_order_is_published_all_the_same(tmp_path: Path, probe: Probe) -> None:
    path = tmp_path / 'bag.mcap'
    with path.open('wb') as stream:
        # Without an index messages come in the order of the file.
        writer = McapWriter(stream, index_types=IndexType.NONE)
        writer.start(profile='ros2')
        schema = writer.register_schema(messages.STRING, 'ros2msg', b'string data')
        channel = writer.register_channel('/notes', 'cdr', schema)
        for index in (1, 0, 2):
            writer.add_message(channel, stamp_ns(index), string_cdr('x'), stamp_ns(index))
        writer.finish()  # type: ignore[no-untyped-call]
    status, output, _ = Replay(path).ended()
    assert status == 0
    assert output.startswith('3 messages published')


def test_it_loops_until_interrupted(tmp_path: Path, probe: Probe) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=3)
    images = Received(probe, '/image', Image)
    replay = Replay(path, '--loop', '--rate', 10)
    probe.wait_for('three rounds', lambda: len(images) >= 9)
    status, output, errors = replay.interrupt()
    assert status == 0
    assert 'Traceback' not in errors
    assert 'messages published' in output


def test_it_is_interrupted_while_it_waits(tmp_path: Path) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    replay = Replay(path, '--remap', '/image:=/nobody', '--wait-for-subscribers', '/nobody')
    assert replay.process.stderr is not None
    assert 'waiting for subscribers of /nobody' in replay.process.stderr.readline()
    status, output, _ = replay.interrupt()
    assert status == 0
    assert output.startswith('0 messages published')


def test_types_that_are_not_installed_are_named(tmp_path: Path, probe: Probe) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(Topic('/radar', 'radar_msgs/msg/RadarScan'), stamp_ns(0), b'\0\1\0\0')
        bag.write(string_topic('/notes'), stamp_ns(0), string_cdr('x'))
    notes = Received(probe, '/notes', String, LATCHED)
    replay = Replay(tmp_path / 'bag', '--wait-for-subscribers')
    probe.wait_for('the note', lambda: len(notes))
    status, output, errors = replay.ended()
    assert status == 0
    assert 'warning: /radar is skipped: type radar_msgs/msg/RadarScan is not installed' in errors
    assert '1 messages published' in output


def test_names_that_ros_does_not_allow_are_skipped_or_published_under_others(
    tmp_path: Path, probe: Probe
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for name in ('/notes', *NAMES):
            bag.write(string_topic(name), stamp_ns(0), string_cdr(name[:20]))
    notes = Received(probe, '/notes', String, LATCHED)
    camera = Received(probe, '/camera2', String, LATCHED)
    replay = Replay(tmp_path / 'bag', '--remap', '/2/camera:=/camera2', '--wait-for-subscribers')
    probe.wait_for('both messages', lambda: len(notes) and len(camera))
    status, output, errors = replay.ended()
    assert status == 0
    assert camera.messages[0].data == '/2/camera'
    assert 'warning: //x is skipped: ROS 2 does not allow its name (' in errors
    assert "publish it under another one: --remap '//x:=/another_name'" in errors
    assert '/2/camera' not in errors
    assert all(line.isprintable() and len(line) < MAX_LINE for line in errors.split('\n'))
    assert 'Traceback' not in errors
    # Allowed are /x__y_, and "camera", which is /camera.
    assert output.startswith('4 messages published')


def test_types_profiles_and_messages_that_make_no_sense(tmp_path: Path, probe: Probe) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for index, msgtype in enumerate(TYPES):
            bag.write(Topic(f'/type_{index}', msgtype), stamp_ns(0), b'\0\1\0\0')
        deep = string_topic('/deep', qos_profile(depth=2**31 - 1, durability='transient_local'))
        bag.write(deep, stamp_ns(0), string_cdr('deep'))
        bag.write(string_topic('/short'), stamp_ns(0), b'\0\1')
        bag.write(string_topic('/short'), stamp_ns(0), b'')
        bag.write(string_topic('/twice'), stamp_ns(0), string_cdr('x'))
        bag.write(image_topic('/twice'), stamp_ns(0), image_cdr(0))
        bag.write(string_topic('/late'), 2**62, string_cdr('x'))
        bag.write(string_topic('/junk'), stamp_ns(0), b'\0\1\0\0' + b'\xff' * 9)
    deep_notes = Received(probe, '/deep', String, LATCHED)
    replay = Replay(tmp_path / 'bag', '--wait-for-subscribers', '/deep', '--clock')
    probe.wait_for('the message', lambda: len(deep_notes))
    status, output, errors = replay.ended()
    assert status == 0
    assert 'Traceback' not in errors
    assert "warning: /type_1 is skipped: '../msg/X' in 'cdr' is not a ROS 2 message" in errors
    assert 'antigravity/msg/X is not installed (no package antigravity)' in errors
    assert 'warning: /deep has depth 2147483647, cut to 1000' in errors
    assert '/twice is published with type sensor_msgs/msg/Image already' in errors
    assert 'warning: 2 messages were left out: /short has messages of less than 4 bytes' in errors
    assert 'warning: 1 messages were left out: /late has stamps outside of 0 to 2^31 s' in errors
    assert all(line.isprintable() for line in errors.split('\n'))
    assert output.startswith('4 messages published')


@pytest.mark.parametrize('qos', QOS)
def test_profiles_of_any_kind(tmp_path: Path, qos: str) -> None:
    with open_bag(mcap_bag(tmp_path / 'bag.mcap', qos=qos)) as bag:
        topic = bag.topic('/image')
    assert 1 <= recorded_qos(topic).depth <= MAX_DEPTH
    # rclpy would refuse, or take all the memory there is.
    assert topic.qos or topic.qos_is_damaged


def test_damaged_profiles_are_told(tmp_path: Path, probe: Probe) -> None:
    path = mcap_bag(tmp_path / 'bag.mcap', qos='- {depth: -5}')
    status, _, errors = Replay(path).ended()
    assert status == 0
    assert 'warning: /image has invalid QoS profiles; it is published reliable' in errors


def test_looking_for_a_type_imports_nothing_else() -> None:
    assert 'not installed' in message_class(Topic('/x', 'antigravity/msg/X'))
    assert 'antigravity' not in sys.modules


def test_a_best_effort_recording_warns_who_asks_for_more(tmp_path: Path, probe: Probe) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(3):
            topic = image_topic('/lossy', qos_profile(reliability='best_effort'))
            bag.write(topic, stamp_ns(index), image_cdr(index))
    Received(probe, '/lossy', Image, RELIABLE)
    replay = Replay(tmp_path / 'bag', '--wait-for-subscribers')
    assert replay.process.stderr is not None
    said = ''
    while 'incompatible QoS' not in said:
        line = replay.process.stderr.readline()
        assert line, said
        said += line
    assert replay.interrupt()[0] == 0


@pytest.mark.parametrize(
    ('offered', 'expected'),
    [
        ((), ('RELIABLE', 'VOLATILE', 10)),
        ((qos_profile(depth=3),), ('RELIABLE', 'VOLATILE', 3)),
        ((qos_profile(depth=0, history='unknown'),), ('RELIABLE', 'VOLATILE', 10)),
        ((qos_profile(depth=1, reliability='best_effort'),), ('BEST_EFFORT', 'VOLATILE', 1)),
        ((qos_profile(1, durability='transient_local'),), ('RELIABLE', 'TRANSIENT_LOCAL', 1)),
        ((qos_profile(reliability='best_effort'), qos_profile()), ('RELIABLE', 'VOLATILE', 10)),
    ],
)
def test_publishers_offer_what_was_recorded(
    offered: tuple[Qos, ...], expected: tuple[str, str, int]
) -> None:
    qos = recorded_qos(Topic('/x', 'std_msgs/msg/String', qos=offered))
    assert (qos.reliability.name, qos.durability.name, qos.depth) == expected


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (['--topics', '/imgae'], "no topic '/imgae'; it has"),
        (['--remap', '/imgae:=/x'], '--remap of /imgae, expected topics that are replayed'),
        (['--wait-for-subscribers', '/x'], '--wait-for-subscribers of /x, expected topics'),
    ],
)
def test_wrong_names(tmp_path: Path, capsys: Any, options: list[str], says: str) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    assert main([str(path), *options]) == 1
    assert says in capsys.readouterr().err


@pytest.mark.parametrize('options', [['--rate', '0'], ['--remap', '/image'], ['--clock', 'x']])
def test_wrong_options(options: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['bag', *options])
    assert ended.value.code == 2


def test_no_bag(tmp_path: Path, capsys: Any) -> None:
    assert main([str(tmp_path / 'none')]) == 1
    assert 'replay_bag: ' in capsys.readouterr().err
