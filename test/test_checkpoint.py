# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: every layout that loads, and a clear answer to every one that does not."""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from segmentation_node.checkpoint import (
    SPEC_FILE,
    Checkpoint,
    Spec,
    bundled_models,
    find_checkpoint,
    load_checkpoint,
    locate,
    save_checkpoint,
)
from segmentation_node.errors import CheckpointError, quoted
from segmentation_node.labels import load_scheme
from segmentation_node.networks.domain import Domain, FeatureSet
from segmentation_node.networks.mask2former import Mask2Former
from segmentation_node.networks.preprocessing import Preprocessing
from segmentation_node.networks.smp import DeepLabV3Plus
from segmentation_node.segmenter import Segmenter

CITYSCAPES_NAMES = [
    'road', 'sidewalk', 'building', 'wall', 'fence', 'pole', 'traffic light', 'traffic sign',
    'vegetation', 'terrain', 'sky', 'person', 'rider', 'car', 'truck', 'bus', 'train',
    'motorcycle', 'bicycle',
]  # fmt: skip

# What facebook/mask2former-swin-tiny-cityscapes-semantic holds, key by key, in tiny dimensions.
HUB_CONFIG: dict[str, Any] = {
    'activation_function': 'relu',
    'architectures': ['Mask2FormerForUniversalSegmentation'],
    'backbone_config': {
        '_name_or_path': '', 'architectures': ['SwinForImageClassification'],
        'attention_probs_dropout_prob': 0.0, 'depths': [1, 1, 2, 1], 'drop_path_rate': 0.3,
        'embed_dim': 8, 'encoder_stride': 32, 'hidden_act': 'gelu', 'hidden_dropout_prob': 0.0,
        'hidden_size': 64, 'image_size': 224, 'initializer_range': 0.02, 'layer_norm_eps': 1e-05,
        'mlp_ratio': 4.0, 'model_type': 'swin', 'num_channels': 3, 'num_heads': [1, 1, 2, 2],
        'num_layers': 4, 'out_features': ['stage1', 'stage2', 'stage3', 'stage4'],
        'patch_size': 4, 'path_norm': True, 'qkv_bias': True,
        'stage_names': ['stem', 'stage1', 'stage2', 'stage3', 'stage4'],
        'torch_dtype': 'float32', 'transformers_version': '4.25.0.dev0',
        'use_absolute_embeddings': False, 'window_size': 3,
    },
    'class_weight': 2.0, 'common_stride': 4, 'decoder_layers': 3, 'dice_weight': 5.0,
    'dim_feedforward': 32, 'dropout': 0.0, 'encoder_feedforward_dim': 32, 'encoder_layers': 2,
    'enforce_input_proj': False, 'enforce_input_projection': False, 'feature_size': 32,
    'feature_strides': [4, 8, 16, 32], 'hidden_dim': 32,
    'id2label': {str(i): name for i, name in enumerate(CITYSCAPES_NAMES)},
    'ignore_value': 255, 'importance_sample_ratio': 0.75, 'init_std': 0.02,
    'init_xavier_std': 1.0, 'label2id': {name: i for i, name in enumerate(CITYSCAPES_NAMES)},
    'mask_feature_size': 32, 'mask_weight': 5.0, 'model_type': 'mask2former',
    'no_object_weight': 0.1, 'num_attention_heads': 2, 'num_queries': 10,
    'output_auxiliary_logits': None, 'oversample_ratio': 3.0, 'pre_norm': False,
    'torch_dtype': 'float32', 'train_num_points': 12544, 'transformers_version': None,
    'use_auxiliary_loss': True,
}  # fmt: skip

HUB_PROCESSOR = {
    'do_normalize': True, 'do_rescale': True, 'do_resize': True, 'ignore_index': 255,
    'image_mean': [0.48500001430511475, 0.4560000002384186, 0.4059999883174896],
    'image_processor_type': 'Mask2FormerImageProcessor',
    'image_std': [0.2290000021457672, 0.2240000069141388, 0.22499999403953552],
    'num_labels': 19, 'reduce_labels': False, 'resample': 2,
    'rescale_factor': 0.00392156862745098, 'size': {'height': 384, 'width': 384},
    'size_divisor': 32,
}  # fmt: skip


