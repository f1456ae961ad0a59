# SPDX-License-Identifier: Apache-2.0
"""Tests of slow and silent clients: they lose their connection, and others do not wait.

For a longer test, run `python test/faults_web.py`.
"""

import json
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S

pytest.importorskip('fastapi', reason='the service is not installed: pip install ".[web]"')

import httpx
from web_raw import Answer, connect, read_answer, upload
from web_service import ServiceProcess, blocks, serving

from segmentation_node.images.files import encode_png
from segmentation_node.segmenter import Segmenter
from segmentation_node.web.problems import MEDIA_TYPE
from segmentation_node.web.service_settings import ServiceSettings

HEAD, BODY = upload(encode_png(blocks()))
CLOSING_HEAD = HEAD.replace(b'\r\n\r\n', b'\r\nConnection: close\r\n\r\n')
#: Between two bytes of a client that trickles.
PAUSE_S = 0.05
STRANGER = '127.0.0.2'
TAG = 'tag:segmentation-node.org,2026:'
PATIENT = ('--keep-alive-s', '600', '--header-timeout-s', '600', '--stall-timeout-s', '600',
           '--max-transfer-s', '6000')  # fmt: skip


@pytest.fixture(scope='module')
def impatient(tiny_checkpoint: Path) -> Iterator[int]:
    """Port of a service with short time limits."""
    limits = ('--keep-alive-s', '0.5', '--header-timeout-s', '0.5', '--stall-timeout-s', '0.5')
    with ServiceProcess('--model', str(tiny_checkpoint), *limits) as service:
        yield service.port


@pytest.fixture(scope='module')
def patient(tiny_checkpoint: Path) -> Iterator[int]:
    """Port of a service whose time limits are never reached."""
    with ServiceProcess('--model', str(tiny_checkpoint), *PATIENT) as service:
        yield service.port


def ended(connection: socket.socket) -> bool:
    """Wait for the end of a connection; False if a byte arrives instead."""
    return connection.recv(1) == b''


def trickle(connection: socket.socket, data: bytes) -> Answer:
    """Send byte by byte until the service answers."""
    for byte in data:
        if select.select([connection], [], [], PAUSE_S)[0]:
            return read_answer(connection)
        connection.sendall(bytes([byte]))
    raise AssertionError('the service accepted all bytes')


def problem_of(answer: Answer) -> dict[str, Any]:
    assert answer.headers['Content-Type'] == MEDIA_TYPE
    assert answer.headers['X-Content-Type-Options'] == 'nosniff'
    problem: dict[str, Any] = json.loads(answer.body)
    assert problem['status'] == answer.status
    return problem


@pytest.mark.parametrize('begin', [b'GET /models HTTP/1.1\r\n', b'P'])
def test_headers_that_stop_are_cut(begin: bytes, impatient: int) -> None:
    with closing(connect(impatient, PATIENCE_S)) as connection:
        connection.sendall(begin)
        answer = read_answer(connection)
        assert (answer.status, problem_of(answer)['type']) == (408, f'{TAG}too-slow')
        assert ended(connection)


def test_headers_that_trickle_are_cut(impatient: int) -> None:
    with closing(connect(impatient, PATIENCE_S)) as connection:
        answer = trickle(connection, b'GET /models HTTP/1.1\r\nX: ' + b'x' * 10_000)
        assert answer.status == 408
        assert ended(connection)


def test_headers_of_a_later_request_are_cut_too(impatient: int) -> None:
    with closing(connect(impatient, PATIENCE_S)) as connection:
        connection.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
        assert read_answer(connection).status == 200
        connection.sendall(b'GET /heal')
        assert read_answer(connection).status == 408


@pytest.mark.parametrize('sent', [0, 1, len(BODY) - 1])
def test_bodies_that_stop_are_cut(sent: int, impatient: int) -> None:
    with closing(connect(impatient, PATIENCE_S)) as connection:
        connection.sendall(HEAD + BODY[:sent])
        answer = read_answer(connection)
        problem = problem_of(answer)
        assert (answer.status, problem['type']) == (408, f'{TAG}too-slow')
        assert f'{sent} bytes' in problem['detail']
        assert ended(connection)


def test_bodies_that_trickle_are_cut(impatient: int) -> None:
    head, body = upload(bytes(100_000))
    with closing(connect(impatient, PATIENCE_S)) as connection:
        connection.sendall(head)
        assert trickle(connection, body).status == 408


def test_idle_connections_are_closed(impatient: int) -> None:
    with closing(connect(impatient, PATIENCE_S)) as connection:
        assert ended(connection)


