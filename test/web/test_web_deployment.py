# SPDX-License-Identifier: Apache-2.0
"""Tests of the deployment of service and page: make, container files, commands."""

import re
import shlex
import signal
import socket
import subprocess
import sys
from importlib.metadata import requires
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from repository import ROOT

pytest.importorskip('streamlit', reason='the page is not installed: pip install ".[web]"')

import httpx
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from segmentation_node import entry
from segmentation_node.web import service
from segmentation_node.web.page import service_client

COMPOSE = yaml.safe_load((ROOT / 'compose.yaml').read_text(encoding='utf-8'))
DOCKERFILE = (ROOT / 'Dockerfile').read_text(encoding='utf-8')


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return str(probe.getsockname()[1])


def test_service_and_page_start_with_one_command_and_end_with_it() -> None:
    port, page_port = free_port(), free_port()
    command = [sys.executable, '-m', 'segmentation_node.web', '--port', port,
               '--page-port', page_port, '--', '--model', 'unet']  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as started:
        assert started.stdout is not None
        said = ''.join(iter(started.stdout.readline, 'Press Ctrl-C to stop both.\n'))
        assert f'page         http://127.0.0.1:{page_port}\n' in said
        assert f'service      http://127.0.0.1:{port}\n' in said
        names = [m['name'] for m in httpx.get(f'http://127.0.0.1:{port}/models').json()['models']]
        assert names == ['unet']
        assert httpx.get(f'http://127.0.0.1:{page_port}').status_code == 200
        started.send_signal(signal.SIGTERM)
    assert started.returncode == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f'http://127.0.0.1:{port}/healthz')


def test_a_used_port_is_reported() -> None:
    with socket.create_server(('127.0.0.1', 0)) as taken:
        port = str(taken.getsockname()[1])
        done = subprocess.run(
            [sys.executable, '-m', 'segmentation_node.web.service', '--port', port],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
    assert done.returncode != 0
    assert 'address already in use' in done.stderr


def test_files_copied_into_the_image_exist_and_are_not_ignored() -> None:
    copied = [word for line in re.findall(r'^COPY (?!--from)(.+)$', DOCKERFILE, re.MULTILINE)
              for word in line.split()[:-1]]  # fmt: skip
    kept = (ROOT / '.dockerignore').read_text(encoding='utf-8').splitlines()
    assert 'segmentation_node' in copied
    for name in copied:
        assert (ROOT / name).exists()
        assert f'!{Path(name).parts[0]}' in kept


@pytest.mark.parametrize('name', COMPOSE['services'])
def test_commands_of_the_containers_can_be_run(name: str) -> None:
    command = COMPOSE['services'][name]['command']
    if command[0] != 'python':
        assert callable(getattr(entry, command[0]))
        assert f"'{command[0]}'," in (ROOT / 'setup.py').read_text()
        return
    assert find_spec(command[2])
    if name == 'service':
        service._parser().parse_args(command[3:])


def test_the_image_starts_the_service() -> None:
    command = re.findall(r'^CMD \[(.+)\]$', DOCKERFILE, re.MULTILINE)[0].replace(',', ' ')
    words = shlex.split(command)
    assert words[:3] == ['python', '-m', 'segmentation_node.web.service']
    assert service._parser().parse_args(words[3:]).port == 8000


def test_containers_listen_on_loopback_and_find_each_other() -> None:
    services = COMPOSE['services']
    for name, port in (('service', 8000), ('page', 8501)):
        assert services[name]['ports'] == [f'127.0.0.1:{port}:{port}']
    environment = services['page']['environment']
    assert environment[service_client.URL_VARIABLE] == 'http://service:8000'
    assert environment[service_client.PUBLIC_URL_VARIABLE] == 'http://127.0.0.1:8000'


@pytest.mark.parametrize(
    'pinned', sorted((ROOT / 'resource' / 'container').glob('*.txt')), ids=lambda path: path.stem
)
def test_containers_pin_all_requirements(pinned: Path) -> None:
    text = pinned.read_text(encoding='utf-8')
    versions = dict(re.findall(r'^([a-z0-9-]+)==([^ ;]+)', text, re.MULTILINE))
    assert len(versions) == len(re.findall(r'^[a-z].*\\\n    --hash=sha256:', text, re.MULTILINE))
    for extra in ('', *pinned.stem.split(',')):
        required = [Requirement(line) for line in requires('segmentation_node') or ()]
        wanted = [one for one in required
                  if one.marker is None or one.marker.evaluate({'extra': extra})]  # fmt: skip
        assert wanted
        for one in wanted:
            assert versions[canonicalize_name(one.name)] in one.specifier


def test_the_image_is_built_for_extras_that_are_pinned() -> None:
    assert re.findall(r'^ARG EXTRAS=(.+)$', DOCKERFILE, re.MULTILINE) == ['ros,web']
    told = re.findall(r'--build-arg EXTRAS=([a-z]+(?:,[a-z]+)*)', DOCKERFILE)
    assert {'ros,web', *told} == {
        path.stem for path in (ROOT / 'resource' / 'container').glob('*.txt')
    }
