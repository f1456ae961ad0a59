# SPDX-License-Identifier: Apache-2.0
"""Tests of the live view: viewers get streams, and nothing is computed without viewers."""

import base64
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from patience import PATIENCE_S

pytest.importorskip('fastapi', reason='the service is not installed: pip install ".[web]"')

import httpx
from web_service import blocks, serving

from segmentation_node.images.files import decode_file, encode_jpeg
from segmentation_node.web.live_view import streams
from segmentation_node.web.live_view.html import live_page
from segmentation_node.web.live_view.streams import LiveView
from segmentation_node.web.page.translations import LANGUAGES
from segmentation_node.web.service_settings import ServiceSettings

JPEG = encode_jpeg(blocks())


class StubCameras:
    """Source of cameras that records its viewers."""

    def __init__(self, names: Sequence[str] = ('/car/segmentation_node',)) -> None:
        self.names = list(names)
        self.takers: list[Callable[[Any], None]] = []
        self.scored: dict[str, Any] = {}
        self.changed = threading.Condition()

    def close(self) -> None:
        assert not self.takers

    def cameras(self) -> list[str]:
        return self.names

    @contextmanager
    def overlays(self, camera: str, take: Callable[[Any], None]) -> Iterator[None]:
        with self.changed:
            self.takers.append(take)
            self.changed.notify_all()
        try:
            yield
        finally:
            with self.changed:
                self.takers.remove(take)
                self.changed.notify_all()

    def statuses(self, take: Callable[[Any], None]) -> Any:
        return self.overlays('', take)

    @contextmanager
    def scores(self, take: Callable[[str, Any], None]) -> Iterator[None]:
        for camera, scores in self.scored.items():
            take(camera, scores)
        yield

    def wait_for_viewers(self, count: int) -> list[Callable[[Any], None]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.takers) == count, PATIENCE_S)
            return list(self.takers)


@pytest.fixture
def graph() -> StubCameras:
    return StubCameras()


@pytest.fixture
def client(graph: StubCameras) -> Iterator[httpx.Client]:
    with serving(ServiceSettings({'unet': 'unet'}), LiveView(lambda: graph)) as client:
        yield client


def pictures(answer: httpx.Response) -> Iterator[bytes]:
    """Yield the pictures of an MJPEG stream."""
    data = b''
    for chunk in answer.iter_raw():
        data += chunk
        while (end := data.find(b'\r\n--picture\r\n', 1)) >= 0:
            yield data[:end].partition(b'\r\n\r\n')[2]
            data = data[end + 2 :]


def events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    """Yield the events of a stream."""
    for line in answer.iter_lines():
        if line.startswith('data: '):
            yield json.loads(line[6:])


CAMERA = {'camera': '/car/segmentation_node'}


def test_a_viewer_gets_pictures_until_it_leaves(client: httpx.Client, graph: StubCameras) -> None:
    assert client.get('/live/cameras').json() == {'cameras': ['/car/segmentation_node']}
    with client.stream('GET', '/live/stream', params=CAMERA) as answer:
        assert answer.headers['content-type'].startswith('multipart/x-mixed-replace')
        [take] = graph.wait_for_viewers(1)
        found = pictures(answer)
        for number in (b'1', b'2'):
            take(JPEG + number)
            assert next(found) == JPEG + number
    graph.wait_for_viewers(0)


def test_events_tell_of_cameras_and_nodes(client: httpx.Client, graph: StubCameras) -> None:
    with client.stream('GET', '/live/events') as answer:
        [take] = graph.wait_for_viewers(1)
        take([{'name': '/car/segmentation_node', 'received': '7'}])
        told = next(event for event in events(answer) if event['nodes'])
    assert told['cameras'] == ['/car/segmentation_node']
    assert told['nodes'][0]['received'] == '7'
    graph.wait_for_viewers(0)


