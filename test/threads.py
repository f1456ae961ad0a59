# SPDX-License-Identifier: Apache-2.0
"""Calls that block, made by a thread of their own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


def in_thread(call: Callable[[], Any]) -> 'Future[Any]':
    """Result of a call that may block until something else happens."""
    result: Future[Any] = Future()
    threading.Thread(target=lambda: result.set_result(call()), daemon=True).start()
    return result
