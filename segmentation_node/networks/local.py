# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder is all that its network is made of, and its weights say how much that is.

Nothing is looked up elsewhere, and a configuration cannot ask for more than the weights fill.
"""

import math
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from huggingface_hub import constants
from safetensors import safe_open
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from segmentation_node.errors import CheckpointError, quoted

#: The libraries' own names of an architecture; a colon or a slash would begin a place elsewhere.
_NAME: Final = re.compile(r'[A-Za-z0-9_.\-]+')
_ARCHITECTURES: Final = ('backbone', 'encoder_name')
#: Fields of a configuration that name code or weights, and the values that name none elsewhere.
_HARMLESS: Final[Mapping[str, tuple[object, ...]]] = {
    'attn_implementation': (None, 'eager', 'sdpa'),
    '_attn_implementation': (None, 'eager', 'sdpa'),
    'auto_map': (None,),
    'quantization_config': (None,),
}


def check_names(path: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a configuration, at any depth, names code or weights."""
    for name, value in config.items():
        harmless = name not in _HARMLESS or value in _HARMLESS[name]
        if name in _ARCHITECTURES:
            harmless = value is None or bool(_NAME.fullmatch(str(value)))
        if not harmless:
            raise CheckpointError(
                f'{path} has {name} {quoted(value)}, which is to be found elsewhere; a checkpoint '
                f'reads nothing but its folder: remove it'
            )
        if isinstance(value, Mapping):
            check_names(path, value)


@contextmanager
def offline() -> Iterator[None]:
    """Have the hub library refuse requests, should a configuration lead to one after all."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextmanager
def no_larger_than_weights(folder: Path) -> Iterator[None]:
    """Let a network that is built in the body of a with statement not outgrow a folder's weights.

    Raises ValueError as soon as its tensors are many more, or much larger: when they are made, and
    before they are filled, which is when they take memory.
    """
    tensors, values = _size(folder)
    # A library may make each a second time, when it is read.
    most_tensors, most_values = 4 * tensors + 1000, 4 * values + 10**6
    made, thread = [0, 0], threading.get_ident()

    def count(_module: object, _name: str, tensor: torch.Tensor | None) -> None:
        if tensor is None or threading.get_ident() != thread:
            return
        made[0] += 1
        made[1] += tensor.numel()
        if made[0] > most_tensors or made[1] > most_values:
            raise ValueError(
                f'config.json asks for a larger network than the {values} values in {tensors} '
                f'tensors of the weights'
            )

    hooks = [
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _size(folder: Path) -> tuple[int, int]:
    """Number of tensors in the weights of a folder, and of values in all of them."""
    tensors = values = 0
    for path in sorted(folder.glob('*.safetensors')):
        with safe_open(path, framework='pt') as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                shape = file.get_slice(name).get_shape()
                tensors, values = tensors + 1, values + math.prod(shape)
    return tensors, values
