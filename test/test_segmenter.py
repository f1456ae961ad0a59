# SPDX-License-Identifier: Apache-2.0
"""The segmenter on real, tiny networks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from known_model import BLACK, known_image, write_known_model

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import Spec, load_checkpoint, save_checkpoint
from segmentation_node.errors import CheckpointError, ImageError, SchemeError, SettingError
from segmentation_node.labels import load_scheme
from segmentation_node.networks.graph import SegmentationGraph
from segmentation_node.networks.preprocessing import Preprocessing
from segmentation_node.networks.smp import DeepLabV3Plus
from segmentation_node.segmenter import Segmenter

Image = UInt8Array


def image(height: int = 64, width: int = 96, seed: int = 0) -> Image:
    """Random blocks of 8 x 8 pixels."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3))
    return np.kron(coarse, np.ones((8, 8, 1)))[:height, :width].astype(np.uint8)


@pytest.fixture(scope='module')
def categories(tiny_mask2former: Path) -> Segmenter:
    return Segmenter(str(tiny_mask2former), runtime='torch', device='cpu', precision='fp32')


@pytest.fixture(scope='module')
def nineteen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 19 classes, each of which wins somewhere."""
    torch.manual_seed(3)
    network = DeepLabV3Plus({'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 19})
    torch.nn.init.normal_(network.model.segmentation_head[0].weight, std=4.0)
    folder = tmp_path_factory.mktemp('nineteen')
    save_checkpoint(folder, network, Spec('deeplabv3plus', 'cityscapes19'), '# Tiny\n')
    return folder


def test_prediction_has_the_shape_of_the_batch(categories: Segmenter) -> None:
    found = categories.segment([image(seed=0), image(seed=1), image(seed=2)])
    assert found.labels.shape == found.confidence.shape == (3, 64, 96)
    assert found.labels.dtype == found.confidence.dtype == np.uint8
    categories.scheme.check_ids(found.labels)
    assert len(np.unique(found.labels)) > 1


def test_a_batch_as_one_array_or_as_a_list_is_the_same(categories: Segmenter) -> None:
    images = [image(seed=0), image(seed=1)]
    one, other = categories.segment(images), categories.segment(np.stack(images))
    assert (one.labels == other.labels).all()
    assert (one.confidence == other.confidence).all()


def test_the_same_image_gives_the_same_labels(categories: Segmenter) -> None:
    first, second = categories.segment([image()]), categories.segment([image()])
    assert (first.labels == second.labels).all()
    assert (first.confidence == second.confidence).all()


def test_channels_are_red_green_blue(categories: Segmenter) -> None:
    swapped = np.ascontiguousarray(image()[..., ::-1])
    assert (categories.segment([image()]).labels != categories.segment([swapped]).labels).any()


def read_only(rgb: Image) -> Image:
    frozen = np.frombuffer(rgb.tobytes(), np.uint8).reshape(rgb.shape)
    assert not frozen.flags.writeable
    return frozen


def of_a_wider_image(rgb: Image) -> Image:
    padded = np.zeros((rgb.shape[0], rgb.shape[1] + 7, 3), np.uint8)
    padded[:, :-7] = rgb
    return padded[:, :-7]


def of_bgr(rgb: Image) -> Image:
    return np.ascontiguousarray(rgb[..., ::-1])[..., ::-1]


def of_rgba(rgb: Image) -> Image:
    return np.dstack([rgb, np.full(rgb.shape[:2], 9, np.uint8)])[..., :3]


@pytest.mark.parametrize('view', [read_only, of_a_wider_image, of_bgr, of_rgba])
@pytest.mark.parametrize('count', [1, 2])
def test_any_memory_layout_is_read(categories: Segmenter, view: Any, count: int) -> None:
    expected = categories.segment([image()] * count).labels
    assert (categories.segment([view(image())] * count).labels == expected).all()
    assert (categories.segment(np.stack([image()] * count)).labels == expected).all()


def test_the_image_is_left_alone(categories: Segmenter) -> None:
    mine = image(50, 70)
    categories.segment([mine])
    assert (mine == image(50, 70)).all()


def test_another_scheme_is_published_by_its_map(nineteen: Path) -> None:
    own = Segmenter(str(nineteen), runtime='torch', device='cpu')
    labels = own.segment([image()]).labels
    assert len(np.unique(labels)) > 5
    target = load_scheme('cityscapes8')
    expected = load_scheme('cityscapes19').mapping_to(target)[labels]
    published = Segmenter(str(nineteen), runtime='torch', device='cpu', label_scheme='cityscapes8')
    assert published.scheme == target
    assert (published.segment([image()]).labels == expected).all()
    published.publish_as(None)
    assert published.scheme.name == 'cityscapes19'
    assert (published.segment([image()]).labels == labels).all()
    published.publish_as('cityscapes8')
    assert (published.segment([image()]).labels == expected).all()


def test_publishing_a_scheme_without_a_map_is_refused_and_changes_nothing(
    categories: Segmenter,
) -> None:
    for name in ('cityscapes19', 'no such scheme'):
        with pytest.raises(SchemeError):
            categories.publish_as(name)
        assert categories.scheme.name == 'cityscapes8'
        categories.scheme.check_ids(categories.segment([image()]).labels)


@pytest.mark.parametrize(('scheme', 'void'), [('cityscapes19', 255), ('cityscapes8', 0)])
def test_pixels_of_little_confidence_are_void(nineteen: Path, scheme: str, void: int) -> None:
    segmenter = Segmenter(str(nineteen), runtime='torch', device='cpu', label_scheme=scheme)
    before = segmenter.segment([image()])
    middle = float(np.median(before.confidence)) / 255
    segmenter.min_confidence = middle
    after = segmenter.segment([image()])
    assert (after.confidence == before.confidence).all()
    low = before.confidence < round(middle * 255)
    assert low.any()
    assert not low.all()
    assert (after.labels[low] == void).all()
    assert (after.labels[~low] == before.labels[~low]).all()


def test_min_confidence_at_its_ends(nineteen: Path) -> None:
    all_of_them = Segmenter(
        str(nineteen), runtime='torch', device='cpu', min_confidence=0.0
    ).segment([image()])
    assert (all_of_them.labels != 255).all()
    certain = Segmenter(str(nineteen), runtime='torch', device='cpu', min_confidence=1.0).segment(
        [image()]
    )
    assert ((certain.labels == 255) == (certain.confidence < 255)).all()


def test_input_size_is_where_the_network_looks(nineteen: Path, tmp_path: Path) -> None:
    plain = Segmenter(str(nineteen), runtime='torch', device='cpu').segment([image()]).labels
    small = (
        Segmenter(str(nineteen), runtime='torch', device='cpu', input_size=(32, 48))
        .segment([image()])
        .labels
    )
    assert small.shape == plain.shape
    assert (small != plain).any()
    network = load_checkpoint(str(nineteen)).load_network()
    spec = Spec('deeplabv3plus', 'cityscapes19', Preprocessing(size_hw=(32, 48)))
    save_checkpoint(tmp_path, network, spec, '# Tiny\n')
    assert (
        Segmenter(str(tmp_path), runtime='torch', device='cpu').segment([image()]).labels == small
    ).all()


@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
@pytest.mark.parametrize('family', ['tiny_checkpoint', 'tiny_mask2former'])
def test_lower_precision_gives_nearly_the_same(
    family: str, precision: str, request: pytest.FixtureRequest
) -> None:
    folder = str(request.getfixturevalue(family))
    exact = Segmenter(folder, runtime='torch', device='cpu', precision='fp32').segment([image()])
    segmenter = Segmenter(folder, runtime='torch', device='cpu', precision=precision)
    found = segmenter.segment([image()])
    assert segmenter.precision == precision
    difference = np.abs(found.confidence.astype(int) - exact.confidence)
    assert np.median(difference) <= 4
    # Where two classes are as likely, rounding decides.
    assert (found.labels == exact.labels).mean() > 0.8


def test_automatic_choices_are_named(tiny_checkpoint: Path) -> None:
    segmenter = Segmenter(str(tiny_checkpoint), runtime='torch')
    assert segmenter.device == ('cuda' if torch.cuda.is_available() else 'cpu')
    assert segmenter.precision in ('fp32', 'bf16')


@pytest.mark.parametrize(
    ('found', 'precision'),
    [
        ({'amx_bf16': True}, 'bf16'),
        ({'amx_bf16': False, 'avx512_bf16': True}, 'fp32'),
        ({'amx_bf16': False, 'avx512_bf16': False}, 'fp32'),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_has_units_for_it(
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, bool],
    precision: str,
) -> None:
    monkeypatch.setattr('torch.cpu.get_capabilities', lambda: found, raising=False)
    assert Segmenter(str(tiny_checkpoint), runtime='torch', device='cpu').precision == precision
    monkeypatch.delattr('torch.cpu.get_capabilities')  # an older torch
    assert Segmenter(str(tiny_checkpoint), runtime='torch', device='cpu').precision == 'fp32'


@pytest.mark.parametrize(
    'bad',
    [
        np.zeros((64, 96, 3), np.uint8),
        np.zeros((1, 64, 96), np.uint8),
        np.zeros((1, 64, 96, 4), np.uint8),
        np.zeros((1, 3, 64, 96), np.uint8),
        np.zeros((1, 64, 96, 3), np.float32),
        np.zeros((0, 64, 96, 3), np.uint8),
        [np.zeros((64, 96), np.uint8)],
        [np.zeros((64, 96, 3), np.uint16)],
        [np.zeros((64, 96, 3), np.uint8), np.zeros((64, 96, 3), np.float32)],
    ],
)
def test_what_is_no_batch_of_rgb_is_refused(categories: Segmenter, bad: Any) -> None:
    with pytest.raises(ImageError, match=r'expected RGB images as \(B, H, W, 3\) uint8, got \('):
        categories.segment(bad)


def test_mixed_sizes_are_refused(categories: Segmenter) -> None:
    with pytest.raises(ImageError, match=r'have one size.*\(32, 64, 3\), \(64, 32, 3\)'):
        categories.segment([image(64, 32), image(32, 64)])


def test_an_empty_batch_is_refused(categories: Segmenter) -> None:
    with pytest.raises(ImageError, match='at least one image'):
        categories.segment([])


@pytest.mark.parametrize('shape', [(0, 96, 3), (64, 0, 3)])
def test_images_without_pixels_are_refused(categories: Segmenter, shape: Any) -> None:
    with pytest.raises(ImageError, match='at least 1'):
        categories.segment([np.zeros(shape, np.uint8)])


def test_images_that_would_exhaust_the_memory_are_refused(nineteen: Path) -> None:
    huge = np.broadcast_to(np.uint8(0), (1, 2**13, 2**13 + 1, 3))
    line = np.zeros((1, 2**22, 3), np.uint8)
    segmenter = Segmenter(str(nineteen), runtime='torch', device='cpu', input_size=(512, 1024))
    with pytest.raises(ImageError, match='scale it down'):
        segmenter.segment(huge)
    with pytest.raises(ImageError, match=r'must be padded to 4194304 x .*camera image'):
        segmenter.segment([line])


@pytest.mark.parametrize(
    ('settings', 'says'),
    [
        ({'runtime': 'tensorflow'}, "runtime 'tensorflow'; use one of auto, torch"),
        ({'precision': 'int4'}, "precision 'int4'; use one of auto, fp32, bf16, fp16"),
        ({'device': 'gpu'}, "device 'gpu'; use auto, cpu, cuda or cuda:N"),
        ({'device': ''}, "device ''; use auto, cpu, cuda or cuda:N"),
        ({'device': 'meta'}, "device 'meta' is not supported; use auto, cpu"),
        ({'device': 'cuda:99'}, "'cuda:99' is not available .*use auto or cpu, or install"),
        ({'input_size': (0, 64)}, r'input_size \(0, 64\) must be \(height, width\)'),
        ({'min_confidence': 1.5}, r'min_confidence 1.5 must lie in \[0, 1\]'),
        ({'min_confidence': float('nan')}, 'min_confidence nan must lie'),
    ],
)
def test_settings_that_cannot_be_are_refused(
    tiny_checkpoint: Path, settings: dict[str, Any], says: str
) -> None:
    with pytest.raises(SettingError, match=says):
        Segmenter(str(tiny_checkpoint), **settings)


def test_cuda_without_a_gpu_says_what_to_do(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    with pytest.raises(SettingError, match=r'0 CUDA devices found.*use auto or cpu, or install'):
        Segmenter(str(tiny_checkpoint), device='cuda')


def test_model_that_is_not_there() -> None:
    with pytest.raises(CheckpointError, match='neither bundled'):
        Segmenter('no such model', runtime='torch', device='cpu')


def test_a_device_that_has_no_room_is_named(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError('tried to allocate 2 GiB')

    monkeypatch.setattr(SegmentationGraph, 'to', full)
    with pytest.raises(SettingError, match=r"'cpu' cannot load .*2 GiB.*another device"):
        Segmenter(str(tiny_checkpoint), runtime='torch', device='cpu')


def test_an_image_that_the_model_does_not_know_is_out_of_domain(
    tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = write_known_model(tiny_checkpoint, tmp_path / 'known')
    for runtime in ('torch', 'openvino'):
        segmenter = Segmenter(str(model), runtime=runtime, device='cpu', precision='fp32')
        found = segmenter.segment([known_image(100), BLACK])
        assert found.out_of_domain == (False, True)
        assert found.distances is not None
        assert found.max_distance is not None
        assert found.distances[0] < found.max_distance < found.distances[1]
        assert segmenter.render(BLACK).out_of_domain is True
        assert segmenter.render(known_image(100)).out_of_domain is False
    assert 'no features' not in caplog.text


def test_a_model_without_known_images_cannot_tell(tiny_checkpoint: Path) -> None:
    segmenter = Segmenter(str(tiny_checkpoint), runtime='torch', device='cpu')
    found = segmenter.segment([BLACK])
    assert found.distances is None
    assert found.max_distance is None
    assert found.out_of_domain is None
    assert segmenter.render(BLACK).out_of_domain is None
