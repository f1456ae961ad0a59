# SPDX-License-Identifier: Apache-2.0
"""A checkpoint folder is all that its network is made of: nothing is looked up elsewhere."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from huggingface_hub import constants

from segmentation_node.errors import CheckpointError, quoted

#: The libraries' own names of an architecture; a colon or a slash would begin a place elsewhere.
_NAME: Final = re.compile(r'[A-Za-z0-9_.\-]+')
#: Fields of a configuration that name code or weights, and the values that name none elsewhere.
_HARMLESS: Final[Mapping[str, tuple[object, ...]]] = {
    'attn_implementation': (None, 'eager', 'sdpa'),
    '_attn_implementation': (None, 'eager', 'sdpa'),
    'auto_map': (None,),
    'backbone': (None,),
    'quantization_config': (None,),
    'use_pretrained_backbone': (None, False),
    'use_timm_backbone': (None, False),
}


def check_encoder(path: Path, name: object) -> None:
    """Raise CheckpointError unless an encoder is known by its mere name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise CheckpointError(
            f'{path} has encoder_name {quoted(name)}; expected the name of an encoder of the '
            f'library: a checkpoint reads nothing elsewhere'
        )


def check_names(path: Path, config: Mapping[str, Any]) -> None:
    """Raise CheckpointError where a configuration, at any depth, names code or weights."""
    for name, value in config.items():
        if name in _HARMLESS and value not in _HARMLESS[name]:
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
