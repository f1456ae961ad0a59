# SPDX-License-Identifier: Apache-2.0
"""DeepLabV3, DeepLabV3+ and U-Net of segmentation_models_pytorch."""

import json
from pathlib import Path
from typing import Any, ClassVar

import segmentation_models_pytorch as smp  # type: ignore[import-untyped]
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typing_extensions import Self

from segmentation_node.errors import CheckpointError, one_line, quoted
from segmentation_node.networks.local import check_names, no_larger_than_weights, offline
from segmentation_node.networks.network import MISFITS, Network, pooled
from segmentation_node.networks.preprocessing import DIVISOR
from segmentation_node.untrusted import read_json


class SmpNetwork(Network):
    """Model of segmentation_models_pytorch without its final upsampling.

    The library upsamples logits by a fixed factor inside the model, with aligned corners. The
    graph upsamples scores once, directly to the size of the image and with aligned pixels, so the
    upsampling in the head is skipped here; borders move by at most two pixels.
    """

    library_class: ClassVar[type[nn.Module]]
    model: Any

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        # The weights come from the checkpoint. Any name here, or no entry at all (which means
        # ImageNet), would make the library download other weights.
        self.config = {**config, 'encoder_weights': None}
        self.model = self.library_class(**self.config)
        stride = int(self.model.encoder.output_stride)
        if DIVISOR % stride:
            raise ValueError(
                f'the encoder has output stride {stride}, expected a divisor of {DIVISOR}'
            )

    def logits(self, pixels: Tensor) -> Tensor:
        """Compute logits, (B, C, H / s, W / s).

        s is 4 for DeepLabV3+, 1 for U-Net, and the output stride of the encoder for DeepLabV3.

        A network with a single logit x, whose sigmoid is the probability of its class, has the
        two logits 0 and x: their softmax is that probability and the rest.
        """
        return self._decode(self.model.encoder(pixels))

    def _decode(self, maps: Any) -> Tensor:
        """Compute logits from the encoder's maps, finest first."""
        logits: Tensor = self.model.segmentation_head[0](self.model.decoder(maps))
        if logits.shape[1] == 1:
            return torch.cat([torch.zeros_like(logits), logits], dim=1)
        return logits

    def scores(self, logits: Tensor) -> Tensor:
        """Convert logits to class scores as returned by `forward`."""
        return logits.float().softmax(dim=1)

    def scores_and_features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.model.encoder(pixels)
        return self.scores(self._decode(maps)), pooled(maps)

    def channels(self) -> int:
        return max(2, int(self.model.segmentation_head[0].out_channels))

    @classmethod
    def load(cls, folder: Path) -> Self:
        config = read_json(folder / 'config.json')
        model_class = config.pop('_model_class', None)
        if model_class != cls.library_class.__name__:
            raise CheckpointError(
                f'{folder / "config.json"} describes {quoted(model_class)}, not '
                f'{cls.library_class.__name__}; correct "family" in segmentation.yaml'
            )
        check_names(folder / 'config.json', config)
        config = {key: value for key, value in config.items() if not key.startswith('_')}
        try:
            weights = load_file(folder / 'model.safetensors')
            with offline(), no_larger_than_weights(folder):
                network = cls(config)
            network.model.load_state_dict(weights)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f'{folder / "model.safetensors"} is damaged or missing ({one_line(error)}); copy '
                f'it again'
            ) from error
        except MISFITS as error:
            raise CheckpointError(
                f'{folder}: config.json and model.safetensors do not belong together '
                f'({one_line(error)}); copy both from the same model'
            ) from error
        return network

    def save(self, folder: Path) -> None:
        config = {**self.config, '_model_class': self.library_class.__name__}
        (folder / 'config.json').write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
        weights = {k: v.contiguous() for k, v in self.model.state_dict().items()}
        save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})


class DeepLabV3(SmpNetwork):
    """Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", 2017."""

    library_class = smp.DeepLabV3


class DeepLabV3Plus(SmpNetwork):
    """Chen et al., "Encoder-Decoder with Atrous Separable Convolution", ECCV 2018."""

    library_class = smp.DeepLabV3Plus


class UNet(SmpNetwork):
    """Ronneberger et al., "U-Net", MICCAI 2015."""

    library_class = smp.Unet
