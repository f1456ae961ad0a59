# SPDX-License-Identifier: Apache-2.0
"""Time limits of clients that send a request or read a response."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TransferLimits:
    """Time limits of a transfer.

    Args:
        stall_s: longest time without any byte, and time before the rate limit applies.
        min_bytes_per_s: lowest mean rate after that.
        max_s: longest duration of a transfer at any rate.
    """

    stall_s: float
    min_bytes_per_s: float
    max_s: float

    def allowed_s(self, transferred: int) -> float:
        """Return the time since its start that a transfer of so many bytes may take."""
        return min(self.stall_s + transferred / self.min_bytes_per_s, self.max_s)

    def __str__(self) -> str:
        return (
            f'a byte at least every {self.stall_s:g} s, {self.min_bytes_per_s:g} bytes/s on '
            f'average after the first {self.stall_s:g} s, and an end within {self.max_s:g} s'
        )
