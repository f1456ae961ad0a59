# SPDX-License-Identifier: Apache-2.0
"""Command: serve the models over HTTP.

    python -m segmentation_node.web.service --model deeplabv3plus --model unet

SIGTERM or Ctrl-C lets it finish what it has accepted and end. An API key is taken from the
environment, from SEGMENTATION_API_KEY.
"""

import argparse
import ipaddress
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType, MappingProxyType
from typing import Any, Final

import cv2
import uvicorn

from segmentation_node.checkpoint import bundled_models
from segmentation_node.cli import (
    HelpFormatter,
    add_bits_option,
    add_input_size_option,
    count,
    positive,
    share,
)
from segmentation_node.errors import SettingError, quoted
from segmentation_node.runtimes import RUNTIMES
from segmentation_node.runtimes.choices import PRECISIONS
from segmentation_node.runtimes.memory import keep_freed_memory
from segmentation_node.web.api import ALL
from segmentation_node.web.application import make_application
from segmentation_node.web.connections import ServerConfig
from segmentation_node.web.live import Live
from segmentation_node.web.settings import API_KEY_VARIABLE, HOST, PAGE_PORT, PORT, Settings

_log = logging.getLogger(__name__)

#: Settings that are options, by name: how they are parsed, and their help.
_LIMITS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = MappingProxyType(
    {
        'max_upload_bytes': (count, 'of one image file'),
        'max_pixels': (count, 'of one image'),
        'max_requests': (count, 'uploads at a time; beyond it, slow ones make room'),
        'max_waiting': (count, 'images in the queue or in work; beyond it, the answer is 503'),
        'max_batch': (count, 'images that go through a network at once'),
        'max_connections': (count, 'open at a time; beyond it, waiting ones are closed'),
        'client_share': (share, 'of connections, uploads and queue that one address may hold'),
        'keep_alive_s': (positive, 'an idle connection is closed after so many seconds'),
        'header_timeout_s': (positive, 'for the headers of a request'),
        'stall_timeout_s': (positive, 'without a byte of an upload'),
        'min_bytes_per_s': (positive, 'mean rate of an upload; a slower one is answered with 408'),
        'max_transfer_s': (positive, 'for a whole upload'),
        'linger_s': (positive, 'for which a refused upload is still read and discarded'),
    }
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.web.service',
        description='Serve the models over HTTP.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('--host', default=HOST, help='address to listen on')
    parser.add_argument('--port', type=int, default=PORT, help='0 takes a free one')
    parser.add_argument(
        '--model', action='append', metavar='NAME',
        help='bundled name, checkpoint folder, or hub id; may be repeated, the first is the '
        'default (without it: all bundled ones)',
    )  # fmt: skip
    parser.add_argument(
        '--runtime', choices=RUNTIMES, default=Settings.runtime,
        help='runs the networks; others than torch take a while with each new size of image',
    )  # fmt: skip
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument('--precision', choices=PRECISIONS, default='auto', help='of the networks')
    add_input_size_option(parser)
    add_bits_option(parser)
    parser.add_argument('--preload', action='store_true', help='load all models at the start')
    parser.add_argument(
        '--any-batch', action='store_true',
        help='run images together even where that changes the labels of a few pixels',
    )  # fmt: skip
    parser.add_argument(
        '--cors-origin', action='append', default=[], metavar='ORIGIN',
        help='let web pages of this origin call the service; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '--page-url', default='', metavar='URL',
        help='address of the page, to which / and the live view lead',
    )  # fmt: skip
    for name, (kind, what) in _LIMITS.items():
        option = f'--{name.replace("_", "-")}'
        default = getattr(Settings, name)
        parser.add_argument(option, type=kind, default=default, metavar='N', help=what)
    return parser


def _settings(args: argparse.Namespace) -> Settings:
    return Settings(
        models=_by_name(args.model or bundled_models()),
        runtime=args.runtime,
        device=args.device,
        precision=args.precision,
        input_size=args.input_size,
        bits_per_sample=args.bits_per_sample,
        preload=args.preload,
        exact=not args.any_batch,
        api_key=os.environ.get(API_KEY_VARIABLE, ''),
        page_url=_page_url(args.page_url),
        cors_origins=tuple(args.cors_origin),
        **{name: getattr(args, name) for name in _LIMITS},
    )


def _page_url(url: str) -> str:
    if url and not url.startswith(('http://', 'https://')):
        raise SettingError(
            f'--page-url {quoted(url)} is no address of a page; expected one such as '
            f'http://127.0.0.1:{PAGE_PORT}'
        )
    return url.rstrip('/')


def _by_name(models: Sequence[str]) -> dict[str, str]:
    """Models by the name to ask for: of a folder its own, for its path is nobody's business.

    Raises:
        SettingError: two have the same name.
    """
    named: dict[str, str] = {}
    for model in models:
        is_folder = model not in bundled_models() and Path(model).expanduser().is_dir()
        name = Path(model).resolve().name if is_folder else model
        if name == ALL or named.setdefault(name, model) != model:
            raise SettingError(f'model {model!r} would be called {name!r}; rename its folder')
    return named


class Server(uvicorn.Server):
    """Ends in good order, with status 0, when it is told to.

    Args:
        config: of the server.
        live: whose streams would go on for as long as somebody looks.
    """

    def __init__(self, config: uvicorn.Config, live: Live) -> None:
        super().__init__(config)
        self._live = live

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._live.closing = True
        # Else the signal would be raised once more when everything is done.
        self._captured_signals.clear()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    args = _parser().parse_args(argv)
    try:
        settings = _settings(args)
    except SettingError as error:
        print(f'service: {error}', file=sys.stderr)
        return 1
    # Decoders tell of every damaged upload, at length; the answers do that.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.basicConfig(format='%(levelname)s: %(message)s', level=logging.INFO)
    if not settings.api_key and not _is_loopback(args.host):
        _log.warning(
            'whoever reaches %s can use the service; set %s to ask for a key',
            args.host, API_KEY_VARIABLE,
        )  # fmt: skip
    keep_freed_memory()
    live = Live()
    config = ServerConfig(
        make_application(settings, live), settings, host=args.host, port=args.port
    )
    server = Server(config, live)
    server.run()
    sys.stdout.flush()
    sys.stderr.flush()
    # A model may still be loading that nobody waits for any more; it cannot be interrupted, and
    # the interpreter's own end would pull the ground from under its thread.
    os._exit(0 if server.started else 1)


if __name__ == '__main__':
    sys.exit(main())
