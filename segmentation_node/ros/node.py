# SPDX-License-Identifier: Apache-2.0
"""The segmentation node: a managed node that turns camera images into label masks."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.lifecycle import LifecycleState, TransitionCallbackReturn

from segmentation_node import topics
from segmentation_node.arrays import UInt8Array
from segmentation_node.errors import SettingError, printable
from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.encodings import decode_compressed, decode_image
from segmentation_node.pipeline.live_scores import LiveScores
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
from segmentation_node.ros.truth import TruthIntake, truth_topics


class SegmentationNode(SupervisedNode[Parameters, NodeHealth, Worker]):
    """Subscribes to cameras, segments their newest frames and publishes masks.

    Frames, diagnostics and everything else are served by different executor threads, so that
    loading a model during a transition or a parameter change delays no frame.
    """

    PARAMETERS = Parameters

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(topics.NODE_NAME, NodeHealth(), **kwargs)
        self.truth = MutuallyExclusiveCallbackGroup()
        self.groups.append(self.truth)
        self._intake: Intake | None = None
        self._truth_intake: TruthIntake | None = None
        self._camera_publishers: dict[str, CameraPublishers] = {}
        # Held while the diagnostics thread uses publishers, and while they are destroyed.
        self._publishers_lock = threading.Lock()
        self._label_info: LabelInfoOutput | None = None
        self._samples = Samples(self._values.bits_per_sample)
        self.call_every(self.FOLLOW_PERIOD_S, self._follow_truth, self.truth)
        self.begin()

    def follow(self) -> None:
        """Adapt the reliability of the subscriptions to that of the cameras."""
        if (intake := self._intake) is not None:
            intake.follow()

    def _follow_truth(self) -> None:
        if (truth_intake := self._truth_intake) is not None:
            truth_intake.follow()

    # Life cycle

    @reported
    def on_configure(self, _state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and create the publishers."""
        values = self._values
        self.get_logger().info(f'loading {printable(values.model)} ...')
        segmenter = load_model(values)
        converter, decode = self._decoder(compressed=values.image_transport == 'compressed')
        self._camera_publishers = {
            camera: CameraPublishers(self, camera, has_instances=segmenter.has_instances)
            for camera in values.cameras
        }
        self._label_info = LabelInfoOutput(self)
        scores = LiveScores(
            values.score_window,
            truth_topics(self, values.cameras, values.truth_topic),
            self._scores_wanted,
        )
        self._worker = Worker(
            segmenter=segmenter,
            overlay_alpha=values.overlay_alpha,
            publishers=self._camera_publishers,
            accounts=self.health.accounts,
            decode=decode,
            latency_ms=self.age_ms,
            report=self.report_frame,
            outlines=values.overlay_outlines,
            track_instances=values.track_instances,
            scores=scores,
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
        try:
            self._intake = self._subscribe(self._worker)
        except Exception:
            self.close_intake()
            raise
        self.health.active_since_s = time.monotonic()
        self.get_logger().info(f'active, listening to {", ".join(self._intake.topics)}')
        return super().on_activate(state)

    def _subscribe(self, worker: Worker) -> Intake:
        """Subscribe to the truth, if there is any, and return the intake of the cameras."""
        values = self._values
        if values.truth_topic and worker.scores is not None:
            self._truth_intake = TruthIntake(
                self,
                worker.scores.truth_topics,
                scores=worker.scores,
                max_pixels=lambda: self._values.max_image_pixels,
                group=self.truth,
            )
        return Intake(
            self,
            compressed=values.image_transport == 'compressed',
            max_rate_hz=values.max_rate_hz,
            publishers=self._camera_publishers,
            worker=worker,
            health=self.health,
            group=self.frames,
        )

    def close_intake(self) -> None:
        """Unsubscribe from the cameras."""
        if self._intake is not None:
            self._intake.close()
            self._intake = None
        if self._truth_intake is not None:
            self._truth_intake.close()
            self._truth_intake = None

    def destroy_publishers(self) -> None:
        """Destroy the publishers of all cameras and of the label info."""
        with self._publishers_lock:
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

    def _scores_wanted(self, camera: str) -> bool:
        return self._values.always_score or self._camera_publishers[camera].scores_wanted()

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
            for publishers in self._camera_publishers.values():
                publishers.has_instances = worker.segmenter.has_instances
            self.get_logger().info(f'now running {printable(values.model)}')
        worker.segmenter.min_confidence = values.min_confidence
        worker.segmenter.thresholds = values.thresholds
        worker.overlay_alpha, worker.outlines = values.overlay_alpha, values.overlay_outlines
        worker.track_instances = values.track_instances
        if self._label_info is not None:
            self._label_info.publish(worker.segmenter.scheme, values.min_confidence)

    # Diagnostics

    def status(self) -> DiagnosticStatus:
        """Return the present status."""
        with self._publishers_lock:
            if self._worker is not None and self._worker.scores is not None:
                self._publish_scores(self._worker.scores)
            self.health.warnings['outputs'] = self._outputs_warning()
        return self.health.status(
            self.get_fully_qualified_name(), self.state, self._worker, self._remedy_of
        )

    def exclusive_topics(self) -> Sequence[str]:
        """Return the topics of the label masks."""
        return [publishers.label_mask_topic for publishers in self._camera_publishers.values()]

    def _publish_scores(self, scores: LiveScores) -> None:
        if scores.failure is not None:
            raise scores.failure
        for camera, publishers in self._camera_publishers.items():
            if publishers.scores_wanted():
                publishers.publish_scores(scores.take_report(camera))

    def _outputs_warning(self) -> str:
        """Return a warning if outputs are subscribed that the model does not have."""
        missing = {
            name for each in self._camera_publishers.values() for name in each.unavailable()
        }
        if not missing:
            return ''
        return (
            f'{", ".join(sorted(missing))} subscribed, but model {self._values.model} has no '
            f'instances, so that nothing is published there: choose a panoptic model or one of '
            f'instances'
        )

    def _remedy_of(self, topic: str) -> str:
        intake = self._intake
        return reliable_camera_commands(topic) if intake is None else intake.remedy_of(topic)
