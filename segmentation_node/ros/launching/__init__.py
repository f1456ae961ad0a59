# SPDX-License-Identifier: Apache-2.0
"""Launch files: their arguments, what these come to, and what runs then.

`ros2 launch` runs on the Python of the ROS installation, where the libraries that the node needs
from a virtual environment are missing. Nothing here imports them.
"""
