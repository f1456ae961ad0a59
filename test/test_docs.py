# SPDX-License-Identifier: Apache-2.0
"""Tests of README.md and the manual: links, names, examples, and the files of the repository."""

import ast
import os
import re
import runpy
import shlex
import subprocess
import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import cv2
import numpy as np
import pytest
import yaml
from repository import ROOT

import segmentation_node
from segmentation_node import entry, load_scheme
from segmentation_node.images.files import encode_png
from segmentation_node.labels import available_schemes

MANUAL = sorted((ROOT / 'docs').glob('*.md'))
PAGES = [
    *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md')),
    ROOT / 'training' / 'README.md',
    *MANUAL,
]
COMMANDS = {name: value for name, value in vars(entry).items() if hasattr(value, 'func')}
by_page = pytest.mark.parametrize(
    'page', PAGES, ids=lambda page: f'{page.parent.name}-{page.stem}'
)


def text_of(*path: str) -> str:
    return ROOT.joinpath(*path).read_text(encoding='utf-8')


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in one language."""
    text = page.read_text(encoding='utf-8')
    return re.findall(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


def commands_of(block: str) -> list[list[str]]:
    """Return the commands of a shell block as words, without comments and loops."""
    lines = block.replace('\\\n', ' ').splitlines()
    parts = [part for line in lines for part in re.split(r'&&|;', re.sub(r'(^| )#.*', '', line))]
    # Any number stands for a variable of the shell.
    parts = [re.sub(r'\$\w+', '1', part.strip().removeprefix('do ')) for part in parts]
    words = [shlex.split(part) for part in parts if part]
    return [line for line in words if line[0] not in ('for', 'done')]


def shell_lines() -> list[list[str]]:
    """Return the commands of all pages as words."""
    return [
        line for page in PAGES for block in blocks(page, 'bash') for line in commands_of(block)
    ]


def prose(page: Path) -> str:
    """Return the text of a page without code blocks."""
    return re.sub(r'^```.*?^```', '', page.read_text(encoding='utf-8'), flags=re.S | re.M)


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as GitHub and MkDocs form them."""
    titles = re.findall(r'^#+ (.+)$', prose(page), re.MULTILINE)
    return {re.sub(r'[^a-z0-9 _-]', '', title.lower()).replace(' ', '-') for title in titles}


@by_page
def test_linked_files_and_sections_exist(page: Path) -> None:
    for link in re.findall(r'\]\(([^)]+)\)', prose(page)):
        if link.startswith('https://'):
            continue
        file, _, section = link.partition('#')
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        assert not section or section in anchors(target), link
        part = target in MANUAL or (target.parent == page.parent and target.suffix == '.jpg')
        assert page.parent.name != 'docs' or part, f'{link} is not part of the manual'


@by_page
def test_files_that_are_named_exist(page: Path) -> None:
    """A path in backticks is relative to the source tree; a module may be named by its end."""
    for name in re.findall(r'`([\w./]+)`', prose(page)):
        folder = name.partition('/')[0]
        if '/' in name and folder in ('config', 'docs', 'launch', 'resource', 'test', 'training'):
            assert (ROOT / name).exists(), name
        elif name.endswith('.py'):
            assert (ROOT / name).exists() or any(ROOT.glob(f'segmentation_node/**/{name}')), name


def test_readme_is_a_front_page() -> None:
    readme = text_of('README.md')
    assert len(readme.encode()) <= 8192
    assert len(re.findall(r'^\| --- \|', readme, re.MULTILINE)) == 3
    assert 'REPOSITORY' not in readme


def test_pictures_are_light_enough_for_a_page() -> None:
    pictures = re.findall(r'!\[[^]]+\]\(([^)]+)\)', text_of('README.md'))
    assert pictures
    assert all((ROOT / picture).stat().st_size < 600_000 for picture in pictures)
    assert all(path.stat().st_size < 300_000 for path in (ROOT / 'docs').glob('*.jpg'))


