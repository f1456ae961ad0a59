# SPDX-License-Identifier: Apache-2.0
"""Instances as vision_msgs/Detection2DArray, of ROS or of a bag library, and as JSON."""

import json
from collections.abc import Sequence
from typing import Any, Protocol

from segmentation_node.images.rendering import Detection


def detection_rows(detections: Sequence[Detection]) -> list[dict[str, Any]]:
    """Return instances as plain values: id, class_id, class, score, and box in pixels."""
    return [
        {
            'id': segment.id,
            'class_id': segment.class_id,
            'class': class_name,
            'score': round(segment.score, 6),
            'box': segment.box._asdict(),
        }
        for segment, class_name in detections
    ]


def encode_json(detections: Sequence[Detection]) -> bytes:
    """Return instances as JSON, a list of the objects of `detection_rows`."""
    return json.dumps(detection_rows(detections)).encode()


class NewMessage(Protocol):
    """Creates a message of vision_msgs by its name; fields that are not given have defaults."""

    def __call__(self, name: str, **fields: Any) -> Any: ...


def detections_message(detections: Sequence[Detection], header: Any, new: NewMessage) -> Any:
    """Return a Detection2DArray with the header of the image.

    `id` is the value in the instance mask, `class_id` the name of the class. A box is in pixels,
    with its center between the outer edges of its pixels.
    """
    return new(
        'Detection2DArray',
        header=header,
        detections=[_detection(detection, header, new) for detection in detections],
    )


def _detection(detection: Detection, header: Any, new: NewMessage) -> Any:
    segment, box = detection.segment, detection.segment.box
    hypothesis = new('ObjectHypothesis', class_id=detection.class_name, score=segment.score)
    middle = new('Point2D', x=box.x + box.width / 2, y=box.y + box.height / 2)
    center = new('Pose2D', position=middle, theta=0.0)
    size = {'size_x': float(box.width), 'size_y': float(box.height)}
    return new(
        'Detection2D',
        header=header,
        results=[new('ObjectHypothesisWithPose', hypothesis=hypothesis)],
        bbox=new('BoundingBox2D', center=center, **size),
        id=str(segment.id),
    )
