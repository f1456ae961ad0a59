# SPDX-License-Identifier: Apache-2.0
"""Procedural street scenes: seeded driving video with pixel-exact Cityscapes labels."""
