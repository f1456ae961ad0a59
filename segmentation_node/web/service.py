# SPDX-License-Identifier: Apache-2.0
"""Command: serve the models over HTTP.

    python -m segmentation_node.web.service --model deeplabv3plus --model unet

On SIGTERM or Ctrl-C, accepted requests are finished first. The environment variable
SEGMENTATION_API_KEY sets an API key.
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
from segmentation_node.web.live_view.streams import LiveView
from segmentation_node.web.service_settings import (
    API_KEY_VARIABLE,
    HOST,
    PAGE_PORT,
    PORT,
    ServiceSettings,
)

_log = logging.getLogger(__name__)

#: Parser and help of each setting that is an option.
_LIMITS: Final[Mapping[str, tuple[Callable[[str], Any], str]]] = MappingProxyType(
    {
        'max_upload_bytes': (count, 'maximum size of an image file in bytes'),
        'max_pixels': (count, 'maximum pixels of an image'),
        'max_requests': (count, 'maximum concurrent uploads; beyond it, a slow one is evicted'),
        'max_waiting': (count, 'maximum images in progress; beyond it, the response is 503'),
        'max_batch': (count, 'maximum images per batch'),
        'max_connections': (count, 'maximum open connections; beyond it, a waiting one is closed'),
        'client_share': (share, 'share of connections, uploads and queue per address, 0 to 1'),
        'keep_alive_s': (positive, 'seconds until an idle connection is closed'),
        'header_timeout_s': (positive, 'maximum seconds for the headers of a request'),
        'stall_timeout_s': (positive, 'maximum seconds without a byte of an upload'),
        'min_bytes_per_s': (
            positive,
            'minimum mean rate of an upload; below it, the response is 408',
        ),
        'max_transfer_s': (positive, 'maximum seconds for an upload'),
        'linger_s': (positive, 'seconds for which a rejected upload is still read and discarded'),
    }
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.web.service',
        description='Serve the models over HTTP.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('--host', default=HOST, help='address to listen on')
    parser.add_argument(
        '--port', type=int, default=PORT, help='port to listen on; 0 chooses a free one'
    )
    parser.add_argument(
        '--model', action='append', metavar='NAME',
        help='bundled name, checkpoint folder or hub id; may be repeated, the first is the '
        'default model (without this option: all bundled models)',
    )  # fmt: skip
    parser.add_argument(
        '--runtime', choices=RUNTIMES, default=ServiceSettings.runtime,
        help='runtime of the networks; all except torch need extra time for each new image size',
    )  # fmt: skip
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda or cuda:N')
    parser.add_argument(
        '--precision', choices=PRECISIONS, default='auto', help='precision of the networks'
    )
    add_input_size_option(parser)
    add_bits_option(parser)
    parser.add_argument('--preload', action='store_true', help='load all models at start-up')
    parser.add_argument(
        '--any-batch', action='store_true',
        help='batch images even if this changes the labels of a few pixels',
    )  # fmt: skip
    parser.add_argument(
        '--cors-origin', action='append', default=[], metavar='ORIGIN',
        help='allow web pages of this origin to call the service; may be repeated',
    )  # fmt: skip
    parser.add_argument(
        '--page-url', metavar='URL',
        help='address of the page; / redirects to it and the live view links to it',
    )  # fmt: skip
    for name, (kind, text) in _LIMITS.items():
        option = f'--{name.replace("_", "-")}'
        default = getattr(ServiceSettings, name)
        parser.add_argument(option, type=kind, default=default, metavar='N', help=text)
    return parser


def _settings(args: argparse.Namespace) -> ServiceSettings:
    return ServiceSettings(
        models=_by_name(args.model or bundled_models()),
        runtime=args.runtime,
        device=args.device,
        precision=args.precision,
        input_size=args.input_size,
        bits_per_sample=args.bits_per_sample,
        preload=args.preload,
        exact=not args.any_batch,
        api_key=os.environ.get(API_KEY_VARIABLE, ''),
        page_url=_page_url(args.page_url or ''),
        cors_origins=tuple(args.cors_origin),
        **{name: getattr(args, name) for name in _LIMITS},
    )


def _page_url(url: str) -> str:
    if url and not url.startswith(('http://', 'https://')):
        raise SettingError(
            f'--page-url {quoted(url)} is not an address of a page; expected a URL, for example '
            f'http://127.0.0.1:{PAGE_PORT}'
        )
    return url.rstrip('/')


def _by_name(models: Sequence[str]) -> dict[str, str]:
    """Return the models by their name in requests; a folder by its own name, without its path.

    Raises:
        SettingError: two models have the same name.
    """
    named: dict[str, str] = {}
    for model in models:
        is_folder = model not in bundled_models() and Path(model).expanduser().is_dir()
        name = Path(model).resolve().name if is_folder else model
        if name == ALL or named.setdefault(name, model) != model:
            raise SettingError(
                f'model {model!r} has the name {name!r} of another one; rename its folder'
            )
    return named


class Server(uvicorn.Server):
    """Uvicorn server that shuts down cleanly, with status 0, on a signal.

    Args:
        config: configuration of uvicorn.
        live: live view, whose streams are ended first.
    """

    def __init__(self, config: uvicorn.Config, live: LiveView) -> None:
        super().__init__(config)
        self._live = live

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._live.closing = True
        # Otherwise uvicorn would raise the signal again after shutdown.
        self._captured_signals.clear()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    args = _parser().parse_args(argv)
    try:
        settings = _settings(args)
    except SettingError as error:
        print(f'service: {error}', file=sys.stderr)
        return 1
    # Silences warnings of decoders about damaged uploads; the responses report them.
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    logging.basicConfig(format='%(levelname)s: %(message)s', level=logging.INFO)
    if not settings.api_key and not _is_loopback(args.host):
        _log.warning(
            'everyone who can reach %s can use the service; set %s to require a key',
            args.host, API_KEY_VARIABLE,
        )  # fmt: skip
    keep_freed_memory()
    live = LiveView()
    config = ServerConfig(
        make_application(settings, live), settings, host=args.host, port=args.port
    )
    server = Server(config, live)
    server.run()
    sys.stdout.flush()
    sys.stderr.flush()
    # A model may still be loading; this cannot be interrupted, and a normal exit could crash
    # its thread.
    os._exit(0 if server.started else 1)


if __name__ == '__main__':
    sys.exit(main())
