# SPDX-License-Identifier: Apache-2.0
"""Tests of a run's folder and its copy in MLflow: nothing is lost or sent twice."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from repository import ROOT
from training_data import DEEPLAB, fields, write_folders

from segmentation_node.web.page.training_runs import (
    PARENT_TAG,
    RunsError,
    by_loss,
    filter_by_name,
    runs_of_mlflow,
    with_metrics,
)
from segmentation_node.web.page.translations import texts
from training.config import Experiment
from training.tracking import Run, TrackingError, client, experiment_id, main, shown_uri
from training.train import train


@pytest.fixture(scope='module')
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the embedded store."""
    return tmp_path_factory.mktemp('place')


@pytest.fixture(autouse=True)
def _in_place(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)


def begun(folder: Path) -> Run:
    run = Run(folder)
    run.start('tests', 'one', {'a.b': 1, 'list': [1, 2]}, {'kind': 'x'})
    return run


def sent(run: Run, key: str) -> list[tuple[int, float]]:
    history = client().get_metric_history(run.id, key)
    return sorted((m.step, m.value) for m in history)


def test_what_is_logged_arrives(tmp_path: Path) -> None:
    run = begun(tmp_path)
    run.log(0, {'loss': 2.0, 'iou': float('nan')})
    run.log(1, {'loss': 1.0, 'iou': 0.5})
    (run.artifacts / 'deep' / 'down').mkdir(parents=True)
    (run.artifacts / 'deep' / 'down' / 'a.txt').write_text('a', encoding='utf-8')
    run.sync()
    run.sync()
    assert sent(run, 'loss') == [(0, 2.0), (1, 1.0)]
    assert sent(run, 'iou') == [(1, 0.5)]
    found = client().get_run(run.id)
    assert found.data.params == {'a.b': '1', 'list': '[1, 2]'}
    assert found.data.tags['kind'] == 'x'
    assert found.info.status == 'RUNNING'
    assert [f.path for f in client().list_artifacts(run.id, 'deep/down')] == ['deep/down/a.txt']
    run.finish('FINISHED')
    assert client().get_run(run.id).info.status == 'FINISHED'


def test_two_processes_may_be_the_first(tmp_path: Path) -> None:
    """Both processes find a store without tables and study, and try to create them."""
    code = (
        'import sys; from pathlib import Path; from training.tracking import Run; '
        'print("ready", flush=True); input(); run = Run(Path(sys.argv[1])); '
        'run.start("tests", sys.argv[1], {}, {})'
    )
    environment = os.environ | {'PYTHONPATH': str(ROOT)}
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', code, name],
            cwd=tmp_path,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ('one', 'other')
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == 'ready\n'
    for process in processes:
        assert process.stdin is not None
        process.stdin.write('\n')
        process.stdin.flush()
    for process in processes:
        _, said = process.communicate(timeout=120)
        assert process.returncode == 0, said


def test_run_goes_on_under_its_id(tmp_path: Path) -> None:
    first = begun(tmp_path)
    first.log(0, {'loss': 2.0})
    first.finish('KILLED')
    second = begun(tmp_path)
    assert second.id == first.id
    assert client().get_run(second.id).info.status == 'RUNNING'
    second.log(1, {'loss': 1.0})
    second.sync()
    assert sent(second, 'loss') == [(0, 2.0), (1, 1.0)]


def test_epochs_that_will_be_run_again_are_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.keep(0)
    for epoch in range(3):
        run.log(epoch, {'loss': 1.0})
    run.keep(2)
    assert [row['epoch'] for row in run.history()] == [0, 1]
    run.keep(0)
    assert run.history() == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ['artifacts', 'metrics.jsonl']


def test_line_that_was_cut_short_is_forgotten(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.log(0, {'loss': 1.0})
    whole = (tmp_path / 'metrics.jsonl').read_text(encoding='utf-8')
    (tmp_path / 'metrics.jsonl').write_text(whole + whole[:20], encoding='utf-8')
    assert [row['epoch'] for row in run.history()] == [0]
    run.keep(1)
    run.log(1, {'loss': 1.0})
    assert [row['epoch'] for row in run.history()] == [0, 1]


def test_run_that_its_store_has_lost_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / 'run')
    run.log(0, {'loss': 2.0})
    run.sync()
    before = run.id
    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    again = begun(tmp_path / 'run')
    assert again.id != before
    again.sync()
    assert sent(again, 'loss') == [(0, 2.0)]
    assert client().get_run(again.id).data.params['a.b'] == '1'


