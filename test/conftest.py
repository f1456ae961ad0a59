# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests."""

from pathlib import Path

import pytest


@pytest.fixture(scope='session')
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DeepLabV3+ folder with random weights, complete and quick to load."""
    import torch

    from segmentation_node.checkpoint import Spec, save_checkpoint
    from segmentation_node.models.smp import DeepLabV3Plus

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp('tiny_deeplabv3plus')
    config = {'encoder_name': 'resnet18', 'decoder_channels': 16, 'classes': 8}
    save_checkpoint(folder, DeepLabV3Plus(config), Spec('deeplabv3plus', 'cityscapes8'), '# Tiny\n')
    return folder
