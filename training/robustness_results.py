# SPDX-License-Identifier: Apache-2.0
"""Figures of the robustness benchmark: robustness.json and the means over its kinds.

This module needs neither PyTorch nor Matplotlib, so that the scripts of the manual can import it.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from types import MappingProxyType
from typing import Any, Final

from segmentation_node.atomic import replacing
from segmentation_node.errors import ForeignError, SettingError, quoted
from segmentation_node.untrusted import read_json
from training.corruptions.kinds import COMMON, EIGHT, GROUPS, KINDS, SEVERITIES, VERSION, Case

RESULTS_FILE: Final = 'robustness.json'
#: Folder of the results in the folder of a run.
IN_RUN: Final = Path('artifacts', 'robustness')

#: Figures of each case. All are in [0, 1].
FIGURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        'mIoU': 'mean IoU over the scored classes',
        'pixel_acc': 'share of the scored pixels that are correct',
        'ECE': 'expected calibration error; 0 is best',
        'confidence': 'mean confidence',
        'AURC': 'area under the risk-coverage curve; 0 is best',
    }
)
#: Case of the frames as they are.
CLEAN: Final[Case] = ('clean', 0)

#: Names of the means in `ModelRobustness.summary`.
MEANS: Final = ('clean', 'common', 'of clean', *GROUPS, 'eight')

Figures = Mapping[str, float]


@dataclass
class ModelRobustness:
    """Figures of one model by case; `digest` is that of its network.

    `runtime`, `device` and `precision` ran all cases.
    """

    digest: str
    label_scheme: str
    runtime: str
    device: str
    precision: str
    cases: dict[Case, Figures] = field(default_factory=dict)

    @property
    def runs_on(self) -> str:
        """Runtime, device and precision."""
        return f'{self.runtime}, {self.device}, {self.precision}'

    def of(self, case: Case, figure: str = 'mIoU') -> float:
        """Return a figure of a case; NaN if it was not measured."""
        return self.cases.get(case, {}).get(figure, math.nan)

    def mean(self, cases: Iterable[Case], figure: str = 'mIoU') -> float:
        """Return the mean of a figure over cases; NaN unless all of them were measured."""
        return fmean(self.of(case, figure) for case in cases)

    def summary(self) -> dict[str, float]:
        """Return the mean mIoU by the names MEANS; "of clean" is the share of the clean mIoU.

        A mean is NaN unless all its cases were measured.
        """
        clean, common = self.of(CLEAN), self.mean(_cases_in(COMMON))
        share = common / clean if clean else math.nan
        groups = [self.mean(_cases_in([group])) for group in GROUPS]
        values = [clean, common, share, *groups, self.mean(EIGHT.values())]
        return dict(zip(MEANS, values, strict=True))


def _cases_in(groups: Iterable[str]) -> list[Case]:
    return [
        (name, severity)
        for name, kind in KINDS.items()
        if kind.group in set(groups)
        for severity in SEVERITIES
    ]


@dataclass
class RobustnessResults:
    """Figures of all models; `data` names the frames, `frames` is their number.

    `seed` determined the corruptions.
    """

    data: str
    frames: int
    seed: int
    models: dict[str, ModelRobustness] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Replace robustness.json in a folder."""
        content = {
            'corruptions': VERSION, 'data': self.data, 'frames': self.frames, 'seed': self.seed,
            'models': {name: _model_json(model) for name, model in self.models.items()},
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / RESULTS_FILE) as aside:
            aside.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', 'utf-8')

    @classmethod
    def read(cls, folder: Path) -> 'RobustnessResults':
        """Read robustness.json of a folder.

        Raises:
            SettingError: the file is invalid, or was written by another version.
        """
        path = folder / RESULTS_FILE
        try:
            content = read_json(path)
            if (version := content['corruptions']) != VERSION:
                raise SettingError(
                    f'{path} has corruptions of version {quoted(version)}, expected {VERSION}; '
                    f'choose another folder, or delete it'
                )
            models = {str(name): _model_of(entry) for name, entry in content['models'].items()}
            return cls(str(content['data']), int(content['frames']), int(content['seed']), models)
        except (ForeignError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise SettingError(
                f'{path} is not a result of training.robustness ({type(error).__name__}: '
                f'{quoted(str(error))}); choose another folder, or delete it'
            ) from error


def _model_json(model: ModelRobustness) -> dict[str, Any]:
    kinds: dict[str, dict[str, Figures]] = {}
    for (kind, severity), figures in model.cases.items():
        kinds.setdefault(kind, {})[str(severity)] = figures
    own = {key: value for key, value in vars(model).items() if key != 'cases'}
    return {**own, 'kinds': kinds}


def _model_of(entry: Any) -> ModelRobustness:
    texts = {
        key: str(entry[key])
        for key in ('digest', 'label_scheme', 'runtime', 'device', 'precision')
    }
    cases: dict[Case, Figures] = {
        (str(kind), int(severity)): {name: _share(figures[name]) for name in FIGURES}
        for kind, by_severity in entry['kinds'].items()
        for severity, figures in by_severity.items()
    }
    return ModelRobustness(**texts, cases=cases)


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f'figure {value!r:.40}, expected a number from 0 to 1')
    return float(value)


def find_result(
    digest: str, folders: Iterable[Path]
) -> tuple[RobustnessResults, ModelRobustness] | None:
    """Return the results with the network of a digest in the first folder that has it.

    Folders without results are skipped; an invalid file raises SettingError.
    """
    for folder in folders:
        if not (folder / RESULTS_FILE).is_file():
            continue
        results = RobustnessResults.read(folder)
        for model in results.models.values():
            if model.digest == digest:
                return results, model
    return None


def published_folders() -> list[Path]:
    """Return the folders with results in the published records of runs."""
    return sorted(Path(__file__).with_name('results').glob(f'*/{IN_RUN}'))


def percent(value: float) -> str:
    """Format a share as a percentage; a dash if it is unknown."""
    return '-' if math.isnan(value) else f'{100 * value:.1f}'
