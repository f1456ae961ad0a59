# SPDX-License-Identifier: Apache-2.0
"""Subscription to a camera that is as reliable as the camera.

A best-effort subscription matches every publisher, but with Fast DDS's default transports it
loses large frames even of a reliable one. A reliable subscription loses none, but does not match
a best-effort publisher. So the subscription is reliable while all publishers of its topic are,
and is created anew when that changes.

Measured with rclpy 7.1 and Fast DDS 2.14 about losses as the middleware reports them:

- It counts from the first frame that reached it, at least in part, so that joining a running
  stream is no loss. That first frame is not counted if only a part of it arrived.
- A lost frame is counted when a later one arrives, at least in part: losses at the very end of a
  stream show when the next frame is sent, or never.
- A frame that a newer one replaces in the subscription's own queue is neither received nor lost.
  Hence the depth: a frame that is sent again arrives together with those that waited for it. With
  a queue of one, 1 to 6 of 13 frames of 2048 x 1024 vanished there now and then, with ten none.
- Frames that are sent while the subscription is created anew (1 to 2 ms; none was missed of 100 a
  second) would be neither received nor lost, as are those sent before the first match. A reliable
  publisher knows its subscription a moment before that knows the publisher: one that sends at once
  loses its first frame.
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
from segmentation_node.ros.transport import reliable_camera

try:
    from rclpy.event_handler import SubscriptionEventCallbacks, UnsupportedEventTypeError
except ImportError:  # Humble
    from rclpy.qos_event import SubscriptionEventCallbacks, UnsupportedEventTypeError

RELIABLE: Final = QoSReliabilityPolicy.RELIABLE
BEST_EFFORT: Final = QoSReliabilityPolicy.BEST_EFFORT
#: Frames are taken from the queue at once and wait elsewhere, where the newest wins: they get no
#: older by its depth, and none is replaced unseen.
DEPTH: Final = 10
#: Value of the parameter qos_overrides.TOPIC.subscription.reliability that stands for following
#: the publishers; what the user sets instead is kept.
FOLLOW: Final = 'best_available'
RULES: Final = ('reliable', 'best_effort', 'system_default')
#: Humble has no event for publishers that come and go.
_HAS_MATCHED: Final = 'matched' in inspect.signature(SubscriptionEventCallbacks).parameters


class CameraSubscription:
    """Subscription to the images of a topic that follows the reliability its publishers offer.

    Everything but `close` is called by the thread of the callback group: rclpy's executors fail
    when an event handler is destroyed while their thread prepares to wait for it.
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
            on_image: takes a message.
            on_lost: takes the number of messages that the middleware has lost since it was
                called last.
            group: callback group of all callbacks; mutually exclusive.
            lock: held while the subscription is created or destroyed.

        Raises:
            SettingError: the reliability that the user set is unknown.
        """
        self.topic = topic
        self._node, self._kind, self._group, self._lock = node, kind, group, lock
        self._on_image, self._on_lost = on_image, on_lost
        self._rule = _reliability_rule(node, topic)
        self._subscription: Subscription | None = None
        with lock:
            self._subscribe(*self._choose())

    @property
    def remedy(self) -> str:
        """Commands that end losses on this topic."""
        reliable = all(p.qos_profile.reliability == RELIABLE for p in self._publishers())
        if self._rule not in {None, RELIABLE} and reliable:
            return (
                f'the camera is reliable: start the node without '
                f'{_rule_name(self.topic)}:={self._rule.name.lower()}'
            )
        return reliable_camera(self.topic)

    def follow(self) -> None:
        """Subscribe anew if the publishers call for another reliability than now."""
        with self._lock:
            if self._subscription is None:
                return  # closed
            reliability, reason = self._choose()
            if reliability != self._reliability:
                self._node.destroy_subscription(self._subscription)
                self._subscribe(reliability, reason)

    def close(self) -> None:
        """Unsubscribe; the caller holds the lock."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _publishers(self) -> list[TopicEndpointInfo]:
        found = self._node.get_publishers_info_by_topic(self.topic)
        # Others may use the name for another type, with which no message is exchanged.
        name = f'{self._kind.__module__.partition(".")[0]}/msg/{self._kind.__name__}'
        return [publisher for publisher in found if publisher.topic_type == name]

    def _choose(self) -> tuple[QoSReliabilityPolicy, str]:
        """Reliability for the publishers that there are now, and the reason."""
        if self._rule is not None:
            return self._rule, 'qos_overrides says so'
        publishers = self._publishers()
        best_effort = sum(p.qos_profile.reliability != RELIABLE for p in publishers)
        if best_effort:
            return BEST_EFFORT, f'{best_effort} of {len(publishers)} publishers offer no more'
        if publishers:
            return RELIABLE, f'so are all publishers ({len(publishers)})'
        return RELIABLE, 'there is no publisher yet'

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
            # rclpy writes overrides into the profile that it is given.
            QoSProfile(depth=DEPTH, reliability=self._reliability),
            callback_group=self._group,
            event_callbacks=events,
            # Not with reliability: rclpy declares it once per topic, and from then on the value
            # that was declared first replaces what a later subscription asks for.
            qos_overriding_options=QoSOverridingOptions(
                (QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)
            ),
        )

    @cached_property
    def _events(self) -> SubscriptionEventCallbacks:
        # In this order the executor serves them: what was lost is counted before `matched` may
        # destroy the subscription.
        handlers: dict[str, Any] = {
            'incompatible_qos': self._on_publishers,
            'message_lost': lambda event: self._on_lost(event.total_count_change),
        }
        if _HAS_MATCHED:
            handlers['matched'] = self._on_publishers
        return SubscriptionEventCallbacks(**handlers)

    def _on_publishers(self, _event: Any) -> None:
        self.follow()


def _reliability_rule(node: Node, topic: str) -> QoSReliabilityPolicy | None:
    """Reliability that the user demands for a topic, None to follow the publishers."""
    name = _rule_name(topic)
    if not node.has_parameter(name):
        description = f'for the subscription to {topic}; {FOLLOW} follows its publishers'
        node.declare_parameter(
            name, FOLLOW, ParameterDescriptor(description=description, read_only=True)
        )
    value = node.get_parameter(name).value
    if value == FOLLOW:
        return None
    if value not in RULES:
        raise SettingError(
            f'{name} is {value!r}; give one of {", ".join((*RULES, FOLLOW))} and start again'
        )
    rule: QoSReliabilityPolicy = getattr(QoSReliabilityPolicy, value.upper())
    return rule


def _rule_name(topic: str) -> str:
    return f'qos_overrides.{topic}.subscription.reliability'