def test_folder_is_all_that_another_store_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / 'run')
    run.log(0, {'loss': 2.0})
    (run.artifacts / 'a.txt').write_text('a', encoding='utf-8')
    run.finish('FINISHED')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', f'sqlite:///{tmp_path}/other.db')
    assert main([str(tmp_path / 'run')]) == 0
    moved = Run(tmp_path / 'run')
    assert moved.id != run.id
    found = client().get_run(moved.id)
    assert (found.info.run_name, found.info.status) == ('one', 'FINISHED')
    assert found.data.params == {'a.b': '1', 'list': '[1, 2]'}
    assert found.data.tags['kind'] == 'x'
    assert sent(moved, 'loss') == [(0, 2.0)]
    assert [f.path for f in client().list_artifacts(moved.id)] == ['a.txt']


def test_names_and_numbers_that_the_store_refuses_are_brought_into_form(tmp_path: Path) -> None:
    run = Run(tmp_path)
    params = {f'network.field_{i}': i for i in range(230)} | {'val.a (b)': 'x' * 7000}
    run.start('tests', 'many', params, {'a*b': 'c'})
    run.log(0, {'IoU/car+van': 0.5})
    run.sync()
    found = client().get_run(run.id).data
    assert len(found.params) == 231
    assert found.params['val.a _b_'] == 'x' * 6000
    assert found.tags['a_b'] == 'c'
    assert found.metrics == {'IoU/car_van': 0.5}


def test_a_study_is_made_once() -> None:
    assert experiment_id(client(), 'twice') == experiment_id(client(), 'twice')
    found = client().get_experiment_by_name('twice')
    assert found is not None
    assert found.artifact_location.endswith('/runs/mlflow_artifacts')


def test_command_sends_what_is_left_and_how_it_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path)
    run.log(0, {'loss': 2.0})
    with monkeypatch.context() as away:
        away.setenv('MLFLOW_TRACKING_URI', 'http://127.0.0.1:9')
        with pytest.raises(TrackingError, match=r'MLflow at http://127\.0\.0\.1:9 cannot be used'):
            run.finish('KILLED')
    assert sent(run, 'loss') == []
    assert main([str(tmp_path)]) == 0
    assert sent(run, 'loss') == [(0, 2.0)]
    assert client().get_run(run.id).info.status == 'KILLED'


def test_password_of_a_store_is_told_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://me:secret@127.0.0.1:9')
    with pytest.raises(TrackingError, match=r'MLflow at http://127\.0\.0\.1:9 ') as caught:
        client()
    assert 'secret' not in str(caught.value)
    assert shown_uri() == 'http://127.0.0.1:9'


def test_command_leaves_a_run_running_that_is(tmp_path: Path) -> None:
    run = begun(tmp_path)
    assert main([str(tmp_path)]) == 0
    assert client().get_run(run.id).info.status == 'RUNNING'


def test_command_for_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert 'is not the folder of a run' in capsys.readouterr().err
    (tmp_path / 'run.json').write_text('{', encoding='utf-8')
    assert main([str(tmp_path)]) == 1
    assert 'run.json is damaged' in capsys.readouterr().err


def test_store_that_is_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'runs').mkdir()
    (tmp_path / 'runs' / 'mlflow.db').write_text('nothing like a database' * 99, encoding='utf-8')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TrackingError, match='not a database'):
        begun(tmp_path / 'run')


