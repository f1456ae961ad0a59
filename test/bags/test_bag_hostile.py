# SPDX-License-Identifier: Apache-2.0
"""Tests of hostile bags: each is read or rejected with a reason, in bounded memory."""

import os
import random
import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from bag_hostile import (
    CHUNKS,
    DEEP_YAML,
    ESCAPES,
    LAUGHING_YAML,
    QOS,
    bomb,
    chunk_bag,
    copy_amid_transaction,
    hostile_bags,
    packed_bag,
    sqlite_bag,
    zstd_claim,
)
from bag_making import (
    image_cdr,
    image_topic,
    label_cdr,
    stamp_ns,
    string_cdr,
    string_topic,
    write_camera_bag,
)
from bag_probing import Plain, mutated_bytes, mutated_metadata, probe, said_by

from segmentation_node.bags import messages, score_bag, segment_bag
from segmentation_node.bags.bounds import (
    MAX_CHUNK_BYTES,
    MAX_LINE,
    MAX_MESSAGE_BYTES,
    MAX_TOPICS,
    shown,
)
from segmentation_node.bags.camera_topic import find_camera
from segmentation_node.bags.qos import dump_qos, qos_profile, read_qos
from segmentation_node.bags.reader import open_bag
from segmentation_node.bags.topic import Topic
from segmentation_node.bags.writer import BagWriter
from segmentation_node.cli import EXIT_INCOMPLETE
from segmentation_node.errors import BagError

CASES = dict(hostile_bags(Path()))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_bag, 'load_segmenter', lambda _: Plain())


