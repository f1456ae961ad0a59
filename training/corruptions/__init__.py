# SPDX-License-Identifier: Apache-2.0
"""Corrupted camera frames with their truth, to measure robustness."""
