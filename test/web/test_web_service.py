# SPDX-License-Identifier: Apache-2.0
"""Tests of the service over HTTP: responses, rejections, and shutdown."""

import base64
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from patience import PATIENCE_S

pytest.importorskip('fastapi', reason='the service is not installed: pip install ".[web]"')

import httpx
from image_bytes import webp, with_orientation
from known_model import BLACK, known_image, write_known_model
from streets import street_images
from web_service import ServiceProcess, blocks, labels_of, serving

from segmentation_node.arrays import UInt8Array
from segmentation_node.checkpoint import bundled_models
from segmentation_node.errors import SettingError
from segmentation_node.images.files import decode_file, encode_jpeg, encode_png
from segmentation_node.images.rendering import colorize, overlay
from segmentation_node.labels import load_scheme
from segmentation_node.segmenter import Prediction, Segmenter
from segmentation_node.web import model_cache, service, swagger_ui
from segmentation_node.web.service_settings import ServiceSettings

LIMITS = {'max_upload_bytes': 200_000, 'max_batch_upload_bytes': 300_000, 'max_pixels': 300 * 300,
          'max_side': 500, 'max_images': 3}  # fmt: skip
#: A photograph's header: HEIF whose brand is HEVC.
HEIC = b'\0\0\0\x18ftypmif1\0\0\0\0mif1heic'
TAG = 'tag:segmentation-node.org,2026:'