@pytest.fixture(scope='module')
def hub_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A download of the hub's Cityscapes Mask2Former as it lies on disk, but tiny.

    Its tensors bear the names they had when these were uploaded: with the window indices that
    are computed nowadays, and without the last norm that the backbone has been given since.
    """
    from transformers import Mask2FormerConfig

    torch.manual_seed(0)
    network = Mask2Former(Mask2FormerConfig.from_dict(HUB_CONFIG))
    torch.nn.init.normal_(network.model.class_predictor.weight, std=3.0)
    folder = tmp_path_factory.mktemp('hub')
    network.save(folder)
    tensors = load_file(folder / 'model.safetensors')
    tensors = {k: v for k, v in tensors.items() if '.layernorm.' not in k or 'encoder' not in k}
    blocks = 'model.pixel_level_module.encoder.encoder.layers.{}.blocks.{}.attention.self.'
    for stage, depth in enumerate(HUB_CONFIG['backbone_config']['depths']):
        for block in range(depth):
            prefix = blocks.format(stage, block)
            assert f'{prefix}query.weight' in tensors
            index = torch.zeros(9, 9, dtype=torch.int64)
            tensors.setdefault(f'{prefix}relative_position_index', index)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})
    write_json(folder / 'config.json', HUB_CONFIG)
    write_json(folder / 'preprocessor_config.json', HUB_PROCESSOR)
    (folder / 'pytorch_model.bin').write_bytes(b'not to be read')
    return folder


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding='utf-8')


def change_json(path: Path, **changes: Any) -> None:
    write_json(path, json.loads(path.read_text(encoding='utf-8')) | changes)


#: A set of known images in a spec.
KNOWN = {'name': 'a', 'mean': [0.5, 1.0], 'scale': [1.0, 2.0]}


def domain(**changes: Any) -> dict[str, Any]:
    """Return the field of a spec that describes known images."""
    return {'out_of_domain': {'threshold': 2.5, 'sets': [KNOWN]} | changes}


def change_spec(folder: Path, **changes: Any) -> None:
    path = folder / SPEC_FILE
    content = yaml.safe_load(path.read_text(encoding='utf-8')) | changes
    path.write_text(yaml.safe_dump(content), encoding='utf-8')


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / 'model.safetensors')
    change(tensors)
    save_file(tensors, folder / 'model.safetensors', metadata={'format': 'pt'})


@pytest.fixture
def deeplab(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / 'deeplab'))


@pytest.fixture
def mask2former(tiny_mask2former: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_mask2former, tmp_path / 'mask2former'))


@pytest.fixture
def hub(hub_folder: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(hub_folder, tmp_path / 'hub'))


def refused(model: str | Path, *parts: str) -> None:
    """Assert that loading is refused with a message that holds all parts."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(str(model))
    for part in parts:
        assert part in str(caught.value)
    assert '\n' not in str(caught.value)


# What loads.


def test_own_folder(tiny_checkpoint: Path) -> None:
    loaded = load_checkpoint(str(tiny_checkpoint))
    assert (loaded.name, loaded.folder) == (str(tiny_checkpoint), tiny_checkpoint)
    assert loaded.scheme.name == 'cityscapes8'
    assert loaded.channel_ids.tolist() == list(range(8))
    assert not loaded.load_network().training


def test_home_is_expanded(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', str(tiny_checkpoint.parent))
    assert locate(f'~/{tiny_checkpoint.name}') == tiny_checkpoint


@pytest.mark.parametrize('name', bundled_models())
def test_bundled_model(name: str) -> None:
    loaded = load_checkpoint(name)
    assert loaded.spec.provenance['metrics']
    assert loaded.load_network().channels() == len(loaded.scheme.learned)


def test_download_of_the_hub(hub_folder: Path) -> None:
    loaded = load_checkpoint(str(hub_folder))
    assert (loaded.spec.family, loaded.scheme.name) == ('mask2former', 'cityscapes19')
    assert loaded.channel_ids.tolist() == list(range(19))
    assert loaded.spec.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert loaded.spec.preprocessing.std == pytest.approx((0.229, 0.224, 0.225))
    assert loaded.spec.preprocessing.size_hw is None  # not the processor's square
    assert_weights_are_of(loaded, hub_folder)


def assert_weights_are_of(loaded: Checkpoint, folder: Path) -> None:
    """Every tensor of the file must have found its place in the network."""
    stored = load_file(folder / 'model.safetensors')
    held = {t.float().sum().item() for t in loaded.load_network().state_dict().values()}
    lost = [k for k, v in stored.items() if v.is_floating_point() and v.sum().item() not in held]
    assert lost == []


def test_download_of_the_hub_segments(hub_folder: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 90, 3), np.uint8)
    segmenter = Segmenter(str(hub_folder), runtime='torch', device='cpu', precision='fp32')
    labels = segmenter.segment([image]).labels
    assert labels.shape == (1, 50, 90)
    assert set(np.unique(labels)) <= set(range(19))
    segmenter.publish_as('cityscapes8')
    categories = segmenter.segment([image]).labels
    lut = load_checkpoint(str(hub_folder)).scheme.mapping_to(segmenter.scheme)
    assert (categories == lut[labels]).all()