def test_connections_that_become_idle_are_closed(impatient: int) -> None:
    with closing(connect(impatient, PATIENCE_S)) as connection:
        connection.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
        assert read_answer(connection).status == 200
        assert ended(connection)


def test_connections_that_become_idle_after_a_refusal_are_closed(impatient: int) -> None:
    head, body = upload(bytes(30_000), path='/nowhere')
    with closing(connect(impatient, PATIENCE_S)) as connection:
        connection.sendall(head)
        assert read_answer(connection).status == 404
        connection.sendall(body)
        assert ended(connection)


def test_clients_that_do_not_read_are_cut(impatient: int) -> None:
    with closing(connect(impatient, PATIENCE_S)) as connection:
        connection.sendall(b'GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n' * 2000)
        events = select.poll()
        events.register(connection, 0)  # errors only: nothing is read
        assert events.poll(PATIENCE_S * 1e3)


def slow_uploads(port: int, count: int, stack: ExitStack) -> list[socket.socket]:
    """Begin uploads from one address; returns those that the service has accepted."""
    head = HEAD.replace(b'\r\n\r\n', b'\r\nExpect: 100-continue\r\n\r\n')
    accepted = []
    for _ in range(count):
        connection = stack.enter_context(closing(connect(port, PATIENCE_S)))
        connection.sendall(head)
        first = connection.recv(2**16)
        if first.startswith(b'HTTP/1.1 100'):
            connection.sendall(BODY[:1])
            accepted.append(connection)
        else:
            assert first.startswith(b'HTTP/1.1 503')
            assert b'retry-after: 1\r\n' in first.lower()
    return accepted


def answered(connections: list[socket.socket]) -> list[Answer]:
    return [read_answer(c) for c in select.select(connections, [], [], 0)[0]]


def test_slow_uploads_leave_places_for_other_addresses(patient: int) -> None:
    with ExitStack() as stack:
        slow = slow_uploads(patient, 128, stack)
        assert len(slow) >= 96
        with closing(connect(patient, PATIENCE_S, STRANGER)) as honest:
            honest.sendall(CLOSING_HEAD + BODY)
            assert read_answer(honest).status == 200


def test_a_slow_upload_makes_room_for_an_honest_one_of_its_address(patient: int) -> None:
    with ExitStack() as stack:
        slow = slow_uploads(patient, 128, stack)
        for _ in range(10):
            with closing(connect(patient, PATIENCE_S)) as honest:
                honest.sendall(CLOSING_HEAD + BODY)
                answer = read_answer(honest)
            if answer.status != 503:
                break
            time.sleep(float(answer.headers['Retry-After']))
        assert answer.status == 200
        refused = answered(slow)
        assert refused
        for answer in refused:
            assert (answer.status, problem_of(answer)['type']) == (503, f'{TAG}busy')
            assert answer.headers['Retry-After'] == '1'


def test_silent_connections_leave_places_for_other_addresses(tiny_checkpoint: Path) -> None:
    options = ('--model', str(tiny_checkpoint), '--max-connections', '8', *PATIENT)
    with ServiceProcess(*options) as service, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(closing(connect(service.port, PATIENCE_S)))
        with closing(connect(service.port, PATIENCE_S, STRANGER)) as honest:
            honest.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
            assert read_answer(honest).status == 200


def test_connections_beyond_all_places_are_refused_or_replace_silent_ones(
    tiny_checkpoint: Path,
) -> None:
    options = ('--model', str(tiny_checkpoint), '--max-connections', '4', *PATIENT)
    with ServiceProcess(*options) as service, ExitStack() as stack:
        silent = [stack.enter_context(closing(connect(service.port, PATIENCE_S)))
                  for _ in range(3)]  # fmt: skip
        answer = None
        while answer is None or answer.status == 503:
            with closing(connect(service.port, PATIENCE_S)) as honest:
                honest.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
                answer = read_answer(honest)
            if answer.status == 503:
                problem_of(answer)
                time.sleep(float(answer.headers['Retry-After']))
        assert answer.status == 200
        # It has been silent for the longest time; its request may have been on the way.
        assert read_answer(silent[0]).status == 503
        assert ended(silent[0])


@pytest.mark.parametrize('connection_header', ['close', 'keep-alive'])
def test_clients_that_write_all_before_they_read_see_the_refusal(
    connection_header: str, patient: int
) -> None:
    head, body = upload(bytes(17_000_000), f'Connection: {connection_header}')
    with closing(connect(patient, PATIENCE_S)) as connection:
        connection.sendall(head)
        connection.sendall(body)
        answer = read_answer(connection)
        assert (answer.status, problem_of(answer)['type']) == (413, f'{TAG}too-many-bytes')
        if connection_header == 'close':
            assert ended(connection)


