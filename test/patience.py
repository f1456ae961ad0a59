# SPDX-License-Identifier: Apache-2.0
"""Longest time that a test waits for an event."""

#: Long enough for a loaded machine; nothing waits for it to pass.
PATIENCE_S = 240.0
