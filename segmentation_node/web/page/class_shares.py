# SPDX-License-Identifier: Apache-2.0
"""Shares of the classes in a label mask, as numbers and as text."""

from collections.abc import Sequence

import numpy as np

from segmentation_node.arrays import UInt8Array
from segmentation_node.web.page.translations import Words


def shares_by_id(labels: UInt8Array) -> dict[int, float]:
    """Return the share of the pixels, 0 to 1, by class id."""
    ids, counts = np.unique(labels, return_counts=True)
    return {int(i): float(n / labels.size) for i, n in zip(ids, counts, strict=True)}


def largest_shares(words: Words, shares: Sequence[tuple[str, float]], count: int = 3) -> str:
    """Return the largest classes as text, an alternative to the picture."""
    first = sorted(shares, key=lambda pair: -pair[1])[:count]
    return ', '.join(
        f'{words.class_name(name)} {words.percent(share)}' for name, share in first if share > 0
    )
