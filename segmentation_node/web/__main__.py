# SPDX-License-Identifier: Apache-2.0
"""Command: start the service and the page, and print their addresses.

    python -m segmentation_node.web

Arguments after `--` are passed to the service: `python -m segmentation_node.web -- --model unet`.
"""

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx

from segmentation_node.cli import HelpFormatter
from segmentation_node.processes import Child, DemoError, end_on_signals, wait_for
from segmentation_node.web.page import service_client
from segmentation_node.web.page.__main__ import streamlit_command
from segmentation_node.web.service_settings import HOST, PAGE_PORT, PORT

#: Includes the time to import libraries from a slow disk.
START_TIMEOUT_S: Final = 180.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.web',
        description='Start the service and the page, and print their addresses.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('--host', default=HOST, help='address to listen on')
    parser.add_argument('--port', type=int, default=PORT, help='port of the service')
    parser.add_argument('--page-port', type=int, default=PAGE_PORT, help='port of the page')
    parser.add_argument(
        'service', nargs='*', metavar='-- OPTION', help='options of the service; --help lists them'
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    args = _parser().parse_args(argv)
    service = f'http://{args.host}:{args.port}'
    page = f'http://{args.host}:{args.page_port}'
    try:
        with (
            end_on_signals(),
            tempfile.TemporaryDirectory() as log,
            ExitStack() as stack,
        ):
            children = [
                stack.enter_context(Child(name, command, Path(log, f'{name}.log'), environment))
                for name, command, environment in (
                    ('service', _service_command(args, page), {}),
                    (
                        'page',
                        streamlit_command(args.host, args.page_port),
                        {service_client.URL_VARIABLE: service},
                    ),
                )
            ]
            print('Starting ...', flush=True)
            _wait_until(children, lambda: _responds(f'{service}/healthz'))
            _wait_until(children, lambda: _responds(f'{page}/_stcore/health'))
            print(f'\n  page         {page}\n  service      {service}')
            print(f'  description  {service}/docs\n\nPress Ctrl-C to stop both.', flush=True)
            _wait_until(children, lambda: False, math.inf)
    except (DemoError, OSError) as error:
        print(f'web: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nweb: stopped', file=sys.stderr)
    return 0


def _service_command(args: argparse.Namespace, page: str) -> list[str]:
    # Browsers cannot open the wildcard address.
    page_option = [] if args.host in ('0.0.0.0', '::') else ['--page-url', page]  # noqa: S104
    return [
        sys.executable, '-m', 'segmentation_node.web.service',
        '--host', args.host, '--port', str(args.port), *page_option, *args.service,
    ]  # fmt: skip


def _wait_until(
    children: Sequence[Child], done: Callable[[], bool], timeout_s: float = START_TIMEOUT_S
) -> None:
    """Wait for a condition; raises DemoError if a child exits or the time is up."""

    def is_done() -> bool:
        for child in children:
            if child.exit_status is not None:
                raise child.failure()
        return done()

    wait_for(is_done, timeout_s, lambda: DemoError(
        f'service and page do not respond after {timeout_s:.0f} s; their output:\n'
        + '\n'.join(child.log_text() for child in children)
    ))  # fmt: skip


def _responds(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


if __name__ == '__main__':
    sys.exit(main())
