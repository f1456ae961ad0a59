# SPDX-License-Identifier: Apache-2.0
"""Real node in a separate process, and a probe that communicates with it over real DDS."""

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import pytest
from patience import PATIENCE_S
from repository import ROOT

rclpy = pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.srv import ChangeState, GetState  # noqa: E402
from rcl_interfaces.srv import SetParameters  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSDurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from segmentation_node.arrays import UInt8Array  # noqa: E402
from segmentation_node.processes import Child  # noqa: E402
from segmentation_node.ros.domain import environment_of, unused_domain  # noqa: E402
from segmentation_node.ros.transport import large_frames_environment  # noqa: E402

LATCHED = QoSProfile(depth=1, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)


DOMAIN_ID = unused_domain()


def isolated_environment() -> dict[str, str]:
    """Return the environment of a test run: separate domain, this machine, default transports.

    Networks run on one thread.
    """
    for variable in large_frames_environment():
        os.environ.pop(variable, None)
    return {**os.environ, **environment_of(DOMAIN_ID), 'OMP_NUM_THREADS': '1'}


class NodeProcess(Child):
    """Node started by its console script, stopped on leaving the context.

    The namespace has no default, because several nodes may run at a time, and two of one name
    would both answer.
    """

    def __init__(
        self, log: Path, *arguments: str, namespace: str, command: str = 'segmentation_node'
    ) -> None:
        script = Path(sys.executable).parent / command
        words = [str(script), '--ros-args', '-r', f'__ns:=/{namespace}', *arguments]
        super().__init__('the node', words, log, isolated_environment())

    def interrupt(self) -> int:
        """Send SIGINT and return the exit status."""
        self._process.send_signal(signal.SIGINT)
        return self.ended()

    def ended(self) -> int:
        """Wait for the end and return the exit status."""
        return self._process.wait(PATIENCE_S)

    def __exit__(self, *_: object) -> None:
        self.stop()
        print(self.log_text())


