# SPDX-License-Identifier: Apache-2.0
"""Command: start the page.

SEGMENTATION_SERVICE=http://127.0.0.1:8000 python -m segmentation_node.web.page
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from segmentation_node.cli import HelpFormatter
from segmentation_node.web.service_settings import HOST, PAGE_PORT, PAGE_UPLOAD_MB

SCRIPT: Final = Path(__file__).with_name('main.py')


def streamlit_command(host: str, port: int) -> list[str]:
    """Return the command that starts the page, without telemetry."""
    return [
        sys.executable, '-m', 'streamlit', 'run', str(SCRIPT),
        '--server.address', host, '--server.port', str(port),
        '--server.headless', 'true', '--server.fileWatcherType', 'none',
        '--server.maxUploadSize', str(PAGE_UPLOAD_MB), '--client.toolbarMode', 'minimal',
        '--browser.gatherUsageStats', 'false',
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> None:
    """Replace this process with the server of the page."""
    parser = argparse.ArgumentParser(
        prog='python -m segmentation_node.web.page',
        description='Start the page; SEGMENTATION_SERVICE sets the address of the service.',
        formatter_class=HelpFormatter,
    )
    parser.add_argument('--host', default=HOST, help='address to listen on')
    parser.add_argument('--port', type=int, default=PAGE_PORT, help='port to listen on')
    args = parser.parse_args(argv)
    os.execv(sys.executable, streamlit_command(args.host, args.port))  # noqa: S606 (no shell)


if __name__ == '__main__':
    main()
