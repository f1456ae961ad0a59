# SPDX-License-Identifier: Apache-2.0
"""Subscription to a camera, with the reliability that the camera offers.

A best-effort subscription matches every publisher, but with Fast DDS's default transports it
loses large frames, even those of a reliable publisher. A reliable subscription loses none, but
does not match a best-effort publisher. So the subscription is reliable while all publishers of its
topic are, and is created again when that changes.

Measured behavior of rclpy 7.1 and Fast DDS 2.14:

- Losses are counted from the first frame that reaches the subscription, at least in part, so that
  joining a running stream is no loss. That frame is not counted if only a part of it arrives.
- A lost frame is counted when a later frame arrives, at least in part. Losses at the end of a
  stream are counted with the next frame, or never.
- A frame that is replaced in the queue of the subscription is neither received nor lost. Hence the
  depth of 10: a frame that is sent again arrives together with the frames that waited for it. With
  a depth of 1, up to 6 of 13 frames of 2048 x 1024 vanished; with 10, none.
- Frames that are sent while the subscription is created again (1 to 2 ms) are neither received nor
  lost, like frames before the first match; at 100 frames per second none was missed. A reliable
  publisher discovers the subscription slightly before the subscription discovers the publisher, so
  a frame that is sent at once gets lost.
"""

import inspect
import threading
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSPolicyKind, QoSProfile, QoSReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from rclpy.topic_endpoint_info import TopicEndpointInfo

from segmentation_node.errors import SettingError
from segmentation_node.ros.transport import reliable_camera_commands

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

RELIABLE: Final = QoSReliabilityPolicy.RELIABLE
BEST_EFFORT: Final = QoSReliabilityPolicy.BEST_EFFORT
#: Frames leave the queue at once and wait in slots that keep the newest. So the depth adds no
#: latency, and no frame is dropped without being counted.
DEPTH: Final = 10
#: Default of the parameter qos_overrides.TOPIC.subscription.reliability: follow the publishers.
#: Any other value is fixed.
FOLLOW: Final = 'best_available'
FIXED_VALUES: Final = ('reliable', 'best_effort', 'system_default')
#: Humble has no event for publishers that appear or disappear.
_HAS_MATCHED: Final = 'matched' in inspect.signature(SubscriptionEventCallbacks).parameters


class CameraSubscription:
    """Subscription to an image topic that adapts its reliability to the publishers.

    Only `close` may be called by a thread other than that of the callback group: the executors of
    rclpy fail if an event handler is destroyed while their thread prepares to wait for it.
    """

    def __init__(
        self,
        node: Node,
        kind: type[Any],
        topic: str,
        *,
        on_image: Callable[[Any], None],
        on_lost: Callable[[int], None],
        group: CallbackGroup,
        lock: threading.Lock,
    ) -> None:
        """Subscribe.

        Args:
            node: owner of the subscription.
            kind: type of the messages.
            topic: fully resolved name.
            on_image: receives a message.
            on_lost: receives the number of messages that were lost since its last call.
            group: callback group of all callbacks; mutually exclusive.
            lock: held while the subscription is created or destroyed.

        Raises:
            SettingError: the reliability that the user has set is unknown.
        """
        self.topic = topic
        self._node, self._kind, self._group, self._lock = node, kind, group, lock
        self._on_image, self._on_lost = on_image, on_lost
        self._override = _reliability_override(node, topic)
        self._subscription: Subscription | None = None
        with lock:
            self._subscribe(*self._choose_reliability())

    @property
    def remedy(self) -> str:
        """Shell commands that prevent losses on this topic."""
        reliable = all(p.qos_profile.reliability == RELIABLE for p in self._publishers())
        if self._override not in {None, RELIABLE} and reliable:
            return (
                f'the camera is reliable: start the node without '
                f'{_override_name(self.topic)}:={self._override.name.lower()}'
            )
        return reliable_camera_commands(self.topic)

    def follow(self) -> None:
        """Create the subscription again if the publishers require another reliability."""
        with self._lock:
            if self._subscription is None:
                return  # closed
            reliability, reason = self._choose_reliability()
            if reliability != self._reliability:
                self._node.destroy_subscription(self._subscription)
                self._subscribe(reliability, reason)

    def close(self) -> None:
        """Unsubscribe; the caller holds the lock."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _publishers(self) -> list[TopicEndpointInfo]:
        # Publishers of another type on this topic do not match and are ignored.
        name = f'{self._kind.__module__.partition(".")[0]}/msg/{self._kind.__name__}'
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        return [publisher for publisher in publishers if publisher.topic_type == name]

    def _choose_reliability(self) -> tuple[QoSReliabilityPolicy, str]:
        """Return the reliability for the present publishers, and the reason."""
        if self._override is not None:
            return self._override, 'set by qos_overrides'
        publishers = self._publishers()
        best_effort = sum(p.qos_profile.reliability != RELIABLE for p in publishers)
        if best_effort:
            return BEST_EFFORT, f'{best_effort} of {len(publishers)} publishers offer only that'
        if publishers:
            return RELIABLE, f'as all publishers ({len(publishers)})'
        return RELIABLE, 'no publisher yet'

    def _subscribe(self, reliability: QoSReliabilityPolicy, reason: str) -> None:
        self._reliability = reliability
        try:
            self._create(self._events)
        except UnsupportedEventTypeError:
            self._node.get_logger().warning(
                'this middleware does not report lost messages: `lost` stays 0'
            )
            self._create(None)
        self._node.get_logger().info(
            f'subscribed to {self.topic}, {reliability.name.lower().replace("_", " ")}: {reason}'
        )

    def _create(self, events: SubscriptionEventCallbacks | None) -> None:
        self._subscription = self._node.create_subscription(
            self._kind,
            self.topic,
            self._on_image,
            # A new profile each time, because rclpy writes overrides into it.
            QoSProfile(depth=DEPTH, reliability=self._reliability),
            callback_group=self._group,
            event_callbacks=events,
            # Without reliability: rclpy declares its parameter once per topic, and the value
            # declared first would override the reliability of later subscriptions.
            qos_overriding_options=QoSOverridingOptions(
                (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)
            ),
        )

    @cached_property
    def _events(self) -> SubscriptionEventCallbacks:
        # The executor serves them in this order: losses are counted before `matched` may destroy
        # the subscription.
        handlers: dict[str, Any] = {
            'incompatible_qos': self._on_publishers,
            'message_lost': lambda event: self._on_lost(event.total_count_change),
        }
        if _HAS_MATCHED:
            handlers['matched'] = self._on_publishers
        return SubscriptionEventCallbacks(**handlers)

    def _on_publishers(self, _event: Any) -> None:
        self.follow()


def _reliability_override(node: Node, topic: str) -> QoSReliabilityPolicy | None:
    """Return the reliability that the user has set for a topic; None to follow the publishers."""
    name = _override_name(topic)
    if not node.has_parameter(name):
        description = f'reliability of the subscription; {FOLLOW} follows the publishers'
        node.declare_parameter(
            name, FOLLOW, ParameterDescriptor(description=description, read_only=True)
        )
    value = node.get_parameter(name).value
    if value == FOLLOW:
        return None
    if value not in FIXED_VALUES:
        raise SettingError(
            f'{name} is {value!r}; restart with one of {", ".join((*FIXED_VALUES, FOLLOW))}'
        )
    override: QoSReliabilityPolicy = getattr(QoSReliabilityPolicy, value.upper())
    return override


def _override_name(topic: str) -> str:
    return f'qos_overrides.{topic}.subscription.reliability'