class Probe:
    """Publishes camera messages and collects the outputs of the node."""

    def __init__(self, namespace: str, node_name: str = 'segmentation_node') -> None:
        self.namespace = f'/{namespace}'
        self.target = f'/{namespace}/{node_name}'
        # Fast DDS reads its environment when a participant is created.
        os.environ.update(isolated_environment())
        self.context = rclpy.Context()
        self.context.init(domain_id=DOMAIN_ID)
        self.node = rclpy.create_node('probe', context=self.context, namespace=namespace)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.diagnostics: list[dict[str, str]] = []
        self.node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def close(self) -> None:
        """Leave the ROS graph."""
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def _on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            if status.name == self.target:
                self.diagnostics.append(
                    {'message': status.message, 'level': str(status.level[0]),
                     **{v.key: v.value for v in status.values}}
                )  # fmt: skip

    def wait_for(self, what: str, predicate: Callable[[], Any]) -> Any:
        """Serve events until `predicate` is true and return its value."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := predicate()):
            if time.monotonic() > deadline:
                last = self.diagnostics[-1] if self.diagnostics else 'none'
                pytest.fail(f'waited {PATIENCE_S} s for {what}; last diagnostics: {last}')
            self.executor.spin_once(timeout_sec=0.1)
        return value

    def publisher(self, topic: str = 'image', kind: Any = Image, qos: Any = 10) -> Any:
        """Return a camera publisher that the node has subscribed to."""
        publisher = self.node.create_publisher(kind, topic, qos)
        self.wait_for(f'a subscriber of {topic}', publisher.get_subscription_count)
        return publisher

    def collect(self, output: str, kind: Any = Image, qos: Any = 50) -> list[Any]:
        """Subscribe to an output of the node; the returned list grows with each message."""
        messages: list[Any] = []
        topic = f'{self.target}/{output}'
        self.node.create_subscription(kind, topic, messages.append, qos)
        self.wait_for(f'a publisher of {topic}', lambda: self.node.count_publishers(topic))
        return messages

    def connect(
        self, topic: str = 'image', output: str = 'label_mask', sample: Any = None
    ) -> 'Camera':
        """Return a camera whose frames are already answered by label masks."""
        sample = sample or image_message(np.zeros((32, 32, 3), np.uint8))
        camera = Camera(self, self.publisher(topic, type(sample)), self.collect(output))

        def answered() -> bool:
            # Until the node has discovered the subscription, frames are not wanted.
            if not camera.masks:
                camera.send(sample)
            return bool(camera.masks)

        self.wait_for('a first mask', answered)
        self.settled()
        camera.masks.clear()
        return camera

    def latched(self, output: str) -> Any:
        """Return the latched message of an output, as a late subscriber receives it."""
        messages = self.collect(output, String, LATCHED)
        return self.wait_for(f'the latched {output}', lambda: messages and messages[0])

    def next_diagnostics(self) -> dict[str, str]:
        """Return a report that was created after this call."""
        seen = len(self.diagnostics)
        # The next report may have been created before this call; the one after it was not.
        self.wait_for('diagnostics', lambda: len(self.diagnostics) >= seen + 2)
        return self.diagnostics[-1]

    def report(self) -> dict[str, str]:
        """Return the next report; it may have been created before this call."""
        seen = len(self.diagnostics)
        self.wait_for('diagnostics', lambda: len(self.diagnostics) > seen)
        return self.diagnostics[-1]

    def settled(self) -> dict[str, int]:
        """Return the accounts once nothing is in flight and two reports agree."""

        def agree() -> bool:
            return (
                len(self.diagnostics) > start + 2
                and accounts(self.diagnostics[-1]) == accounts(self.diagnostics[-2])
                and self.diagnostics[-1]['in_flight'] == '0'
            )

        start = len(self.diagnostics)
        self.wait_for('settled accounts', agree)
        return accounts(self.diagnostics[-1])

    def wait_for_malformed(self, count: int) -> None:
        """Wait until the node has counted a number of malformed frames."""
        self.wait_for(
            f'{count} malformed frames', lambda: int(self.diagnostics[-1]['malformed']) == count
        )

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service of the node and return the response."""
        return self.result(self.call_async(kind, service, request))

    def call_async(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service of the node and return the future."""
        client = self.node.create_client(kind, f'{self.target}/{service}')
        self.wait_for(service, client.service_is_ready)
        return client.call_async(request)

    def result(self, future: Any) -> Any:
        """Wait for a future and return its result."""
        self.wait_for('a service response', future.done)
        return future.result()

    def set_parameters(self, **values: Any) -> Any:
        """Set parameters and return the future of the response."""
        request = SetParameters.Request(
            parameters=[Parameter(k, value=v).to_parameter_msg() for k, v in values.items()]
        )
        return self.call_async(SetParameters, 'set_parameters', request)

    def set_parameter(self, name: str, value: Any) -> Any:
        """Set one parameter and return its SetParametersResult."""
        return self.result(self.set_parameters(**{name: value})).results[0]

    def transition(self, transition_id: int) -> bool:
        """Request a lifecycle transition and return whether it succeeded."""
        request = ChangeState.Request()
        request.transition.id = transition_id
        return bool(self.call(ChangeState, 'change_state', request).success)

    def state(self) -> str:
        """Return the label of the lifecycle state."""
        return str(self.call(GetState, 'get_state', GetState.Request()).current_state.label)

    def wait_until_active(self) -> None:
        """Wait until a node that activates itself is active."""
        report = self.wait_for(
            'an active node',
            lambda: next(
                (d for d in self.diagnostics if d['state'] == 'active' or d['last_error']), None
            ),
        )
        assert report['state'] == 'active', report


def forbidden_by_policy(probe: Probe) -> set[str]:
    """Return the topics and services of a running node that its SROS 2 policy does not name."""
    namespace, _, name = probe.target.rpartition('/')
    policy = ET.parse(ROOT / 'config' / 'sros2_policy.xml')  # noqa: S314 (ours)
    profile = policy.find(f'.//profile[@node="{name}"]')
    assert profile is not None

    def full_name(text: str) -> str:
        if text.startswith('~'):
            return text.replace('~', probe.target)
        return text if text.startswith('/') else f'{namespace}/{text}'

    used, allowed = set(), set()
    for way, ask in (
        ('topics[@publish]', probe.node.get_publisher_names_and_types_by_node),
        ('topics[@subscribe]', probe.node.get_subscriber_names_and_types_by_node),
        ('services', probe.node.get_service_names_and_types_by_node),
    ):
        found = {topic for topic, _ in ask(name, namespace)}
        assert found
        used |= {f'{way} {topic}' for topic in found}
        texts = (str(each.text) for group in profile.findall(way) for each in group)
        allowed |= {f'{way} {full_name(text)}' for text in texts}
    return used - allowed


class Camera:
    """Publisher of frames, with the label masks that the node returns."""

    def __init__(self, probe: Probe, publisher: Any, masks: list[Any]) -> None:
        self.probe, self.publisher, self.masks = probe, publisher, masks
        self._stamp_ns = 1_700_000_000_123_456_789

    def send(self, message: Any) -> int:
        """Publish a message with a unique stamp and return its nanoseconds."""
        self._stamp_ns += 100_000_007
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(self._stamp_ns, 10**9)
        self.publisher.publish(message)
        return self._stamp_ns

    def segment(self, message: Any) -> Any:
        """Publish a message and return the mask with the same stamp."""
        stamp = self.send(message)

        def answer() -> Any:
            return next((mask for mask in self.masks if stamp_ns(mask) == stamp), None)

        return self.probe.wait_for('a label mask', answer)


def accounts(diagnostics: dict[str, str]) -> dict[str, int]:
    """Return the counts of frames in a diagnostics report."""
    keys = ('received', 'published', 'superseded', 'malformed', 'failed', 'not_wanted')
    return {key: int(diagnostics[key]) for key in keys}


def stamp_ns(message: Any) -> int:
    """Return the nanoseconds of a message's stamp."""
    return int(message.header.stamp.sec) * 10**9 + int(message.header.stamp.nanosec)


def pixels_of(message: Any) -> UInt8Array:
    """Return the pixels of a mask message as (H, W) or (H, W, 3) uint8."""
    shape: Sequence[int] = (message.height, message.width, -1)
    array = np.frombuffer(message.data, np.uint8).reshape(shape)
    return array[..., 0] if message.encoding == 'mono8' else array


def image_message(
    pixels: npt.NDArray[Any], encoding: str = 'rgb8', frame_id: str = 'camera'
) -> Any:
    """Return an Image with the memory of an array."""
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding)
    message.step = pixels[0].nbytes
    message.header.frame_id = frame_id
    message.data.frombytes(np.ascontiguousarray(pixels).tobytes())
    return message


def compressed_message(data: bytes, format_: str = 'jpeg') -> Any:
    """Return a CompressedImage of encoded bytes."""
    message = CompressedImage(format=format_)
    message.data.frombytes(data)
    return message