@pytest.fixture(scope='module')
def models(
    tiny_checkpoint: Path, tiny_mask2former: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    known = write_known_model(tiny_checkpoint, tmp_path_factory.mktemp('models') / 'known')
    return {'smp': str(known), 'mask2former': str(tiny_mask2former)}


@pytest.fixture(scope='module')
def client(models: dict[str, str]) -> Iterator[httpx.Client]:
    with serving(ServiceSettings(models, device='cpu', **LIMITS)) as client:  # type: ignore[arg-type]
        yield client


@pytest.fixture(scope='module')
def segmenters(models: dict[str, str]) -> dict[str, Segmenter]:
    return {name: Segmenter(folder, device='cpu') for name, folder in models.items()}


def image_file(data: bytes) -> dict[str, bytes]:
    return {'image': data}


def outputs_of(result: dict[str, Any]) -> dict[str, bytes]:
    return {name: base64.b64decode(text) for name, text in result['outputs'].items()}


def opencv_file(suffix: str, image: npt.NDArray[Any]) -> bytes:
    return cv2.imencode(suffix, image)[1].tobytes()


def gray16() -> npt.NDArray[np.uint16]:
    return blocks()[..., 0].astype(np.uint16) * 257


FILES = {
    'jpeg': encode_jpeg(blocks()),
    'turned jpeg': with_orientation(encode_jpeg(blocks()), 6),
    'png': encode_png(blocks()),
    'gray png': encode_png(blocks()[..., 0]),
    'gray png of 16 bits': opencv_file('.png', gray16()),
    'tiff of 16 bits': opencv_file('.tiff', np.dstack([gray16()] * 3)),
    'png with alpha': opencv_file('.png', np.dstack([blocks(), blocks()[..., 0]])),
    'webp': webp(blocks()),
}


@pytest.mark.parametrize('kind', FILES)
def test_labels_are_those_of_the_segmenter(
    kind: str, client: httpx.Client, segmenters: dict[str, Segmenter]
) -> None:
    answer = client.post('/predict?model=all&outputs=confidence&outputs=label',
                         files=image_file(FILES[kind]))  # fmt: skip
    assert answer.status_code == 200, answer.text
    image_rgb = decode_file(FILES[kind], upright=True)
    found = answer.json()
    assert (found['height'], found['width']) == image_rgb.shape[:2]
    assert found['format'] in kind
    assert [result['model'] for result in found['results']] == list(segmenters)
    for result in found['results']:
        expected = segmenters[result['model']].segment([image_rgb])
        pictures = outputs_of(result)
        assert np.array_equal(labels_of(pictures['label']), expected.labels[0])
        assert np.array_equal(labels_of(pictures['confidence']), expected.confidence[0])
        assert result['confidence'] == pytest.approx(expected.confidence.mean() / 255)


def test_an_image_that_the_model_does_not_know_is_out_of_domain(client: httpx.Client) -> None:
    for image, outside in ((known_image(100), False), (BLACK, True)):
        answer = client.post('/predict?model=all', files=image_file(encode_png(image)))
        tells, cannot = answer.json()['results']
        assert tells['out_of_domain'] is outside
        assert (tells['domain_distance'] > tells['domain_threshold']) is outside
        assert [cannot[name] for name in ('out_of_domain', 'domain_distance')] == [None, None]


def test_labels_of_the_bundled_models_are_those_of_the_segmenter() -> None:
    [street] = street_images(1, (384, 192))
    names = {name: name for name in bundled_models()}
    with serving(ServiceSettings(names, device='cpu')) as client:
        states = {m['name']: m['state'] for m in client.get('/models').json()['models']}
        assert set(states.values()) == {'idle'}
        found = client.post('/predict', params={'model': 'all'},
                            files=image_file(encode_png(street))).json()  # fmt: skip
        known = client.get('/models').json()['models']
    assert [model['state'] for model in known] == ['ready'] * len(names)
    assert all(model['scores']['camvid val']['miou'] > 0.5 for model in known)
    assert all(model['curve'][-1]['mIoU'] > 0.5 for model in known)
    assert [model['loss'].partition(' (')[0] for model in known] == [
        'cross-entropy + 0.5 Dice', 'set loss', 'cross-entropy + 0.5 Dice',
    ]  # fmt: skip
    assert {result['model'] for result in found['results']} == set(names)
    for result in found['results']:
        expected = Segmenter(result['model'], device='cpu').segment([street]).labels[0]
        assert np.array_equal(labels_of(outputs_of(result)['label']), expected)


def test_concurrent_requests_get_their_own_results(
    client: httpx.Client, segmenters: dict[str, Segmenter]
) -> None:
    images = [blocks(seed=seed) for seed in range(12)]

    def ask(image: UInt8Array) -> bytes:
        return outputs_of(client.post('/predict', files=image_file(encode_png(image))).json()[
            'results'][0])['label']  # fmt: skip

    with ThreadPoolExecutor(len(images)) as pool:
        found = list(pool.map(ask, images))
    for image, png in zip(images, found, strict=True):
        assert np.array_equal(labels_of(png), segmenters['smp'].segment([image]).labels[0])


def test_outputs_and_shares_match_the_labels(client: httpx.Client) -> None:
    form = {'outputs': ['label', 'color', 'overlay'], 'overlay_alpha': '0.25', 'model': 'smp'}
    answer = client.post('/predict', data=form, files=image_file(FILES['png']))
    [result] = answer.json()['results']
    pictures = {name: labels_of(data) if name == 'label' else decode_file(data)
                for name, data in outputs_of(result).items()}  # fmt: skip
    scheme = load_scheme(result['label_scheme'])
    color = colorize(pictures['label'], scheme)
    assert np.array_equal(pictures['color'], color)
    assert np.array_equal(pictures['overlay'], overlay(blocks(), color, 0.25))
    assert [c['name'] for c in result['classes']] == [c.name for c in scheme.classes]
    for c in result['classes']:
        assert c['share'] == pytest.approx((pictures['label'] == c['id']).mean())
    assert set(result['timings']) == {'decode_ms', 'wait_ms', 'segment_ms', 'encode_ms'}
    assert all(ms == round(ms, 1) for ms in result['timings'].values())


def test_a_single_png_is_returned_on_request(client: httpx.Client) -> None:
    answer = client.post('/predict?outputs=color', files=image_file(FILES['jpeg']),
                         headers={'Accept': 'image/png'})  # fmt: skip
    assert answer.headers['content-type'] == 'image/png'
    assert 'segment;dur=' in answer.headers['server-timing']
    assert decode_file(answer.content).shape == (64, 96, 3)


def test_a_batch_is_answered_in_its_order(
    client: httpx.Client, segmenters: dict[str, Segmenter]
) -> None:
    images = [blocks(64, 96, 1), blocks(40, 56, 2), blocks(64, 96, 3)]
    files = [('images', encode_png(image)) for image in images]
    found = client.post('/predict/batch?model=all', files=files).json()['predictions']
    for image, prediction in zip(images, found, strict=True):
        for result in prediction['results']:
            expected = segmenters[result['model']].segment([image]).labels[0]
            assert np.array_equal(labels_of(outputs_of(result)['label']), expected)


def forged_jpeg(width: int, height: int) -> bytes:
    data = FILES['jpeg']
    at = data.index(b'\xff\xc0') + 5
    return data[:at] + struct.pack('>HH', height, width) + data[at + 4 :]


@pytest.mark.parametrize(
    ('path', 'files', 'status', 'kind', 'says'),
    [
        ('/predict', image_file(b'GIF89a'), 415, 'unsupported-format', 'expected JPEG'),
        ('/predict', image_file(b''), 415, 'unsupported-format', '0 bytes'),
        ('/predict', image_file(HEIC), 415, 'heic-format', 'export it as a JPEG'),
        ('/predict?modle=smp', image_file(FILES['png']), 422, 'invalid-request', 'mean model?'),
        ('/predict/batch?x=1', image_file(FILES['png']), 422, 'invalid-request', "'x'; expected"),
        ('/predict', image_file(FILES['png'][:-20]), 422, 'damaged-image', 'cut short'),
        ('/predict', image_file(forged_jpeg(65500, 65500)), 413, 'too-many-pixels', '65500'),
        ('/predict', image_file(forged_jpeg(0, 9)), 422, 'damaged-image', '0 x 9'),
        ('/predict', image_file(encode_png(blocks(8, 501))), 413, 'too-many-pixels', '501 x 8'),
        ('/predict', image_file(bytes(200_001)), 413, 'too-many-bytes', '200001 bytes'),
        ('/predict', image_file(bytes(300_000)), 413, 'too-many-bytes', 'the request has more'),
        ('/predict', {}, 422, 'invalid-request', 'image'),
        ('/predict?model=vgg', image_file(FILES['png']), 422, 'unknown-model', "'vgg'"),
        ('/predict?outputs=depth', image_file(FILES['png']), 422, 'invalid-request', 'outputs'),
        ('/predict?overlay_alpha=2', image_file(FILES['png']), 422, 'invalid-request', 'alpha'),
        ('/predict/batch', [('images', FILES['png'])] * 4, 422, 'invalid-request', 'at most 3'),
        (
            '/predict/batch',
            [('images', FILES['png']), ('images', b'GIF89a')],
            415, 'unsupported-format', 'image 1: ',
        ),
    ],
)  # fmt: skip
def test_invalid_requests_are_rejected(
    path: str, files: Any, status: int, kind: str, says: str, client: httpx.Client
) -> None:
    answer = client.post(path, files=files)
    problem = answer.json()
    assert (answer.status_code, problem['type']) == (status, TAG + kind)
    assert answer.headers['content-type'] == 'application/problem+json'
    assert problem['status'] == status
    assert says in problem['detail']


def test_unknown_parameters_are_rejected(client: httpx.Client) -> None:
    for path in ('/models', '/labels/cityscapes8', '/healthz', '/metrics', '/live'):
        answer = client.get(path, params={'lnag': 'fr'})
        assert (answer.status_code, answer.json()['type']) == (422, f'{TAG}invalid-request')
        assert "unknown query parameter 'lnag'" in answer.json()['detail']
    assert 'did you mean lang?' in client.get('/live?lnag=fr').json()['detail']
    answer = client.post('/predict', data={'modle': 'smp'}, files=image_file(FILES['png']))
    assert answer.status_code == 422
    assert "unknown form field 'modle'; did you mean model?" in answer.json()['detail']
    long = client.get('/models', params={'x' * 5000: '1'})
    assert long.status_code == 422
    assert len(long.text) < 500


def test_the_root_redirects(client: httpx.Client, models: dict[str, str]) -> None:
    assert client.get('/').headers['location'] == 'docs'
    with serving(ServiceSettings(models, page_url='http://127.0.0.1:8501', api_key='x')) as other:
        assert other.get('/').headers['location'] == 'http://127.0.0.1:8501'


def test_missing_swagger_ui_is_reported_with_the_remedy(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swagger_ui, 'find_spec', lambda _name: None)
    answer = client.get('/docs')
    assert (answer.status_code, answer.json()['type']) == (503, f'{TAG}no-docs')
    assert 'pip install' in answer.json()['detail']


def test_an_invalid_page_url_is_rejected() -> None:
    with pytest.raises(SettingError, match='expected a URL, for example http'):
        service._page_url('javascript:alert(1)')


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [('GET', '/nowhere', 404), ('GET', '/predict', 405), ('DELETE', '/labels/cityscapes8', 405)],
)
def test_unknown_routes_and_methods_are_problems(
    method: str, path: str, status: int, client: httpx.Client
) -> None:
    answer = client.request(method, path)
    assert answer.status_code == answer.json()['status'] == status
    assert answer.headers['content-type'] == 'application/problem+json'


