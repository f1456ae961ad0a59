# SPDX-License-Identifier: Apache-2.0
"""Segments and scores the images of a folder."""
