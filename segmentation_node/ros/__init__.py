# SPDX-License-Identifier: Apache-2.0
"""The ROS node: parameters, subscriptions, publishers, diagnostics and launch files."""
