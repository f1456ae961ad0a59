# SPDX-License-Identifier: Apache-2.0
"""Image files are segmented one by one; nothing is left out in silence or overwritten."""

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
from bag_making import picture, wait_for_file, write_pictures
from known_model import BLACK, known_image, write_known_model

from segmentation_node.cli import EXIT_INCOMPLETE, load_segmenter
from segmentation_node.folders import segment_images
from segmentation_node.folders.image_folder import find_images
from segmentation_node.folders.result_folder import ResultFolder
from segmentation_node.folders.segment_images import main
from segmentation_node.images.files import encode_jpeg, encode_png, read_image
from segmentation_node.images.label_files import read_labels
from segmentation_node.images.rendering import Rendered, colorize, overlay
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Segmenter


@pytest.fixture(scope='module')
def segmenter(tiny_checkpoint: Path) -> Segmenter:
    return Segmenter(str(tiny_checkpoint), device='cpu', precision='fp32')


@pytest.fixture
def run(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(segment_images, 'load_segmenter', lambda _: segmenter)
    return lambda *arguments: main([str(argument) for argument in (*arguments, '--quiet')])


def files_below(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob('*') if not p.is_dir()}


def test_pictures_are_those_of_the_segmenter(
    tmp_path: Path, run: Any, segmenter: Segmenter, capsys: Any
) -> None:
    write_pictures(tmp_path / 'in', ['b.png'])
    write_pictures(tmp_path / 'in' / 'left', ['frame.1.png'], width=48)
    names = 'label_mask,color_mask,overlay,confidence'
    options = ('--outputs', names, '--overlay-alpha', 0.25)
    assert run(tmp_path / 'in', '-o', tmp_path / 'out', *options) == 0
    assert capsys.readouterr().out == f'2 of 2 images segmented, in {tmp_path / "out"}\n'
    files = {'label_mask': '.png', 'color_mask': '.png', 'overlay': '.jpg', 'confidence': '.png'}
    assert files_below(tmp_path / 'out') == {
        'label_info.json',
        *(f'{n}/{key}{end}' for n, end in files.items() for key in ('b', 'left/frame.1')),
    }
    image_rgb = read_image(tmp_path / 'in' / 'left' / 'frame.1.png')
    found = segmenter.segment([image_rgb])
    colors = colorize(found.labels[0], segmenter.scheme)
    out = tmp_path / 'out'
    np.testing.assert_array_equal(
        read_labels(out / 'label_mask' / 'left' / 'frame.1.png'), found.labels[0]
    )
    np.testing.assert_array_equal(
        read_labels(out / 'confidence' / 'left' / 'frame.1.png'), found.confidence[0]
    )
    np.testing.assert_array_equal(read_image(out / 'color_mask' / 'left' / 'frame.1.png'), colors)
    jpeg = (out / 'overlay' / 'left' / 'frame.1.jpg').read_bytes()
    assert jpeg == encode_jpeg(overlay(image_rgb, colors, 0.25))
    described = json.loads((out / 'label_info.json').read_text(encoding='utf-8'))
    assert described == json.loads(segmenter.scheme.to_json())


def test_images_out_of_domain_are_counted(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = write_known_model(tiny_checkpoint, tmp_path / 'known')
    (tmp_path / 'in').mkdir()
    for name, image in {'known': known_image(100), 'black': BLACK}.items():
        (tmp_path / 'in' / f'{name}.png').write_bytes(encode_png(image))
    out, options = tmp_path / 'out', ['--model', str(model), '--precision', 'fp32', '--quiet']
    assert main([str(tmp_path / 'in'), '-o', str(out), *options]) == 0
    said = capsys.readouterr().out
    assert said == f'2 of 2 images segmented, 1 out of domain, in {out}\n'


def test_options_reach_the_segmenter(tiny_checkpoint: Path, other_scheme: Path) -> None:
    options = ['--model', tiny_checkpoint, '--label-scheme', other_scheme, '--precision', 'fp32']
    options += ['--runtime', 'openvino', '--input-size', '64x32', '--min-confidence', '0.5']
    args = segment_images._parser().parse_args(['in', '-o', 'out', *map(str, options)])
    loaded = load_segmenter(args)
    assert (loaded.input_size, loaded.min_confidence) == ((32, 64), 0.5)
    assert (loaded.scheme.name, loaded.runtime) == ('driveable', 'openvino')
    assert loaded.precision == 'fp32'


def test_single_files_whatever_their_names(tmp_path: Path, run: Any) -> None:
    write_pictures(tmp_path, ['a.jpg'])
    (tmp_path / '.hidden').write_bytes(encode_png(picture(1)))
    assert run(tmp_path / 'a.jpg', tmp_path / '.hidden', '-o', tmp_path / 'out') == 0
    labels = tmp_path / 'out' / 'label_mask'
    assert files_below(labels) == {'a.png', '.hidden.png'}


def test_what_is_left_out_is_named_and_counted(tmp_path: Path, run: Any, capsys: Any) -> None:
    folder = write_pictures(tmp_path / 'in', ['a.png', 'b.png'])
    for name in ('._a.png', '.DS_Store', 'notes.txt', 'drive.mp4', 'c.bmp', 'd.HEIC'):
        (folder / name).write_bytes(b'BM whatever')
    (folder / 'cut.png').write_bytes((folder / 'a.png').read_bytes()[:-40])
    (folder / 'gone.jpg').symlink_to(folder / 'nowhere.jpg')
    os.mkfifo(folder / 'pipe.jpg')
    with (folder / 'huge.tif').open('wb') as stream:
        stream.truncate(2**30)
    (folder / 'loop').symlink_to(folder)
    assert run(folder, '-o', tmp_path / 'out') == EXIT_INCOMPLETE
    captured = capsys.readouterr()
    assert captured.out.startswith('2 of 8 images segmented, 6 malformed, in ')
    assert f'left out 2 files ({folder}/.DS_Store, {folder}/._a.png): hidden' in captured.err
    assert f'left out 2 files ({folder}/drive.mp4, {folder}/notes.txt): not an image' in (
        captured.err
    )
    for name, reason in (
        ('c.bmp', "starts with b'BM what"), ('d.HEIC', 'expected JPEG, PNG, TIFF or WebP'),
        ('cut.png', 'PNG image is cut short'), ('gone.jpg', 'No such file'),
        ('pipe.jpg', 'not a regular file'), ('huge.tif', 'has 1073741824 bytes, expected at most'),
    ):  # fmt: skip
        (line,) = [
            line for line in captured.err.splitlines() if f'malformed: {folder}/{name}' in line
        ]
        assert reason in line
    assert files_below(tmp_path / 'out' / 'label_mask') == {'a.png', 'b.png'}


def test_a_folder_without_images_is_an_error(tmp_path: Path, run: Any, capsys: Any) -> None:
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / '._a.jpg').write_bytes(b'x')
    assert run(tmp_path / 'in', '-o', tmp_path / 'out') == 1
    said = capsys.readouterr().err
    assert 'no image found, expected files that end in .jpg' in said
    assert '._a.jpg' in said
    assert run(tmp_path / 'none', '-o', tmp_path / 'out') == 1
    assert 'none does not exist' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_a_forged_size_is_refused_before_it_is_decoded(
    tmp_path: Path, run: Any, capsys: Any
) -> None:
    data = bytearray(encode_png(picture(0)))
    data[16:24] = struct.pack('>II', 60_000, 60_000)
    folder = write_pictures(tmp_path / 'in', ['good.png'])
    (folder / 'bomb.png').write_bytes(data)
    assert run(folder, '-o', tmp_path / 'out') == EXIT_INCOMPLETE
    assert 'bomb.png: ' in capsys.readouterr().err


@pytest.mark.parametrize('shape', [(1, 3_000_000, 3), (1, 70_000, 3)])
def test_an_image_of_no_cameras_shape_costs_itself_alone(
    tmp_path: Path, run: Any, shape: tuple[int, ...]
) -> None:
    folder = write_pictures(tmp_path / 'in', ['good.png'])
    encoded, data = cv2.imencode('.tif', np.zeros(shape, np.uint8))
    assert encoded
    (folder / 'wide.tif').write_bytes(data.tobytes())
    assert run(folder, '-o', tmp_path / 'out') == EXIT_INCOMPLETE
    assert files_below(tmp_path / 'out' / 'overlay') == {'good.jpg'}
    assert files_below(tmp_path / 'out' / 'label_mask') == {'good.png'}


def test_results_of_one_name_are_refused(tmp_path: Path, run: Any, capsys: Any) -> None:
    folder = write_pictures(tmp_path / 'in', ['a.png', 'a.jpg'])
    assert run(folder, '-o', tmp_path / 'out') == 1
    assert 'a.jpg and ' in (said := capsys.readouterr().err)
    assert 'results of the same name, a; give files of one format, for example ' in said
    assert f'{folder}/*.png' in said


def test_nothing_is_overwritten_or_mixed(tmp_path: Path, run: Any, capsys: Any) -> None:
    folder, out = write_pictures(tmp_path / 'in', ['a.png', 'b.png']), tmp_path / 'out'
    assert run(folder, '-o', out) == 0
    before = {name: (out / name).read_bytes() for name in files_below(out)}
    assert run(folder, '-o', out) == 1
    assert 'choose another --output, or allow --overwrite' in capsys.readouterr().err
    # Fewer images or kinds of pictures would leave those of the earlier run beside them.
    for options in (['--limit', 1], ['--outputs', 'label_mask']):
        assert run(folder, '-o', out, '--overwrite', *options) == 1
        assert 'that this run does not write' in capsys.readouterr().err
    (out / 'mine.txt').write_text('precious')
    assert run(folder, '-o', out, '--overwrite') == 1
    assert 'mine.txt' in capsys.readouterr().err
    (out / 'mine.txt').unlink()
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before
    # What a killed run leaves is its own.
    (out / 'label_mask' / '.segment_images.new').write_bytes(b'half')
    (out / 'label_mask' / 'b.png').write_bytes(b'old')
    assert run(folder, '-o', out, '--overwrite') == 0
    assert {name: (out / name).read_bytes() for name in files_below(out)} == before


@pytest.mark.parametrize('output', ['in', 'in/out', 'in/../in/out'])
def test_nothing_is_written_to_what_is_read(
    tmp_path: Path, run: Any, output: str, capsys: Any
) -> None:
    folder = write_pictures(tmp_path / 'in', ['a.png'])
    assert run(folder, '-o', tmp_path / output) == 1
    assert 'in the folder that is read' in capsys.readouterr().err
    assert files_below(folder) == {'a.png'}


def test_a_full_disk_leaves_whole_images(
    tmp_path: Path, run: Any, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pictures(tmp_path / 'in', ['a.png', 'b.png'])
    write = Path.write_bytes

    def write_some(path: Path, data: Any) -> int:
        if path.parent.name == 'overlay' and (path.parent / 'a.jpg').exists():
            write(path, data[:10])
            raise OSError(28, 'No space left on device')
        return write(path, data)

    monkeypatch.setattr(Path, 'write_bytes', write_some)
    assert run(folder, '-o', tmp_path / 'out') == 1
    assert 'those of 1 images are whole: free some space' in capsys.readouterr().err
    assert files_below(tmp_path / 'out') == {
        'label_info.json', 'label_mask/a.png', 'color_mask/a.png', 'overlay/a.jpg'
    }  # fmt: skip


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, run: Any, capsys: Any) -> None:
    folder = write_pictures(tmp_path / 'in', ['a.png'])
    (tmp_path / 'file').write_bytes(b'x')
    assert run(folder, '-o', tmp_path / 'file') == 1
    assert 'file is not a folder; choose another --output' in capsys.readouterr().err
    assert run(folder, '-o', tmp_path / 'file' / 'out') == 1
    assert 'cannot be written (' in capsys.readouterr().err


def test_names_may_be_as_long_as_can_be(tmp_path: Path, run: Any) -> None:
    name = f'{251 * "a"}.png'
    folder = write_pictures(tmp_path / 'in', [name])
    assert run(folder, '-o', tmp_path / 'out') == 0
    assert files_below(tmp_path / 'out' / 'label_mask') == {name}


def test_photographs_are_turned_if_asked(tmp_path: Path, run: Any) -> None:
    exif = b'Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0'
    jpeg = encode_jpeg(picture(0, height=24, width=64))
    tagged = jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(exif) + 2) + exif + jpeg[2:]
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in' / 'phone.jpg').write_bytes(tagged)
    for options, shape in (([], (24, 64)), (['--upright'], (64, 24))):
        out = tmp_path / f'out{len(options)}'
        assert run(tmp_path / 'in', '-o', out, *options) == 0
        assert read_labels(out / 'label_mask' / 'phone.png').shape == shape


