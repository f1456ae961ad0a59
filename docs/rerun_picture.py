# SPDX-License-Identifier: Apache-2.0
"""Command that takes the picture of viewing.md: a recording in Rerun's web viewer.

It needs the extra `test` and a Chromium of the system, which draws in software.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from pictures import write_picture
from playwright.sync_api import Page, sync_playwright

from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SegmentationError, SettingError
from segmentation_node.images.files import decode_file

GRPC_PORT: Final = 19876
PAGE_PORT: Final = 19090
ADDRESS: Final = (
    f'http://127.0.0.1:{PAGE_PORT}/'
    f'?url=rerun%2Bhttp%3A%2F%2F127.0.0.1%3A{GRPC_PORT}%2Fproxy&renderer=webgl'
)
#: Drawing in software is refused unless it is asked for.
FLAGS: Final = (
    '--no-sandbox', '--enable-unsafe-swiftshader', '--use-angle=swiftshader',
    '--ignore-gpu-blocklist',
)  # fmt: skip
SIZE_WH: Final = (1280, 720)
#: Pictures are taken at this period until two of them are equal and show the recording.
PERIOD_S: Final = 10.0
START_S: Final = 10.0
PATIENCE_S: Final = 600.0
#: Number of colors of a picture that shows more than the empty viewer.
COLORS: Final = 5000


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog='python docs/rerun_picture.py',
        description="Show the end of a recording in Rerun's viewer, and save the view as a JPEG.",
    )
    parser.add_argument('recording', type=Path, help='.rrd file of segment_bag')
    parser.add_argument('picture', type=Path, help='JPEG to write')
    args = parser.parse_args(argv)
    try:
        with _served(args.recording), _opened() as page:
            picture = _calm_picture(page)
        write_picture(args.picture, picture)
    except (SegmentationError, OSError) as error:
        print(f'rerun_picture: {error}', file=sys.stderr)
        return 1
    return 0


@contextmanager
def _served(recording: Path) -> Iterator[None]:
    """Serve a recording and the viewer."""
    command = [sys.executable, '-m', 'rerun_cli', str(recording.resolve()), '--serve-web']
    command += ['--bind', '127.0.0.1', '--port', str(GRPC_PORT)]
    command += ['--web-viewer-port', str(PAGE_PORT)]
    # The server keeps an identity for usage statistics in the home folder, and sends none in the
    # first session.
    with tempfile.TemporaryDirectory() as home:
        server = subprocess.Popen(  # noqa: S603
            command, env={**os.environ, 'HOME': home}, start_new_session=True
        )
        try:
            time.sleep(START_S)
            if server.poll() is not None:
                raise SettingError(
                    f'the server ended; ports {GRPC_PORT} and {PAGE_PORT} must be free'
                )
            yield
        finally:
            # The command is a script that starts the server proper.
            with suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
            server.wait()


@contextmanager
def _opened() -> Iterator[Page]:
    """Open the viewer in a browser."""
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        raise SettingError('Chromium is not installed: apt install chromium')
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(viewport={'width': SIZE_WH[0], 'height': SIZE_WH[1]})
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto('about:blank')
        yield page
        browser.close()


def _calm_picture(page: Page) -> UInt8Array:
    """Return the view once it no longer changes, (H, W, 3) uint8 RGB."""
    page.goto(ADDRESS)
    deadline_s = time.monotonic() + PATIENCE_S
    previous: UInt8Array | None = None
    while time.monotonic() < deadline_s:
        time.sleep(PERIOD_S)
        picture = decode_file(page.screenshot())
        colors = len(np.unique(picture.reshape(-1, 3), axis=0))
        if previous is not None and colors > COLORS and not cv2.absdiff(picture, previous).any():
            return picture
        previous = picture
    raise SettingError(f'the view did not come to rest in {PATIENCE_S:.0f} s; free some cores')


if __name__ == '__main__':
    sys.exit(main())