class Server:
    """Real MLflow server on its own port, which can be stopped and restarted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            self.port = free.getsockname()[1]
        self.uri = f'http://127.0.0.1:{self.port}'
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [
            sys.executable, '-m', 'mlflow', 'server', '--port', str(self.port), '--workers', '1',
            '--backend-store-uri', f'sqlite:///{self.folder}/server.db',
            '--artifacts-destination', str(self.folder / 'files'),
        ]  # fmt: skip
        with (self.folder / 'server.log').open('ab') as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        for _ in range(600):
            if self._answers():
                return
            time.sleep(0.1)
        raise TimeoutError((self.folder / 'server.log').read_text(encoding='utf-8'))

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f'{self.uri}/health', timeout=2).close()  # noqa: S310
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Kill the server and its workers."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    found = Server(tmp_path)
    found.start()
    yield found
    found.stop()


def test_the_page_shows_what_a_server_has(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MLFLOW_TRACKING_URI', server.uri)
    run = begun(tmp_path / 'finished')
    run.log(0, {'mIoU': 0.5, 'val_loss': 2.0, 'IoU/flat': 0.25})
    run.log(1, {'mIoU': 0.75, 'IoU/flat': 0.5, 'Dice': 0.875, 'pixel_acc': 0.9375})
    run.log(2, {'mIoU': 0.625, 'IoU/flat': 0.375})
    run.finish('FINISHED')
    begun(tmp_path / 'going_on').sync()
    [found] = with_metrics(server.uri, runs_of_mlflow(server.uri))
    assert found.name == 'one'
    assert {metric: curve for metric, curve in found.curves.items() if curve} == {
        'mIoU': {1: 0.5, 2: 0.75, 3: 0.625},
        'val_loss': {1: 2.0},
        'Dice': {2: 0.875},
        'pixel_acc': {2: 0.9375},
    }
    assert found.class_iou == {'flat': 0.5}
    assert found.scores == {'miou': 0.75, 'dice': 0.875, 'pixel_accuracy': 0.9375}


def test_the_page_groups_the_runs_of_a_server(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv('MLFLOW_TRACKING_URI', server.uri)
    made: list[dict[str, Any]] = [
        {'name': 'unet', 'scheme': 'cityscapes8', 'tags': {'loss_kind': 'cross-entropy'}},
        {'name': 'unet', 'scheme': 'cityscapes8', 'tags': {'loss_kind': 'set loss'}},
        {'name': 'unet', 'scheme': 'camvid11', 'tags': {'loss_kind': 'cross-entropy'}},
        {'name': 'trial', 'scheme': 'cityscapes8', 'tags': {PARENT_TAG: 'a search'}},
    ]
    for number, known in enumerate(made):
        run = Run(tmp_path / str(number))
        params = {
            'label_scheme': known['scheme'], 'hardest': 0.5,
            'val.b.set': 'b', 'val.a.set': 'a',
        }  # fmt: skip
        tags = known['tags'] | {'val_fingerprint': 'abc def'}
        run.start('study', known['name'], params, tags)
        run.log(0, {'mIoU': 0.5, 'mIoU/b': 0.5, 'mIoU/a': 0.25, 'val_loss': 1.0})
        run.finish('FINISHED')
    newest, *others = runs_of_mlflow(server.uri)
    assert newest.name == 'trial'
    assert [run.trial for run in (newest, *others)] == [True, False, False, False]
    names = [run.name for run in others]
    assert len(set(names)) == 3
    assert all(re.fullmatch(r'unet \([0-9a-f]{8}\)', name) for name in names)
    # The first set is the one that has the score, whatever order the names have.
    assert [run.group for run in others] == [
        ('camvid11', 'b (abc)'), ('cityscapes8', 'b (abc)'), ('cityscapes8', 'b (abc)'),
    ]  # fmt: skip
    kinds = [[run.loss for run in alike] for alike in by_loss(others)]
    assert kinds == [['cross-entropy (hardest 0.5)'] * 2, ['set loss (hardest 0.5)']]
    assert len(by_loss([newest, newest])) == 2  # a loss that is not known is like no other
    assert filter_by_name(others, f' {names[0]}, nothing ') == others[:1]
    assert filter_by_name(others, '') == others


class Guard(ThreadingHTTPServer):
    """Lets requests through to an MLflow server that bring what it asks for."""

    def __init__(self, behind: str) -> None:
        super().__init__(('127.0.0.1', 0), _GuardedRequest)
        self.behind = behind
        self.uri = f'http://127.0.0.1:{self.server_port}'
        self.asks_for, self.refusal = '', 401


class _GuardedRequest(BaseHTTPRequestHandler):
    server: Guard

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get('Content-Length', 0)))
        if self.headers.get('Authorization', '') != self.server.asks_for:
            self._answer(self.server.refusal, b'You are not authenticated.', 'text/plain')
            return
        request = urllib.request.Request(  # noqa: S310
            self.server.behind + self.path, content or None, method=self.command,
            headers={'Content-Type': 'application/json'},
        )  # fmt: skip
        try:
            answer: Any = urllib.request.urlopen(request, timeout=30)  # noqa: S310
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            self._answer(answer.status, answer.read(), 'application/json')

    def do_POST(self) -> None:
        self.do_GET()

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header('Content-Type', kind)
        self.send_header('Content-Length', str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


BASIC = 'Basic ' + base64.b64encode('jo:sé:cret'.encode()).decode()


def test_page_and_training_bring_what_a_server_asks_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Guard(server.uri) as guard:
        Thread(target=guard.serve_forever, daemon=True).start()
        monkeypatch.setenv('MLFLOW_TRACKING_URI', guard.uri)
        monkeypatch.setenv('HOME', str(tmp_path))
        guard.asks_for = BASIC
        for status, kind in ((401, 'mlflow_unauthorized'), (403, 'mlflow_forbidden')):
            guard.refusal = status
            with pytest.raises(RunsError) as refused:
                runs_of_mlflow(guard.uri)
            assert refused.value.kind == kind
            assert kind in texts('en')
            with pytest.raises(TrackingError, match=r'set MLFLOW_TRACKING_USERNAME and .*_TOKEN'):
                client()
        # As MLflow's own client, which training uses, in the same order.
        monkeypatch.setenv('MLFLOW_TRACKING_TOKEN', 'not asked for')
        monkeypatch.setenv('MLFLOW_TRACKING_USERNAME', 'jo')
        monkeypatch.setenv('MLFLOW_TRACKING_PASSWORD', 'sé:cret')
        run = begun(tmp_path / 'run')
        run.log(0, {'mIoU': 0.5})
        run.finish('FINISHED')
        assert [found.name for found in runs_of_mlflow(guard.uri)] == ['one']
        for name in ('USERNAME', 'PASSWORD'):
            monkeypatch.delenv(f'MLFLOW_TRACKING_{name}')
        (tmp_path / '.mlflow').mkdir()
        saved = tmp_path / '.mlflow' / 'credentials'
        saved.write_text(
            '[mlflow]\nmlflow_tracking_username = jo\nmlflow_tracking_password = sé:cret\n',
            encoding='utf-8',
        )
        assert len(runs_of_mlflow(guard.uri)) == 1
        assert client()
        saved.unlink()
        monkeypatch.setenv('MLFLOW_TRACKING_TOKEN', 'abc\n')
        guard.asks_for = 'Bearer abc'
        assert len(runs_of_mlflow(guard.uri)) == 1
        guard.asks_for = BASIC
        assert len(runs_of_mlflow(guard.uri.replace('//', '//jo:s%C3%A9%3Acret@'))) == 1
        guard.shutdown()


def test_server_that_dies_costs_nothing(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv('MLFLOW_TRACKING_URI', server.uri)
    write_folders(tmp_path / 'streets', 'train', 4)
    write_folders(tmp_path / 'streets', 'val', 4, first=9)
    experiment = Experiment.model_validate(fields(tmp_path, network=DEEPLAB))
    folder = tmp_path / 'run'
    best = train(experiment, folder, report=lambda epoch, _: server.stop() if epoch == 0 else None)
    said = capsys.readouterr()
    assert 'warning: MLflow at' in said.out
    assert f'the figures are kept in {folder} and sent later' in said.out
    assert f'Nothing is lost: "python -m training.tracking {folder}" sends it' in said.err
    lines = (folder / 'metrics.jsonl').read_text(encoding='utf-8').splitlines()
    scores = [json.loads(line)['mIoU'] for line in lines]
    assert max(scores) == best
    assert main([str(folder)]) == 1  # it is still down
    server.start()
    run = Run(folder)
    assert sent(run, 'mIoU') == [(0, scores[0])]
    assert main([str(folder)]) == 0
    assert sent(run, 'mIoU') == list(enumerate(scores))
    assert client().get_run(run.id).info.status == 'FINISHED'
    there = {f.path for f in client().list_artifacts(run.id, 'checkpoint')}
    assert 'checkpoint/model.safetensors' in there
