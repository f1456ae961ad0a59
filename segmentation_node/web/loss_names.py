# SPDX-License-Identifier: Apache-2.0
"""Names of training losses: only values of losses with the same name can be compared."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from segmentation_node.errors import printable

#: Fields of an experiment that change the values of a loss, with their neutral values.
LOSS_FIELDS: Final = MappingProxyType({'hardest': 1.0, 'class_balance': 0.0})


def loss_name(kind: object, fields: object) -> str:
    """Return the kind of loss with the fields of the experiment that change its values.

    Empty if it is unknown or if a field is not a number.
    """
    if not isinstance(kind, str) or not isinstance(fields, Mapping):
        return ''
    try:
        values = {name: float(fields.get(name, neutral)) for name, neutral in LOSS_FIELDS.items()}
    except (TypeError, ValueError):
        return ''
    changed = [f'{name} {value:g}' for name, value in values.items() if value != LOSS_FIELDS[name]]
    return printable(f'{kind} ({", ".join(changed)})' if changed else kind)
