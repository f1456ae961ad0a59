# SPDX-License-Identifier: Apache-2.0
"""Folders of images and Cityscapes trees become bags."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from bag_hostile import DEEP_YAML
from bag_making import picture, wait_for_file, write_pictures
from png_files import GRAY, PALETTE, png
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import Reader

from segmentation_node.bags.images_to_bag import START_NS, main
from segmentation_node.bags.sources import read_intrinsics
from segmentation_node.errors import BagError
from segmentation_node.images.files import encode_png
from training.scenes.__main__ import main as render_scenes

Seen = dict[str, list[tuple[int, Any]]]


def seen_in(path: Path) -> Seen:
    """Stamps and messages of a bag by topic, read by the other library."""
    seen: Seen = {}
    with AnyReader([path]) as bag:
        for connection, stamp_ns, data in bag.messages():
            message = bag.deserialize(data, connection.msgtype)
            seen.setdefault(connection.topic, []).append((stamp_ns, message))
    return seen


def header_ns(message: Any) -> int:
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


# --- Folders of images


@pytest.mark.parametrize('output', ['drive.mcap', 'drive'])
def test_a_folder_in_natural_order(tmp_path: Path, output: str) -> None:
    names = ['frame_10.png', 'frame_9.png', 'frame_100.png']
    images = write_pictures(tmp_path / 'images', names)
    (images / 'notes.txt').write_text('not an image')
    assert run('--images', images, '--output', tmp_path / output, '--rate-hz', 20) == 0
    seen = seen_in(tmp_path / output)
    assert list(seen) == ['/image']
    stamps, messages = zip(*seen['/image'], strict=True)
    assert stamps == (START_NS, START_NS + 50_000_000, START_NS + 100_000_000)
    assert tuple(map(header_ns, messages)) == stamps
    for message, seed in zip(messages, (1, 0, 2), strict=True):
        assert message.header.frame_id == 'camera'
        assert (message.height, message.width, message.step) == (24, 32, 96)
        assert message.encoding == 'rgb8'
        assert np.array_equal(message.data.reshape(24, 32, 3), picture(seed))


def test_a_raised_digit_in_a_name_is_no_number(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / 'images', ['area_5²5.png'])
    assert run('--images', images, '-o', tmp_path / 'bag') == 0


def test_bgr8_topic_frame_and_start(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / 'images', ['a.png'])
    assert run(
        '--images', images, '-o', tmp_path / 'bag', '--encoding', 'bgr8', '--topic',
        '/front/image', '--frame-id', 'front', '--start', 12.5, '--storage', 'sqlite3',
    ) == 0  # fmt: skip
    ((stamp_ns, message),) = seen_in(tmp_path / 'bag')['/front/image']
    assert stamp_ns == header_ns(message) == 12_500_000_000
    assert (message.encoding, message.header.frame_id) == ('bgr8', 'front')
    assert np.array_equal(message.data.reshape(24, 32, 3)[:, :, ::-1], picture(0))


def test_compressed_keeps_jpeg_files_byte_by_byte(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / 'images', ['0.jpg', '1.png'])
    assert run('--images', images, '-o', tmp_path / 'bag.mcap', '--compressed') == 0
    (_, jpeg), (_, png) = seen_in(tmp_path / 'bag.mcap')['/image/compressed']
    assert jpeg.data.tobytes() == (images / '0.jpg').read_bytes()
    assert jpeg.format == 'jpeg'
    assert png.format == 'rgb8; png compressed bgr8'
    bgr = cv2.imdecode(png.data, cv2.IMREAD_UNCHANGED)
    assert np.array_equal(np.asarray(bgr)[:, :, ::-1], picture(1))


def write_labels(folder: Path, labels: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, ids in labels.items():
        (folder / name).write_bytes(encode_png(np.asarray(ids, np.uint8)))
    return folder


def test_labels_become_ground_truth(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / 'images', ['a.jpg', 'b.jpg'], height=2, width=2)
    labels = write_labels(
        tmp_path / 'labels', {'a.png': [[0, 1], [2, 3]], 'b.png': [[11, 10], [9, 8]]}
    )
    assert run(
        '--images', images, '--labels', labels, '--label-scheme', 'camvid11', '-o',
        tmp_path / 'bag',
    ) == 0  # fmt: skip
    seen = seen_in(tmp_path / 'bag')
    ((info_ns, info),) = seen['/ground_truth/label_info_json']
    assert info_ns == START_NS
    assert json.loads(info.data)['scheme'] == 'camvid11'
    truth = seen['/ground_truth/label_mask']
    assert [message.data.tolist() for _, message in truth] == [[0, 1, 2, 3], [11, 10, 9, 8]]
    assert [message.encoding for _, message in truth] == ['mono8', 'mono8']
    images_ns = [header_ns(message) for _, message in seen['/image']]
    assert [header_ns(message) for _, message in truth] == images_ns


@pytest.mark.parametrize(('kind', 'colors'), [(PALETTE, [[9, 9, 9]] * 4), (GRAY, [])])
def test_labels_of_a_palette_or_of_few_bits_are_ids(
    tmp_path: Path, kind: int, colors: list[list[int]]
) -> None:
    images = write_pictures(tmp_path / 'images', ['a.jpg'], height=2, width=2)
    (tmp_path / 'labels').mkdir()
    ids = np.array([[0, 1], [2, 3]])
    (tmp_path / 'labels' / 'a.png').write_bytes(png(ids, 2, kind, colors))
    options = ['--images', images, '--labels', tmp_path / 'labels', '--label-scheme', 'camvid11']
    assert run(*options, '-o', tmp_path / 'bag') == 0
    [(_, truth)] = seen_in(tmp_path / 'bag')['/ground_truth/label_mask']
    assert truth.data.tolist() == [0, 1, 2, 3]


def test_a_binary_mask_of_0_and_255_is_refused_with_its_values(
    tmp_path: Path, capsys: Any
) -> None:
    images = write_pictures(tmp_path / 'images', ['a.jpg'], height=2, width=2)
    labels = write_labels(tmp_path / 'labels', {'a.png': [[0, 255], [255, 255]]})
    options = ['--images', images, '--labels', labels, '--label-scheme', 'cityscapes8']
    assert run(*options, '-o', tmp_path / 'bag') == 1
    said = capsys.readouterr().err
    assert 'a.png: labels with values that label scheme cityscapes8 lacks: 255 (3 pixels)' in said


def test_hidden_files_are_not_seen(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / 'images', ['a.png'], height=2, width=2)
    labels = write_labels(tmp_path / 'labels', {'a.png': [[0, 1], [2, 3]]})
    for folder in (images, labels):
        for name in ('._a.png', '.DS_Store', 'Thumbs.db', 'desktop.ini'):
            (folder / name).write_bytes(b'no picture')
    options = ['--images', images, '--labels', labels, '--label-scheme', 'camvid11']
    assert run(*options, '-o', tmp_path / 'bag') == 0
    assert len(seen_in(tmp_path / 'bag')['/image']) == 1


def test_two_label_files_of_one_image_are_refused(tmp_path: Path, capsys: Any) -> None:
    images = write_pictures(tmp_path / 'images', ['a.png'], height=2, width=2)
    labels = write_labels(tmp_path / 'labels', {'a.png': [[0, 1], [2, 3]]})
    (labels / 'a.tif').write_bytes(b'')
    options = ['--images', images, '--labels', labels, '--label-scheme', 'camvid11']
    assert run(*options, '-o', tmp_path / 'bag') == 1
    assert 'a.png and a.tif are both the labels of a; remove one' in capsys.readouterr().err


def broken_set(tmp_path: Path) -> tuple[Path, Path]:
    """One good pair of files, and one of every kind of trouble."""
    images = write_pictures(tmp_path / 'images', ['a.png', 'b.png', 'c.png', 'd.png'])
    (images / 'cut.png').write_bytes((images / 'a.png').read_bytes()[:-20])
    write_pictures(images, ['large.png'], height=48)
    good = np.zeros((24, 32))
    labels = write_labels(
        tmp_path / 'labels',
        {
            'a.png': good,
            'b.png': good[:10],
            'c.png': good + 99,
            'lonely.png': good,
            'cut.png': good,
            'large.png': good,
        },
    )
    return images, labels


def test_trouble_is_named_before_anything_is_written(tmp_path: Path, capsys: Any) -> None:
    images, labels = broken_set(tmp_path)
    options = ['--images', images, '--labels', labels, '--label-scheme', 'camvid11']
    assert run(*options, '-o', tmp_path / 'bag') == 1
    said = capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()
    assert '6 files cannot go into the bag' in said
    for words in (
        'lonely.png: a label image of no frame',
        'cut.png: PNG image is cut short',
        'large.png: is 32x48, but the frames before are 32x24',
        'b.png: is 32x10, but its frame is 32x24',
        'c.png: labels with values that label scheme camvid11 lacks: 99 (768 pixels)',
        'd.png: has no label image',
    ):
        assert words in said


def test_trouble_can_be_left_out(tmp_path: Path, capsys: Any) -> None:
    images, labels = broken_set(tmp_path)
    options = ['--images', images, '--labels', labels, '--label-scheme', 'camvid11']
    assert run(*options, '-o', tmp_path / 'bag', '--skip-bad') == 0
    seen = seen_in(tmp_path / 'bag')
    assert len(seen['/image']) == 4
    assert len(seen['/ground_truth/label_mask']) == 1
    assert 'left out 6 files' in capsys.readouterr().err


def test_a_tiff_that_lacks_its_last_pixels_is_left_out(tmp_path: Path, capsys: Any) -> None:
    images = write_pictures(tmp_path / 'images', ['a.png'])
    # One strip behind the tags, as most programs write it.
    tags = {256: 32, 257: 24, 258: 8, 259: 1, 262: 1, 273: 134, 277: 1, 278: 24, 279: 32 * 24}
    entries = (struct.pack('<HHII', tag, 4, 1, value) for tag, value in tags.items())
    whole = b'II*\0' + struct.pack('<IH', 8, len(tags)) + b''.join(entries) + bytes(4)
    whole = whole.ljust(134, b'\0') + bytes(32 * 24)
    (images / 'b.tif').write_bytes(whole)
    assert run('--images', images, '-o', tmp_path / 'whole') == 0
    (images / 'b.tif').write_bytes(whole[:-100])
    assert run('--images', images, '-o', tmp_path / 'bag') == 1
    assert not (tmp_path / 'bag').exists()
    assert run('--images', images, '-o', tmp_path / 'bag', '--skip-bad') == 0
    assert len(seen_in(tmp_path / 'bag')['/image']) == 1
    assert f'{images / "b.tif"}: ' in capsys.readouterr().err


def test_only_the_first_frames(tmp_path: Path) -> None:
    images = write_pictures(tmp_path / 'images', ['a.png', 'b.png', 'c.png'])
    assert run('--images', images, '-o', tmp_path / 'bag', '--limit', 2) == 0
    assert len(seen_in(tmp_path / 'bag')['/image']) == 2


@pytest.mark.parametrize('options', [['--start', 2**31 - 1], ['--rate-hz', 1e-10]])
def test_stamps_that_no_message_holds_are_refused(
    tmp_path: Path, capsys: Any, options: list[object]
) -> None:
    images = write_pictures(tmp_path / 'images', [f'{index}.png' for index in range(11)])
    assert run('--images', images, '-o', tmp_path / 'bag', *options) == 1
    assert 'choose an earlier --start or a higher --rate-hz' in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


# --- Cityscapes


def write_tree(
    root: Path,
    names: list[str],
    pictures: str = 'leftImg8bit',
    times_ns: list[int] | None = None,
    labelled: bool = True,
) -> Path:
    """A Cityscapes tree of 4 x 2 pixels; names are like 'val/lund/lund_000000_000019'."""
    for index, name in enumerate(names):
        split, city, stem = name.split('/')

        def place(folder: str, file: str, at: Path = Path(split, city)) -> Path:
            path = root / folder / at / file
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        rgb = picture(index, 2, 4)
        place(pictures, f'{stem}_leftImg8bit.png').write_bytes(encode_png(rgb))
        if labelled:
            ids = np.full((2, 4), 7 + index, np.uint8)
            place('gtFine', f'{stem}_gtFine_labelIds.png').write_bytes(encode_png(ids))
            place('camera', f'{stem}_camera.json').write_text(
                json.dumps({'intrinsic': {'fx': 100.0, 'fy': 110.0, 'u0': 2.0, 'v0': 1.0}})
            )
        if times_ns is not None:
            place('timestamp_sequence', f'{stem}_timestamp.txt').write_text(f'{times_ns[index]}\n')
    return root


NAMES = [
    'train/ulm/ulm_000000_000019',
    'val/bonn/bonn_000000_000019',
    'val/lund/lund_000000_000019',
    'val/lund/lund_000000_000020',
]


def test_a_tree_with_truth_and_camera(tmp_path: Path) -> None:
    root = write_tree(tmp_path / 'cs', NAMES[2:], times_ns=[5_000, 58_823_529])
    assert run('--cityscapes', root, '-o', tmp_path / 'bag') == 0
    seen = seen_in(tmp_path / 'bag')
    assert sorted(seen) == [
        '/camera_info', '/ground_truth/label_info_json', '/ground_truth/label_mask', '/image'
    ]  # fmt: skip
    assert [stamp - START_NS for stamp, _ in seen['/image']] == [0, 58_818_529]
    info = seen['/camera_info'][1][1]
    image = seen['/image'][1][1]
    assert header_ns(info) == header_ns(image) == START_NS + 58_818_529
    assert info.header.frame_id == image.header.frame_id
    assert (info.width, info.height, info.distortion_model) == (4, 2, 'plumb_bob')
    assert info.k.tolist() == [100, 0, 2, 0, 110, 1, 0, 0, 1]
    assert info.p.tolist() == [100, 0, 2, 0, 0, 110, 1, 0, 0, 0, 1, 0]
    assert info.r.tolist() == [1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert info.d.tolist() == [0] * 5
    assert [m.data.tolist() for _, m in seen['/ground_truth/label_mask']] == [[7] * 8, [8] * 8]
    scheme = json.loads(seen['/ground_truth/label_info_json'][0][1].data)
    assert scheme['scheme'] == 'cityscapes34'


@pytest.mark.parametrize(
    ('selection', 'frames'),
    [
        ([], 4),
        (['--split', 'val'], 3),
        (['--city', 'lund'], 2),
        (['--city', 'lund', '--city', 'ulm'], 3),
        (['--split', 'train', '--city', 'ulm'], 1),
    ],
)
def test_split_and_city(tmp_path: Path, selection: list[str], frames: int) -> None:
    root = write_tree(tmp_path / 'cs', NAMES)
    assert run('--cityscapes', root, '-o', tmp_path / 'bag', *selection) == 0
    assert len(seen_in(tmp_path / 'bag')['/image']) == frames


@pytest.mark.parametrize(
    ('selection', 'says'),
    [
        (['--split', 'tset'], 'has no split tset; there are train, val'),
        (['--city', 'paris'], 'has no city paris; there are ulm, bonn, lund'),
        (['--sequence'], 'has no folder leftImg8bit_sequence'),
    ],
)
def test_what_is_not_there_is_named(
    tmp_path: Path, capsys: Any, selection: list[str], says: str
) -> None:
    root = write_tree(tmp_path / 'cs', NAMES)
    assert run('--cityscapes', root, '-o', tmp_path / 'bag', *selection) == 1
    assert says in capsys.readouterr().err


def test_sequences_follow_each_other_with_their_own_times(tmp_path: Path) -> None:
    names = [f'val/lund/lund_00000{s}_00000{f}' for s in (0, 1) for f in (0, 1)]
    root = write_tree(
        tmp_path / 'cs', names, 'leftImg8bit_sequence', [0, 50_000_000, 0, 70_000_000], False
    )
    assert run('--cityscapes', root, '-o', tmp_path / 'bag', '--rate-hz', 10) == 0
    times_ns = [stamp - START_NS for stamp, _ in seen_in(tmp_path / 'bag')['/image']]
    assert times_ns == [0, 50_000_000, 150_000_000, 220_000_000]


def test_only_some_frames_of_a_sequence_have_truth(tmp_path: Path) -> None:
    write_tree(tmp_path / 'cs', NAMES[2:3], 'leftImg8bit_sequence')
    write_tree(tmp_path / 'cs', NAMES[3:], 'leftImg8bit_sequence', labelled=False)
    assert run('--cityscapes', tmp_path / 'cs', '-o', tmp_path / 'bag') == 0
    seen = seen_in(tmp_path / 'bag')
    assert (len(seen['/image']), len(seen['/ground_truth/label_mask'])) == (2, 1)


def test_times_that_run_backwards_are_named(tmp_path: Path, capsys: Any) -> None:
    root = write_tree(tmp_path / 'cs', NAMES[2:], times_ns=[50, 40])
    assert run('--cityscapes', root, '-o', tmp_path / 'bag') == 1
    assert 'lund_000000_000020_timestamp.txt holds 40 ns' in capsys.readouterr().err


def test_a_label_without_its_picture_is_named(tmp_path: Path, capsys: Any) -> None:
    root = write_tree(tmp_path / 'cs', NAMES)
    (root / 'leftImg8bit/val/lund/lund_000000_000020_leftImg8bit.png').unlink()
    assert run('--cityscapes', root, '-o', tmp_path / 'bag') == 1
    assert 'lund_000000_000020_gtFine_labelIds.png: a label image of' in capsys.readouterr().err


@pytest.mark.parametrize(
    'text',
    [
        DEEP_YAML, f'{{"intrinsic": {DEEP_YAML}}}', '[]', '{"intrinsic": 3}', 'x' * 10**6, '\0',
        f'{{"intrinsic": {{"fx": 1{"0" * 400}, "fy": 1, "u0": 1, "v0": 1}}}}',
        '{"intrinsic": {"fx": [1], "fy": 1, "u0": 1, "v0": 1}}',
    ],
)  # fmt: skip
def test_hostile_camera_files_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / 'camera.json').write_text(text)
    with pytest.raises(BagError, match='is not a camera file'):
        read_intrinsics(tmp_path / 'camera.json')


@pytest.mark.parametrize('text', ['9' * 50, '9' * 10_000, '-5', str(2**63), '\x1b[31m', ''])
def test_hostile_timestamps_are_refused(tmp_path: Path, capsys: Any, text: str) -> None:
    root = write_tree(tmp_path / 'cs', NAMES[2:], times_ns=[0, 10])
    for file in (root / 'timestamp_sequence').rglob('*.txt'):
        file.write_text(text)
    assert run('--cityscapes', root, '-o', tmp_path / 'bag') == 1
    said = capsys.readouterr().err
    assert 'holds no timestamp; expected nanoseconds' in said
    assert said.rstrip('\n').isprintable()


def test_a_damaged_camera_file_is_named(tmp_path: Path, capsys: Any) -> None:
    root = write_tree(tmp_path / 'cs', NAMES[:1])
    camera = root / 'camera/train/ulm/ulm_000000_000019_camera.json'
    camera.write_text('{"intrinsic": {"fx": 1}}')
    assert run('--cityscapes', root, '-o', tmp_path / 'bag') == 1
    assert 'expected JSON with intrinsic fx, fy, u0, v0' in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()
    assert run('--cityscapes', root, '-o', tmp_path / 'bag', '--skip-bad') == 0
    assert '/camera_info' not in seen_in(tmp_path / 'bag')


def test_generated_scenes_are_such_a_tree(tmp_path: Path) -> None:
    assert (
        render_scenes([str(tmp_path / 'cs'), '--frames', '2', '--size', '128x64', '--quiet']) == 0
    )
    assert run('--cityscapes', tmp_path / 'cs', '-o', tmp_path / 'bag') == 0
    seen = seen_in(tmp_path / 'bag')
    assert {topic: len(messages) for topic, messages in seen.items()} == {
        '/image': 2, '/camera_info': 2, '/ground_truth/label_mask': 2,
        '/ground_truth/label_info_json': 1,
    }  # fmt: skip
    assert [stamp - START_NS for stamp, _ in seen['/image']] == [0, 100_000_000]


# --- The command line


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['--output', 'x'], 'one of the arguments --images --cityscapes is required'),
        (['--images', '.', '--labels', '.', '-o', 'x'], '--label-scheme go together'),
        (['--images', '.', '--split', 'val', '-o', 'x'], 'go with --cityscapes'),
        (['--images', '.', '-o', 'x', '--rate-hz', '0'], 'not a rate from'),
        (['--images', '.', '-o', 'x', '--rate-hz', '1e-300'], 'not a rate from'),
        (['--images', '.', '-o', 'x', '--start', '-1'], 'not a time in seconds'),
        (['--images', '.', '-o', 'x', '--start', 'nan'], 'not a time in seconds'),
        (['--images', '.', '-o', 'x', '--start', '3e9'], 'not a time in seconds'),
        (['--images', '.', '-o', 'x', '--topic', 'image'], 'not an absolute topic name'),
        (['--images', '.', '-o', 'x', '--limit', '0'], 'not a number from 1 on'),
    ],
)
def test_wrong_options(arguments: list[str], says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (['--images', '{tmp}/nowhere'], 'is not a folder'),
        (['--images', '{tmp}'], 'holds no image; expected .jpg'),
        (['--cityscapes', '{tmp}'], 'is not a Cityscapes tree'),
        (
            ['--images', '{tmp}', '--labels', '{tmp}', '--label-scheme', 'x'],
            'unknown label scheme',
        ),
    ],
)
def test_wrong_places(options: list[str], says: str, tmp_path: Path, capsys: Any) -> None:
    options = [option.format(tmp=tmp_path) for option in options]
    assert main([*options, '-o', str(tmp_path / 'bag')]) == 1
    assert says in capsys.readouterr().err
    assert not (tmp_path / 'bag').exists()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_whole_bag(tmp_path: Path, number: signal.Signals) -> None:
    names = [f'{index}.png' for index in range(150)]
    images = write_pictures(tmp_path / 'images', names, height=400, width=400)
    bag = tmp_path / 'bag'
    process = subprocess.Popen(
        [sys.executable, '-m', 'segmentation_node.bags.images_to_bag',
         '--images', images, '-o', bag],
        stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )  # fmt: skip
    # The file is there as soon as writing has begun.
    wait_for_file(bag / 'bag_0.mcap', process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    with Reader(bag) as written:
        assert f'interrupted: {written.message_count} of 150 frames' in output
        assert len(list(written.messages())) == written.message_count < 150