def scores_of(index: int) -> dict[str, Any]:
    """Report of a camera, as the node publishes it."""
    signal = {'newest': 0.9, 'mean': 0.9, 'trend': -0.012, 'frames': 100}
    span = {
        'frames': 100, 'miou': 0.7125, 'pixel_accuracy': 0.943,
        'class_iou': {'flat': 0.97, 'construction': 0.8, 'sky': 0.9, 'human': None,
                      'vehicle': 0.61},
    }  # fmt: skip
    return {
        'frames': [
            {'stamp': {'sec': index, 'nanosec': 10**8 * i}, 'confidence': 0.8 + i / 100,
             'domain_distance': 1 + i % 2, 'consistency': 0.9 + 0.02 * (i % 3)}
            for i in range(10)
        ],
        'confidence': signal, 'consistency': signal,
        'domain_distance': {**signal, 'mean': 1.5, 'threshold': 2.25},
        'truth': {'window': span, 'total': {**span, 'frames': 1234, 'miou': 0.68}},
        'problem': '' if index else 'stamp 7 ns: the mask is 64 x 48 but its truth is 32 x 24',
    }  # fmt: skip


def test_events_have_the_scores_of_each_camera(client: httpx.Client, graph: StubCameras) -> None:
    graph.scored = {'/car/segmentation_node': scores_of(1)}
    with client.stream('GET', '/live/events') as answer:
        [take] = graph.wait_for_viewers(1)
        take([{'name': '/car/segmentation_node'}])
        told = next(event for event in events(answer) if event['nodes'])
    assert told['scores'] == graph.scored


@pytest.mark.parametrize(
    ('language', 'shown'),
    [
        ('en', ['71.3%', '68.0% over 1234 frames in total', 'trend -0.012', 'threshold 2.25',
                'vehicle', 'Not scored: stamp 7 ns']),
        ('fr', ['71,3', 'sur 1234 images au total', 'seuil 2,25', 'véhicule', 'Non évalué']),
    ],
)  # fmt: skip
def test_a_browser_shows_the_scores_under_their_camera(
    client: httpx.Client, graph: StubCameras, language: str, shown: list[str]
) -> None:
    chromium = shutil.which('chromium') or shutil.which('chromium-browser')
    if chromium is None:
        pytest.skip('Chromium is not installed: apt install chromium')
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    graph.scored = {'/car/segmentation_node': scores_of(0)}
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=chromium, args=['--no-sandbox', '--disable-gpu']
        )
        page = browser.new_page(viewport={'width': 390, 'height': 1200})
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(f'{client.base_url}/live?lang={language}')
        [tell, _] = graph.wait_for_viewers(2)  # the events, which list the cameras, come first
        tell([{'name': '/car/segmentation_node', 'received': '7'}])
        page.locator('.problem').wait_for()
        text = page.locator('figure').inner_text()
        assert all(each in text for each in shown), text
        assert page.locator('figure svg').count() == 3
        assert page.locator('figure tr').count() == 4  # human has no IoU
        overflow = page.evaluate('document.documentElement.scrollWidth > window.innerWidth')
        assert not overflow
        found = Axe().run(page, options={'runOnly': ['wcag2a', 'wcag2aa']}).response['violations']
        assert not found
        if folder := os.environ.get('SCREENSHOTS'):
            page.screenshot(path=f'{folder}/scores-{language}.png', full_page=True)
        browser.close()


def test_events_list_cameras_without_diagnostics(client: httpx.Client) -> None:
    with client.stream('GET', '/live/events') as answer:
        assert next(events(answer)) == {'cameras': ['/car/segmentation_node'], 'nodes': None}


def test_unknown_cameras_are_rejected(client: httpx.Client, graph: StubCameras) -> None:
    answer = client.get('/live/stream', params={'camera': '/rosout'})
    assert answer.status_code == 404
    assert '/car/segmentation_node' in answer.json()['detail']
    assert not graph.takers


def test_viewers_are_bounded(
    client: httpx.Client, graph: StubCameras, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, 'MAX_VIEWERS', 1)
    with client.stream('GET', '/live/stream', params=CAMERA):
        graph.wait_for_viewers(1)
        assert client.get('/live/events').status_code == 503
    graph.wait_for_viewers(0)