@pytest.fixture(scope='module', autouse=True)
def bounded_memory() -> Iterator[None]:
    """All bags here are small: what they claim is not allocated, let alone used."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with Path('/proc/self/statm').open() as statm:
        now = int(statm.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + (3 << 30), before[1]))
    used_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    most_kb = (MAX_CHUNK_BYTES + 2 * MAX_MESSAGE_BYTES) >> 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - used_kb < most_kb


@pytest.mark.parametrize('what', CASES)
def test_hostile_values_are_read_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = CASES[what]()
    for salvage in (False, True):
        assert probe(path, tmp_path / 'out', salvage) in ('read', 'refused')


@pytest.mark.parametrize(('change', 'says'), CHUNKS)
def test_hostile_chunks_are_refused_with_the_reason(
    tmp_path: Path, change: Any, says: str
) -> None:
    with pytest.raises(BagError) as error, open_bag(chunk_bag(tmp_path / 'bag.mcap', change)):
        pass
    assert says in str(error.value)
    assert 'allow --salvage' in str(error.value)


@pytest.mark.parametrize('name', ['mcap', 'sqlite3', 'file.mcap', 'file.db3'])
def test_mutated_bags_are_read_or_refused(tmp_path: Path, name: str) -> None:
    random_ = random.Random(name)
    storage = 'sqlite3' if name in ('sqlite3', 'file.db3') else 'mcap'
    path = write_camera_bag(tmp_path / 'bag', frames=2, storage=storage)
    target = next(file for file in path.iterdir() if file.suffix in ('.mcap', '.db3'))
    if '.' in name:
        path = target = target.rename(tmp_path / name)
    whole = target.read_bytes()
    metadata = path / 'metadata.yaml'
    text = metadata.read_text() if '.' not in name else ''
    results = set()
    for index in range(80):
        if text and index % 2:
            metadata.write_text(mutated_metadata(text, random_))
        else:
            target.write_bytes(mutated_bytes(whole, random_))
        results.add(probe(path, tmp_path / 'out', salvage=random_.random() < 0.3))
    assert results == {'read', 'refused'}


# --- Text


def test_text_for_a_terminal_has_no_control_characters_and_an_end() -> None:
    assert shown('/camera/image é') == '/camera/image é'
    assert shown(f'{ESCAPES}\n\t').isprintable()
    assert len(shown('x' * 10**6)) < 100
    assert shown('a' * 60 + 'b' * 60).startswith('a' * 50)
    assert shown('a' * 60 + 'b' * 60).endswith('b' * 20)


@pytest.mark.parametrize('text', QOS)
def test_impossible_profiles_are_none(text: str) -> None:
    profiles, _ = read_qos(text)
    assert all(0 <= qos.depth < 2**31 for qos in profiles)
    assert read_qos(dump_qos(profiles)) == (profiles, False)


def test_a_topic_with_escape_codes_reaches_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for name in (ESCAPES, '/image', f'{ESCAPES}2'):
            bag.write(image_topic(name), stamp_ns(0), image_cdr(0))
        bag.write(Topic('/odd', ESCAPES), stamp_ns(0), b'\0\1\0\0')
    with open_bag(tmp_path / 'bag') as bag_:
        assert bag_.topic(ESCAPES).name == ESCAPES  # kept as it is
        assert bag_.listing().isprintable()
        with pytest.raises(BagError) as error:
            find_camera(bag_)
        assert str(error.value).isprintable()
    assert segment_bag.main([str(tmp_path / 'bag'), '-o', str(tmp_path / 'out')]) == 1
    said = capsys.readouterr().err
    assert 'has 3 cameras' in said
    assert said.rstrip('\n').isprintable()
    assert len(said) < MAX_LINE


def test_malformed_frames_of_a_topic_with_escape_codes(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        bag.write(image_topic(ESCAPES), stamp_ns(0), image_cdr(0)[:50])
    status, said = said_by(segment_bag.main, tmp_path / 'bag', '-o', tmp_path / 'out', '--quiet')
    assert status == EXIT_INCOMPLETE
    assert all(line.isprintable() for line in said.split('\n'))


# --- Sizes


def test_a_bag_of_bad_and_good_topics_is_segmented(tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        bag.write(image_topic('/good'), stamp_ns(0), image_cdr(0))
        bag.write(Topic('/2/camera', '../msg/X', qos=(qos_profile(5),)), stamp_ns(0), b'junk')
        bag.write(Topic('', ''), stamp_ns(0), b'')
    status, _ = said_by(segment_bag.main, path, '-o', tmp_path / 'out', '--topic', '/good')
    assert status == 0
    with open_bag(tmp_path / 'out') as out:
        assert {m.topic.name: m.cdr for m in out.messages({'/2/camera', ''})} == {
            '/2/camera': b'junk', '': b''
        }  # fmt: skip


@pytest.mark.parametrize('packed', [zstd_claim(3 << 30), zstd_claim(2**63), bomb(300 << 20)])
def test_a_message_that_claims_gigabytes_is_refused(tmp_path: Path, packed: bytes) -> None:
    path = packed_bag(tmp_path / 'bag', 'message', packed)
    with open_bag(path) as bag, pytest.raises(BagError, match='is larger than 268435456 bytes'):
        list(bag.messages())


def test_a_compressed_file_that_grows_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('segmentation_node.bags.compression._FREE_FILE_BYTES', 1 << 20)
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.setattr('tempfile.tempdir', None)
    path = packed_bag(tmp_path / 'bag', 'file', bomb(64 << 20))
    with pytest.raises(BagError, match=r'is larger than \d MiB when decompressed'):
        open_bag(path)
    assert [p.name for p in tmp_path.iterdir()] == ['bag']


def test_chunks_that_overlap_beyond_all_bounds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        for index in range(4):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index))
            bag.write(image_topic(), stamp_ns(10), image_cdr(10))
            bag._do(lambda file: file.flush())
    with open_bag(path) as bag_:
        assert len(list(bag_.messages())) == 8
    monkeypatch.setattr('segmentation_node.bags.mcap_storage.MAX_QUEUED_BYTES', 8000)
    with open_bag(path) as bag_, pytest.raises(BagError, match='overlap in time by more than'):
        list(bag_.messages())


def test_an_index_that_names_a_chunk_again_and_again_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / 'bag.mcap'
    with BagWriter(path) as bag:
        for index in range(2):
            bag.write(image_topic(), stamp_ns(index), image_cdr(index))
            bag._do(lambda file: file.flush())
        file: Any = bag._file
        file._chunks[1] = file._chunks[0]
    with pytest.raises(BagError, match='two chunks of its index share byte'):
        open_bag(path)
    with open_bag(path, salvage=True) as bag_:
        assert [m.cdr for m in bag_.messages()] == [image_cdr(0), image_cdr(1)]


def test_too_many_topics_are_refused(tmp_path: Path) -> None:
    path = sqlite_bag(tmp_path / 'bag.db3')
    with closing(sqlite3.connect(path)) as database:
        rows = [(f'/t{index}', messages.STRING) for index in range(MAX_TOPICS)]
        database.executemany("INSERT INTO topics VALUES (NULL, ?, ?, 'cdr', '', '')", rows)
        database.commit()
    with pytest.raises(BagError, match='more than 10000 topics'):
        open_bag(path)


# --- Label schemes that a bag describes


def scored(path: Path, info: Topic, cdr: bytes) -> str:
    with BagWriter(path) as bag:
        bag.write(info, stamp_ns(0), cdr)
        for name in ('/segmentation_node/label_mask', '/ground_truth/label_mask'):
            bag.write(image_topic(name), stamp_ns(0), label_cdr(0, [[1]]))
    status, said = said_by(score_bag.main, path, '--quiet')
    assert status == 1
    return said


INFO = '/segmentation_node/label_info_json'


def test_what_describes_a_scheme_is_text(tmp_path: Path) -> None:
    empty = Topic(INFO, 'std_msgs/msg/Empty')
    assert 'is a std_msgs/msg/Empty, expected a std_msgs' in scored(tmp_path / 'a', empty, b'\0\1')


@pytest.mark.parametrize(
    ('text', 'says'),
    [
        (DEEP_YAML, 'nested deeper than'),
        (f'"{"x" * 2_000_000}"', 'it is longer than'),
        ('[1]', 'is not a description of a label scheme (TypeError'),
        ('{"scheme": ["cityscapes8"], "classes": []}', 'unknown label scheme ['),
        ('{"scheme": "cityscapes8", "classes": [{"id": [], "name": 1}]}', 'unhashable'),
        ('{"scheme": "cityscapes8", "classes": 3}', 'is not a description of a label scheme'),
        ('{"scheme": "\\u001b[2J", "classes": []}', "unknown label scheme '\\x1b[2J'"),
    ],
)
def test_descriptions_of_a_scheme_are_foreign(tmp_path: Path, text: str, says: str) -> None:
    said = scored(tmp_path / 'bag', string_topic(INFO), string_cdr(text))
    assert says in said
    assert said.rstrip('\n').isprintable()


def test_a_bag_has_no_say_in_which_files_are_read(tmp_path: Path) -> None:
    secret = tmp_path / 'secret.yaml'
    secret.write_text('classes: [{secret: 1234}]')
    text = f'{{"scheme": "{secret}", "classes": []}}'
    said = scored(tmp_path / 'bag', string_topic(INFO), string_cdr(text))
    assert 'unknown label scheme' in said
    assert '1234' not in said


def test_other_messages_under_the_name_of_the_masks_are_named(tmp_path: Path) -> None:
    with BagWriter(tmp_path / 'bag') as bag:
        for name in ('/segmentation_node', '/ground_truth'):
            text = Plain.scheme.to_json()
            info = string_topic(f'{name}/label_info_json')
            bag.write(info, stamp_ns(0), string_cdr(text))
            bag.write(image_topic(f'{name}/label_mask'), stamp_ns(0), label_cdr(0, [[1]]))
        bag.write(string_topic('/ground_truth/label_mask'), stamp_ns(1), string_cdr('x'))
    with pytest.raises(BagError, match=r'is a std_msgs/msg/String, expected'):
        score_bag.score_bag(tmp_path / 'bag')


# --- Databases and folders


def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    folder = tmp_path / 'a?b#c%20d'
    folder.mkdir()
    path = write_camera_bag(folder / 'bag?x', storage='sqlite3')
    with open_bag(path) as bag:
        assert bag.message_count == 6


def test_a_database_left_amid_a_transaction_is_taken_back(tmp_path: Path) -> None:
    path = sqlite_bag(tmp_path / 'whole.db3')
    left = copy_amid_transaction(path, tmp_path / 'left.db3')
    assert Path(f'{left}-journal').stat().st_size > 0
    with open_bag(left) as bag:
        assert [m.cdr for m in bag.messages({'/image'})] == [image_cdr(0), image_cdr(1)]


def test_messages_in_a_write_ahead_log_are_read(tmp_path: Path) -> None:
    path = sqlite_bag(tmp_path / 'whole.db3')
    copy = tmp_path / 'copy.db3'
    with closing(sqlite3.connect(path)) as database:
        database.execute('PRAGMA journal_mode = WAL')
        database.execute('INSERT INTO messages VALUES (NULL, 2, ?, ?)', (stamp_ns(9), b'late'))
        database.commit()
        for suffix in ('', '-wal'):
            shutil.copy(f'{path}{suffix}', f'{copy}{suffix}')
    with open_bag(copy) as bag:
        assert [m.cdr for m in bag.messages({'/image'})][-1] == b'late'


def test_a_pipe_is_no_bag(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / 'bag.mcap')
    with pytest.raises(BagError, match='is not a regular file'):
        open_bag(tmp_path / 'bag.mcap')


def test_files_beyond_what_may_be_open_are_read(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    path = write_camera_bag(tmp_path / 'bag', frames=1)
    content = yaml.safe_load((path / 'metadata.yaml').read_text())
    names = content['rosbag2_bagfile_information']['relative_file_paths']
    for index in range(1, 100):
        shutil.copy(path / 'bag_0.mcap', path / f'bag_{index}.mcap')
        names.append(f'bag_{index}.mcap')
    (path / 'metadata.yaml').write_text(yaml.safe_dump(content))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with open_bag(path) as bag:
            assert len(list(bag.messages())) == bag.message_count == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize('text', [DEEP_YAML, LAUGHING_YAML, '3', 'x' * (9 << 20)])
def test_hostile_metadata_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = write_camera_bag(tmp_path / 'bag')
    (path / 'other.mcap').write_bytes(b'')
    (path / 'metadata.yaml').write_text(text)
    with pytest.raises(BagError, match='is not just a bag'):
        BagWriter(path, overwrite=True)
