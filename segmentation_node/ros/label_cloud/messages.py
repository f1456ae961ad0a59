# SPDX-License-Identifier: Apache-2.0
"""Conversion of points to sensor_msgs/PointCloud2."""

from typing import Any, Final

from sensor_msgs.msg import PointCloud2, PointField

from segmentation_node.cloud.points import FIELDS, POINT, Points

#: PCL stores the packed color in a float.
_UNSIGNED: Final = ('label', 'instance')


def _fields() -> list[PointField]:
    return [
        PointField(
            name=name,
            offset=4 * index,
            datatype=PointField.UINT32 if name in _UNSIGNED else PointField.FLOAT32,
            count=1,
        )
        for index, (name, _) in enumerate(FIELDS)
    ]


def cloud_message(points: Points, header: Any) -> PointCloud2:
    """Return points, (N,) or (H, W), as a message with an unchanged header; copies them once."""
    height, width = points.shape if points.ndim == 2 else (1, points.size)
    message = PointCloud2(
        header=header, height=height, width=width, fields=_fields(), is_bigendian=False,
        point_step=POINT.itemsize, row_step=width * POINT.itemsize, is_dense=points.ndim == 1,
    )  # fmt: skip
    if points.size:
        message.data.frombytes(points.view('u1').data.cast('B'))
    return message