def test_a_form_that_cannot_be_read_is_refused(client: httpx.Client) -> None:
    for kind in ('multipart/form-data', 'multipart/form-data; boundary=x', 'application/json'):
        answer = client.post('/predict', content=b'{"image"', headers={'Content-Type': kind})
        assert 400 <= answer.status_code < 500
        assert answer.headers['content-type'] == 'application/problem+json'


def test_an_upload_of_unknown_length_is_bounded(client: httpx.Client) -> None:
    def long() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        for _ in range(1000):
            yield bytes(2**16)

    form = {'Content-Type': 'multipart/form-data; boundary=x'}
    answer = client.post('/predict', content=long(), headers=form)
    assert (answer.status_code, answer.json()['type']) == (413, f'{TAG}too-many-bytes')


def test_several_outputs_cannot_be_one_png(client: httpx.Client) -> None:
    answer = client.post('/predict?model=all', files=image_file(FILES['png']),
                         headers={'Accept': 'image/png'})  # fmt: skip
    assert answer.status_code == 422
    assert '2 models and 1 outputs' in answer.json()['detail']


def test_labels_are_explained(client: httpx.Client) -> None:
    scheme = client.get('/labels/cityscapes8').json()
    assert [c['name'] for c in scheme['classes']][:3] == ['void', 'flat', 'construction']
    assert scheme['classes'][1]['color'] == [128, 64, 128]
    for name in ('cityscapes', '..%2Fcityscapes8', '%2Fetc%2Fx.yaml', 'cityscapes8.yaml'):
        answer = client.get(f'/labels/{name}')
        assert answer.status_code == 404
        assert '/' not in answer.json().get('detail', '').partition(';')[2]