def test_streams_end_with_the_service(graph: StubCameras) -> None:
    live = LiveView(lambda: graph)
    with (
        serving(ServiceSettings({'unet': 'unet'}), live) as client,
        client.stream('GET', '/live/stream', params=CAMERA) as answer,
    ):
        graph.wait_for_viewers(1)
        live.closing = True  # as on SIGTERM
        assert list(pictures(answer)) == []  # the service ends the stream


def test_missing_ros_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, 'find_spec', lambda _name: None)
    with serving(ServiceSettings({'unet': 'unet'})) as client:
        answer = client.get('/live/cameras')
        assert answer.status_code == 503
        assert 'rclpy' in answer.json()['detail']


@pytest.mark.parametrize('language', LANGUAGES)
def test_the_page_is_translated(language: str, client: httpx.Client) -> None:
    page = client.get('/live', params={'lang': language}).text
    assert page == live_page(language)
    assert f'<html lang="{language}">' in page
    assert '$' not in page


@pytest.mark.parametrize('language', LANGUAGES)
def test_the_page_runs_its_own_script_and_no_other(language: str, client: httpx.Client) -> None:
    answer = client.get('/live', params={'lang': language})
    [policy] = answer.headers.get_list('content-security-policy')
    sources = {name: values for name, *values in map(str.split, policy.split(';'))}
    for tag in ('script', 'style'):
        [text] = re.findall(f'<{tag}>(.*?)</{tag}>', answer.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert sources[f'{tag}-src'] == [f"'sha256-{digest}'"]
    assert sources['connect-src'] == ["'self'"]
    assert sources['img-src'] == ["'self'", 'data:']
    assert sources['default-src'] == sources['frame-ancestors'] == ["'none'"]
    # Attributes with code in them would not be run.
    assert not re.search(r'<[^>]+ (style|on\w+)=', answer.text)


def wait_for_no_subscriber(probe: Any, topic: str) -> None:
    probe.wait_for('no subscriber', lambda: not probe.node.count_subscribers(topic))


@pytest.mark.skipif(find_spec('rclpy') is None, reason='ROS 2 is not installed')
def test_a_live_node_is_shown_and_idle_without_viewers(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from ros_process import NodeProcess, Probe, image_message, isolated_environment

    arguments = ('-p', f'model:={tiny_checkpoint}')
    os.environ.update(isolated_environment())
    with (
        NodeProcess(tmp_path / 'log', *arguments, namespace='live'),
        serving(ServiceSettings({'unet': 'unet'})) as client,
    ):
        probe = Probe('live')
        try:
            probe.wait_until_active()
            frame = image_message(blocks())
            camera = probe.publisher()
            probe.wait_for(
                'the camera in the view',
                lambda: client.get('/live/cameras').json()['cameras'] == [probe.target],
            )
            camera.publish(frame)
            probe.wait_for(
                'a frame that is not wanted',
                lambda: probe.diagnostics and probe.diagnostics[-1]['not_wanted'] == '1',
            )
            seen: list[Any] = []

            def look() -> None:
                wanted = {'camera': probe.target}
                with client.stream('GET', '/live/stream', params=wanted) as answer:
                    seen.append(decode_file(next(pictures(answer))))
                with client.stream('GET', '/live/events') as answer:
                    seen.append(next(event for event in events(answer) if event.get('scores')))

            viewer = threading.Thread(target=look)
            viewer.start()

            def shown() -> bool:
                if not seen:
                    camera.publish(frame)
                return len(seen) == 2

            probe.wait_for('a picture and an event', shown)
            viewer.join()
            picture, told = seen
            assert picture.shape == (64, 96, 3)
            assert np.abs(picture.astype(int) - blocks()).mean() > 1  # colors over the image
            [node] = told['nodes']
            assert node['name'] == probe.target
            assert int(node['published']) >= 1
            assert told['scores'][probe.target]['truth'] is None
            for output in ('overlay/compressed', 'scores'):
                wait_for_no_subscriber(probe, f'{probe.target}/{output}')
            before = probe.settled()
            camera.publish(frame)
            probe.wait_for(
                'one more frame that is not wanted',
                lambda: int(probe.diagnostics[-1]['not_wanted']) == before['not_wanted'] + 1,
            )
            assert probe.settled()['published'] == before['published']
        finally:
            probe.close()
