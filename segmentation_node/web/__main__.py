# SPDX-License-Identifier: Apache-2.0
"""Command: start the service and the page, and say where they are.

    python -m segmentation_node.web

What follows `--` goes to the service: `python -m segmentation_node.web -- --model unet`.
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
from segmentation_node.web.settings import HOST, PAGE_PORT, PORT

#: Libraries are read from a disk that may be slow.
START_PATIENCE_S: Final = 180.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.web',
        description='Start the service and the page, and say where they are.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('--host', default=HOST, help='address that both listen on')
    parser.add_argument('--port', type=int, default=PORT, help='of the service')
    parser.add_argument('--page-port', type=int, default=PAGE_PORT, help='of the page')
    parser.add_argument('service', nargs='*', metavar='-- ...', help='options of the service')
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
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
            _wait_until(children, lambda: _answers(f'{service}/healthz'))
            _wait_until(children, lambda: _answers(f'{page}/_stcore/health'))
            print(f'\n  page         {page}\n  service      {service}')
            print(f'  description  {service}/docs\n\nCtrl-C ends both.', flush=True)
            _wait_until(children, lambda: False, math.inf)
    except (DemoError, OSError) as error:
        print(f'web: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('\nweb: ended', file=sys.stderr)
    return 0


def _service_command(args: argparse.Namespace, page: str) -> list[str]:
    # Nobody reaches a page by the address that stands for all of a machine's.
    leads = [] if args.host in ('0.0.0.0', '::') else ['--page-url', page]  # noqa: S104
    return [
        sys.executable, '-m', 'segmentation_node.web.service',
        '--host', args.host, '--port', str(args.port), *leads, *args.service,
    ]  # fmt: skip


def _wait_until(
    children: Sequence[Child], done: Callable[[], bool], patience_s: float = START_PATIENCE_S
) -> None:
    """Wait; raises DemoError where a child ends or nothing comes of it."""

    def all_well() -> bool:
        for child in children:
            if child.exit_status is not None:
                raise child.failure()
        return done()

    wait_for(all_well, patience_s, lambda: DemoError(
        f'service and page do not answer after {START_PATIENCE_S:.0f} s; their own words:\n'
        + '\n'.join(child.log_text() for child in children)
    ))  # fmt: skip


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False


if __name__ == '__main__':
    sys.exit(main())
