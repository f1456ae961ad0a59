# SPDX-License-Identifier: Apache-2.0
"""Mask2Former of transformers, read as a semantic segmenter."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation
from typing_extensions import Self

from segmentation_node.errors import CheckpointError
from segmentation_node.models.network import Network, one_line


class Mask2Former(Network):
    """Cheng et al., "Masked-attention Mask Transformer", CVPR 2022."""

    divisor = 32

    def __init__(self, config: Mask2FormerConfig) -> None:
        super().__init__()
        self.model = Mask2FormerForUniversalSegmentation(config)

    def forward(self, pixels: Tensor) -> Tensor:
        out = self.model(pixel_values=pixels, output_auxiliary_logits=False)
        # The last class logit is "no object"; what it takes is nobody's.
        classes = out.class_queries_logits.float().softmax(dim=-1)[..., :-1]  # (B, Q, C)
        masks = out.masks_queries_logits.float().sigmoid()  # (B, Q, H / 4, W / 4)
        # Class maps first, upsampling later: C maps to upsample instead of Q masks.
        scores = torch.einsum('bqc,bqhw->bchw', classes, masks)
        return scores.clamp(max=1.0)

    def class_names(self) -> list[str] | None:
        id2label = self.model.config.id2label
        names = [id2label[i] for i in sorted(id2label)]
        return None if all(name.startswith('LABEL_') for name in names) else names

    def channels(self) -> int:
        return int(self.model.config.num_labels)

    @classmethod
    def load(cls, folder: Path) -> Self:
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        if config.get('model_type') != 'mask2former':
            raise CheckpointError(
                f'{folder / "config.json"} has model_type {config.get("model_type")!r}, not '
                f'"mask2former"; correct "family" in segmentation.yaml'
            )
        network = cls.__new__(cls)
        super().__init__(network)
        try:
            network.model, info = Mask2FormerForUniversalSegmentation.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except SafetensorError as error:
            raise CheckpointError(
                f'{folder / "model.safetensors"} is damaged ({error}); copy it again'
            ) from error
        except (TypeError, KeyError, ValueError, RuntimeError, OSError) as error:
            raise CheckpointError(
                f'{folder}: config.json and model.safetensors do not belong together: '
                f'{one_line(error)}'
            ) from error
        # The library fills what is missing with random numbers and only warns.
        missing = sorted(info['missing_keys']) + [str(k[0]) for k in info['mismatched_keys']]
        if missing:
            raise CheckpointError(
                f'{folder / "model.safetensors"} lacks {len(missing)} of the tensors that '
                f'config.json asks for ({", ".join(missing[:3])}, ...); the two are of '
                f'different models'
            )
        return network

    def save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