def test_a_stop_between_two_images_leaves_whole_ones(tmp_path: Path) -> None:
    images = find_images([write_pictures(tmp_path / 'in', ['a.png', 'b.png', 'c.png'])]).images
    scheme = load_scheme('cityscapes8')
    seen: list[Path] = []

    def render(path: Path) -> Rendered:
        seen.append(path)
        labels = np.zeros((24, 32), np.uint8)
        return Rendered(picture(0), labels, lambda: labels, scheme, 0.5)

    folder = ResultFolder(tmp_path / 'out', ['label_mask'], images)
    folder.begin(scheme)
    report = segment_images.segment_images(images, render, folder, lambda: len(seen) == 2)
    assert (report.segmented, report.malformed) == (2, [])
    assert files_below(tmp_path / 'out' / 'label_mask') == {'a.png', 'b.png'}
    assert report.summary(3, 'images', 'out', interrupted=True).startswith('interrupted: 2 of 3')


def test_the_command_with_a_signal(tmp_path: Path, tiny_checkpoint: Path) -> None:
    folder = write_pictures(tmp_path / 'in', [f'{i}.png' for i in range(300)], width=128)
    out = tmp_path / 'out'
    script = 'import sys; from segmentation_node import entry; sys.exit(entry.segment_images())'
    process = subprocess.Popen(
        [sys.executable, '-c', script, folder, '-o', out, '--model', tiny_checkpoint,
         '--device', 'cpu', '--precision', 'fp32'],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for_file(out / 'overlay' / '2.jpg', process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    masks = files_below(out / 'label_mask')
    assert f'interrupted: {len(masks)} of 300 images segmented' in said
    assert masks == {f'{Path(name).stem}.png' for name in files_below(out / 'overlay')}


@pytest.mark.parametrize(
    ('arguments', 'says'),
    [
        (['--outputs', 'colour'], "unknown output 'colour'; there are label_mask, color_mask"),
        (['--min-confidence', '2'], 'not a number from 0 to 1'),
        (['--precision', 'int3'], 'invalid choice'),
    ],
)
def test_wrong_options(arguments: list[str], says: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['in', '-o', 'out', *arguments])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err
