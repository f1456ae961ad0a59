# SPDX-License-Identifier: Apache-2.0
"""Tests of the cache of prepared images: content, renewal, failures."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from repository import ROOT
from training_data import (
    MASK2FORMER,
    cars,
    fields,
    street,
    write_experiment,
    write_folders,
    write_instances,
)

from segmentation_node.errors import DatasetError, SettingError
from segmentation_node.images.files import encode_png
from segmentation_node.labels import IGNORE, load_scheme
from training.config import Experiment, Use
from training.prepare import PreparedImages, main, prepared

CATEGORIES = load_scheme('cityscapes8')


def prepare(root: Path, target: str = 'cityscapes8', **changes: Any) -> PreparedImages:
    use = changes.pop('use', {})
    experiment = Experiment.model_validate(fields(root, **changes))
    wanted = Use.model_validate({'set': 'streets', 'split': 'train'} | use)
    return prepared(experiment, wanted, load_scheme(target))


def folders(root: Path) -> list[Path]:
    return sorted((root / 'prepared').iterdir())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folders(tmp_path / 'streets', 'train', 3)
    return tmp_path


def test_images_and_channels_are_those_of_the_files(root: Path) -> None:
    images = prepare(root)
    assert len(images) == 3
    assert images.names == ('000', '001', '002')
    assert images.source == 'Small streets.'
    for seed in range(3):
        rgb, ids = street(seed)
        image, channels = images[seed]
        assert (image.numpy() == rgb.transpose(2, 0, 1)).all()
        expected = {0: 'sky', 1: 'construction', 3: 'flat', 8: 'vehicle'}
        for stored, name in expected.items():
            assert (channels.numpy()[ids == stored] == CATEGORIES.id_of(name)).all()
        assert (channels.numpy()[ids == 11] == IGNORE).all()


def test_images_may_be_of_different_sizes(root: Path) -> None:
    small = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
    (root / 'streets' / 'train' / 'images' / '001.png').write_bytes(encode_png(small))
    labels = np.full((5, 7), 8, np.uint8)
    (root / 'streets' / 'train' / 'labels' / '001.png').write_bytes(encode_png(labels))
    images = prepare(root)
    assert images.sizes_hw == ((64, 96), (5, 7), (64, 96))
    assert (images.arrays(1)[0] == small).all()
    assert (images.arrays(1)[1] == CATEGORIES.id_of('vehicle')).all()
    assert (images.arrays(2)[0] == street(2)[0]).all()


def test_channels_are_counted(root: Path) -> None:
    counts = prepare(root).channel_counts()
    assert counts.sum() == 3 * 64 * 96
    assert counts[IGNORE] == 3 * 3 * 96
    assert counts[CATEGORIES.id_of('sky')] == 3 * 16 * 96


def test_what_is_read_cannot_change_the_cache(root: Path) -> None:
    prepare(root)[0][0].zero_()
    assert (prepare(root).arrays(0)[0] == street(0)[0]).all()


def test_cache_is_used_again(root: Path) -> None:
    first = prepare(root)
    (folder,) = folders(root)
    before = {p: p.stat().st_mtime_ns for p in folder.iterdir()}
    again = prepare(root)
    assert {p: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize('kind', ['images', 'labels'])
def test_a_file_that_changed_is_read_anew(root: Path, kind: str) -> None:
    first = prepare(root)
    path = root / 'streets' / 'train' / kind / '001.png'
    stamp = path.stat().st_mtime_ns
    image, ids = street(1)
    changed = 255 - image if kind == 'images' else np.full_like(ids, 8)
    path.write_bytes(encode_png(changed))
    os.utime(path, ns=(stamp + 1, stamp + 1))
    again = prepare(root)
    assert again.fingerprint != first.fingerprint
    at = 0 if kind == 'images' else 1
    assert (again.arrays(1)[at] != first.arrays(1)[at]).any()
    assert (again.arrays(0)[at] == first.arrays(0)[at]).all()


def test_another_scheme_box_or_subset_is_another_cache(root: Path, tmp_path: Path) -> None:
    own = tmp_path / 'own.yaml'
    scheme = (ROOT / 'config' / 'labels' / 'camvid11.yaml').read_text(encoding='utf-8')
    own.write_text(scheme, encoding='utf-8')
    streets = {'streets': fields(root)['datasets']['streets'] | {'scheme': str(own)}}
    variants: list[dict[str, Any]] = [
        {}, {'target': 'camvid11'}, {'fit_hw': [32, 48]}, {'use': {'count': 2}}
    ]  # fmt: skip
    found = {prepare(root, **changes).fingerprint for changes in variants}
    assert len(found) == len(variants) == len(folders(root))
    # The same classes under another name use the same cache.
    prepare(root, datasets=streets)
    assert len(folders(root)) == len(variants)
    own.write_text(
        scheme.replace('name: car, color: [64, 0, 128], category: vehicle',
                       'name: car, color: [64, 0, 128], category: object'),
        encoding='utf-8',
    )  # fmt: skip
    assert prepare(root, datasets=streets).fingerprint not in found


def test_fingerprint_is_of_the_content_alone(root: Path, tmp_path: Path) -> None:
    other = tmp_path / 'other'
    write_folders(other / 'streets', 'train', 3)
    for path in (other / 'streets').rglob('*.png'):
        os.utime(path, (0, 0))
    assert prepare(other).fingerprint == prepare(root).fingerprint
    (other / 'streets' / 'train' / 'images' / '002.png').rename(
        other / 'streets' / 'train' / 'images' / '003.png'
    )
    (other / 'streets' / 'train' / 'labels' / '002.png').rename(
        other / 'streets' / 'train' / 'labels' / '003.png'
    )
    assert prepare(other).names[2] == '003'
    assert prepare(other).fingerprint == prepare(root).fingerprint


def write_one(root: Path, image: np.ndarray[Any, Any], ids: np.ndarray[Any, Any]) -> None:
    for kind, content in (('images', image), ('labels', ids)):
        folder = root / 'streets' / 'train' / kind
        folder.mkdir(parents=True)
        (folder / 'a.png').write_bytes(encode_png(content.astype(np.uint8)))


def test_labels_and_images_shrink_about_the_same_centers(tmp_path: Path) -> None:
    """Of three pixels in a row, the middle one stays; a half-pixel shift would keep the first."""
    ids = np.array([[0, 1, 3, 3, 8, 0, 1, 0, 8]] * 3)
    gray = np.array([[30, 60, 90, 0, 0, 0, 255, 255, 255]] * 3)
    write_one(tmp_path, np.repeat(gray[..., None], 3, axis=2), ids)
    image, channels = prepare(tmp_path, 'camvid11', fit_hw=[1, 3]).arrays(0)
    assert channels.tolist() == [[1, 8, 0]]
    assert image[..., 0].tolist() == [[60, 0, 255]]


def test_a_ramp_and_its_labels_agree_after_scaling(tmp_path: Path) -> None:
    """Label and color both count the columns in steps of eight and must agree."""
    columns = np.tile(np.arange(88) // 8, (60, 1))
    write_one(tmp_path, np.repeat(columns[..., None] * 20, 3, axis=2), columns)
    image, channels = prepare(tmp_path, 'camvid11', fit_hw=[30, 60]).arrays(0)
    assert channels.shape == (30, 44)
    inner = channels[:, 1:-1]
    at_border = (channels[:, 2:] != inner) | (channels[:, :-2] != inner)
    assert (image[:, 1:-1, 0] == inner * 20)[~at_border & (inner != IGNORE)].all()
    assert (channels[:, :40] == np.arange(40) // 4).all()


@pytest.mark.parametrize(
    ('box', 'size'),
    [((32, 96), (32, 48)), ((64, 48), (32, 48)), ((200, 300), (64, 96)), ((1, 1), (1, 1))],
)
def test_the_aspect_is_kept_and_nothing_is_enlarged(
    root: Path, box: tuple[int, int], size: tuple[int, int]
) -> None:
    assert prepare(root, fit_hw=box).sizes_hw == (size,) * 3


def damage_index(folder: Path) -> None:
    (folder / 'index.json').write_text('{"names": [', encoding='utf-8')


def damage_fields(folder: Path) -> None:
    (folder / 'index.json').write_text('{"names": []}', encoding='utf-8')


def cut_images(folder: Path) -> None:
    with (folder / 'images.bin').open('r+b') as stream:
        stream.truncate(1000)


def empty_channels(folder: Path) -> None:
    (folder / 'channels.bin').write_bytes(b'')


def remove_channels(folder: Path) -> None:
    (folder / 'channels.bin').unlink()


def remove_index(folder: Path) -> None:
    (folder / 'index.json').unlink()


@pytest.mark.parametrize(
    'damage',
    [damage_index, damage_fields, cut_images, empty_channels, remove_channels, remove_index],
)
def test_damaged_cache_is_named(root: Path, damage: Any) -> None:
    prepare(root)
    (folder,) = folders(root)
    damage(folder)
    with pytest.raises(DatasetError, match=rf'{folder}.* damaged.*; remove the folder'):
        prepare(root)


def test_bad_file_leaves_no_cache(root: Path) -> None:
    (root / 'streets' / 'train' / 'images' / '002.png').write_bytes(b'nothing')
    with pytest.raises(DatasetError, match=r'002\.png'):
        prepare(root)
    assert folders(root) == []


def test_cache_that_cannot_be_made_is_named(root: Path) -> None:
    (root / 'prepared').write_text('a file', encoding='utf-8')
    with pytest.raises(DatasetError, match=r'prepared images cannot be written to .*set "cache"'):
        prepare(root)


LIMITED = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from training.prepare import main
sys.exit(main(sys.argv[1:]))
"""