def test_loading_leaves_nothing_to_chance_and_nothing_on_the_log(
    hub_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    first, second = (load_checkpoint(str(hub_folder)).load_network().eval() for _ in range(2))
    pixels = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(first(pixels), second(pixels))
    out, err = capfd.readouterr()
    assert 'MISSING' not in out + err


def test_hub_download_with_its_classes_in_another_order(hub: Path) -> None:
    names = list(reversed(CITYSCAPES_NAMES))
    change_json(hub / 'config.json', id2label={str(i): n for i, n in enumerate(names)})
    assert load_checkpoint(str(hub)).channel_ids.tolist() == list(range(18, -1, -1))


def test_names_of_the_network_decide_the_order_beside_a_spec(hub: Path) -> None:
    names = list(reversed(CITYSCAPES_NAMES))
    change_json(hub / 'config.json', id2label={str(i): n for i, n in enumerate(names)})
    Spec('mask2former', 'cityscapes19').write(hub / SPEC_FILE)
    assert load_checkpoint(str(hub)).channel_ids.tolist() == list(range(18, -1, -1))


def test_weights_in_several_files(tiny_mask2former: Path, tmp_path: Path) -> None:
    network = Mask2Former.load(tiny_mask2former)
    network.model.save_pretrained(tmp_path, max_shard_size='100KB')
    assert len(list(tmp_path.glob('*.safetensors'))) > 1
    shutil.copy(tiny_mask2former / SPEC_FILE, tmp_path)
    loaded = load_checkpoint(str(tmp_path)).load_network()
    assert all(
        torch.equal(a, b)
        for a, b in zip(loaded.state_dict().values(), network.state_dict().values(), strict=True)
    )


def test_spec_is_read_as_written(tmp_path: Path) -> None:
    preprocessing = Preprocessing((0.5, 0.4, 0.3), (0.2, 0.2, 0.1), (512, 1024))
    origin = {'data': ['a', 'b'], 'figures': {'miou': 0.5}}
    known = Domain(2.5, (FeatureSet('a', (0.5, -1.0), (1.0, 0.25)),))
    spec = Spec('unet', 'camvid11', preprocessing, origin, 1.25, known)
    spec.write(tmp_path / SPEC_FILE)
    assert Spec.read(tmp_path / SPEC_FILE) == spec


def test_least_spec_is_family_and_scheme(tmp_path: Path) -> None:
    (tmp_path / SPEC_FILE).write_text('family: unet\nlabel_scheme: camvid11\n', encoding='utf-8')
    assert Spec.read(tmp_path / SPEC_FILE) == Spec('unet', 'camvid11')


def test_saved_weights_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    network = DeepLabV3Plus({'encoder_name': 'tu-mobilenetv3_small_050', 'classes': 8})
    before = os.umask(0o027)
    try:
        save_checkpoint(tmp_path, network, Spec('deeplabv3plus', 'cityscapes8'), '')
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert set(modes.values()) == {'0o640'}, modes


def test_saving_stores_half_precision_and_leaves_the_network_alone(tmp_path: Path) -> None:
    network = DeepLabV3Plus({'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 8})
    save_checkpoint(
        tmp_path / 'a' / 'b', network, Spec('deeplabv3plus', 'cityscapes8'), '# Card\n'
    )
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    stored = load_file(tmp_path / 'a' / 'b' / 'model.safetensors')
    assert {t.dtype for t in stored.values() if t.is_floating_point()} == {torch.float16}
    assert (tmp_path / 'a' / 'b' / 'README.md').read_text(encoding='utf-8') == '# Card\n'
    assert load_checkpoint(str(tmp_path / 'a' / 'b')).scheme.name == 'cityscapes8'


def test_input_size_can_be_replaced(deeplab: Path) -> None:
    change_spec(deeplab, preprocessing={'mean': [0.5, 0.5, 0.5], 'size_hw': [64, 128]})
    checkpoint = load_checkpoint(str(deeplab))
    assert checkpoint.load_graph().size_hw == (64, 128)
    assert checkpoint.load_graph((32, 32)).size_hw == (32, 32)
    assert checkpoint.load_graph((32, 32)).shift.flatten().tolist() == [127.5] * 3


# What does not load, each with its own answer.


@pytest.mark.parametrize('model', ['', 'no such model', '/no/such/folder', 'a/b/c', '../x'])
def test_neither_bundled_nor_folder_nor_hub_id(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # whatever lies beside the working folder
    refused(model, repr(model), 'neither bundled', 'existing folder', '"owner/name"')


@pytest.mark.parametrize('model', ['~no-such-user/model', 'x' * 300])
def test_a_path_that_cannot_be_looked_up(model: str) -> None:
    refused(model, quoted(model), 'hub id')


def test_file_instead_of_its_folder(deeplab: Path) -> None:
    refused(deeplab / 'model.safetensors', 'is a file', 'give the folder')


def test_no_config(deeplab: Path) -> None:
    (deeplab / 'config.json').unlink()
    refused(deeplab, str(deeplab), 'no config.json', 'a checkpoint folder contains')


@pytest.mark.parametrize('text', ['', '{"a": ', '\x00', '[]', '3', 'null'])
def test_config_that_is_no_json_object(deeplab: Path, text: str) -> None:
    (deeplab / 'config.json').write_text(text, encoding='utf-8')
    refused(deeplab, str(deeplab / 'config.json'), 'JSON', 'anew')


def test_config_in_no_text_encoding(deeplab: Path) -> None:
    (deeplab / 'config.json').write_bytes(b'\xff\xfe{}')
    refused(deeplab, 'config.json', 'not UTF-8 text')


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickled_weights_are_never_loaded(deeplab: Path, mask2former: Path, hub: Path) -> None:
    for folder in (deeplab, mask2former, hub):
        exploded = folder / 'exploded'
        bomb = pickle.dumps(Bomb(exploded))
        (folder / 'pytorch_model.bin').write_bytes(bomb)
        (folder / 'model.safetensors').unlink()
        refused(folder, 'no model.safetensors', 'pytorch_model.bin', 'never loaded', 'save_pre')
        assert not exploded.exists()
        pickle.loads(bomb)  # noqa: S301 (proves that the trap works)
        assert exploded.exists()


def test_no_weights_at_all(deeplab: Path) -> None:
    (deeplab / 'model.safetensors').rename(deeplab / 'other.safetensors')
    refused(deeplab, 'no model.safetensors', 'save_pretrained')


@pytest.mark.parametrize('kept', [0, 5, 200, 0.5, 0.999])
def test_truncated_weights(deeplab: Path, mask2former: Path, hub: Path, kept: float) -> None:
    for folder in (deeplab, mask2former, hub):
        path = folder / 'model.safetensors'
        data = path.read_bytes()
        path.write_bytes(data[: int(kept if kept > 1 else kept * len(data))])
        refused(folder, str(folder), 'damaged', 'copy it again')


def test_index_without_its_parts(mask2former: Path) -> None:
    (mask2former / 'model.safetensors').unlink()
    index = {'metadata': {}, 'weight_map': {'a': 'model-00001-of-00001.safetensors'}}
    write_json(mask2former / 'model.safetensors.index.json', index)
    refused(mask2former, str(mask2former), 'model-00001-of-00001.safetensors', 'again')


def test_smp_does_not_split_its_weights(deeplab: Path) -> None:
    (deeplab / 'model.safetensors').rename(deeplab / 'model.safetensors.index.json')
    refused(deeplab, 'model.safetensors', 'damaged or missing')


def test_config_of_another_family(deeplab: Path, mask2former: Path) -> None:
    shutil.copy(mask2former / 'config.json', deeplab)
    refused(deeplab, str(deeplab), 'describes None, not DeepLabV3Plus', 'correct "family"')


def test_smp_config_for_mask2former(deeplab: Path, mask2former: Path) -> None:
    shutil.copy(deeplab / 'config.json', mask2former)
    refused(mask2former, 'model_type None, not "mask2former"', 'correct "family"')


@pytest.mark.parametrize(
    'changes',
    [
        {'encoder_name': 'resnet34'},
        {'encoder_name': 'resnet9000'},
        {'encoder_name': 18},
        {'decoder_channels': 32},
    ],
)
def test_smp_config_of_other_weights(deeplab: Path, changes: dict[str, Any]) -> None:
    change_json(deeplab / 'config.json', **changes)
    refused(deeplab, str(deeplab), 'do not belong together')


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'dim_feedforward': 64}, 'of other shapes'),
        ({'num_queries': 50}, 'of other shapes'),
        ({'decoder_layers': 4}, 'less than config.json asks for'),
        ({'encoder_layers': 3}, 'less than config.json asks for'),
        ({'decoder_layers': 1}, 'more than config.json asks for'),
        ({'common_stride': 0}, 'infinity'),
        ({'id2label': ['road']}, "no attribute 'items'"),
        ({'num_attention_heads': 0}, 'by zero'),
        ({'feature_size': 'many'}, "expected int, got str (value: 'many')"),
    ],
)
def test_mask2former_config_of_other_weights(
    mask2former: Path, changes: dict[str, Any], says: str
) -> None:
    change_json(mask2former / 'config.json', **changes)
    refused(mask2former, str(mask2former), says, 'copy both from the same')


