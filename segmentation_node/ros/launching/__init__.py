# SPDX-License-Identifier: Apache-2.0
"""Launch files: their arguments, the settings derived from them, and the processes they start.

`ros2 launch` runs in the Python of the ROS installation, which lacks the libraries that the node
finds in its virtual environment. No module here imports them.
"""