def test_metrics_count_requests(client: httpx.Client) -> None:
    client.post('/predict', files=image_file(FILES['png']))
    client.get('/made/up/by/somebody')
    figures = client.get('/metrics').text
    assert 'segmentation_images_total{model="smp"}' in figures
    assert (
        'segmentation_http_requests_total{method="POST",route="/predict",status="200"}' in figures
    )
    assert 'segmentation_images_in_work 0.0' in figures
    assert 'made' not in figures


def test_cross_origin_requests_need_permission(
    client: httpx.Client, models: dict[str, str]
) -> None:
    origin = {'Origin': 'https://example.org'}
    assert 'access-control-allow-origin' not in client.get('/models', headers=origin).headers
    with serving(ServiceSettings(models, cors_origins=('https://example.org',))) as open_client:
        allowed = open_client.get('/models', headers=origin).headers
        assert allowed['access-control-allow-origin'] == 'https://example.org'
        others = open_client.get('/models', headers={'Origin': 'https://example.com'}).headers
        assert 'access-control-allow-origin' not in others


def test_an_api_key_is_required(models: dict[str, str]) -> None:
    with serving(ServiceSettings(models, api_key='schlüssel')) as client:
        key = 'schlüssel'.encode()
        for path in ('/models', '/metrics', '/labels/cityscapes8', '/nowhere'):
            assert client.get(path).status_code == 401
            assert client.get(path, headers={'X-API-Key': 'wrong'}).status_code == 401
            assert client.get(path, auth=('', 'wrong')).status_code == 401
            assert client.get(path, headers={b'X-API-Key': key}).status_code in (200, 404)
            assert client.get(path, auth=(b'anybody', key)).status_code in (200, 404)
        assert client.get('/models', headers={'Authorization': 'Basic !'}).status_code == 401
        refused = client.post('/predict', files=image_file(bytes(10**8)))
        assert refused.status_code == 401
        assert 'Basic' in refused.headers['www-authenticate']
        assert client.get('/healthz').status_code == client.get('/readyz').status_code == 200


