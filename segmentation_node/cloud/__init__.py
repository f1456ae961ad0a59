# SPDX-License-Identifier: Apache-2.0
"""Labeled point clouds: geometry, filters and matching of messages; knows no ROS."""
