# SPDX-License-Identifier: Apache-2.0
"""The ways to run a model that are measured against each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from segmentation_node.choices import PRECISIONS
from segmentation_node.runtimes import RUNTIMES

#: In place of a runtime: the model's own library as its examples use it, see common_model.
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
        """Whether it is the one to compare with, not one of ours."""
        return self.runtime == COMMON

    @property
    def key(self) -> tuple[str, str, str]:
        """How results name it: without the folders that a model lies in."""
        return model_title(self.model), self.runtime, self.precision

    def __str__(self) -> str:
        return ' '.join(self.key)


def model_title(model: str) -> str:
    """Name of a model in results: bundled name, hub id, or the last part of a folder."""
    path = Path(model).expanduser()
    return path.resolve().name if path.is_dir() else model


def reference_of(model: str) -> Variant:
    """What labels are compared with: PyTorch, eager, in full precision."""
    return Variant(model, 'torch', 'fp32')


def variants_of(
    model: str, runtimes: Sequence[str] = (), precisions: Sequence[str] = ()
) -> list[Variant]:
    """The ways to run a model, those to compare with first; whether each is to be had shows later.

    Args:
        model: bundled name, folder, or hub id.
        runtimes: of RUNTIMES; all where empty.
        precisions: of PRECISIONS; all where empty.
    """
    found = [Variant(model, COMMON, 'fp32'), reference_of(model)]
    for runtime in runtimes or RUNTIMES:
        for precision in precisions or PRECISIONS:
            variant = Variant(model, runtime, precision)
            if AUTO not in (runtime, precision) and variant not in found:
                found.append(variant)
    return found
