# SPDX-License-Identifier: Apache-2.0
"""Paths of the package's data files: label schemes, configurations, bundled models and data."""

from functools import cache
from pathlib import Path

PACKAGE = 'segmentation_node'


@cache
def share_dir() -> Path:
    """Return the folder that contains `config/` and `resource/`.

    Searching upward from this file finds it in every layout: in the source tree, where both are
    next to the package, and in an installation (pip, venv, colcon, Debian), where the folder is
    `PREFIX/share/<package>` and the package is `PREFIX/lib/pythonX.Y/site-packages/<package>`.

    Raises:
        FileNotFoundError: the installation lacks its data files.
    """
    here = Path(__file__).resolve()
    for parent in here.parents:
        for candidate in (parent, parent / 'share' / PACKAGE):
            if (candidate / 'config' / 'labels').is_dir():
                return candidate
    raise FileNotFoundError(
        f'no config/labels above {here}: the installation is incomplete; '
        f'reinstall with "pip install ." or "colcon build"'
    )


def with_extra(name: str) -> str:
    """Return the argument of `pip install` that adds an extra of this package."""
    source = share_dir()
    if (source / 'setup.py').is_file():
        return f"-e '{source}[{name}]'"
    return f"'{PACKAGE}[{name}]'"


def config_dir() -> Path:
    """Return the folder of parameter files, label schemes and Fast DDS profiles."""
    return share_dir() / 'config'


def bundled_models_dir() -> Path:
    """Return the folder that contains one checkpoint folder per bundled model."""
    return share_dir() / 'resource' / 'models'


def demo_bag() -> Path:
    """Return the bundled bag: a drive through streets, compressed images with ground truth."""
    return share_dir() / 'resource' / 'demo' / 'street.mcap'


def samples_dir() -> Path:
    """Return the folder of sample pictures (`images/`) with ground truth (`labels/`)."""
    return share_dir() / 'resource' / 'samples'
