# SPDX-License-Identifier: Apache-2.0
"""Checkpoints that mean harm, or are damaged, and what loading each of them costs."""

import json
import os
import resource
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmentation_node.checkpoint import load_checkpoint
from segmentation_node.errors import SegmentationError

BOMB = 'a0: &a0 [x, x, x, x, x, x, x, x, x]\n' + ''.join(
    f'a{i}: &a{i} [{", ".join([f"*a{i - 1}"] * 9)}]\n' for i in range(1, 12)
)
VALUES: tuple[Any, ...] = (
    10**9, -1, 0, 1e308, True, None, '', 'hf_hub:some/where', 'some/where', '\x1b[31m' * 1000,
    [], [10**9] * 4, {}, {'a': {'b': [1]}},
)  # fmt: skip
#: Fields that lead elsewhere, or to more, where a library reads them.
LEADING = {
    'encoder_name': ('tu-hf_hub:some/where', 'tu-hf-hub:some/where', 'tu-local-dir:/etc', '../x'),
    'encoder_weights': ('imagenet', 'hf_hub:some/where'),
    'backbone': ('some/where', 'resnet50', 'https://example.org/x'),
    'use_pretrained_backbone': (True, 'yes'),
    'use_timm_backbone': (True, 'yes'),
    'backbone_kwargs': ({'pretrained': True}, {'backbone': 'hf_hub:some/where'}, 'x'),
    'attn_implementation': ('kernels-community/x', 'flash_attention_2'),
    '_attn_implementation': ('kernels-community/x',),
    'auto_map': ({'AutoModel': 'some/where--code.Model'}, {'AutoConfig': 'code.Config'}),
    'quantization_config': ({'quant_method': 'bitsandbytes', 'load_in_8bit': True},),
    'trust_remote_code': (True,),
    '_name_or_path': ('some/where', '/etc/passwd'),
}
#: Instead of a file's content.
CONTENTS = (
    b'', b'\0' * 1000, b'[' * 100_000, b'{"a":' * 100_000, b'9' * 5000, b'NaN', b'\xff\xfe',
    b'"x"', b'[]', b'x' * 2**22, BOMB.encode(), b'!!python/object/apply:os.system [false]',
    b'- ' * 50_000 + b'x', b'\x1b[2J', b'{"id2label": {"' + b'9' * 5000 + b'": "road"}}',
)  # fmt: skip


@dataclass
class Outcome:
    """Result of loading a checkpoint; `error` is empty if it loaded."""

    error: str
    known: bool
    seconds: float
    megabytes: float
    looked_up: int


def kinds(smp: Path, mask2former: Path) -> Iterator[tuple[str, Path, Callable[[Path], None]]]:
    """Name, folder to start from, and what is done to a copy of it."""
    for folder in (smp, mask2former):
        config = json.loads((folder / 'config.json').read_text(encoding='utf-8'))
        for field in config:
            for index, value in enumerate(VALUES):
                yield f'{folder.name} {field} {index}', folder, _with(field, value)
        for field, values in LEADING.items():
            for value in values:
                yield f'{folder.name} {field} {value}', folder, _with(field, value)
        for name in ('config.json', 'segmentation.yaml', 'model.safetensors'):
            for index, content in enumerate(CONTENTS):
                yield f'{folder.name} {name} {index}', folder, _holding(name, content)
        yield f'{folder.name} a loop', folder, _looping
        for index, header in enumerate((2**62, 2**20, 8)):
            content = header.to_bytes(8, 'little') + b'{"a":' * 10_000
            yield f'{folder.name} header {index}', folder, _holding('model.safetensors', content)
        for bad in ('nan', 'inf'):
            yield f'{folder.name} {bad}', folder, _spoilt(float(bad))
    for index, content in enumerate(CONTENTS):
        yield f'scheme {index}', smp, _scheme(content)
    for row in ('label_scheme: ../../x.yaml', 'label_scheme: /etc/passwd', 'family: [1]',
                'preprocessing: {std: [0, 0, 0]}', 'preprocessing: {mean: [.nan, 1, 1]}',
                'preprocessing: {size_hw: [1000000000, 1000000000]}', 'x: 1'):  # fmt: skip
        yield f'spec {row}', smp, _appended('segmentation.yaml', row)


def _with(field: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / 'config.json'
        config = json.loads(path.read_text(encoding='utf-8'))
        path.write_text(json.dumps({**config, field: value}), encoding='utf-8')

    return change


def _holding(name: str, content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return change


def _appended(name: str, row: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        kept = [
            line
            for line in path.read_text(encoding='utf-8').splitlines()
            if not line.startswith(row.partition(':')[0])
        ]
        path.write_text('\n'.join([*(k for k in kept if not k.startswith(' ')), row]) + '\n')

    return change


def _scheme(content: bytes) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / 'own.yaml').write_bytes(content)
        _appended('segmentation.yaml', 'label_scheme: own.yaml')(folder)

    return change


def _looping(folder: Path) -> None:
    (folder / 'config.json').unlink()
    (folder / 'config.json').symlink_to('config.json')


def _spoilt(value: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        from safetensors.numpy import load_file, save_file

        weights = load_file(folder / 'model.safetensors')
        name = next(n for n, w in weights.items() if w.dtype.kind == 'f')
        weights[name] = np.full_like(weights[name], value)
        save_file(weights, folder / 'model.safetensors', metadata={'format': 'pt'})

    return change


def load(original: Path, change: Callable[[Path], None], scratch: Path) -> Outcome:
    """Load a changed copy of a checkpoint in a process of its own that can reach nobody."""
    folder = scratch / 'checkpoint'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder)
    change(folder)
    reading, writing = os.pipe()
    if not (child := os.fork()):
        os.write(writing, json.dumps(_loaded(folder)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, 'rb') as answer:
        content = answer.read()
    os.waitpid(child, 0)
    if not content:
        return Outcome('the process died', False, 0, 0, 0)
    return Outcome(**json.loads(content))


def _loaded(folder: Path) -> dict[str, Any]:
    looked_up: list[object] = []

    def refuse(*address: object, **_: object) -> None:
        looked_up.append(address)
        raise OSError('the network is not to be used')

    socket.socket.connect = socket.getaddrinfo = refuse  # type: ignore[assignment,method-assign]
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    before_mb, started_s = _resident_mb(), time.monotonic()
    error, known = '', True
    try:
        load_checkpoint(str(folder))
    except SegmentationError as problem:
        error = str(problem)
    except BaseException as problem:  # noqa: BLE001 (which it is, is what is asked)
        error, known = f'{type(problem).__name__}: {problem}'[:500], False
    return {
        'error': error, 'known': known, 'seconds': time.monotonic() - started_s,
        'megabytes': _peak_mb() - before_mb, 'looked_up': len(looked_up),
    }  # fmt: skip


def _resident_mb() -> float:
    return int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1]) * 4096 / 1e6


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
