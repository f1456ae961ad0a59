# SPDX-License-Identifier: Apache-2.0
"""Mask2Former of transformers, for semantic and panoptic segmentation and for instances."""

import logging
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, cast

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from transformers.utils import logging as transformers_logging
from typing_extensions import Self

from segmentation_node.errors import CheckpointError, one_line, quoted
from segmentation_node.instances import SEMANTIC
from segmentation_node.networks.local import check_names, no_larger_than_weights, offline
from segmentation_node.networks.mask2former_inference import last_layer
from segmentation_node.networks.network import MISFITS, Network, pooled
from segmentation_node.untrusted import read_json

library_log: Any = transformers_logging  # annotated in parts

#: The library builds Swin's last norm into the backbone but never reads it; the hub's checkpoints
#: are older than that and lack it.
_UNREAD: Final = re.compile(r'\.encoder\.swin\.layernorm\.')


class Mask2Former(Network):
    """Cheng et al., "Masked-attention Mask Transformer", CVPR 2022."""

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        with _only_errors_logged():
            self.model = Mask2FormerForUniversalSegmentation(config)

    def scores_and_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        classes, masks, maps = last_layer(self.model, pixels)
        return self.scores(classes, masks), pooled(maps)

    def outputs(self, pixels: Tensor, task: str) -> tuple[Tensor, ...]:
        if task == SEMANTIC:
            return self.scores_and_features(pixels)
        classes, masks, maps = last_layer(self.model, pixels)
        return classes, masks, pooled(maps)

    def layers(self, pixels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Class logits (B, Q, C + 1) and mask logits (B, Q, H / 4, W / 4) of each decoder layer.

        The last of them is what `forward` scores, up to rounding; training learns from all.
        """
        out = self.model.model(pixel_values=pixels, output_hidden_states=True)
        classes = (
            self.model.class_predictor(hidden.transpose(0, 1))
            for hidden in out.transformer_decoder_intermediate_states
        )
        return list(zip(classes, out.masks_queries_logits, strict=True))

    def scores(self, classes: Tensor, masks: Tensor) -> Tensor:
        """Class scores (B, C, H / 4, W / 4) of the logits of one layer."""
        # The last class logit is "no object"; what it takes is nobody's.
        shares = classes.float().softmax(dim=-1)[..., :-1]  # (B, Q, C)
        # Class maps first, upsampling later: C maps to upsample instead of Q masks.
        with _full_precision(masks.device.type):
            return torch.einsum('bqc,bqhw->bchw', shares, masks.float().sigmoid())

    def channels(self) -> int:
        # The last logit is "no object".
        return int(self.model.class_predictor.out_features) - 1

    @classmethod
    def load(cls, folder: Path) -> Self:
        config = read_json(folder / 'config.json')
        if config.get('model_type') != 'mask2former':
            raise CheckpointError(
                f'{folder / "config.json"} has model_type {quoted(config.get("model_type"))}, not '
                f'"mask2former"; correct "family" in segmentation.yaml'
            )
        check_names(folder / 'config.json', config)
        network = cls.__new__(cls)
        super().__init__(network)
        network.model = _read(folder, _complete(folder / 'config.json', config))
        return network

    def save(self, folder: Path) -> None:
        with _only_errors_logged():
            self.model.save_pretrained(folder)


def _full_precision(device_type: str) -> AbstractContextManager[object]:
    """Keep autocast from adding up scores in 8 bits of mantissa, where near classes tie."""
    if torch.is_autocast_enabled(device_type):
        return torch.autocast(device_type, enabled=False)
    return nullcontext()  # nothing for an export to trip over


def _complete(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration that has all of its backbone, and asks nobody for its weights.

    Older versions of the library wrote the name of a backbone in timm instead of its
    configuration; what they say of pretrained weights is how the training began.

    Raises:
        CheckpointError: the backbone is in another library than timm, whose name is not enough.
    """
    config = {k: v for k, v in config.items() if k != 'use_pretrained_backbone'}
    name = config.pop('backbone', None)
    arguments = config.pop('backbone_kwargs', None) or {}
    in_timm = config.pop('use_timm_backbone', None)
    backbone = config.get('backbone_config')
    if backbone is None and name is not None:
        if not in_timm or not isinstance(arguments, dict):
            raise CheckpointError(
                f'{path} names its backbone {quoted(name)} without its configuration, which is '
                f'not in the folder; expected backbone_config: save the model anew with a newer '
                f'version of transformers'
            )
        backbone = {'model_type': 'timm_backbone', 'backbone': name, **arguments}
    if isinstance(backbone, dict) and backbone.get('model_type') == 'timm_backbone':
        backbone = {**backbone, 'use_pretrained_backbone': False}
    if backbone is not None:
        config['backbone_config'] = backbone
    return config


def _read(folder: Path, content: dict[str, Any]) -> Mask2FormerForUniversalSegmentation:
    try:
        with _only_errors_logged(), offline(), no_larger_than_weights(folder):
            model, info = cast(
                'tuple[Mask2FormerForUniversalSegmentation, dict[str, Any]]',
                Mask2FormerForUniversalSegmentation.from_pretrained(
                    folder,
                    config=Mask2FormerConfig.from_dict(content),
                    local_files_only=True,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # told below, and in full
                ),
            )
    except SafetensorError as error:
        raise CheckpointError(
            f'{folder}: the safetensors file is damaged ({one_line(error)}); copy it again'
        ) from error
    except OSError as error:
        raise CheckpointError(
            f'{folder} cannot be read ({one_line(error)}); copy the folder again'
        ) from error
    except (StrictDataclassError, *MISFITS) as error:
        raise CheckpointError(
            f'{folder}: config.json and model.safetensors do not belong together '
            f'({one_line(error)}); copy both from the same model'
        ) from error
    _check_tensors(folder, info)
    return model


def _check_tensors(folder: Path, info: dict[str, Any]) -> None:
    """Refuse what the library only warns of: it makes up what is missing, and drops the rest."""
    mismatched = {str(key[0]) for key in info['mismatched_keys']}
    missing = {k for k in info['missing_keys'] if not _UNREAD.search(k)} - mismatched
    # Left over are also numbers that are computed nowadays; those have other endings.
    left_over = {k for k in info['unexpected_keys'] if k.endswith(('.weight', '.bias'))}
    for keys, what in (
        (mismatched, 'of other shapes than config.json asks for'),
        (missing, 'less than config.json asks for'),
        (left_over, 'more than config.json asks for'),
    ):
        if keys:
            some = ', '.join(sorted(keys)[:3]) + (', ...' if len(keys) > 3 else '')
            raise CheckpointError(
                f'{folder}: model.safetensors has {len(keys)} tensors {what} ({some}); the two '
                f'are of different models: copy both from the same one'
            )


@contextmanager
def _only_errors_logged() -> Iterator[None]:
    """Keep the library's warnings and bars, which speak to its developers, off the terminal."""
    before, bars = library_log.get_verbosity(), library_log.is_progress_bar_enabled()
    library_log.set_verbosity(logging.ERROR)
    library_log.disable_progress_bar()
    try:
        yield
    finally:
        library_log.set_verbosity(before)
        if bars:
            library_log.enable_progress_bar()