def test_mask2former_with_missing_tensors(mask2former: Path) -> None:
    """The library would fill them with random numbers and only warn."""
    change_tensors(mask2former, lambda tensors: tensors.pop('class_predictor.bias'))
    refused(mask2former, 'has 1 tensors less', '(class_predictor.bias)', 'copy both')


def test_smp_with_missing_tensors(deeplab: Path) -> None:
    change_tensors(deeplab, lambda tensors: tensors.pop('segmentation_head.0.bias'))
    refused(deeplab, 'segmentation_head.0.bias', 'do not belong together')


def test_other_number_of_classes_than_the_scheme(deeplab: Path, mask2former: Path) -> None:
    for folder in (deeplab, mask2former):
        change_spec(folder, label_scheme='cityscapes19')
        refused(folder, str(folder), 'has 8 classes', 'cityscapes19 has 19', '"label_scheme"')


def test_names_and_weights_of_different_numbers(hub: Path) -> None:
    names = {str(i): c.name for i, c in enumerate(load_scheme('camvid11').learned)}
    change_json(hub / 'config.json', id2label=names)
    refused(hub, str(hub), 'copy both from the same')


@pytest.mark.parametrize('elsewhere', ['../scheme.yaml', '/etc/hostname', 'a/b'])
def test_a_scheme_elsewhere(deeplab: Path, elsewhere: str) -> None:
    change_spec(deeplab, label_scheme=elsewhere)
    refused(deeplab, f'label_scheme {elsewhere!r}', 'of a file in the same folder')


