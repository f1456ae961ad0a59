# SPDX-License-Identifier: Apache-2.0
"""rosbag2 files without a ROS graph: reading, writing, segmenting, scoring."""
