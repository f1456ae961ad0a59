# SPDX-License-Identifier: Apache-2.0
"""Bags are segmented frame by frame, with all they held kept as it was."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_making import (
    image_cdr,
    image_topic,
    picture,
    stamp_ns,
    string_cdr,
    string_topic,
    wait_for_file,
    write_camera_bag,
    write_with_rosbags,
)
from known_model import BLACK, known_image, write_known_model
from rosbags.highlevel import AnyReader
from rosbags.interfaces import ConnectionExtRosbag2
from rosbags.rosbag2 import Reader, StoragePlugin

from segmentation_node.bags import messages
from segmentation_node.bags.qos import CAMERA
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.segment_bag import main
from segmentation_node.bags.writer import BagWriter
from segmentation_node.cli import EXIT_INCOMPLETE
from segmentation_node.images.files import decode_file, encode_jpeg
from segmentation_node.images.rendering import colorize, overlay
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Segmenter

MASK = '/segmentation_node/label_mask'
COLORS = '/segmentation_node/color_mask'
OVERLAY = '/segmentation_node/overlay'
INFO = '/segmentation_node/label_info_json'
LABEL_INFO = '/segmentation_node/label_info'


@pytest.fixture(scope='module')
def segmenter(tiny_checkpoint: Path) -> Segmenter:
    return Segmenter(str(tiny_checkpoint), device='cpu', precision='fp32')


@pytest.fixture
def run(tiny_checkpoint: Path) -> Any:
    def run_with(*arguments: object) -> int:
        model = ['--model', tiny_checkpoint, '--device', 'cpu', '--precision', 'fp32']
        return main([str(argument) for argument in (*arguments, *model)])

    return run_with


def write_deep_bag(path: Path, largest: int) -> Path:
    """Three frames of mono16 with values from 0 to `largest`."""
    values = np.linspace(0, largest, 24 * 32).astype('<u2').reshape(24, 32)
    with BagWriter(path) as bag:
        for index in range(3):
            header = messages.header(stamp_ns(index), 'camera')
            message = messages.image(values.view(np.uint8), 'mono16', header)
            message.width = 32
            bag.write(image_topic('/image'), stamp_ns(index), messages.serialize(message))
    return path


def test_frames_of_12_bits_are_labelled_as_their_8_bit_images(
    tmp_path: Path, run: Any, segmenter: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    bag = write_deep_bag(tmp_path / 'deep', 4095)
    options = ['--outputs', 'label_mask', '--bits-per-sample', 12]
    assert run(bag, '-o', tmp_path / 'out', *options) == 0
    gray = np.rint(np.linspace(0, 4095, 24 * 32).astype(int) * 255 / 4095).astype(np.uint8)
    image = np.repeat(gray.reshape(24, 32, 1), 3, axis=2)
    expected = segmenter.segment([image]).labels[0]
    with AnyReader([tmp_path / 'out']) as out:
        [mask] = [c for c in out.connections if c.topic == MASK]
        for _, _, data in out.messages([mask]):
            message: Any = out.deserialize(data, mask.msgtype)
            assert np.array_equal(message.data, expected.ravel())
    assert 'bits_per_sample' not in caplog.text


def test_small_values_of_16_bit_frames_are_told_of(
    tmp_path: Path, run: Any, caplog: pytest.LogCaptureFixture
) -> None:
    bag = write_deep_bag(tmp_path / 'deep', 4095)
    assert run(bag, '-o', tmp_path / 'out', '--outputs', 'label_mask') == 0
    assert caplog.text.count('set bits_per_sample (--bits-per-sample) to 12') == 1


def test_values_beyond_the_bits_that_were_said_are_malformed(
    tmp_path: Path, run: Any, capsys: Any
) -> None:
    bag = write_deep_bag(tmp_path / 'deep', 4096)
    options = ['--outputs', 'label_mask', '--bits-per-sample', 12]
    assert run(bag, '-o', tmp_path / 'out', *options) == EXIT_INCOMPLETE
    assert 'has value 4096, but bits_per_sample is 12' in capsys.readouterr().err


def raw(path: Path) -> list[tuple[str, int, bytes]]:
    with Reader(path) as bag:
        return [(c.topic, stamp, bytes(data)) for c, stamp, data in bag.messages()]


def decoded(path: Path, topic: str) -> list[tuple[int, Any]]:
    with AnyReader([path]) as bag:
        connections = [c for c in bag.connections if c.topic == topic]
        return [
            (stamp, bag.deserialize(data, c.msgtype))
            for c, stamp, data in bag.messages(connections)
        ]


def pixels(message: Any) -> Any:
    return message.data.reshape(message.height, message.width, -1).squeeze()


@pytest.mark.parametrize(
    ('source', 'output'),
    [
        ('mcap', 'out.mcap'),
        ('sqlite3', 'out'),
        ('rosbags mcap', 'out'),
        ('rosbags sqlite3', 'out.mcap'),
    ],
)
def test_everything_is_kept_and_masks_come_beside_it(
    tmp_path: Path, run: Any, segmenter: Segmenter, source: str, output: str
) -> None:
    path = tmp_path / 'bag'
    if source.startswith('rosbags'):
        write_with_rosbags(path, StoragePlugin[source.split()[1].upper()])
    else:
        write_camera_bag(path, storage=source)
    before = raw(path)
    assert run(path, '-o', tmp_path / output) == 0
    after = raw(tmp_path / output)
    added = {MASK, COLORS, OVERLAY, INFO, LABEL_INFO}
    assert [message for message in after if message[0] not in added] == before
    assert {topic for topic, _, _ in after} == added | {'/image', '/notes'}
    for index, (stamp, mask) in enumerate(decoded(tmp_path / output, MASK)):
        expected = segmenter.segment([picture(index)]).labels[0]
        assert stamp == messages.stamp_ns_of(mask) == stamp_ns(index)
        assert (mask.encoding, mask.header.frame_id) == ('mono8', 'front')
        assert np.array_equal(pixels(mask), expected)
    assert index == 4


def test_pictures_are_those_of_the_masks(tmp_path: Path, run: Any, segmenter: Segmenter) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    names = 'label_mask,confidence,color_mask,overlay,color_mask/compressed,overlay/compressed'
    options = ('--outputs', names, '--overlay-alpha', 0.25, '--namespace', '/seg')
    assert run(path, '-o', tmp_path / 'out', *options) == 0
    prediction = segmenter.segment([picture(0)])
    colors = colorize(prediction.labels[0], segmenter.scheme)
    ((_, confidence),) = decoded(tmp_path / 'out', '/seg/confidence')
    assert np.array_equal(pixels(confidence), prediction.confidence[0])
    ((_, color),) = decoded(tmp_path / 'out', '/seg/color_mask')
    assert np.array_equal(pixels(color), colors)
    ((_, blended),) = decoded(tmp_path / 'out', '/seg/overlay')
    assert np.array_equal(pixels(blended), overlay(picture(0), colors, 0.25))
    ((_, png),) = decoded(tmp_path / 'out', '/seg/color_mask/compressed')
    assert png.format == 'rgb8; png compressed bgr8'
    assert np.array_equal(decode_file(png.data.tobytes()), colors)
    ((_, jpeg),) = decoded(tmp_path / 'out', '/seg/overlay/compressed')
    assert jpeg.format == 'rgb8; jpeg compressed bgr8'
    assert jpeg.header.frame_id == 'front'


def test_frames_out_of_domain_are_counted(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_known_model(tiny_checkpoint, tmp_path / 'known')
    with BagWriter(tmp_path / 'in', 'mcap') as bag:
        for index, image in enumerate([known_image(100), BLACK, BLACK]):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, image))
    options = ['--model', str(model), '--precision', 'fp32', '-o', str(tmp_path / 'out')]
    assert main([str(tmp_path / 'in'), *options]) == 0
    assert '3 of 3 frames segmented, 2 out of domain' in capsys.readouterr().out


def test_what_the_ids_mean_is_latched_and_first(tmp_path: Path, run: Any) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    assert run(path, '-o', tmp_path / 'out') == 0
    ((stamp, info),) = decoded(tmp_path / 'out', INFO)
    assert stamp == stamp_ns(0)
    assert info.data == load_scheme('cityscapes8').to_json()
    with Reader(tmp_path / 'out') as bag:
        for connection in bag.connections:
            assert isinstance(connection.ext, ConnectionExtRosbag2)
            (qos,) = connection.ext.offered_qos_profiles
            latched = qos.durability.name == 'TRANSIENT_LOCAL'
            assert latched == (connection.topic in (INFO, LABEL_INFO, '/notes'))


def test_ids_and_names_are_there_as_vision_msgs_too(tmp_path: Path, run: Any) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    assert run(path, '-o', tmp_path / 'out', '--min-confidence', 0.25) == 0
    # Read by the definition that is in the bag.
    ((stamp, info),) = decoded(tmp_path / 'out', LABEL_INFO)
    assert stamp == messages.stamp_ns_of(info) == stamp_ns(0)
    classes = load_scheme('cityscapes8').classes
    assert [(c.class_id, c.class_name) for c in info.class_map] == [
        (c.id, c.name) for c in classes
    ]
    assert info.threshold == 0.25
    with Reader(tmp_path / 'out') as bag:
        (connection,) = [c for c in bag.connections if c.topic == LABEL_INFO]
    assert connection.msgtype == 'vision_msgs/msg/LabelInfo'
    assert '=\nMSG: vision_msgs/VisionClass\n' in connection.msgdef.data


def camera_info_cdr(index: int) -> bytes:
    intrinsics = messages.Intrinsics(500.0 + index, 500.0, 16.0, 12.0)
    header = messages.header(stamp_ns(index), 'front')
    return messages.serialize(messages.camera_info(intrinsics, (32, 24), header))


@pytest.mark.parametrize('transport', ['', '/compressed'])
def test_the_calibration_of_the_camera_is_that_of_the_masks(
    tmp_path: Path, run: Any, transport: str
) -> None:
    camera, cdr = image_topic('/front/image'), image_cdr(0)
    if transport:
        camera = messages.known_topic('/front/image/compressed', messages.COMPRESSED_IMAGE, CAMERA)
        header = messages.header(stamp_ns(0), 'front')
        jpeg = messages.compressed_image(encode_jpeg(picture(0)), 'jpeg', header)
        cdr = messages.serialize(jpeg)
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(2):
            for place in ('front', 'rear'):
                info = messages.known_topic(f'/{place}/camera_info', messages.CAMERA_INFO, CAMERA)
                bag.write(info, stamp_ns(index), camera_info_cdr(index + 9 * (place == 'rear')))
            bag.write(camera, stamp_ns(index), cdr)
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out') == 0
    written = [m for m in raw(tmp_path / 'out') if m[0] == '/segmentation_node/camera_info']
    assert [(stamp, cdr) for _, stamp, cdr in written] == [
        (stamp_ns(index), camera_info_cdr(index)) for index in range(2)
    ]
    assert run(tmp_path / 'out', '-o', tmp_path / 'again') == 1


def test_compressed_cameras(tmp_path: Path, run: Any, segmenter: Segmenter) -> None:
    topic = messages.known_topic('/cam/image/compressed', messages.COMPRESSED_IMAGE, CAMERA)
    jpeg = encode_jpeg(picture(3))
    header = messages.header(stamp_ns(0), 'front')
    with BagWriter(tmp_path / 'bag') as bag:
        cdr = messages.serialize(messages.compressed_image(jpeg, 'jpeg', header))
        bag.write(topic, stamp_ns(0), cdr)
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out') == 0
    ((_, mask),) = decoded(tmp_path / 'out', MASK)
    bgr = np.asarray(cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR))
    rgb = np.ascontiguousarray(bgr[:, :, ::-1])
    assert np.array_equal(pixels(mask), segmenter.segment([rgb]).labels[0])


def test_another_scheme(
    tmp_path: Path, run: Any, segmenter: Segmenter, other_scheme: Path
) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    assert run(path, '-o', tmp_path / 'out', '--label-scheme', other_scheme) == 0
    ((_, mask),) = decoded(tmp_path / 'out', MASK)
    labels = segmenter.segment([picture(0)]).labels[0]
    assert np.array_equal(pixels(mask), np.where(labels == 0, 9, labels + 19))
    ((_, info),) = decoded(tmp_path / 'out', INFO)
    assert json.loads(info.data)['scheme'] == 'driveable'


def test_a_threshold_makes_void(tmp_path: Path, run: Any) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    assert run(path, '-o', tmp_path / 'out', '--min-confidence', 1) == 0
    ((_, mask),) = decoded(tmp_path / 'out', MASK)
    assert set(mask.data.tolist()) == {load_scheme('cityscapes8').void_id}


def test_malformed_frames_are_named_and_the_rest_is_done(
    tmp_path: Path, run: Any, capsys: Any
) -> None:
    wrong_step = messages.image(picture(1), 'rgb8', messages.header(stamp_ns(1), 'front'))
    wrong_step.step = 7
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(image_topic(), stamp_ns(0), image_cdr(0))
        bag.write(image_topic(), stamp_ns(1), messages.serialize(wrong_step))
        bag.write(image_topic(), stamp_ns(2), image_cdr(2)[:100])
        bag.write(image_topic(), stamp_ns(3), image_cdr(3, picture(3, 48, 16)))
    before = raw(tmp_path / 'bag')
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out') == EXIT_INCOMPLETE
    captured = capsys.readouterr()
    assert '2 of 4 frames segmented, 2 malformed' in captured.out
    assert f'frame 1 at {stamp_ns(1)} ns: step is 7 bytes' in captured.err
    assert f'frame 2 at {stamp_ns(2)} ns: message of /image' in captured.err
    assert [message for message in raw(tmp_path / 'out') if message[0] == '/image'] == before
    masks = decoded(tmp_path / 'out', MASK)
    assert [(stamp, mask.height, mask.width) for stamp, mask in masks] == [
        (stamp_ns(0), 24, 32), (stamp_ns(3), 48, 16)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ('shape', 'says'),
    [((1, 3_000_000, 3), 'must be padded'), ((1, 70_000, 3), 'too wide or too high')],
)
def test_a_frame_of_no_cameras_shape_costs_itself_alone(
    tmp_path: Path, run: Any, capsys: Any, shape: tuple[int, ...], says: str
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(image_topic(), stamp_ns(0), image_cdr(0, np.zeros(shape, np.uint8)))
        bag.write(image_topic(), stamp_ns(1), image_cdr(1))
    options = ('--outputs', 'label_mask,overlay/compressed')
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out', *options) == EXIT_INCOMPLETE
    assert says in capsys.readouterr().err
    for topic in (MASK, f'{OVERLAY}/compressed'):
        assert [stamp for stamp, _ in decoded(tmp_path / 'out', topic)] == [stamp_ns(1)]


def test_only_the_first_frames(tmp_path: Path, run: Any) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    assert run(path, '-o', tmp_path / 'out', '--limit', 2) == 0
    assert [stamp for stamp, _ in decoded(tmp_path / 'out', MASK)] == [stamp_ns(0), stamp_ns(1)]


@pytest.mark.parametrize('limit', [1, 2, 3])
def test_the_last_frame_keeps_what_other_topics_have_of_it(
    tmp_path: Path, run: Any, limit: int
) -> None:
    truth = image_topic('/ground_truth/label_mask')
    with BagWriter(tmp_path / 'bag') as bag:
        for index in range(2):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index))
            bag.write(truth, stamp_ns(index), image_cdr(index))
            bag.write(string_topic(), stamp_ns(index) + 5, string_cdr('x'))
    before = raw(tmp_path / 'bag')
    options = ('--limit', limit, '--topic', '/image')
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out', *options) == 0
    added = [m for m in raw(tmp_path / 'out') if not m[0].startswith('/segmentation_node/')]
    assert added == before[: 3 * limit]


def test_a_bag_that_was_cut_short(tmp_path: Path, run: Any, capsys: Any) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        for index in range(4):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index))
            bag._do(lambda file: file.flush())
    path.write_bytes(path.read_bytes()[:-2000])
    assert run(path, '-o', tmp_path / 'out') == 1
    assert 'allow --salvage' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()
    assert run(path, '-o', tmp_path / 'out', '--salvage') == 0
    assert 1 <= len(decoded(tmp_path / 'out', MASK)) <= 4


def test_several_cameras_take_a_choice(tmp_path: Path, run: Any, capsys: Any) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for name in ('/left', '/right'):
            bag.write(image_topic(name), stamp_ns(0), image_cdr(0))
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out') == 1
    assert 'choose one with --topic: /left, /right' in capsys.readouterr().err
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out', '--topic', '/right') == 0


def test_no_camera_no_bag(tmp_path: Path, run: Any, capsys: Any) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(string_topic(), stamp_ns(0), string_cdr('x'))
    assert run(tmp_path / 'bag', '-o', tmp_path / 'out') == 1
    assert 'has no image topic' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_segmented_bag_is_not_overlaid(tmp_path: Path, run: Any, capsys: Any) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    assert run(path, '-o', tmp_path / 'once') == 0
    assert run(tmp_path / 'once', '-o', tmp_path / 'twice') == 1
    assert 'another --namespace' in capsys.readouterr().err
    assert run(tmp_path / 'once', '-o', tmp_path / 'twice', '--namespace', '/other') == 0
    with open_bag(tmp_path / 'twice') as bag:
        assert bag.counts[bag.topic('/other/label_mask')] == 1
        assert bag.counts[bag.topic(MASK)] == 1


def test_a_bad_model_costs_no_bag(tmp_path: Path, capsys: Any) -> None:
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    old = write_camera_bag(tmp_path / 'out', frames=2)
    arguments = [path, '-o', old, '--overwrite', '--model', 'no-such-model']
    assert main([str(argument) for argument in arguments]) == 1
    assert 'no-such-model' in capsys.readouterr().err
    with open_bag(old) as bag:
        assert bag.message_count == 3


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['--outputs', 'label_mask,colour'], "unknown output 'colour'; there are label_mask"),
        (['--min-confidence', '2'], 'not a number from 0 to 1'),
        (['--namespace', 'x'], 'not an absolute topic name'),
        (['--precision', 'int3'], 'invalid choice'),
    ],
)
def test_wrong_options(arguments: list[str], says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['bag', '-o', 'out', *arguments])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_a_signal_leaves_a_whole_bag_and_says_where(tmp_path: Path, tiny_checkpoint: Path) -> None:
    path = tmp_path / 'bag'
    with BagWriter(path) as bag:
        for index in range(200):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index, picture(index, 96, 128)))
    out = tmp_path / 'out'
    process = subprocess.Popen(
        [sys.executable, '-m', 'segmentation_node.bags.segment_bag', path, '-o', out,
         '--model', tiny_checkpoint, '--device', 'cpu'],
        stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    wait_for_file(out / 'out_0.mcap', process, size=50_000)  # the first frames are in it
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    masks = len(decoded(out, MASK))
    assert f'interrupted: {masks} of 200 frames segmented' in said
    assert 0 < masks < 200
    assert json.loads(decoded(out, INFO)[0][1].data)['scheme'] == 'cityscapes8'
