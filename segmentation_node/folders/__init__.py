# SPDX-License-Identifier: Apache-2.0
"""Segmentation and scores of the images in a folder."""
