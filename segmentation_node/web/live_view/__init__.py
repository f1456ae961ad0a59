# SPDX-License-Identifier: Apache-2.0
"""Live view of running nodes in a browser.

routes: HTTP routes. html: the page. streams: one stream of values per viewer. ros_cameras: the
subscriber in the ROS graph.
"""
