# SPDX-License-Identifier: Apache-2.0
"""Path of a frame from its arrival to its published masks; independent of ROS."""
