# SPDX-License-Identifier: Apache-2.0
"""The segmentation node: a managed node that turns camera images into label masks."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SettingError, printable
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.encodings import decode_compressed, decode_image
from segmentation_node.pipeline.worker import Worker
from segmentation_node.ros.diagnostics import NodeHealth
from segmentation_node.ros.intake import Intake
from segmentation_node.ros.mask_messages import pick_converter
from segmentation_node.ros.model import load_model
from segmentation_node.ros.parameters import RELOADS, Parameters
from segmentation_node.ros.publishers import CameraPublishers, LabelInfoOutput
from segmentation_node.ros.supervised_node import SupervisedNode
from segmentation_node.ros.transitions import SUCCESS, reported
from segmentation_node.ros.transport import reliable_camera_commands


class SegmentationNode(SupervisedNode[Parameters, NodeHealth, Worker]):
    """Subscribes to cameras, segments their newest frames and publishes masks.

    Frames, diagnostics and everything else are served by different executor threads, so that
    loading a model during a transition or a parameter change delays no frame.
    """

    PARAMETERS = Parameters

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(topics.NODE_NAME, NodeHealth(), **kwargs)
        self._intake: Intake | None = None
        self._camera_publishers: dict[str, CameraPublishers] = {}
        self._label_info: LabelInfoOutput | None = None
        self._samples = Samples(self._values.bits_per_sample)
        self.begin()

    def follow(self) -> None:
        """Adapt the reliability of the subscriptions to that of the cameras."""
        if (intake := self._intake) is not None:
            intake.follow()

    # Life cycle

    @reported
    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the publishers."""
        values = self._values
        self.get_logger().info(f'loading {printable(values.model)} ...')
        segmenter = load_model(values)
        converter, decode = self._decoder(compressed=values.image_transport == 'compressed')
        self._camera_publishers = {
            camera: CameraPublishers(self, camera) for camera in values.cameras
        }
        self._label_info = LabelInfoOutput(self)
        self._worker = Worker(
            segmenter=segmenter,
            overlay_alpha=values.overlay_alpha,
            publishers=self._camera_publishers,
            accounts=self.health.accounts,
            decode=decode,
            latency_ms=self.age_ms,
            report=self.report_frame,
        )
        self._worker.start()
        self._label_info.publish(segmenter.scheme, values.min_confidence)
        self.get_logger().info(
            f'{values.model} ({segmenter.scheme.name}) on {segmenter.runtime}, '
            f'{segmenter.device}, {segmenter.precision}; image formats converted by {converter}'
        )
        return SUCCESS

    @reported
    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe to the cameras."""
        if self._worker is None:
            raise SettingError('the node has no model; configure it first')
        values = self._values
        self._intake = Intake(
            self,
            compressed=values.image_transport == 'compressed',
            max_rate_hz=values.max_rate_hz,
            publishers=self._camera_publishers,
            worker=self._worker,
            health=self.health,
            group=self.frames,
        )
        self.health.active_since_s = time.monotonic()
        self.get_logger().info(f'active, listening to {", ".join(self._intake.topics)}')
        return super().on_activate(state)

    def close_intake(self) -> None:
        """Unsubscribe from the cameras."""
        if self._intake is not None:
            self._intake.close()
            self._intake = None

    def destroy_publishers(self) -> None:
        """Destroy the publishers of all cameras and of the label info."""
        for publishers in self._camera_publishers.values():
            publishers.destroy(self)
        self._camera_publishers = {}
        if self._label_info is not None:
            self._label_info.destroy(self)
            self._label_info = None

    # Frames

    def _decoder(self, *, compressed: bool) -> tuple[str, Callable[[Any], UInt8Array]]:
        """Return the name of the library that converts formats, and the decoder of messages."""
        converter, convert = pick_converter()
        decode: Callable[..., UInt8Array] = (
            decode_compressed if compressed else partial(decode_image, convert=convert)
        )
        return converter, lambda message: decode(
            message, max_pixels=self._values.max_image_pixels, samples=self._samples
        )

    # Parameters

    def change_parameters(self, values: Parameters) -> None:
        """Make new values effective; raises SegmentationError and changes nothing."""
        if self._worker is not None and values != self._values:
            self._change_worker(self._worker, values)
        if self._intake is not None:
            self._intake.max_rate_hz = values.max_rate_hz
        if values.bits_per_sample != self._values.bits_per_sample:
            self._samples = Samples(values.bits_per_sample)

    def _change_worker(self, worker: Worker, values: Parameters) -> None:
        self.check_configured(values)
        if values.changed(self._values, RELOADS):
            self.get_logger().info(f'loading {printable(values.model)} in the background ...')
            worker.segmenter = load_model(values, worker.image_sizes_hw)
            self.get_logger().info(f'now running {printable(values.model)}')
        worker.segmenter.min_confidence = values.min_confidence
        worker.overlay_alpha = values.overlay_alpha
        if self._label_info is not None:
            self._label_info.publish(worker.segmenter.scheme, values.min_confidence)

    # Diagnostics

    def status(self) -> DiagnosticStatus:
        """Return the present status."""
        return self.health.status(
            self.get_fully_qualified_name(), self.state, self._worker, self._remedy_of
        )

    def exclusive_topics(self) -> Sequence[str]:
        """Return the topics of the label masks."""
        return [publishers.label_mask_topic for publishers in self._camera_publishers.values()]

    def _remedy_of(self, topic: str) -> str:
        intake = self._intake
        return reliable_camera_commands(topic) if intake is None else intake.remedy_of(topic)
