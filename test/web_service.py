# SPDX-License-Identifier: Apache-2.0
"""A real service on a real socket, in a thread of the test or as a process."""

import os
import queue
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
from patience import PATIENCE_S

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.label_files import decode_label_file
from segmentation_node.web.application import make_application
from segmentation_node.web.connections import ServerConfig
from segmentation_node.web.live_view.streams import LiveView
from segmentation_node.web.service import Server
from segmentation_node.web.service_settings import ServiceSettings


@contextmanager
def serving(settings: ServiceSettings, live: LiveView | None = None) -> Iterator[httpx.Client]:
    """Run a service in a thread, and yield a client of it."""
    live = live or LiveView()
    config = ServerConfig(make_application(settings, live), settings, lifespan='on')
    server = Server(config, live)
    with socket.create_server(('127.0.0.1', 0)) as listener:
        # The socket accepts connections from now on, even before the server runs.
        host, port = listener.getsockname()
        thread = threading.Thread(target=server.run, args=[[listener]])
        thread.start()
        try:
            with httpx.Client(base_url=f'http://{host}:{port}', timeout=PATIENCE_S) as client:
                yield client
        finally:
            server.handle_exit(signal.SIGTERM, None)
            thread.join()


class ServiceProcess:
    """The service's command as a process; killed when the context is left."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'segmentation_node.web.service', '--port', '0', *arguments],
            stderr=subprocess.PIPE, text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1', **(environment or {})},
            cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        # Read to the end; otherwise the service would block on a full pipe.
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.port = int(self.wait_for(r'running on http://127\.0\.0\.1:(\d+)')[1])
        self.url = f'http://127.0.0.1:{self.port}'

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait for a line of the log that matches a pattern."""
        said = []
        while (line := self._lines.get()) is not None:
            said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f'the service ended without a line {pattern!r}:\n{"".join(said)}')

    def end(self) -> list[str]:
        """Send SIGTERM, wait, and return the rest of the log."""
        self.process.terminate()
        lines = list(iter(self._lines.get, None))
        self.process.wait()
        return [line for line in lines if line is not None]

    def __enter__(self) -> 'ServiceProcess':
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def labels_of(png: bytes) -> UInt8Array:
    """Return the label ids of a PNG, (H, W) uint8."""
    return decode_label_file(png)


def blocks(height: int = 64, width: int = 96, seed: int = 0) -> UInt8Array:
    """Return random blocks of 8 x 8 pixels, (H, W, 3) uint8."""
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 8), -(-width // 8), 3))
    full = coarse.repeat(8, axis=0).repeat(8, axis=1)
    return np.ascontiguousarray(full[:height, :width], np.uint8)
