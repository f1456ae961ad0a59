# SPDX-License-Identifier: Apache-2.0
"""The ROS rooms: everything that imports rclpy, and nothing else does."""