def test_full_disk_is_named_and_leaves_nothing_half_written(root: Path) -> None:
    content = fields(root)
    content['val']['streets val']['split'] = 'train'
    path = root / 'experiment.yaml'
    path.write_text(yaml.safe_dump(content), encoding='utf-8')
    done = subprocess.run(
        [sys.executable, '-c', LIMITED, str(path)],
        capture_output=True, text=True, timeout=120, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith('error: the prepared images cannot be written to')
    assert 'File too large' in last
    assert 'free disk space there' in last
    assert 'Traceback' not in done.stderr
    assert folders(root) == []


def test_command_lists_what_is_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folders(root / 'streets', 'val', 2, first=7)
    path = write_experiment(root / 'experiment.yaml', root)
    assert main([str(path)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.partition(',')[0] for line in listed] == [
        'streets train: 3 images', 'streets val: 2 images'
    ]  # fmt: skip


def test_command_names_the_bad_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_experiment(root / 'experiment.yaml', root)
    (root / 'streets' / 'train' / 'labels' / '001.png').unlink()
    assert main([str(path)]) == 1
    assert capsys.readouterr().err.startswith('error: 1 of 3 images have no labels')


# Segments.

PANOPTIC: dict[str, Any] = {'task': 'panoptic', 'family': 'mask2former', 'network': MASK2FORMER}
TOWNS = {'set': 'towns'}


def test_segments_are_those_of_the_instance_images(tmp_path: Path) -> None:
    write_instances(tmp_path / 'towns', 'train', 2)
    images = prepare(tmp_path, use=TOWNS, **PANOPTIC)
    vehicle = CATEGORIES.id_of('vehicle')
    for seed in range(2):
        values = cars(seed)[1]
        image, segments = images[seed]
        assert image.shape == (3, 64, 96)
        found = segments.numpy()
        assert found.dtype == np.int32
        assert set(found[values == 7].tolist()) == {CATEGORIES.id_of('flat')}
        assert set(found[values == 0].tolist()) == {CATEGORIES.void_id}
        assert (found[values == 26002] == 26002 * 256 + vehicle).all()
        assert (found[values == 26] == vehicle).all()  # a group
    semantic = prepare(tmp_path, use=TOWNS)
    assert len(folders(tmp_path)) == 2  # each task has a cache of its own
    assert (semantic.channel_counts() == images.channel_counts()).all()


def test_things_of_a_set_without_instances_are_groups(root: Path) -> None:
    _, segments = prepare(root, **PANOPTIC)[0]
    _, channels = prepare(root)[0]
    assert (segments == channels).all()


def test_scaling_makes_no_new_segments(tmp_path: Path) -> None:
    write_instances(tmp_path / 'towns', 'train', 1)
    whole = prepare(tmp_path, use=TOWNS, **PANOPTIC)[0][1]
    half = prepare(tmp_path, use=TOWNS, fit_hw=[29, 96], **PANOPTIC)[0][1]
    assert half.shape == (29, 44)
    assert set(half.unique().tolist()) == set(whole.unique().tolist())


def test_a_scheme_without_countable_classes_has_no_segments(root: Path) -> None:
    with pytest.raises(SettingError, match='camvid11 has none; mark such classes'):
        prepare(root, 'camvid11', **PANOPTIC)
    assert not (root / 'prepared').exists()
