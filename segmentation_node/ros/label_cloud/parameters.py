# SPDX-License-Identifier: Apache-2.0
"""Parameters of the node label_cloud."""

from dataclasses import dataclass

from segmentation_node.cloud.camera import INTRINSICS
from segmentation_node.cloud.selection import PointSelection
from segmentation_node.errors import SettingError
from segmentation_node.images.files import MAX_PIXELS
from segmentation_node.ros.parameters import (
    ANY_TIME,
    START,
    UNCONFIGURED,
    ParameterSet,
    declared,
)

SOURCES = ('depth', 'cloud')
COLORS = ('label', 'image')
#: Maximum length of a queue; each message may take megabytes.
MAX_QUEUE = 100


@dataclass(frozen=True)
class CloudParameters(ParameterSet):
    """Typed values of all parameters of the node label_cloud."""

    source: str = declared(
        'depth',
        'depth subscribes to a depth image and its calibration, cloud to an organized cloud',
        UNCONFIGURED,
        choices=SOURCES,
    )
    color: str = declared(
        'label', 'rgb of the points: color of the class, or of the camera image', UNCONFIGURED,
        choices=COLORS,
    )  # fmt: skip
    use_confidence: bool = declared(
        True, 'Subscribe to the confidence; without it, the field is NaN', UNCONFIGURED
    )
    use_instances: bool = declared(
        False, 'Subscribe to the instance mask; without it, the field is 0', UNCONFIGURED
    )
    tolerance_s: float = declared(
        0.02,
        'Maximum difference between the stamps of depth and label mask in seconds; 0 requires '
        'equal stamps',
        UNCONFIGURED,
        range_=(0.0, 10.0),
    )
    queue_size: int = declared(
        30,
        'Maximum number of messages of each topic that wait for a match; depth images wait for '
        'the latency of the network',
        UNCONFIGURED,
        range_=(1, MAX_QUEUE),
    )
    intrinsics: str = declared(
        'P',
        'Matrix of camera_info: P for rectified images, K for cameras without distortion',
        ANY_TIME,
        choices=INTRINSICS,
    )
    organized: bool = declared(
        False, 'Publish a point for each pixel, with NaN for those without depth', ANY_TIME
    )
    keep_classes: list[str] = declared(
        [''], 'Names or ids of the only classes to publish; empty for all', ANY_TIME
    )
    drop_classes: list[str] = declared(
        [''], 'Names or ids of classes not to publish; empty for none', ANY_TIME
    )
    drop_void: bool = declared(False, 'Do not publish points of the void class', ANY_TIME)
    min_range: float = declared(
        0.0, 'Minimum distance from the sensor in meters', ANY_TIME, range_=(0.0, 10000.0)
    )
    max_range: float = declared(
        0.0, 'Maximum distance from the sensor in meters; 0 means no limit', ANY_TIME,
        range_=(0.0, 10000.0),
    )  # fmt: skip
    min_confidence: float = declared(
        0.0, 'Points below this confidence are not published', ANY_TIME, range_=(0.0, 1.0)
    )
    max_image_pixels: int = declared(
        2**23,
        'Images and clouds with more pixels are rejected, which limits the memory of a frame',
        ANY_TIME,
        range_=(1, MAX_PIXELS),
    )
    autostart: bool = declared(
        True, 'Configure and activate at start; false leaves both to a lifecycle manager', START
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_confidence and not self.use_confidence:
            raise SettingError(
                f'min_confidence is {self.min_confidence:g}, but use_confidence is false; set it '
                f'to true, or min_confidence to 0'
            )
        _ = self.selection  # raises SettingError

    @property
    def selection(self) -> PointSelection:
        """Points to publish."""
        return PointSelection(
            tuple(self.keep_classes), tuple(self.drop_classes), self.drop_void, self.min_range,
            self.max_range, self.min_confidence,
        )  # fmt: skip
