# SPDX-License-Identifier: Apache-2.0
"""Names of training losses, by which values that may be compared are told from others."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from segmentation_node.errors import printable

#: Fields of an experiment that change the values of a loss of the same kind, with the values
#: with which they do not.
LOSS_FIELDS: Final = MappingProxyType({'hardest': 1.0, 'class_balance': 0.0})


def loss_in_words(kind: object, fields: object) -> str:
    """A kind of loss with the fields of the experiment that change its values.

    Empty where it is not known, or where others wrote something that is neither name nor number.
    """
    if not isinstance(kind, str) or not isinstance(fields, Mapping):
        return ''
    try:
        values = {name: float(fields.get(name, usual)) for name, usual in LOSS_FIELDS.items()}
    except (TypeError, ValueError):
        return ''
    said = [f'{name} {value:g}' for name, value in values.items() if value != LOSS_FIELDS[name]]
    return printable(f'{kind} ({", ".join(said)})' if said else kind)
