# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of camera streams, with ROS 2 and without."""

__version__ = '0.1.0'