def test_every_page_is_in_the_navigation() -> None:
    settings = yaml.safe_load(text_of('mkdocs.yml'))
    listed = [page for entry in settings['nav'] for page in entry.values()]
    assert sorted(listed) == [page.name for page in MANUAL]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r'^([a-z-]+):', text_of('Makefile'), re.MULTILINE))
    calls = [line[1:] for line in shell_lines() if line[0] == 'make']
    named = {word for words in calls for word in words if '=' not in word}
    named |= {target for page in PAGES for target in re.findall(r'`make ([a-z-]+)', prose(page))}
    assert {'demo', 'docs', 'test', 'lint'} <= named <= targets


def test_make_lists_its_targets() -> None:
    said = subprocess.run(['make', 'help'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert {'demo', 'docs', 'test', 'lint', 'clean'} <= set(
        re.findall(r'^  make ([a-z-]+)', said.stdout, re.MULTILINE)
    )


def test_commands_modules_and_scripts_exist() -> None:
    lines = shell_lines()
    ours = {line[0] for line in lines if re.fullmatch(r'[a-z]+(_[a-z]+)+', line[0])}
    assert {'segment_bag', 'export_model'} <= ours <= set(COMMANDS)
    python = [line[1:] for line in lines if line[0] == 'python']
    modules = [words[1] for words in python if words[0] == '-m']
    assert {'training.train', 'segmentation_node.benchmark.report'} <= set(modules)
    assert all(find_spec(module) for module in modules)
    assert all((ROOT / words[0]).is_file() for words in python if words[0] != '-m')


def test_experiments_load_with_the_fields_that_are_set() -> None:
    from training.config import load_experiment

    loaded = 0
    for words in shell_lines():
        paths = [ROOT / word for word in words if word.startswith('training/configs/')]
        if {'training.train', 'training.prepare', 'training.search'} & {*words} and paths:
            first = words.index(str(paths[0].relative_to(ROOT)))
            overrides = [word for word in words[first:] if '=' in word]
            assert load_experiment(paths[0], overrides).family
            loaded += 1
    assert loaded >= 6


@pytest.mark.parametrize(
    'line', [words for words in shell_lines() if words[0] in COMMANDS], ids=' '.join
)
def test_commands_know_their_options(line: list[str]) -> None:
    module = import_module(f'segmentation_node.{COMMANDS[line[0]].args[0]}')
    module._parser().parse_args(line[1:])


def test_bag_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from training_data import write_cityscapes

    monkeypatch.chdir(tmp_path)
    write_cityscapes(tmp_path / 'cityscapes', 'val', 2)
    _write_images(tmp_path / 'frames', 2)
    _run(next(b for b in blocks(ROOT / 'docs' / 'bags.md', 'bash') if 'images_to_bag' in b))
    assert (tmp_path / 'segmented.mcap').stat().st_size
    assert (tmp_path / 'drive.mcap').stat().st_size


def test_image_examples_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _write_images(tmp_path / 'holiday', 2)
    (tmp_path / 'labels').mkdir()
    for image in (tmp_path / 'holiday').iterdir():
        labels = np.full((64, 128), load_scheme('camvid11').id_of('sky'), np.uint8)
        (tmp_path / 'labels' / image.name).write_bytes(encode_png(labels))
    _run(next(b for b in blocks(ROOT / 'docs' / 'bags.md', 'bash') if 'segment_images' in b))
    assert 'mIoU' in capsys.readouterr().out
    assert len(list((tmp_path / 'segmented' / 'overlay').iterdir())) == 2


def test_viewing_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rerun.chunk import RrdReader

    monkeypatch.chdir(tmp_path)
    _write_images(tmp_path / 'frames', 2)
    _run('images_to_bag --images frames/ --output drive.mcap')
    record, restore = blocks(ROOT / 'docs' / 'viewing.md', 'bash')[:2]
    install, segment, view = commands_of(record)
    assert re.search(r'\[(\w+)\]', install[-1])
    _run(shlex.join(segment))
    assert RrdReader(view[1]).recordings()
    # A killed process leaves a recording without its end.
    whole = Path(view[1]).read_bytes()
    Path('seen.new.rrd').write_bytes(whole[: -len(whole) // 10])
    (repair,) = commands_of(restore)
    home = {**os.environ, 'HOME': str(tmp_path)}
    command = [sys.executable, '-m', 'rerun_cli', *repair[1:]]
    subprocess.run(command, env=home, check=True, capture_output=True)
    assert Path(view[1]).read_bytes() != whole
    assert RrdReader(view[1]).recordings()


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        image = np.random.default_rng(index).integers(0, 256, (64, 128, 3), np.uint8)
        (folder / f'frame_{index}.png').write_bytes(encode_png(image))


def _run(block: str) -> None:
    for name, *arguments in commands_of(block):
        if name.startswith('segment_'):
            arguments += ['--precision', 'fp32']  # measures nothing
        main = import_module(f'segmentation_node.{COMMANDS[name].args[0]}').main
        assert main([*arguments, '--quiet']) == 0, name


@pytest.mark.parametrize(
    ('page', 'example'),
    [(page.name, block) for page in PAGES for block in blocks(page, 'python')],
)
def test_examples_in_python_run(
    page: str,
    example: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = cv2.imread(str(ROOT / 'resource' / 'readme' / 'street.jpg'))
    assert picture is not None
    cv2.imwrite('street.jpg', cv2.resize(picture, (256, 128)))
    exec(compile(example, page, 'exec'), {})  # noqa: S102 (our own page)
    said = capsys.readouterr().out
    if '%' in example:
        shares = dict(line.split() for line in said.splitlines())
        assert list(shares) == [c.name for c in load_scheme('cityscapes8').classes]
        total = sum(float(share.rstrip('%')) for share in shares.values())
        assert total == pytest.approx(100, abs=1)
    for name in re.findall(r"'(\w+\.png)'", example):
        assert cv2.imread(name).shape == (128, 256, 3)  # type: ignore[union-attr]
    assert said


def test_label_schemes_in_yaml_load(tmp_path: Path) -> None:
    (example,) = (b for b in blocks(ROOT / 'docs' / 'models.md', 'yaml') if 'classes:' in b)
    path = tmp_path / 'floor.yaml'
    path.write_text(example, encoding='utf-8')
    assert [c.name for c in load_scheme(path).classes] == ['other', 'floor', 'obstacle']
    (bundled,) = re.findall(r'The bundled schemes are (.+?)\. ', text_of('docs', 'models.md'))
    assert sorted(re.findall(r'`(\w+)`', bundled)) == available_schemes()


def test_messages_in_troubleshooting_are_those_of_the_node() -> None:
    rows = re.findall(r'^\| (.+?) \|', text_of('docs', 'troubleshooting.md'), re.MULTILINE)
    quoted = [text for row in rows for text in re.findall(r'`([^`]+)`', row) if ' ' in text]
    sources = ''.join(path.read_text('utf-8') for path in ROOT.glob('segmentation_node/**/*.py'))
    assert 'no image for 5 s' in quoted
    for message in quoted:
        assert re.split(r'\d| \.\.\.', message)[0] in sources, message


# Architecture


@cache
def definitions(path: Path) -> set[str]:
    """Return the names that a module defines: functions, classes, methods, constants."""
    found = set()
    for node in ast.parse(path.read_text(encoding='utf-8')).body:
        match node:
            case ast.FunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name, body=body):
                methods = [each.name for each in body if isinstance(each, ast.FunctionDef)]
                found |= {name, *(f'{name}.{method}' for method in methods)}
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


def test_architecture_names_what_the_code_has() -> None:
    """Names in backticks belong to the module before them: in their row, or in their paragraph."""
    checked = 0
    for part in re.split(r'\n\n|(?<=\|)\n', prose(ROOT / 'docs' / 'architecture.md')):
        known: set[str] = set()
        for name in re.findall(r'`([\w./]+)`', part):
            if name.endswith('.py'):
                assert (ROOT / name).is_file(), name
                known |= definitions(ROOT / name)
            elif known and re.fullmatch(r'[A-Z_]\w+(\.\w+)?|[a-z]+_\w+', name):
                assert name in known or '/' in name, f'{name} is not in the module named before it'
                checked += 1
    assert checked >= 30


def test_architecture_lists_every_folder() -> None:
    tree = blocks(ROOT / 'docs' / 'architecture.md', 'text')[1]
    listed, parent = [], ''
    for line in tree.splitlines():
        indent, name = re.fullmatch(r'( *)([\w]+)/ .*', line).groups()  # type: ignore[union-attr]
        parent = parent if indent else name
        listed.append(f'{parent}/{name}' if indent else name)
    ignored = ('__pycache__', 'build', 'install', 'log', 'dist', 'site', 'data', 'runs')
    there = [
        path.relative_to(ROOT).as_posix()
        for folder in (ROOT, ROOT / 'segmentation_node')
        for path in folder.iterdir()
        if path.is_dir()
        and path.name not in ignored
        and not re.search(r'^\.|_output$|\.egg', path.name)
    ]
    assert sorted(listed) == sorted([*there, 'training/scenes'])


def test_a_frame_takes_at_most_nine_hops() -> None:
    section = text_of('docs', 'architecture.md').partition('## The way of a frame')[2]
    hops = re.findall(r'^\| (\d+) \|', section.partition('\n## ')[0], re.MULTILINE)
    assert list(map(int, hops)) == list(range(1, len(hops) + 1))
    assert 1 < len(hops) <= 9


def test_api_pages_show_what_the_code_has() -> None:
    entries = text_of('docs', 'api.md').split('::: ')[1:]
    assert entries
    for text in entries:
        path = ROOT / (text.split()[0].replace('.', '/') + '.py')
        members = re.findall(r'members: \[(.+)\]', text)
        for name in members[0].split(', ') if members else ():
            assert name in definitions(path), name


# Files that people expect


def test_settings_are_valid_yaml() -> None:
    files = [
        *ROOT.glob('.github/**/*.yml'), ROOT / '.pre-commit-config.yaml', ROOT / 'CITATION.cff',
    ]  # fmt: skip
    assert len(files) >= 5
    for path in files:
        assert isinstance(yaml.safe_load(path.read_text(encoding='utf-8')), dict), path


def test_ci_runs_by_itself() -> None:
    assert os.access(ROOT / '.ci' / 'run', os.X_OK)


def test_ci_runs_every_supported_python() -> None:
    jobs = yaml.safe_load(text_of('.github', 'workflows', 'ci.yml'))['jobs']
    versions = jobs['python']['strategy']['matrix']['python']
    with pytest.MonkeyPatch.context() as patch, mock.patch('setuptools.setup') as setup:
        patch.chdir(ROOT)
        runpy.run_path('setup.py')
    first, after = re.fullmatch(r'>=3\.(\d+),<3\.(\d+)', setup.call_args.kwargs['python_requires'],
                                ).groups()  # type: ignore[union-attr]  # fmt: skip
    assert versions == [f'3.{minor}' for minor in range(int(first), int(after))]


def test_version_is_the_same_everywhere() -> None:
    version = segmentation_node.__version__
    citation: dict[str, Any] = yaml.safe_load(text_of('CITATION.cff'))
    assert citation['version'] == version
    assert re.search(rf'^## \[{re.escape(version)}\]', text_of('CHANGELOG.md'), re.MULTILINE)
