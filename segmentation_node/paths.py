# SPDX-License-Identifier: Apache-2.0
"""Where the package's own data files lie: label schemes, configurations, bundled weights."""

from functools import cache
from pathlib import Path

PACKAGE = 'segmentation_node'


@cache
def share_dir() -> Path:
    """Folder that holds `config/` and `resource/`.

    Walking up from this file meets it in every layout: the source tree, where both stand beside
    the package, and an installation (pip, venv, colcon, Debian), where `PREFIX/share/<package>`
    is an aunt of `PREFIX/lib/pythonX.Y/site-packages/<package>`.

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
    """Return what `pip install` takes to add an extra of this package."""
    source = share_dir()
    if (source / 'setup.py').is_file():
        return f"-e '{source}[{name}]'"
    return f"'{PACKAGE}[{name}]'"


def config_dir() -> Path:
    """Folder of parameter files, label schemes and profiles."""
    return share_dir() / 'config'


def samples_dir() -> Path:
    """Folder with the real frames that the page offers."""
    return share_dir() / 'resource' / 'samples'


def bundled_models_dir() -> Path:
    """Folder with one checkpoint folder per bundled model."""
    return share_dir() / 'resource' / 'models'