@pytest.mark.parametrize('names', [[], ['cat', 'dog']])
def test_hub_model_of_other_things(hub: Path, names: list[str]) -> None:
    names += [f'thing {i}' for i in range(19 - len(names))]
    change_json(hub / 'config.json', id2label={str(i): n for i, n in enumerate(names)})
    refused(hub, str(hub), 'no label scheme has the classes', 'thing 3', 'add one')


def test_unknown_family(deeplab: Path) -> None:
    change_spec(deeplab, family='segformer')
    refused(deeplab, SPEC_FILE, "family 'segformer'", 'deeplabv3plus, mask2former, unet')


def test_unknown_scheme(deeplab: Path) -> None:
    change_spec(deeplab, label_scheme='ade20k')
    refused(deeplab, str(deeplab), "unknown label scheme 'ade20k'", 'cityscapes8')


def test_scheme_of_another_type(deeplab: Path) -> None:
    change_spec(deeplab, label_scheme=8)
    refused(deeplab, SPEC_FILE, 'label_scheme 8; expected a name')


@pytest.mark.parametrize(
    ('changes', 'says'),
    [
        ({'familly': 'unet'}, 'unknown fields familly; there are family, label_scheme'),
        ({'preprocessing': {'average': 3}}, 'unknown fields average; there are mean, std'),
        ({'preprocessing': 3}, 'contains 3, expected fields: mean, std, size_hw'),
        ({'preprocessing': {'mean': [1, 2]}}, 'mean [1, 2]; expected three numbers'),
        ({'preprocessing': {'mean': 'grey'}}, "mean 'grey'; expected three numbers"),
        ({'preprocessing': {'std': [1, 0, 1]}}, 'std [1, 0, 1]; expected three numbers'),
        ({'preprocessing': {'std': [1, 1, float('nan')]}}, 'expected three numbers'),
        ({'preprocessing': {'size_hw': [512]}}, 'size_hw [512]; expected null or [height, width'),
        ({'preprocessing': {'size_hw': [0, 5]}}, 'size_hw [0, 5]; expected null or [height'),
        ({'preprocessing': {'size_hw': [1.5, 5]}}, 'expected null or [height, width]'),
        ({'temperature': 0}, 'temperature 0; expected a number from 0.05 to 20'),
        ({'temperature': -1.0}, 'temperature -1.0; expected a number'),
        ({'temperature': 20.1}, 'temperature 20.1; expected a number'),
        ({'temperature': 10**400}, 'expected a number from 0.05 to 20'),
        ({'temperature': float('nan')}, 'temperature nan; expected a number'),
        ({'temperature': float('inf')}, 'temperature inf; expected a number'),
        ({'temperature': True}, 'temperature True; expected a number'),
        ({'temperature': None}, 'temperature None; expected a number'),
        ({'temperature': [1.5]}, 'temperature [1.5]; expected a number'),
        ({'temperature': '1.5'}, "temperature '1.5'; expected a number"),
        ({'out_of_domain': 3}, 'out_of_domain 3; expected threshold and sets'),
        ({'out_of_domain': {'threshold': 1.0}}, 'expected threshold and sets'),
        (domain(threshold=0), 'threshold 0; expected a number above 0'),
        (domain(threshold=float('nan')), 'threshold nan; expected a number above 0'),
        (domain(threshold='1'), "threshold '1'; expected a number above 0"),
        (domain(threshold=10**400), 'expected a number above 0, at most 1e+09'),
        (domain(sets=[]), 'sets []; expected a list of 1 to 16'),
        (domain(sets='camvid'), "sets 'camvid'; expected a list of 1 to 16"),
        (domain(sets=[{} for _ in range(17)]), 'expected a list of 1 to 16'),
        (domain(sets=[[1.0]]), 'the set [1.0]; expected a name'),
        (domain(sets=[KNOWN | {'mean': []}]), 'expected a name, and as many numbers in mean'),
        (domain(sets=[KNOWN | {'mean': [1.0]}]), 'expected a name, and as many numbers in mean'),
        (domain(sets=[KNOWN | {'mean': [1.0, None]}]), 'as many numbers in mean'),
        (domain(sets=[KNOWN | {'mean': [1, 10**400]}]), 'each at most 1e+09'),
        (domain(sets=[KNOWN | {'mean': [1.0, float('inf')]}]), 'as many numbers in mean'),
        (domain(sets=[KNOWN | {'scale': [1.0, 0.0]}]), 'numbers above 0 in scale'),
        (domain(sets=[KNOWN | {'scale': [1.0, float('nan')]}]), 'numbers above 0 in scale'),
        (domain(sets=[KNOWN | {'name': 3}]), 'expected a name'),
        (domain(sets=[KNOWN | {'more': 3}]), 'expected a name'),
        (
            domain(sets=[KNOWN, {'name': 'b', 'mean': [1.0], 'scale': [1.0]}]),
            'different numbers of features',
        ),
    ],
)
def test_spec_with_a_wrong_field(deeplab: Path, changes: dict[str, Any], says: str) -> None:
    change_spec(deeplab, **changes)
    refused(deeplab, str(deeplab / SPEC_FILE), says)


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        ('', 'contains None, expected fields: family, label_scheme'),
        ('- a', "contains ['a'], expected fields"),
        ('family: unet', 'lacks label_scheme'),
        ('family: [', 'cannot be read'),
        ('family: 2020-02-30', 'cannot be read'),
        ('!!python/object/apply:os.getcwd []', 'cannot be read'),
    ],
)
def test_spec_that_is_none(deeplab: Path, text: str, says: str) -> None:
    (deeplab / SPEC_FILE).write_text(text, encoding='utf-8')
    with pytest.raises(CheckpointError, match=re.escape(says)):
        load_checkpoint(str(deeplab))


