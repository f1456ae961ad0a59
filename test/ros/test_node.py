# SPDX-License-Identifier: Apache-2.0
"""The node as users run it: a separate process that exchanges messages over real DDS."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from known_model import BLACK, known_image, write_known_model
from lifecycle_msgs.msg import Transition
from rclpy.qos import QoSDurabilityPolicy, QoSProfile
from ros_process import (
    Camera,
    NodeProcess,
    Probe,
    compressed_message,
    image_message,
    pixels_of,
    stamp_ns,
)
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from segmentation_node.images.bit_depth import Samples
from segmentation_node.images.encodings import ENCODINGS, decode_image
from segmentation_node.images.files import decode_file, encode_jpeg
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Segmenter
from training.scenes.render import Renderer
from training.scenes.street import Street

LATCHED_QOS = QoSProfile(depth=50, durability=QoSDurabilityPolicy.TRANSIENT_LOCAL)
RNG = np.random.default_rng(7)
SHARED_MEMORY = Path('/dev/shm')  # noqa: S108 (where Fast DDS has it)


@pytest.fixture(scope='module')
def camera(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Camera]:
    """A running node with a small model, and a camera that it answers."""
    log = tmp_path_factory.mktemp('node') / 'log.txt'
    # In one arithmetic, so that labels can be compared to the pixel.
    arguments = ('-p', f'model:={tiny_checkpoint}', '-p', 'precision:=fp32')
    with NodeProcess(log, *arguments, namespace='vehicle'):
        probe = Probe('vehicle')
        probe.wait_until_active()
        yield probe.connect()
        probe.close()


def random_frame(height: int = 48, width: int = 64) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, (height, width, 3), np.uint8)


def test_stamp_and_frame_id_come_back_verbatim(camera: Camera) -> None:
    message = image_message(random_frame(), frame_id='vehicle/front camera')
    mask = camera.segment(message)
    assert mask.header == message.header
    assert (mask.height, mask.width, mask.encoding, mask.step) == (48, 64, 'mono8', 64)


def test_a_stamp_from_before_time_is_no_trouble(camera: Camera) -> None:
    message = image_message(random_frame())
    message.header.stamp.sec = -5
    camera.publisher.publish(message)
    camera.probe.wait_for(
        'its mask', lambda: any(mask.header.stamp.sec == -5 for mask in camera.masks)
    )


def raw_pixels(encoding: str) -> np.ndarray[Any, Any]:
    """Random pixels of an encoding, 48 x 64, as they lie in memory."""
    known = ENCODINGS[encoding]
    rows = 48 * known.rows // 2
    dtype = np.uint16 if known.bits == 16 else np.uint8
    pixels = RNG.integers(0, np.iinfo(dtype).max, (rows, 64, known.channels), dtype)
    return pixels[..., 0] if known.channels == 1 else pixels


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_every_encoding_gives_the_labels_of_its_rgb_image(
    camera: Camera, tiny_checkpoint: Path, encoding: str
) -> None:
    message = image_message(raw_pixels(encoding), encoding)
    message.height = 48
    mask = camera.segment(message)
    segmenter = Segmenter(str(tiny_checkpoint), precision='fp32')
    expected = segmenter.segment([decode_image(message)]).labels[0]
    np.testing.assert_array_equal(pixels_of(mask), expected)


def test_frames_of_12_bits_are_scaled_once_the_parameter_says_so(
    camera: Camera, tiny_checkpoint: Path
) -> None:
    message = image_message(RNG.integers(0, 2**12, (48, 64), np.uint16), 'mono16')
    segmenter = Segmenter(str(tiny_checkpoint), precision='fp32')
    for bits in (12, 16):
        assert camera.probe.set_parameter('bits_per_sample', bits).successful
        image_rgb = decode_image(message, samples=Samples(bits))
        expected = segmenter.segment([image_rgb]).labels[0]
        np.testing.assert_array_equal(pixels_of(camera.segment(message)), expected)


def test_big_endian_16_bit_frames_are_read_as_such(camera: Camera) -> None:
    pixels = RNG.integers(0, 2**16, (48, 64), np.uint16)
    little = image_message(pixels, 'mono16')
    big = image_message(pixels.byteswap(), 'mono16')
    big.is_bigendian = 1
    np.testing.assert_array_equal(
        pixels_of(camera.segment(big)), pixels_of(camera.segment(little))
    )


def test_frames_may_change_their_size(camera: Camera) -> None:
    for height, width in ((48, 64), (33, 97), (1, 1), (64, 48)):
        mask = camera.segment(image_message(random_frame(height, width)))
        assert (mask.height, mask.width) == (height, width)


def broken(change: str) -> Any:
    message = image_message(random_frame())
    match change:
        case 'truncated data':
            message.data = message.data[:-1]
        case 'no data':
            message.data = message.data[:0]
        case 'wrong step':
            message.step = 64
        case 'zero height':
            message.height = 0
        case 'zero width':
            message.width = 0
        case 'unknown encoding':
            message.encoding = 'rgb9'
        case 'empty encoding':
            message.encoding = ''
        case 'strip':  # padded to the network's divisor it has more pixels than are taken
            return image_message(np.zeros((1, 3_000_000), np.uint8), 'mono8')
        case 'huge':
            message.height = message.width = message.step = 2**31 - 1
    return message


BROKEN = (
    'truncated data', 'no data', 'wrong step', 'zero height', 'zero width', 'unknown encoding',
    'empty encoding', 'strip', 'huge',
)  # fmt: skip


def test_malformed_frames_are_counted_and_do_no_harm(camera: Camera) -> None:
    probe = camera.probe
    before = probe.settled()['malformed']
    for count, change in enumerate(BROKEN, 1):
        camera.send(broken(change))
        probe.wait_for_malformed(before + count)
    assert '2147483647' in probe.diagnostics[-1]['last_error']
    assert camera.segment(image_message(random_frame()))


def test_a_late_subscriber_gets_the_label_info(camera: Camera) -> None:
    info = json.loads(camera.probe.latched('label_info_json').data)
    assert info['scheme'] == 'cityscapes8'
    assert info['void_id'] == 0
    assert info['classes'][7] == {'id': 7, 'name': 'vehicle', 'color': [0, 0, 142]}


def test_compressed_masks_hold_the_same_pixels(camera: Camera) -> None:
    found = camera.probe.collect('label_mask/compressed', CompressedImage)
    frame = image_message(random_frame())

    def both() -> bool:
        if not found:
            camera.segment(frame)
        return bool(found)

    camera.probe.wait_for('a compressed mask', both)
    labels = cv2.imdecode(np.frombuffer(found[0].data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(labels, pixels_of(camera.segment(frame)))
    assert found[0].format.startswith('mono8; png')


def test_overload_supersedes_old_frames_and_the_accounts_add_up(camera: Camera) -> None:
    before = camera.probe.settled()
    camera.masks.clear()
    frame = image_message(random_frame(384, 512))
    sent: list[int] = []
    newest_when_answered: dict[int, int] = {}
    timer = camera.probe.node.create_timer(0.01, lambda: sent.append(camera.send(frame)))

    def enough() -> bool:
        for mask in camera.masks:
            newest_when_answered.setdefault(stamp_ns(mask), sent[-1])
        return len(camera.masks) >= 12

    camera.probe.wait_for('12 masks under overload', enough)
    camera.probe.node.destroy_timer(timer)
    counts = camera.probe.settled()
    fresh = {key: counts[key] - before[key] for key in counts}
    assert fresh['superseded'] >= 4 * fresh['published'], 'this was no overload'
    assert fresh['received'] == sum(fresh.values()) - fresh['received']
    assert fresh['received'] <= len(sent)
    assert fresh['published'] == len(camera.masks)
    assert_newest_wins(newest_when_answered, sent)


def assert_newest_wins(newest_when_answered: dict[int, int], sent: list[int]) -> None:
    """Masks are of frames that were the newest about when the mask before came back.

    In a queue, whatever its depth beyond one, the distance would be that depth times the number
    of frames sent per inference. A busy machine may deliver single masks late.
    """
    answers = list(newest_when_answered.items())
    periods = np.diff([sent.index(newest) for _, newest in answers])
    behind = [
        sent.index(newest_before) - sent.index(stamp)
        for (_, newest_before), (stamp, _) in pairwise(answers)
    ]
    assert np.median(behind) <= np.median(periods), f'{behind} frames behind the newest'


def test_a_live_model_swap_loses_no_frame(camera: Camera, tmp_path: Path) -> None:
    other = another_checkpoint(tmp_path)
    frame = random_frame()
    expected = Segmenter(str(other), runtime='torch', precision='fp32').segment([frame]).labels[0]
    before = camera.probe.settled()
    first = camera.segment(image_message(frame))
    assert (pixels_of(first) != expected).any()

    # Torch is imported with it, which takes many frames; a graph from the cache would take none.
    swap = camera.probe.set_parameters(model=str(other), runtime='torch')
    during = 0
    while not swap.done():
        camera.segment(image_message(frame))  # fails if no mask comes back
        during += 1
    assert during > 1, 'loading held the frames up'
    assert swap.result().results[0].successful
    np.testing.assert_array_equal(pixels_of(camera.segment(image_message(frame))), expected)
    counts = camera.probe.settled()
    assert counts['published'] - before['published'] == during + 2
    assert counts['received'] - before['received'] == during + 2
    assert camera.probe.next_diagnostics()['model'] == str(other)


def another_checkpoint(folder: Path) -> Path:
    """A model that gives other labels than `tiny_checkpoint`."""
    import torch

    from segmentation_node.checkpoint import Spec, save_checkpoint
    from segmentation_node.networks.smp import UNet

    torch.manual_seed(1)
    config = {
        'encoder_name': 'resnet18', 'encoder_depth': 3, 'decoder_channels': [16, 8, 8],
        'classes': 8,
    }  # fmt: skip
    save_checkpoint(folder / 'other', UNet(config), Spec('unet', 'cityscapes8'), '# Other\n')
    return folder / 'other'


@pytest.mark.parametrize(
    ('name', 'value', 'said'),
    [
        ('model', 'no_such_model', "no model 'no_such_model'"),
        ('runtime', 'abacus', 'choose one of'),
        ('device', 'cuda:7', 'is not available'),
        ('precision', 'int3', 'choose one of'),
        ('label_scheme', 'no_such_scheme', 'cityscapes19'),
        ('input_size', [0, 512], 'each from 1 to 16384, or [0, 0]'),
        ('image_size', [512], 'image_size is [512]; give [height, width]'),
        ('overlay_alpha', 1.5, 'overlay_alpha'),
        ('overlay_alpha', 'much', 'DOUBLE'),
        ('cameras', ['front'], 'cannot change while'),
        ('autostart', False, 'read-only'),
    ],
)
def test_a_bad_parameter_is_refused_with_the_reason(
    camera: Camera, name: str, value: Any, said: str
) -> None:
    answer = camera.probe.set_parameter(name, value)
    assert not answer.successful
    assert said in answer.reason
    assert camera.segment(image_message(random_frame()))


def test_min_confidence_makes_uncertain_pixels_void(camera: Camera) -> None:
    frame = random_frame()
    assert pixels_of(camera.segment(image_message(frame))).any()
    assert camera.probe.set_parameter('min_confidence', 1.0).successful
    assert not pixels_of(camera.segment(image_message(frame))).any()
    assert camera.probe.set_parameter('min_confidence', 0.0).successful


def test_another_scheme_is_announced_to_late_subscribers(
    camera: Camera, other_scheme: Path
) -> None:
    frame = random_frame()
    labels = pixels_of(camera.segment(image_message(frame)))
    assert camera.probe.set_parameter('label_scheme', str(other_scheme)).successful
    info = json.loads(camera.probe.latched('label_info_json').data)
    assert (info['scheme'], info['void_id']) == ('driveable', 9)
    mapped = pixels_of(camera.segment(image_message(frame)))
    np.testing.assert_array_equal(mapped, np.where(labels == 0, 9, labels + 19))
    assert camera.probe.set_parameter('label_scheme', '').successful


def test_a_managed_start(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ('-p', 'autostart:=false', '-p', f'model:={tmp_path}')
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='managed'):
        probe = Probe('managed')
        assert probe.state() == 'unconfigured'
        assert not probe.transition(Transition.TRANSITION_CONFIGURE)
        assert probe.state() == 'unconfigured'
        assert 'config.json' in probe.next_diagnostics()['last_error']

        assert probe.set_parameter('model', str(tiny_checkpoint)).successful
        assert probe.transition(Transition.TRANSITION_CONFIGURE)
        announced = probe.collect('label_info_json', String, LATCHED_QOS)
        assert probe.transition(Transition.TRANSITION_ACTIVATE)
        nothing_subscribed_nothing_computed(probe)
        assert len(announced) == 1  # not once more for each qos_override that is declared

        camera = probe.connect()
        assert probe.transition(Transition.TRANSITION_DEACTIVATE)
        probe.wait_for('no subscriber', lambda: not camera.publisher.get_subscription_count())
        assert probe.transition(Transition.TRANSITION_ACTIVATE)
        assert camera.segment(image_message(random_frame()))
        assert probe.transition(Transition.TRANSITION_DEACTIVATE)
        assert probe.transition(Transition.TRANSITION_CLEANUP)
        assert probe.state() == 'unconfigured'
        probe.wait_for(
            'no publisher', lambda: not probe.node.count_publishers(f'{probe.target}/label_mask')
        )
        probe.close()


def test_an_activation_that_fails_is_reported_until_one_succeeds(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    arguments = (
        '-p', f'model:={tiny_checkpoint}',
        '-p', 'qos_overrides./misled/image.subscription.reliability:=often',
    )  # fmt: skip
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='misled'):
        probe = Probe('misled')
        probe.wait_for(
            'a report', lambda: probe.diagnostics and probe.diagnostics[-1]['last_error']
        )
        message = probe.next_diagnostics()['message']
        assert message.startswith('inactive: qos_overrides./misled/image.subscription.reliability')
        assert "'often'; restart with one of reliable, best_effort" in message
        probe.close()


def nothing_subscribed_nothing_computed(probe: Probe) -> None:
    camera = Camera(probe, probe.publisher(), [])

    def enough() -> bool:
        camera.send(image_message(random_frame()))
        return int(probe.diagnostics[-1]['received']) > 5

    probe.wait_for('frames to be received', enough)
    counts = probe.settled()
    assert counts['not_wanted'] == counts['received']
    assert 'infer_p50_ms' not in probe.diagnostics[-1]


def test_compressed_cameras_with_prefixes(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = (
        '-p', f'model:={tiny_checkpoint}', '-p', 'image_transport:=compressed',
        '-p', "cameras:=['front', 'rear']", '-p', 'precision:=fp32',
    )  # fmt: skip
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='surround'):
        probe = Probe('surround')
        probe.wait_until_active()
        jpeg = encode_jpeg(random_frame())
        sample = compressed_message(jpeg)
        front, rear = (
            probe.connect(f'{side}/image/compressed', f'{side}/label_mask', sample)
            for side in ('front', 'rear')
        )
        segmenter = Segmenter(str(tiny_checkpoint), precision='fp32')
        expected = segmenter.segment([decode_file(jpeg)]).labels[0]
        for side in (front, rear):
            mask = side.segment(compressed_message(jpeg))
            np.testing.assert_array_equal(pixels_of(mask), expected)

        damaged = (jpeg[: len(jpeg) // 2], jpeg[:3], b'', b'no picture')
        for count, data in enumerate(damaged, 1):
            front.send(compressed_message(data))
            probe.wait_for_malformed(count)
        assert front.segment(compressed_message(jpeg))
        probe.close()


def test_labels_are_right_on_a_known_scene(tmp_path: Path) -> None:
    frame = Renderer(1024, 512).render(Street(4001), 0.0)
    with NodeProcess(tmp_path / 'log.txt', namespace='street'):
        probe = Probe('street')
        probe.wait_until_active()
        mask = pixels_of(probe.connect().segment(image_message(frame.image_rgb)))
        scheme = load_scheme(json.loads(probe.latched('label_info_json').data)['scheme'])
        truth = load_scheme('cityscapes34').mapping_to(scheme)[frame.label_ids]
        for name in ('flat', 'construction', 'sky'):
            inside = truth == scheme.id_of(name)
            assert (mask[inside] == scheme.id_of(name)).mean() > 0.7, name
        probe.close()


def test_sigint_in_mid_inference_ends_well(tiny_checkpoint: Path, tmp_path: Path) -> None:
    arguments = ('-p', f'model:={tiny_checkpoint}')
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='interrupted') as node:
        probe = Probe('interrupted')
        probe.wait_until_active()
        camera = probe.connect()
        # Four megapixels keep one core busy for far longer than the exit may take.
        big = image_message(np.zeros((2000, 2000), np.uint8), 'mono8')

        def inferring() -> bool:
            camera.send(big)  # again, since it may have been too early for the node's subscription
            return probe.next_diagnostics()['in_flight'] != '0'

        probe.wait_for('inference', inferring)
        assert node.interrupt() == 0
        assert not camera.masks
        probe.close()


def test_network_is_ready_before_the_first_image(tiny_checkpoint: Path, tmp_path: Path) -> None:
    log = tmp_path / 'log.txt'
    arguments = ('-p', f'model:={tiny_checkpoint}', '-p', 'image_size:=[36, 52]')
    with NodeProcess(log, *arguments, '-p', 'runtime:=openvino', namespace='ready'):
        probe = Probe('ready')
        probe.wait_until_active()
        assert 'for images of 52 x 36' in log.read_text().partition('active, listening')[0]
        # A change that needs another graph has it made aside, for what the camera sends.
        camera = probe.connect(sample=image_message(random_frame(44, 60)))
        assert probe.set_parameter('input_size', [28, 28]).successful
        for size in ('52 x 36', '60 x 44'):
            aside = log.read_text().partition('in the background')[2].partition('now running')[0]
            assert f'for images of {size}' in aside
        camera.segment(image_message(random_frame(44, 60)))
        probe.close()


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason='shared memory is not in the file system')
def test_shared_memory_ends_with_the_node(tiny_checkpoint: Path, tmp_path: Path) -> None:
    probe = Probe('passing')
    before = set(SHARED_MEMORY.iterdir())
    arguments = ('-p', f'model:={tiny_checkpoint}')
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='passing') as node:
        probe.wait_until_active()
        maps = Path(f'/proc/{node.pid}/maps').read_text()
        # A port's belongs to all who use the port.
        segments = {p for p in set(SHARED_MEMORY.glob('fastrtps_*')) - before if str(p) in maps}
        own = {p for p in segments if 'port' not in p.name}
        assert own
        assert node.interrupt() == 0
        assert not [p.name for p in own if p.exists()]
    probe.close()


def test_sigint_while_loading_ends_well(tiny_checkpoint: Path, tmp_path: Path) -> None:
    log = tmp_path / 'log.txt'
    with NodeProcess(log, '-p', f'model:={tiny_checkpoint}', namespace='impatient') as node:
        probe = Probe('impatient')
        probe.wait_for('loading', lambda: 'loading' in log.read_text())
        assert node.interrupt() == 0
        assert 'Traceback' not in log.read_text()
        probe.close()


@pytest.mark.parametrize(
    ('parameter', 'said'),
    [('overlay_alpha:=7.0', 'overlay_alpha'), ('runtime:=abacus', 'choose one of'),
     ('min_confidence:=high', 'min_confidence')],
)  # fmt: skip
def test_a_bad_start_value_ends_the_process_with_the_reason(
    tmp_path: Path, parameter: str, said: str
) -> None:
    log = tmp_path / 'log.txt'
    with NodeProcess(log, '-p', parameter, namespace='invalid') as node:
        assert node.ended() == 1
    assert said in log.read_text()
    assert 'Traceback' not in log.read_text()


def test_a_frame_that_the_model_does_not_know_is_out_of_domain(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = write_known_model(tiny_checkpoint, tmp_path / 'known')
    arguments = ('-p', f'model:={model}', '-p', 'precision:=fp32')
    with NodeProcess(tmp_path / 'log.txt', *arguments, namespace='unknown'):
        probe = Probe('unknown')
        probe.wait_until_active()
        assert probe.next_diagnostics()['out_of_domain'] == 'not available'
        camera = probe.connect(sample=image_message(known_image(99)))
        camera.segment(image_message(known_image(100)))
        report = probe.next_diagnostics()
        assert report['out_of_domain'] == '0'
        assert float(report['domain_distance']) < float(report['domain_threshold'])
        camera.segment(image_message(BLACK))
        probe.wait_for(
            'a warning', lambda: 'frames out of domain' in probe.diagnostics[-1]['message']
        )
        report = probe.diagnostics[-1]
        assert report['out_of_domain'] == '1'
        assert 0 < float(report['out_of_domain_share']) < 1
        assert float(report['domain_distance']) > float(report['domain_threshold'])
        probe.close()
