# SPDX-License-Identifier: Apache-2.0
"""Variants: the ways to run a model that the benchmark compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segmentation_node.runtimes import RUNTIMES
from segmentation_node.runtimes.choices import PRECISIONS

#: Runtime name of the baseline: the model's library used as in its examples, see common_model.
COMMON: Final = 'common'
AUTO: Final = 'auto'


@dataclass(frozen=True)
class Variant:
    """One way to run one model; `runtime` is one of RUNTIMES or COMMON."""

    model: str
    runtime: str
    precision: str

    @property
    def is_common(self) -> bool:
        """True for the baseline, false for our own runtimes."""
        return self.runtime == COMMON

    @property
    def key(self) -> tuple[str, str, str]:
        """Identity in the results: without the path of the model."""
        return model_title(self.model), self.runtime, self.precision

    def __str__(self) -> str:
        return ' '.join(self.key)


def model_title(model: str) -> str:
    """Return the name of a model in results: bundled name, hub id, or last part of a folder."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def reference_of(model: str) -> Variant:
    """Return the variant whose labels are the reference: eager PyTorch in full precision."""
    return Variant(model, 'torch', 'fp32')


def variants_of(
    model: str, runtimes: Sequence[str] = (), precisions: Sequence[str] = ()
) -> list[Variant]:
    """Return the variants of a model, baseline and reference first; some may be unavailable.

    Args:
        model: bundled name, folder, or hub id.
        runtimes: subset of RUNTIMES; all if empty.
        precisions: subset of PRECISIONS; all if empty.
    """
    variants = [Variant(model, COMMON, 'fp32'), reference_of(model)]
    for runtime in runtimes or RUNTIMES:
        for precision in precisions or PRECISIONS:
            variant = Variant(model, runtime, precision)
            if AUTO not in (runtime, precision) and variant not in variants:
                variants.append(variant)
    return variants
