# SPDX-License-Identifier: Apache-2.0
"""Files on this machine or in an object store, read and written with fsspec."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from segmentation_node.atomic import replacing
from segmentation_node.errors import BagError, SettingError, one_line, quoted
from segmentation_node.paths import with_extra

#: Protocols of URIs, with the package that fsspec needs for each beside itself.
PROTOCOLS: Final = {
    'file': '', 's3': 's3fs', 'gs': 'gcsfs', 'gcs': 'gcsfs', 'az': 'adlfs', 'abfs': 'adlfs',
}  # fmt: skip
#: Beginning of the names of folders for unfinished files.
ASIDE: Final = '.new_'
#: Exceptions of clients of object stores that are not OSError, by module.
_CLIENT_ERRORS: Final = {
    'botocore.exceptions': ('BotoCoreError', 'ClientError'),
    'aiohttp': ('ClientError',),
    'google.auth.exceptions': ('GoogleAuthError',),
    'azure.core.exceptions': ('AzureError',),
}


def open_filesystem(uri: str) -> tuple[Any, str]:
    """Return the fsspec file system of a path or URI, and the path in it.

    Raises:
        SettingError: the protocol is not supported, or its package is not installed.
    """
    protocol, separator, _ = uri.partition('://')
    if not separator:
        protocol = 'file'
    if protocol not in PROTOCOLS:
        raise SettingError(
            f'{quoted(uri)} has protocol {quoted(protocol)}; expected a path, or a URI with one '
            f'of {", ".join(PROTOCOLS)}'
        )
    try:
        core = import_module('fsspec.core')
    except ModuleNotFoundError as error:
        raise SettingError(
            f'label_fleet needs fsspec, which is not installed: pip install {with_extra("fleet")}'
        ) from error
    try:
        # Other processes write the same folder, so listings must not be cached.
        filesystem, path = core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        raise SettingError(
            f'{protocol}:// needs the package {PROTOCOLS[protocol]}, which is not installed: '
            f'pip install {PROTOCOLS[protocol]}'
        ) from error
    return filesystem, str(path).rstrip('/')


def local_path(filesystem: Any, path: str) -> Path | None:
    """Return the path of a file on this machine; None in an object store."""
    return Path(path) if 'file' in filesystem.protocol else None


@contextmanager
def storage_errors(uri: str) -> Iterator[None]:
    """Raise the errors of an object store as BagError."""
    try:
        yield
    except BagError:
        raise
    except Exception as error:
        if not isinstance(error, (OSError, *_client_errors())):
            raise
        raise BagError(
            f'{uri}: {type(error).__name__}: {one_line(error)}; check the address, the '
            f'credentials, the network and the disk'
        ) from error


def _client_errors() -> list[type[Exception]]:
    """Return the exceptions of the clients that are loaded."""
    return [
        getattr(sys.modules[module], name)
        for module, names in _CLIENT_ERRORS.items()
        if module in sys.modules
        for name in names
    ]


class Store:
    """Folder for results: a path, or a URI of an object store.

    A reader finds a file with its old content or its new one. All machines must see the same
    folder. Every method raises BagError if the folder cannot be read or written.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri.rstrip('/') or uri
        self._filesystem, self._root = open_filesystem(uri)

    @property
    def path(self) -> Path | None:
        """Path of a folder on this machine; None in an object store."""
        return local_path(self._filesystem, self._root)

    def place(self, name: str) -> str:
        """Return the address of a file, for messages."""
        return f'{self.uri}/{name}'

    def exists(self, name: str) -> bool:
        """Return whether there is a file or folder."""
        with storage_errors(self.place(name)):
            return bool(self._filesystem.exists(f'{self._root}/{name}'))

    def read_all(self, folder: str, suffix: str) -> dict[str, bytes]:
        """Return the files below a folder whose names end in a suffix, with their content."""
        with storage_errors(self.place(folder)):
            found = [path for path in self._filesystem.find(f'{self._root}/{folder}')
                     if path.endswith(suffix)]  # fmt: skip
            contents = self._filesystem.cat(found) if found else {}
        below = len(self._root) + 1
        return {str(path)[below:]: bytes(content) for path, content in contents.items()}

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""
        with storage_errors(self.place(name)):
            if self.path is None:
                self._filesystem.pipe_file(f'{self._root}/{name}', content)
                return
            file = self.path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(file) as aside:
                aside.write_bytes(content)

    def remove(self, name: str) -> None:
        """Remove a file if there is one."""
        with storage_errors(self.place(name)):
            if self._filesystem.exists(f'{self._root}/{name}'):
                self._filesystem.rm_file(f'{self._root}/{name}')

    def remove_unfinished(self, folder: str) -> None:
        """Remove what killed writers have left in a folder; an object store has no such files."""
        if self.path is not None:
            for left in (self.path / folder).glob(f'{ASIDE}*'):
                shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Yield a path of the same file name to write; its file is then put in its place.

        Nothing is put there after an error, or if no file was written.
        """
        place = None if self.path is None else self.path / name
        if place is not None:
            with storage_errors(self.place(name)):
                place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(
            prefix=ASIDE, dir=place and place.parent, ignore_cleanup_errors=True
        ) as aside:
            made = Path(aside, name.rpartition('/')[2])
            yield made
            if made.exists():
                with storage_errors(self.place(name)):
                    self._put(made, name, place)

    def _put(self, made: Path, name: str, place: Path | None) -> None:
        if place is None:
            self._filesystem.put_file(str(made), f'{self._root}/{name}')
        else:
            made.replace(place)
