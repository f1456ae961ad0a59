# SPDX-License-Identifier: Apache-2.0
"""Connections between the threads of the pipeline; neither is a queue in which frames get old."""

import threading
import time
from itertools import islice
from typing import Final, Generic, Protocol, TypeVar

#: Batches do not wait for a camera whose newest frame is older than this.
CAMERA_ACTIVE_S: Final = 1.0


class Settles(Protocol):
    """Anything that counts the fates of frames, such as Accounts."""

    def settle(self, fate: str) -> None:
        """Count a frame under its fate."""
        ...


class HasCamera(Protocol):
    """Anything that comes from a camera."""

    @property
    def camera(self) -> str:
        """Name of the camera."""
        ...


FrameT = TypeVar('FrameT', bound=HasCamera)
T = TypeVar('T')


class Slots(Generic[FrameT]):
    """The newest waiting frame of each camera; a newer frame supersedes the one that waits.

    Cameras are served in turn, so that a fast one cannot starve a slow one.
    """

    def __init__(self, accounts: Settles) -> None:
        self._accounts = accounts
        self._waiting: dict[str, FrameT] = {}  # in the order of the cameras' turns
        self._last_s: dict[str, float] = {}  # arrival of each camera's newest frame
        self._changed = threading.Condition()
        self._has_taker = False
        self._closed = False

    def put(self, frame: FrameT) -> None:
        """Add a frame; settles the frame it supersedes, or the frame itself once closed."""
        with self._changed:
            if self._closed:
                self._accounts.settle('not_wanted')
                return
            if frame.camera in self._waiting:
                self._accounts.settle('superseded')
            self._waiting[frame.camera] = frame  # keeps the turn of the frame it replaces
            self._last_s[frame.camera] = time.monotonic()
            self._changed.notify_all()

    def take(self, limit: int = 1, batch_wait_s: float = 0.0) -> list[FrameT]:
        """Wait for the frames of the next cameras and remove them; empty once closed.

        Args:
            limit: maximum number of cameras.
            batch_wait_s: maximum time that the first frame waits for those of other active
                cameras.
        """
        with self._changed:
            self._has_taker = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if limit > 1:
                self._changed.wait_for(lambda: self._batch_is_complete(limit), batch_wait_s)
            self._has_taker = False
            turn = list(islice(self._waiting, limit))
            return [self._waiting.pop(camera) for camera in turn]

    def wait_for_taker(self) -> None:
        """Return when a thread waits in `take` and no frame is there for it, or once closed."""
        with self._changed:
            self._changed.wait_for(lambda: (self._has_taker and not self._waiting) or self._closed)

    def clear(self) -> None:
        """Drop the waiting frames as not wanted."""
        with self._changed:
            for _ in self._waiting:
                self._accounts.settle('not_wanted')
            self._waiting.clear()

    def close(self) -> None:
        """Drop the waiting frames and make `take` return nothing from now on."""
        with self._changed:
            self.clear()
            self._closed = True
            self._changed.notify_all()

    def _batch_is_complete(self, limit: int) -> bool:
        now_s = time.monotonic()
        active = sum(now_s - last_s < CAMERA_ACTIVE_S for last_s in self._last_s.values())
        return self._closed or len(self._waiting) >= min(limit, active)


class HandOff(Generic[T]):
    """Passes items from one thread to the next, each when the next thread is ready for it.

    No item waits in between: the giving thread blocks instead.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._has_taker = False
        self._item: T | None = None
        self._closed = False

    def give(self, item: T) -> bool:
        """Wait for the taking thread and pass it an item; return False if closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_taker or self._closed)
            if self._closed:
                return False
            self._has_taker = False
            self._item = item
            self._changed.notify_all()
            return True

    def take(self) -> T | None:
        """Wait for an item; None once closed."""
        with self._changed:
            self._has_taker = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._item is not None or self._closed)
            item, self._item = self._item, None
            return item

    def close(self) -> None:
        """Accept no more items and wake both threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