def test_smp_folder_without_a_spec(deeplab: Path) -> None:
    (deeplab / SPEC_FILE).unlink()
    refused(
        deeplab, 'names no classes', SPEC_FILE, '"family: deeplabv3plus"', '"label_scheme: NAME"',
        'cityscapes8',
    )  # fmt: skip


def test_model_of_no_supported_family(hub: Path) -> None:
    change_json(hub / 'config.json', model_type='segformer')
    refused(hub, "'segformer'", 'not supported', 'mask2former')


@pytest.mark.parametrize(
    'content',
    [
        {},
        {'image_mean': [0, 0, 0]},
        [],
        HUB_PROCESSOR | {'image_mean': [0.5]},
        HUB_PROCESSOR | {'rescale_factor': 0},
        HUB_PROCESSOR | {'do_flip_channel_order': True},
        HUB_PROCESSOR | {'image_std': 'x'},
    ],
)
def test_processor_without_mean_and_std(hub: Path, content: object) -> None:
    write_json(hub / 'preprocessor_config.json', content)
    refused(hub, 'preprocessor_config.json')


# The hub.

HUB_SCRIPT = """
import sys
from segmentation_node.checkpoint import load_checkpoint
from segmentation_node.errors import CheckpointError, quoted
try:
    loaded = load_checkpoint(sys.argv[1])
    print(loaded.name, loaded.scheme.name, loaded.load_network().channels(), loaded.folder)
except CheckpointError as error:
    print('refused:', error)
"""