def test_clients_of_chunks_that_write_all_before_they_read_see_the_refusal(patient: int) -> None:
    chunk = b'10000\r\n' + bytes(2**16) + b'\r\n'
    with closing(connect(patient, PATIENCE_S)) as connection:
        connection.sendall(
            b'POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n'
            b'Content-Type: multipart/form-data; boundary=x\r\nConnection: close\r\n\r\n'
        )
        preamble = b'--x\r\nContent-Disposition: form-data; name="image"; filename="x"\r\n\r\n'
        connection.sendall(b'%x\r\n%s\r\n' % (len(preamble), preamble))
        for _ in range(17_000_000 // 2**16 + 1):
            connection.sendall(chunk)
        connection.sendall(b'0\r\n\r\n')
        answer = read_answer(connection)
        assert (answer.status, problem_of(answer)['type']) == (413, f'{TAG}too-many-bytes')


def test_invalid_http_is_a_problem(patient: int) -> None:
    with closing(connect(patient, PATIENCE_S)) as connection:
        connection.sendall(b'\x16\x03\x01 hello\r\n\r\n' + bytes(100_000))
        answer = read_answer(connection)
        assert (answer.status, problem_of(answer)['type']) == (400, f'{TAG}unreadable-request')


def test_invalid_chunks_end_the_request(patient: int) -> None:
    with closing(connect(patient, PATIENCE_S)) as connection:
        connection.sendall(
            b'POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n'
            b'Content-Type: multipart/form-data; boundary=x\r\n\r\nno length\r\n'
        )
        assert read_answer(connection).status == 400


def test_sigterm_does_not_wait_for_slow_clients(tiny_checkpoint: Path) -> None:
    options = ('--model', str(tiny_checkpoint), *PATIENT)
    with ServiceProcess(*options) as service, ExitStack() as stack:
        for begin in (b'', b'GET /mod', CLOSING_HEAD.replace(b'/predict', b'/nowhere')):
            stack.enter_context(closing(connect(service.port, PATIENCE_S))).sendall(begin)
        with closing(connect(service.port, PATIENCE_S)) as last:
            last.sendall(b'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n')
            assert read_answer(last).status == 200  # so the others have been received
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(PATIENCE_S) == 0


HEADERS = {'x-content-type-options': 'nosniff', 'x-frame-options': 'DENY',
           'referrer-policy': 'no-referrer'}  # fmt: skip


@pytest.mark.parametrize(
    ('method', 'path', 'files', 'status'),
    [
        ('GET', '/models', {}, 200),
        ('GET', '/openapi.json', {}, 200),
        ('GET', '/metrics', {}, 200),
        ('POST', '/predict', {'image': encode_png(blocks())}, 200),
        ('GET', '/nowhere', {}, 404),
        ('GET', '/predict', {}, 405),
        ('POST', '/predict', {'image': bytes(200_000)}, 413),
        ('POST', '/predict', {'image': b'GIF89a'}, 415),
        ('POST', '/predict', {}, 422),
        ('GET', '/readyz', {}, 503),
        ('POST', '/predict?model=empty', {'image': encode_png(blocks())}, 503),
    ],
)
def test_every_response_has_security_headers(
    method: str, path: str, files: Any, status: int, guarded: httpx.Client
) -> None:
    answer = guarded.request(method, path, files=files)
    assert answer.status_code == status
    assert HEADERS.items() <= answer.headers.items()
    policies = answer.headers.get_list('content-security-policy')
    assert policies == ["default-src 'none'; frame-ancestors 'none'"]


def test_refusals_without_a_key_and_failures_have_them_too(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Segmenter, 'publish', fail)
    settings = ServiceSettings({'tiny': str(tiny_checkpoint)}, api_key='key', exact=False)
    with serving(settings) as client:
        for key, status in (('wrong', 401), ('key', 500)):
            answer = client.post('/predict', files={'image': encode_png(blocks())},
                                 headers={'X-API-Key': key})  # fmt: skip
            assert answer.status_code == status
            assert HEADERS.items() <= answer.headers.items()


@pytest.fixture(scope='module')
def guarded(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    models = {'tiny': str(tiny_checkpoint), 'empty': str(tmp_path_factory.mktemp('empty'))}
    settings = ServiceSettings(models, device='cpu', preload=True, max_upload_bytes=100_000)
    with serving(settings) as client:
        yield client
