# SPDX-License-Identifier: Apache-2.0
"""The benchmark's own members of the ROS graph: camera, subscriber, and the node to compare with.

Each is a process of its own, which segmentation_node.benchmark.streams starts.
"""