@pytest.mark.parametrize(
    ('changes', 'mean', 'std'),
    [
        ({'image_mean': 0.5, 'image_std': 0.25}, 0.5, 0.25),
        ({'image_mean': [0.5] * 3, 'image_std': [0.5] * 3, 'rescale_factor': 2 / 255}, 0.25, 0.25),
        ({'image_mean': [51] * 3, 'image_std': [255] * 3, 'do_rescale': False}, 0.2, 1.0),
        ({'do_normalize': False}, 0.0, 1.0),
    ],
)
def test_normalization_of_a_processor(
    hub: Path, changes: dict[str, Any], mean: float, std: float
) -> None:
    write_json(hub / 'preprocessor_config.json', HUB_PROCESSOR | changes)
    found = find_checkpoint(str(hub)).spec.preprocessing
    assert found.mean == pytest.approx([mean] * 3)
    assert found.std == pytest.approx([std] * 3)


# Backbones that are named


def looking_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*address: object, **_: object) -> None:
        raise AssertionError(f'the network was used: {address}')

    monkeypatch.setattr('socket.socket.connect', refuse)
    monkeypatch.setattr('socket.getaddrinfo', refuse)


@pytest.fixture(scope='module')
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Mask2Former with a backbone of timm, as newer versions of the library write it."""
    from transformers import Mask2FormerConfig

    torch.manual_seed(0)
    backbone = {
        'model_type': 'timm_backbone', 'backbone': 'mobilenetv3_small_050',
        'use_pretrained_backbone': False, **TIMM_ARGUMENTS,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp('timm')
    Mask2Former(Mask2FormerConfig.from_dict(HUB_CONFIG | {'backbone_config': backbone})).save(
        folder
    )
    return folder


TIMM_ARGUMENTS = {'out_indices': [1, 2, 3, 4], 'features_only': True}


@pytest.mark.parametrize(
    'changes',
    [
        # As transformers 4 writes it.
        {'backbone': 'mobilenetv3_small_050', 'use_timm_backbone': True,
         'use_pretrained_backbone': True, 'backbone_kwargs': TIMM_ARGUMENTS},
        {'use_pretrained_backbone': True},
    ],
)  # fmt: skip
def test_complete_folder_that_names_its_backbone_loads_without_a_network(
    timm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    folder = tmp_path / 'checkpoint'
    shutil.copytree(timm_folder, folder)
    config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
    if 'backbone' in changes:
        del config['backbone_config']
    else:
        config['backbone_config']['use_pretrained_backbone'] = True
    write_json(folder / 'config.json', config | changes)
    looking_nowhere(monkeypatch)
    assert_weights_are_of(load_checkpoint(str(folder)), timm_folder)


@pytest.mark.parametrize('name', ['resnet50', 'microsoft/resnet-50'])
def test_backbone_whose_configuration_is_elsewhere_is_refused(
    hub: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config = json.loads((hub / 'config.json').read_text(encoding='utf-8'))
    del config['backbone_config']
    write_json(hub / 'config.json', config | {'backbone': name, 'use_timm_backbone': False})
    looking_nowhere(monkeypatch)
    refused(hub, 'config.json', name, 'elsewhere' if '/' in name else 'expected backbone_config')


# Networks of a single class, and of other images


VOID_ROW = {'id': 0, 'name': 'other', 'color': [0, 0, 0], 'category': 'void', 'void': True}
ROAD_ROW = {'id': 3, 'name': 'road', 'color': [1, 2, 3], 'category': 'flat'}
WALL_ROW = {'id': 5, 'name': 'wall', 'color': [3, 2, 1], 'category': 'construction'}
UNLEARNED = VOID_ROW | {'learned': False}


def smp_folder(folder: Path, rows: list[dict[str, Any]], bias: float = 0, **config: Any) -> Path:
    """A U-Net as its library saves it, with a bias of its logits."""
    import segmentation_models_pytorch as smp  # type: ignore[import-untyped]

    torch.manual_seed(0)
    network = smp.Unet('resnet18', encoder_weights=None, **config)
    head = network.segmentation_head[0]
    torch.nn.init.constant_(head.bias, bias)
    network.save_pretrained(folder)
    (folder / 'own.yaml').write_text(yaml.safe_dump({'classes': rows}), encoding='utf-8')
    (folder / SPEC_FILE).write_text('family: unet\nlabel_scheme: own.yaml\n', encoding='utf-8')
    return folder


@pytest.mark.parametrize(
    ('rows', 'absent', 'present'),
    [
        ([UNLEARNED, ROAD_ROW], 0, 3),
        ([VOID_ROW, ROAD_ROW], 0, 3),
        ([ROAD_ROW, VOID_ROW], 0, 3),
        ([UNLEARNED, ROAD_ROW, WALL_ROW], 3, 5),
    ],
)
def test_a_single_logit_tells_its_class_from_the_rest(
    tmp_path: Path, rows: list[dict[str, Any]], absent: int, present: int
) -> None:
    for bias, expected, confidence in ((-100, absent, 255), (100, present, 255)):
        folder = smp_folder(tmp_path / str(bias), rows, bias, classes=1)
        found = Segmenter(str(folder), runtime='torch', precision='fp32').segment(
            [np.zeros((32, 32, 3), np.uint8)]
        )
        assert (found.labels == expected).all()
        assert (found.confidence[0] == confidence).all()


@pytest.mark.parametrize(
    'rows', [[VOID_ROW, ROAD_ROW, WALL_ROW], [VOID_ROW], [UNLEARNED, ROAD_ROW, WALL_ROW, {
        'id': 7, 'name': 'car', 'color': [9, 9, 9], 'category': 'vehicle'}]],
)  # fmt: skip
def test_a_single_logit_for_other_classes_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    folder = smp_folder(tmp_path, rows, classes=1)
    learned = sum(row.get('learned', True) for row in rows)
    refused(folder, 'distinguishes one class from the rest', f'own has {learned} learned classes')


@pytest.mark.parametrize('channels', [1, 4])
def test_networks_of_other_images_are_refused(deeplab: Path, hub: Path, channels: int) -> None:
    change_json(deeplab / 'config.json', in_channels=channels)
    config = json.loads((hub / 'config.json').read_text(encoding='utf-8'))
    for backbone in (
        {'backbone_config': config['backbone_config'] | {'num_channels': channels}},
        {'backbone_config': None, 'backbone_kwargs': {'num_channels': channels}},
    ):
        change_json(hub / 'config.json', **backbone)
        for folder in (deeplab, hub):
            refused(folder, f'takes images of {channels} channels; expected 3, red, green and')
            with pytest.raises(CheckpointError, match=f'images of {channels} channels'):
                Segmenter(str(folder))


def load_in_a_process(model: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, '-c', HUB_SCRIPT, model],
        env={'PATH': '', 'OMP_NUM_THREADS': '1', **environment},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout


def test_hub_id_of_a_model_in_the_cache(hub_folder: Path, tmp_path: Path) -> None:
    """The real client resolves the id in the layout that it writes itself."""
    model = tmp_path / 'hub' / 'models--some-owner--a.model-name'
    snapshot = model / 'snapshots' / ('0123456789' * 4)
    shutil.copytree(hub_folder, snapshot)
    (model / 'refs').mkdir()
    (model / 'refs' / 'main').write_text(snapshot.name, encoding='utf-8')
    done = subprocess.run(
        [sys.executable, '-c', HUB_SCRIPT, 'some-owner/a.model-name'],
        env={'HF_HOME': str(tmp_path), 'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '1'},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert done.stdout == f'some-owner/a.model-name cityscapes19 19 {snapshot}\n'


def test_hub_id_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    refused('some-owner/name', "no folder 'some-owner/name'", 'the network', 'path of its folder')


def test_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')
    waits: list[float] = []
    monkeypatch.setattr('time.sleep', waits.append)
    refused('some-owner/name', "no folder 'some-owner/name'", 'the network', 'path of its folder')
    assert sum(waits) < 3  # the answer comes at once, not after many attempts


class NotFound(BaseHTTPRequestHandler):
    """A hub that knows no model."""

    asked: list[str]

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        body = b'{"error": "Repository not found"}'
        self.send_response(404)
        self.send_header('X-Error-Code', 'RepoNotFound')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *args: Any) -> None:
        pass


def test_hub_that_does_not_know_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = HTTPServer(('127.0.0.1', 0), NotFound)
    server.asked = []  # type: ignore[attr-defined]
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    monkeypatch.setattr(
        'huggingface_hub.constants.ENDPOINT', f'http://127.0.0.1:{server.server_port}'
    )
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        refused('some-owner/name', "no folder 'some-owner/name'", 'check the spelling')
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    assert server.asked  # type: ignore[attr-defined]
