# SPDX-License-Identifier: Apache-2.0
"""The demo as a newcomer runs it: real processes, real DDS, the beginning of the street."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from patience import PATIENCE_S

pytest.importorskip('rclpy', reason='ROS 2 is not installed: pip install ".[ros]"')

from segmentation_node import topics
from segmentation_node.bags import images_to_bag, messages
from segmentation_node.bags.qos import LATCHED, RELIABLE
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.writer import BagWriter
from segmentation_node.demo import __main__ as demo_command_line
from segmentation_node.demo import results
from segmentation_node.demo.contact_sheet import SheetRow, draw_contact_sheet
from segmentation_node.demo.footage import street_footage
from segmentation_node.demo.recording import LABEL_TOPIC, OVERLAY_TOPIC, Recording
from segmentation_node.demo.session import merge
from segmentation_node.demo.video_file import TimedPicture, write_video
from segmentation_node.images.files import decode_file
from segmentation_node.images.lettering import shortened, width
from segmentation_node.labels import load_scheme
from segmentation_node.paths import demo_bag
from segmentation_node.processes import DemoError
from segmentation_node.ros.domain import DOMAINS, unused_domain

FRAMES = 6
SIZE_WH = (1024, 512)


def demo_command(output: Path, *arguments: str) -> list[str]:
    return [sys.executable, '-m', 'segmentation_node.demo', '--output', str(output), *arguments]


def run_demo(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = demo_command(output, *arguments)
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)


def processes_of(output: Path) -> dict[int, str]:
    """Processes whose command line or environment names the output folder, by process id."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*'):
        try:
            command = (folder / 'cmdline').read_bytes()
            environment = (folder / 'environ').read_bytes()
        except OSError:  # it has ended, or is somebody else's
            continue
        if str(output).encode() in command + environment and int(folder.name) != os.getpid():
            found[int(folder.name)] = command.replace(b'\0', b' ').decode()
    return found


