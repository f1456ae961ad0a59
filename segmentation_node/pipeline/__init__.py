# SPDX-License-Identifier: Apache-2.0
"""The way of a frame from its arrival to its masks; knows no ROS."""
