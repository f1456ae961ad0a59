# SPDX-License-Identifier: Apache-2.0
"""Panoptic models and models of instances, from a folder in the hub's layout to a prediction."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from panoptic_models import COUNTABLE, INSTANCE, PANOPTIC, picture, write_hub_model

from segmentation_node.checkpoint import SPEC_FILE, Spec, find_checkpoint
from segmentation_node.errors import CheckpointError
from segmentation_node.instances import Thresholds
from segmentation_node.labels import load_scheme
from segmentation_node.runtimes.graph_files import graph_digest
from segmentation_node.segmenter import Segmenter

#: Keeps overlapping segments, of which random weights have many.
LENIENT = Thresholds(0.4, 0.1)


@pytest.fixture(scope='module')
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_model(tmp_path_factory.mktemp('hub') / PANOPTIC)


@pytest.fixture(scope='module')
def instance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hub_model(tmp_path_factory.mktemp('hub') / INSTANCE)


def opened(model: Path, runtime: str = 'torch', **settings: object) -> Segmenter:
    options: dict[str, object] = {'precision': 'fp32', 'device': 'cpu', 'thresholds': LENIENT}
    return Segmenter(str(model), runtime=runtime, **(options | settings))  # type: ignore[arg-type]


# Recognition


def test_a_panoptic_model_of_the_hub_is_known_by_its_name(panoptic: Path, tmp_path: Path) -> None:
    assert find_checkpoint(str(panoptic)).task == 'panoptic'
    assert find_checkpoint(f'{panoptic}/').task == 'panoptic'
    for name, task in (
        ('mask2former-swin-tiny-cityscapes-semantic', 'semantic'),
        ('panoptics', 'semantic'),
        (f'models--facebook--{PANOPTIC}/snapshots/0a1b', 'panoptic'),
    ):
        shutil.copytree(panoptic, tmp_path / name)
        assert find_checkpoint(str(tmp_path / name)).task == task
    link = tmp_path / 'link'
    link.symlink_to(panoptic)
    assert find_checkpoint(str(link)).task == 'panoptic'


def test_a_model_of_instances_is_known_by_its_classes(instance: Path, tmp_path: Path) -> None:
    shutil.copytree(instance, tmp_path / 'renamed')
    checkpoint = find_checkpoint(str(tmp_path / 'renamed'))
    assert (checkpoint.task, checkpoint.scheme.name) == ('instance', 'cityscapes19')
    assert checkpoint.channel_ids.tolist() == [c.id for c in COUNTABLE] == list(range(11, 19))


def test_classes_of_a_model_of_instances_in_another_order(instance: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(instance, tmp_path / 'model'))
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    names = list(reversed(config['id2label'].values()))
    config['id2label'] = {str(channel): name for channel, name in enumerate(names)}
    (folder / 'config.json').write_text(json.dumps(config), encoding='utf-8')
    assert find_checkpoint(str(folder)).channel_ids.tolist() == list(range(18, 10, -1))
    Spec('mask2former', 'cityscapes19', task='instance').write(folder / SPEC_FILE)
    assert find_checkpoint(str(folder)).channel_ids.tolist() == list(range(18, 10, -1))


def test_the_spec_decides(panoptic: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(panoptic, tmp_path / PANOPTIC))
    for task in ('semantic', 'panoptic'):
        Spec('mask2former', 'cityscapes19', task=task).write(folder / SPEC_FILE)
        assert find_checkpoint(str(folder)).task == task
        assert opened(folder).has_instances == (task == 'panoptic')


@pytest.mark.parametrize(
    ('spec', 'says'),
    [
        ('task: video', "task 'video'; choose one of semantic, panoptic, instance"),
        ('task: [1]', 'task .*; choose one of'),
        ('family: unet\ntask: panoptic', 'family unet does not support; use one of mask2former'),
        (
            'task: panoptic\nlabel_scheme: camvid11',
            'camvid11 has none; mark such classes with "countable: true"',
        ),
    ],
)
def test_a_wrong_task(panoptic: Path, tmp_path: Path, spec: str, says: str) -> None:
    folder = Path(shutil.copytree(panoptic, tmp_path / 'model'))
    lines = {'family': 'mask2former', 'label_scheme': 'cityscapes19'}
    lines |= dict(line.split(': ') for line in spec.splitlines())
    text = '\n'.join(f'{key}: {value}' for key, value in lines.items())
    (folder / SPEC_FILE).write_text(text, encoding='utf-8')
    with pytest.raises(CheckpointError, match=says):
        find_checkpoint(str(folder))


def test_each_task_has_a_graph_of_its_own(panoptic: Path, tmp_path: Path) -> None:
    semantic = Path(shutil.copytree(panoptic, tmp_path / 'semantic'))
    digests = {
        graph_digest(find_checkpoint(str(p)), 'openvino', 'float') for p in (panoptic, semantic)
    }
    assert len(digests) == 2


# Prediction


@pytest.mark.parametrize(('kind', 'runtime'), [(PANOPTIC, 'openvino'), (INSTANCE, 'onnxruntime')])
def test_runtimes_find_the_same_instances(
    kind: str, runtime: str, panoptic: Path, instance: Path
) -> None:
    model = panoptic if kind == PANOPTIC else instance
    torch_, other = opened(model), opened(model, runtime)
    found_any = 0
    for height, width in ((160, 256), (96, 130)):  # the latter is padded
        images = [picture(seed, height, width) for seed in (1, 2)]
        expected, found = torch_.segment(images), other.segment(images)
        assert (found.labels == expected.labels).mean() > 0.999
        for index in range(2):
            ours, theirs = found.instances_of(index), expected.instances_of(index)
            assert ours is not None
            assert theirs is not None
            assert (ours.ids == theirs.ids).mean() > 0.999
            assert ours.ids.shape == (height, width)
            found_any += len(ours.segments)
    assert found_any > 5


@pytest.mark.parametrize('min_confidence', [0.0, 0.75])
@pytest.mark.parametrize('label_scheme', [None, 'cityscapes8'])
def test_labels_are_the_classes_of_the_instances(
    panoptic: Path, min_confidence: float, label_scheme: str | None
) -> None:
    segmenter = opened(panoptic, label_scheme=label_scheme, min_confidence=min_confidence)
    prediction = segmenter.segment([picture(seed, 128, 160) for seed in (1, 2)])
    things = {c.id for c in COUNTABLE} if label_scheme is None else {6, 7}
    for index, labels in enumerate(prediction.labels):
        instances = prediction.instances_of(index)
        assert instances is not None
        assert {s.class_id for s in instances.segments} <= things
        for segment in instances.segments:
            inside = instances.ids == segment.id
            assert (labels[inside] == segment.class_id).all()
            if min_confidence:
                assert (prediction.confidence_of(index)[inside] >= round(255 * 0.75)).all()
        assert (np.isin(labels, list(things)) == (instances.ids > 0)).all()
        assert instances.segments


def test_thresholds_take_effect_with_the_next_image(panoptic: Path) -> None:
    segmenter = opened(panoptic)
    before = segmenter.segment([picture(1, 128, 160)]).labels
    segmenter.thresholds = Thresholds(0.9999, 0.99)
    after = segmenter.segment([picture(1, 128, 160)]).labels
    void_id = load_scheme('cityscapes19').void_id
    assert (after == void_id).sum() > (before == void_id).sum()
    assert set(np.unique(after)) <= {*np.unique(before), void_id}


def test_a_semantic_model_has_no_instances(tiny_mask2former: Path) -> None:
    segmenter = opened(tiny_mask2former)
    assert not segmenter.has_instances
    assert segmenter.segment([picture(1, 64, 96)]).instances_of(0) is None