def wait_for(what: str, predicate: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not predicate():
        assert time.monotonic() < deadline, f'waited {PATIENCE_S} s for {what}'
        time.sleep(0.05)


def row_of(table: str, name: str) -> str:
    found = re.search(rf'^  {name} +(\S+)', table, re.MULTILINE)
    assert found, f'no row {name!r} in\n{table}'
    return found[1]


@pytest.fixture(scope='module')
def street(
    tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The demo of the beginning of the street, with its output folder."""
    output = tmp_path_factory.mktemp('street')
    arguments = ['--model', str(tiny_checkpoint), '--frames', str(FRAMES)]
    return output, run_demo(output, *arguments)


def stamps_of(bag_path: Path, topic: str) -> list[int]:
    with open_bag(bag_path) as bag:
        return [messages.stamp_ns_of(messages.deserialize(m)) for m in bag.messages({topic})]


def test_street_is_segmented_recorded_and_accounted_for(
    street: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    output, demo = street
    assert demo.returncode == 0, demo.stdout + demo.stderr
    counts = {
        name: int(row_of(demo.stdout, name))
        for name in ('frames sent', 'published', 'superseded', 'lost')
    }
    assert (counts['frames sent'], counts['lost']) == (FRAMES, 0)
    assert counts['published'] + counts['superseded'] == FRAMES
    bag = output / 'segmentation.mcap'
    masks = stamps_of(bag, '/segmentation_node/label_mask')
    assert len(masks) == counts['published'] > 0
    cameras = stamps_of(bag, '/image')
    assert len(cameras) == FRAMES
    assert set(masks) <= set(cameras)
    assert stamps_of(bag, '/ground_truth/label_mask') == cameras
    with open_bag(bag) as found:
        assert found.topic('/image').msgtype == messages.IMAGE
    assert float(row_of(demo.stdout, 'mIoU')) >= 0


def test_street_bag_holds_what_the_node_says_about_itself(
    street: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    with open_bag(street[0] / 'segmentation.mcap') as bag:
        *_, last = map(messages.deserialize, bag.messages({topics.DIAGNOSTICS}))
        info = messages.deserialize(bag.first('/segmentation_node/label_info_json'))
        counts = {topic.name: count for topic, count in bag.counts.items()}
    assert info.data == load_scheme('cityscapes8').to_json()
    status = {value.key: value.value for value in last.status[0].values}
    assert int(status['published']) == counts['/segmentation_node/label_mask']
    hour_ms = 3_600_000.0  # the stamps are of years ago, and so must be the clock
    assert abs(float(status['latency_p99_ms'])) < hour_ms
    assert abs(messages.stamp_ns_of(last) - images_to_bag.START_NS) < hour_ms * 1e6


def test_street_is_drawn(street: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    sheet = decode_file((street[0] / 'contact_sheet.png').read_bytes())
    assert sheet.shape[1] == 1920
    video = cv2.VideoCapture(str(street[0] / 'overlay.mp4'))
    readable, frame = video.read()
    assert readable
    assert frame.shape == (SIZE_WH[1], SIZE_WH[0], 3)


def test_street_leaves_no_process(
    street: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    assert processes_of(street[0]) == {}


@pytest.fixture(scope='module')
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JPEG files."""
    folder = tmp_path_factory.mktemp('photos')
    rng = np.random.default_rng(0)
    for index in range(5):
        picture = rng.integers(0, 255, (96, 128, 3), np.uint8)
        cv2.imwrite(str(folder / f'photo_{index}.jpg'), picture)
    return folder


def test_folder_of_images_is_shown_without_score(
    photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    demo = run_demo(tmp_path, '--model', str(tiny_checkpoint), '--images', str(photos))
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert row_of(demo.stdout, 'frames sent') == '5'
    assert 'no ground truth' in demo.stdout
    assert (tmp_path / 'contact_sheet.png').is_file()


def test_compressed_bag_without_truth_on_a_topic_of_its_own(
    photos: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    bag = tmp_path / 'drive.mcap'
    arguments = ['--images', str(photos), '--output', str(bag), '--topic', '/front/image_raw']
    assert images_to_bag.main([*arguments, '--compressed', '--quiet']) == 0
    output = tmp_path / 'output'
    demo = run_demo(output, '--model', str(tiny_checkpoint), '--bag', str(bag))
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert 'no ground truth' in demo.stdout
    assert stamps_of(output / 'segmentation.mcap', '/front/image_raw/compressed')


def test_bag_of_video(tiny_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip('av')
    from video_making import TOPIC, video, video_bag

    bag = video_bag(tmp_path / 'drive.mcap', video(6))
    output = tmp_path / 'output'
    demo = run_demo(output, '--model', str(tiny_checkpoint), '--bag', str(bag))
    assert demo.returncode == 0, demo.stdout + demo.stderr
    assert row_of(demo.stdout, 'frames sent') == '6'
    with open_bag(output / 'segmentation.mcap') as found:
        assert found.topic(TOPIC).msgtype == messages.IMAGE
    assert stamps_of(output / 'segmentation.mcap', TOPIC) == stamps_of(bag, TOPIC)


@pytest.mark.parametrize('footage', ['stamps', 'types'])
def test_bag_whose_frames_cannot_be_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], footage: str
) -> None:
    pixels = np.zeros((4, 4, 3), np.uint8)
    other = messages.known_topic('/image', messages.COMPRESSED_IMAGE, RELIABLE)
    with BagWriter(tmp_path / 'bag') as writer:
        for stamp_ns in range(3):
            header = messages.header(0 if footage == 'stamps' else stamp_ns, 'front')
            image = messages.serialize(messages.image(pixels, 'rgb8', header))
            writer.write(messages.known_topic('/image', messages.IMAGE, RELIABLE), stamp_ns, image)
        if footage == 'types':
            writer.write(other, 9, messages.serialize(messages.compressed_image(b'', '', header)))
    assert demo_command_line.main(['--bag', str(tmp_path / 'bag')]) == 1
    says = {'stamps': 'header stamp 0 ns of /image repeats', 'types': 'expected one type'}
    assert says[footage] in capsys.readouterr().err


def test_missing_model_is_told_and_nothing_is_left(photos: Path, tmp_path: Path) -> None:
    demo = run_demo(tmp_path, '--model', '/no/such/model', '--images', str(photos))
    assert demo.returncode == 1
    assert "no model '/no/such/model'" in demo.stderr
    assert processes_of(tmp_path) == {}


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (['--bag', '/no/such.mcap'], '/no/such.mcap does not exist'),
        (['--images', '/no/such/folder'], '/no/such/folder is not a folder'),
    ],
)
def test_missing_footage_is_told(arguments: list[str], complaint: str, tmp_path: Path) -> None:
    demo = run_demo(tmp_path, *arguments)
    assert demo.returncode == 1
    assert complaint in demo.stderr


@pytest.mark.parametrize(
    ('arguments', 'complaint'),
    [
        (['--frames', '0'], "'0'"),
        (['--topic', '/front'], '--topic requires --bag'),
        (['--topic', '/front', '--images', '.'], '--topic requires --bag'),
    ],
)
def test_what_cannot_be_shown_is_refused_at_once(
    arguments: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        demo_command_line.main([*arguments, '--output', str(tmp_path / 'out')])
    assert stop.value.code == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_recording_without_a_camera_image_has_nothing_to_show(tmp_path: Path) -> None:
    bag = tmp_path / 'busy.mcap'
    info = messages.string(load_scheme('cityscapes8').to_json())
    with BagWriter(bag) as writer:
        for name in ('/image', LABEL_TOPIC, OVERLAY_TOPIC):
            writer.add_topic(messages.known_topic(name, messages.IMAGE, RELIABLE))
        name = topics.resolved(topics.LABEL_INFO_JSON)
        topic = messages.known_topic(name, messages.STRING, LATCHED)
        writer.write(topic, 0, messages.serialize(info))
    with pytest.raises(DemoError, match='too busy'):
        results.contact_sheet(Recording(bag, '/image'), 'A title', None)


@pytest.fixture
def running(tiny_checkpoint: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo with much to do, as soon as its node is there."""
    arguments = ['--model', str(tiny_checkpoint), '--rate-hz', '1']
    with subprocess.Popen(
        demo_command(tmp_path, *arguments),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as demo:  # fmt: skip
        wait_for('the node', lambda: bool(node_of(tmp_path)))
        yield demo
        demo.kill()


def node_of(output: Path) -> list[int]:
    return [pid for pid, command in processes_of(output).items() if 'ros.node' in command]


def test_death_of_the_node_ends_the_demo(running: subprocess.Popen[str], tmp_path: Path) -> None:
    os.kill(node_of(tmp_path)[0], signal.SIGKILL)
    said, _ = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 1
    assert 'the node ended with status -9' in said
    assert processes_of(tmp_path) == {}


@pytest.mark.parametrize(
    ('number', 'status'), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
def test_whatever_ends_the_demo_ends_its_processes(
    number: signal.Signals, status: int, running: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert len(processes_of(tmp_path)) > 2
    running.send_signal(number)
    running.wait(PATIENCE_S)
    assert running.returncode == status
    wait_for('the end of all processes', lambda: processes_of(tmp_path) == {})


def frames_of(path: Path) -> list[np.ndarray[Any, Any]]:
    """Frames of a video, BGR."""
    video = cv2.VideoCapture(str(path))
    frames = []
    while (read := video.read())[0]:
        frames.append(read[1])
    return frames


@pytest.mark.parametrize('without_av', [False, True])
def test_video_keeps_its_size_where_the_camera_changes_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_av: bool
) -> None:
    if without_av:
        monkeypatch.setitem(sys.modules, 'av', None)
    pictures = [np.full((height, 96, 3), 200, np.uint8) for height in (64, 64, 128, 64)]
    timed = [TimedPicture(index / 10, picture) for index, picture in enumerate(pictures)]
    write_video(timed, tmp_path / 'video.mp4', rate_hz=10)
    assert [frame.shape for frame in frames_of(tmp_path / 'video.mp4')] == [(64, 96, 3)] * 4


def test_video_holds_a_picture_while_others_are_missing(tmp_path: Path) -> None:
    path = tmp_path / 'video.mp4'
    red, blue = (np.full((64, 96, 3), color, np.uint8) for color in ((255, 0, 0), (0, 0, 255)))
    write_video([TimedPicture(1.0, red), TimedPicture(1.5, blue)], path, rate_hz=10)
    frames = frames_of(path)
    assert [frame[32, 48].argmax() for frame in frames] == [2] * 5 + [0]  # of BGR


def test_contact_sheet_has_a_column_for_each_picture() -> None:
    scheme = load_scheme('cityscapes8')
    colors = {'camera': 50, 'label mask': 100, 'overlay': 150}
    pictures = {name: np.full((50, 100, 3), grey, np.uint8) for name, grey in colors.items()}
    sheet = draw_contact_sheet([SheetRow(0.0, pictures)] * 2, 'A title', scheme, sheet_width=800)
    for column, grey in enumerate(colors.values()):
        middle = sheet[:, 800 * (2 * column + 1) // 6]
        of_picture = (middle == grey).all(axis=1)
        assert of_picture.sum() > 100  # two rows of 121 pixels, less their frames
    for c in scheme.classes:
        assert (sheet == c.color).all(axis=2).sum() > 100  # the swatch in the legend


def test_title_is_shortened_to_its_room() -> None:
    short = shortened('a' * 200, 300, 20)
    assert width(short, 20) <= 300
    assert '...' in short
    assert shortened('fits', 300, 20) == 'fits'


def test_used_domain_is_avoided() -> None:
    domain = unused_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(('', 7400 + 250 * domain + 10))
        other = unused_domain()
    assert other != domain
    assert other in DOMAINS


def test_frames_and_masks_become_one_bag_in_order(tmp_path: Path) -> None:
    footage = street_footage(3, 10.0)
    with footage.open() as bag:
        stamps_ns = [m.stamp_ns for m in footage.messages(bag) if m.topic == footage.camera]
    assert len(stamps_ns) == footage.count() == 3
    sent_ns = [10**18 + 10**8 * index for index in range(3)]
    (tmp_path / 'sent.tsv').write_text(
        ''.join(f'/image\t{a}\t{b}\n' for a, b in zip(stamps_ns, sent_ns, strict=True))
    )
    label = messages.known_topic(LABEL_TOPIC, messages.IMAGE, RELIABLE)
    with BagWriter(tmp_path / 'masks.mcap') as writer:
        for time_ns in sent_ns:
            writer.write(label, time_ns + 50, b'mask', time_ns + 40)
    merge(footage, tmp_path / 'sent.tsv', tmp_path / 'masks.mcap', tmp_path / 'all.mcap')
    with open_bag(tmp_path / 'all.mcap') as bag:
        found = [(m.topic.name, m.stamp_ns, m.sent_ns) for m in bag.messages()]
    images = [(stamp, sent) for name, stamp, sent in found if name == footage.camera.name]
    masks = [(stamp, sent) for name, stamp, sent in found if name == LABEL_TOPIC]
    assert images == [(time_ns, time_ns) for time_ns in sent_ns]
    assert masks == [(time_ns + 50, time_ns + 40) for time_ns in sent_ns]
    assert [stamp for _, stamp, _ in found] == sorted(stamp for _, stamp, _ in found)
    truth = {topic.name for topic in footage.truth}
    assert truth <= {name for name, *_ in found}


#: Libraries that a bundled model needs on no CPU.
HEAVY = (
    'torch', 'torchvision', 'transformers', 'timm', 'scipy', 'segmentation_models_pytorch',
    'huggingface_hub', 'safetensors', 'onnxruntime', 'nncf',
)  # fmt: skip


@pytest.fixture
def without_torch(tmp_path: Path) -> dict[str, str]:
    """Environment in which none of the heavy libraries can be imported."""
    folder = tmp_path / 'absent'
    folder.mkdir()
    for name in HEAVY:
        text = f'raise ModuleNotFoundError("No module named {name!r}", name={name!r})\n'
        (folder / f'{name}.py').write_text(text, encoding='utf-8')
    return {**os.environ, 'PYTHONPATH': str(folder), 'XDG_CACHE_HOME': str(tmp_path / 'cold')}


@pytest.mark.parametrize('model', ['deeplabv3plus', 'mask2former', 'unet'])
def test_the_demo_runs_without_torch(
    model: str, tmp_path: Path, without_torch: dict[str, str]
) -> None:
    command = [
        sys.executable, '-m', 'segmentation_node.demo', '--model', model, '--frames', '10',
        '--output', str(tmp_path / 'out'),
    ]  # fmt: skip
    done = subprocess.run(
        command, env=without_torch, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f'{model} (cityscapes8) on openvino, cpu' in done.stdout
    assert (tmp_path / 'out/contact_sheet.png').is_file()


def test_bag_tools_run_without_torch(tmp_path: Path, without_torch: dict[str, str]) -> None:
    output = tmp_path / 'segmented.mcap'
    for command in (
        ['segment_bag', str(demo_bag()), '--output', str(output), '--limit', '2', '--quiet'],
        ['score_bag', str(output)],
    ):
        path = str(Path(sys.executable).parent / command[0])
        subprocess.run([path, *command[1:]], env=without_torch, check=True, timeout=PATIENCE_S)