def blocked(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Make segmenters of this process wait; the events tell when one waits, and release it."""
    waits, leave = threading.Event(), threading.Event()
    segment = Segmenter.segment

    def segment_later(
        self: Segmenter, images_rgb: Sequence[UInt8Array] | UInt8Array
    ) -> Prediction:
        if images_rgb[0].shape[:2] != model_cache.TRIAL_HW:
            waits.set()
            leave.wait(PATIENCE_S)
        return segment(self, images_rgb)

    monkeypatch.setattr(Segmenter, 'segment', segment_later)
    return waits, leave


def test_a_full_queue_is_answered_with_retry_after(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, leave = blocked(monkeypatch)
    post: Callable[[], httpx.Response]
    with serving(ServiceSettings(models, max_waiting=1)) as client, ThreadPoolExecutor(1) as pool:
        post = lambda: client.post('/predict', files=image_file(FILES['png']))  # noqa: E731
        first = pool.submit(post)
        assert waits.wait(PATIENCE_S)
        assert 'segmentation_images_in_work 1.0' in client.get('/metrics').text
        refused = post()
        assert (refused.status_code, refused.json()['type']) == (503, f'{TAG}busy')
        assert int(refused.headers['retry-after']) >= 1
        assert client.get('/healthz').status_code == 200  # the event loop is free meanwhile
        leave.set()
        assert first.result().status_code == 200
        assert post().status_code == 200


def test_one_address_gets_its_share_of_the_queue(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, leave = blocked(monkeypatch)
    stranger = httpx.HTTPTransport(local_address='127.0.0.2')
    with (
        serving(ServiceSettings(models, max_waiting=2, client_share=0.5)) as client,
        httpx.Client(transport=stranger, base_url=client.base_url, timeout=PATIENCE_S) as other,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(client.post, '/predict', files=image_file(FILES['png']))
        assert waits.wait(PATIENCE_S)
        refused = client.post('/predict', files=image_file(FILES['png']))
        assert (refused.status_code, refused.json()['type']) == (503, f'{TAG}busy')
        second = pool.submit(other.post, '/predict', files=image_file(FILES['png']))
        while 'segmentation_images_in_work 2.0' not in client.get('/metrics').text:
            pass
        leave.set()
        assert first.result().status_code == second.result().status_code == 200


def test_addresses_behind_a_proxy_are_distinguished(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, leave = blocked(monkeypatch)
    with (
        serving(ServiceSettings(models, max_requests=2, client_share=0.5)) as client,
        ThreadPoolExecutor(2) as pool,
    ):

        def ask(address: str) -> httpx.Response:
            forwarded = {'X-Forwarded-For': address}
            return client.post('/predict', files=image_file(FILES['png']), headers=forwarded)

        first = pool.submit(ask, '192.0.2.1')
        assert waits.wait(PATIENCE_S)
        assert ask('192.0.2.1').status_code == 503
        second = pool.submit(ask, '192.0.2.2')
        while 'segmentation_images_in_work 2.0' not in client.get('/metrics').text:
            pass
        leave.set()
        assert first.result().status_code == second.result().status_code == 200


def test_concurrent_uploads_are_limited(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, leave = blocked(monkeypatch)
    with serving(ServiceSettings(models, max_requests=1)) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, '/predict', files=image_file(FILES['png']))
        assert waits.wait(PATIENCE_S)
        refused = client.post('/predict', files=image_file(FILES['png']))
        assert (refused.status_code, refused.headers['retry-after']) == (503, '1')
        leave.set()
        assert first.result().status_code == 200


def test_a_missing_model_reveals_no_paths(tmp_path: Path) -> None:
    with serving(ServiceSettings({'empty': str(tmp_path)})) as client:
        answer = client.post('/predict', files=image_file(FILES['png']))
        assert (answer.status_code, answer.json()['type']) == (503, f'{TAG}model-failed')
        assert str(tmp_path) not in answer.text
        assert client.get('/models').json()['models'][0]['state'] == 'failed'
        assert client.get('/healthz').status_code == 200


def test_an_internal_error_reveals_no_details(
    models: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Prediction:
        raise RuntimeError('secret')

    monkeypatch.setattr(Segmenter, 'publish', fail)
    with serving(ServiceSettings(models, exact=False)) as client:
        answer = client.post('/predict', files=image_file(FILES['png']))
        assert (answer.status_code, answer.json()['type']) == (500, f'{TAG}internal-error')
        assert 'secret' not in answer.text


def test_readiness_waits_for_preloaded_models(models: dict[str, str]) -> None:
    with serving(ServiceSettings(models, preload=True)) as client:
        while (ready := client.get('/readyz')).status_code != 200:
            assert (ready.status_code, ready.json()['type']) == (503, f'{TAG}not-ready')
        states = [model['state'] for model in client.get('/models').json()['models']]
        assert states == ['ready', 'ready']


def test_sigterm_finishes_accepted_requests(tiny_checkpoint: Path) -> None:
    """A request whose upload has begun is answered; the process ends with status 0."""
    png = FILES['png']
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
    body = head + png + b'\r\n--x--\r\n'
    with ServiceProcess('--model', str(tiny_checkpoint)) as running:
        with socket.create_connection(('127.0.0.1', running.port), PATIENCE_S) as connection:
            connection.sendall(
                b'POST /predict HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n'
                b'Content-Type: multipart/form-data; boundary=x\r\n'
                b'Content-Length: %d\r\n\r\n' % len(body)
            )
            # Sent once the service reads the upload, so it has accepted the request.
            assert connection.recv(100).startswith(b'HTTP/1.1 100')
            running.process.terminate()
            running.wait_for('Shutting down')
            connection.sendall(body)
            answer = b''.join(iter(lambda: connection.recv(2**16), b''))
        assert answer.startswith(b'HTTP/1.1 200')
        assert tiny_checkpoint.name.encode() in answer
        assert str(tiny_checkpoint.parent).encode() not in answer
        assert running.process.wait(PATIENCE_S) == 0


def test_models_are_named_by_their_folder(tmp_path: Path) -> None:
    folders = [tmp_path / 'a' / 'mine', tmp_path / 'b' / 'mine', tmp_path / 'all']
    for folder in folders:
        folder.mkdir(parents=True)
    named = service._by_name(['unet', str(folders[0]), 'owner/name'])
    assert named == {'unet': 'unet', 'mine': str(folders[0]), 'owner/name': 'owner/name'}
    for clash in (folders[:2], folders[2:]):
        with pytest.raises(SettingError, match='rename its folder'):
            service._by_name([str(folder) for folder in clash])


def test_the_default_address_is_loopback() -> None:
    assert service._is_loopback(service._parser().parse_args([]).host)
    assert not service._is_loopback('0.0.0.0')  # noqa: S104 (never bound)
