# SPDX-License-Identifier: Apache-2.0
"""Command: attack a service, and report whether honest clients were served meanwhile.

    python test/faults_web.py --fuzzed 10000 --slow 500 --at-once 500

Starts its own service with a bundled model. During each attack, an honest client repeatedly
requests a segmentation, and retries when it is told to. Prints a report as JSON; the exit status
is 0 if the service met its requirements.
"""

import argparse
import json
import random
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, fields
from http.client import HTTPException
from pathlib import Path
from typing import Any

from patience import PATIENCE_S

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
from streets import street_images
from web_load import damaged, memory_mb
from web_raw import Answer, connect, read_answer, upload
from web_service import ServiceProcess

from segmentation_node.arrays import UInt8Array
from segmentation_node.images.files import encode_jpeg, encode_png

#: Addresses of the attackers and of an unrelated client.
ATTACKER, STRANGER = '127.0.0.1', '127.0.0.2'
#: Maximum time until an honest client is served.
HONEST_MAX_S = 2.0
BYTE_EVERY_S = 5.0
OVERSIZED_BYTES = 17_000_000
REOPEN_S = 1.0
#: Maximum time until the service closes slow connections after an attack.
PATIENCE_WITH_SLOW_S = 30.0
#: Kinds of slow clients: whether the headers are sent at once, the part that is sent byte by
#: byte, and whether a client reconnects REOPEN_S after its connection was closed.
SLOW = {
    'headers': (False, 'head', False),
    'bodies': (True, 'body', False),
    'silent': (False, 'nothing', False),
    'bodies, reopened when cut': (True, 'body', True),
}


@dataclass
class Report:
    """Results of one attack; `statuses` counts answers by status, and connections without one."""

    what: str
    count: int
    honest_client: str
    statuses: Counter[str] = field(default_factory=Counter)
    honest_statuses: Counter[str] = field(default_factory=Counter)
    honest_served: int = 0
    honest_p50_s: float | None = None
    honest_max_s: float | None = None
    took_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def note(self, answer: Answer | None, *, must_answer: bool = True) -> None:
        """Count an answer; None if the connection ended without one."""
        with self._lock:
            self.statuses[str(answer.status) if answer else 'none'] += 1
            if answer is None and must_answer:
                self.fail('a connection ended without an answer')
            if answer is not None:
                self.check(answer)

    def check(self, answer: Answer) -> None:
        """Note a failure if the service must not give this answer."""
        if answer.status >= 500 and answer.status != 503:
            self.fail(f'status {answer.status}: {answer.body[:200]!r}')
        if answer.status == 503 and 'Retry-After' not in answer.headers:
            self.fail('503 without Retry-After')
        if answer.headers['X-Content-Type-Options'] != 'nosniff':
            self.fail(f'status {answer.status} without security headers')

    def members(self) -> dict[str, Any]:
        """Return the fields of the report."""
        return {member.name: getattr(self, member.name) for member in fields(self)}

    def fail(self, reason: str) -> None:
        """Note a failure, each reason at most three times."""
        if self.failures.count(reason) < 3:
            self.failures.append(reason)


class Target:
    """The service under attack, and the requests made for it."""

    def __init__(self, port: int, image_rgb: UInt8Array) -> None:
        self.port = port
        self.head, self.body = upload(encode_jpeg(image_rgb), 'Connection: close')

    def ask(self, data: bytes, source: str) -> Answer:
        """Send a whole request, then read the answer."""
        with closing(connect(self.port, PATIENCE_S, source)) as connection:
            connection.sendall(data)
            return read_answer(connection)

    def ask_honestly(self, source: str) -> Answer:
        """Segment one image; raises OSError if there is no answer."""
        return self.ask(self.head + self.body, source)

    @contextmanager
    def under(self, report: Report) -> Iterator[None]:
        """Run an honest client while the context lasts, and until it has been served."""
        ended = threading.Event()
        took_s: list[float] = []

        def be_honest() -> None:
            while not ended.is_set() or not took_s:
                asked_s = time.perf_counter()
                while True:
                    try:
                        answer = self.ask_honestly(report.honest_client)
                    except (OSError, HTTPException) as error:
                        report.fail(f'an honest client got {error!r}')
                        break
                    report.honest_statuses[str(answer.status)] += 1
                    report.check(answer)
                    if answer.status != 503:
                        break
                    time.sleep(float(answer.headers['Retry-After']))
                took_s.append(time.perf_counter() - asked_s)
                ended.wait(0.1)

        honest = threading.Thread(target=be_honest)
        started_s = time.perf_counter()
        honest.start()
        try:
            yield
        finally:
            report.took_s = time.perf_counter() - started_s
            ended.set()
            honest.join()
        report.honest_served = len(took_s)
        report.honest_p50_s, report.honest_max_s = statistics.median(took_s), max(took_s)
        if report.honest_max_s > HONEST_MAX_S:
            report.fail(f'an honest client waited {report.honest_max_s:.2f} s')


def fuzzed(target: Target, count: int) -> Report:
    """Send damaged files in valid forms, and damaged forms."""
    report = Report('damaged uploads', count, STRANGER)
    [small] = street_images(1, (96, 64))
    samples = [encode_jpeg(small), encode_png(small), encode_png(small[..., 0]), *_others(small)]
    rng = random.Random(0)
    with target.under(report):
        for number in range(count):
            if number % 4:
                head, body = upload(damaged(rng, samples), 'Connection: close')
            else:
                whole = upload(rng.choice(samples))[1]
                boundary = whole[2 : whole.index(b'\r\n')].decode()
                body = damaged(rng, [whole])
                lines = ('POST /predict HTTP/1.1', 'Host: x', 'Connection: close',
                         f'Content-Type: multipart/form-data; boundary={boundary}',
                         f'Content-Length: {len(body)}', '', '')  # fmt: skip
                head = '\r\n'.join(lines).encode()
            report.note(_asked(lambda: target.ask(head + body, ATTACKER)))  # noqa: B023
    return report


def _others(image_rgb: UInt8Array) -> list[bytes]:
    import cv2

    bgr = image_rgb[..., ::-1]
    return [cv2.imencode(suffix, bgr)[1].tobytes() for suffix in ('.webp', '.tiff')]


def slow(target: Target, count: int, kind: str, duration_s: float) -> Report:
    """Run slow clients of one kind in SLOW, which send a byte every 5 s."""
    begin, rest, reopens = SLOW[kind]
    # Clients that reconnect take all slots of their address.
    report = Report(f'slow clients: {kind}', count, STRANGER if reopens else ATTACKER)
    ends_s = time.monotonic() + duration_s
    begun, rest_of = (target.head if begin else b''), getattr(target, rest, b'')

    def attack(_number: int) -> None:
        while time.monotonic() < ends_s:
            report.note(_asked(trickle), must_answer=rest != 'nothing' and not reopens)
            if not reopens:
                return
            time.sleep(REOPEN_S)

    def trickle() -> Answer | None:
        with closing(connect(target.port, BYTE_EVERY_S, ATTACKER)) as connection:
            connection.sendall(begun)
            for byte in rest_of or bytes(10**6):
                if time.monotonic() > ends_s + PATIENCE_WITH_SLOW_S:
                    break
                if rest_of:
                    connection.sendall(bytes([byte]))
                try:
                    return read_answer(connection)
                except TimeoutError:
                    continue
            report.fail('the service did not end a slow connection')
            return None

    with target.under(report), ThreadPoolExecutor(count) as pool:
        list(pool.map(attack, range(count)))
    return report


def at_once(target: Target, count: int) -> Report:
    """Run clients that all upload an image at the same time."""
    report = Report('uploads at once', count, STRANGER)
    barrier = threading.Barrier(count)

    def attack(_number: int) -> None:
        barrier.wait()
        report.note(_asked(lambda: target.ask_honestly(ATTACKER)))

    with target.under(report), ThreadPoolExecutor(count) as pool:
        list(pool.map(attack, range(count)))
    return report


def oversized(target: Target, count: int) -> Report:
    """Send uploads beyond the limit, and read only afterwards."""
    report = Report('oversized uploads, written before anything is read', count, STRANGER)
    head, body = upload(bytes(OVERSIZED_BYTES), 'Connection: close')
    with target.under(report):
        for _ in range(count):
            answer = _asked(lambda: target.ask(head + body, ATTACKER))
            report.note(answer)
            if answer is not None and answer.status != 413:
                report.fail(f'status {answer.status}, expected 413')
    return report


def _asked(ask: Callable[[], Answer | None]) -> Answer | None:
    try:
        return ask()
    except (OSError, HTTPException):
        return None


def main() -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else '')
    parser.add_argument('--fuzzed', type=int, default=10_000, help='damaged uploads')
    parser.add_argument('--slow', type=int, default=500, help='clients, for each kind of slowness')
    parser.add_argument('--at-once', type=int, default=500, help='clients')
    parser.add_argument('--oversized', type=int, default=20, help='uploads of 17 MB')
    parser.add_argument('--duration-s', type=float, default=30.0, help='of each slow attack')
    parser.add_argument('--model', default='deeplabv3plus')
    args = parser.parse_args()
    [image_rgb] = street_images(1, (512, 256))
    reports: list[Report] = []
    with ServiceProcess('--model', args.model) as service:
        target = Target(service.port, image_rgb)
        warm = target.ask_honestly(STRANGER)
        assert warm.status == 200, warm.body
        with httpx.Client(base_url=service.url, timeout=PATIENCE_S) as client:
            before_mb = memory_mb(client)
        attacks: list[Callable[[], Report]] = [
            lambda: fuzzed(target, args.fuzzed),
            lambda: oversized(target, args.oversized),
            *((lambda kind=kind: slow(target, args.slow, kind, args.duration_s)) for kind in SLOW),
            lambda: at_once(target, args.at_once),
        ]
        for attack in attacks:
            reports.append(attack())
            print(f'{reports[-1].what}: {dict(reports[-1].statuses)}', file=sys.stderr)
        with httpx.Client(base_url=service.url, timeout=PATIENCE_S) as client:
            after_mb = memory_mb(client)
        alive = service.process.poll() is None
        errors = [line for line in service.end() if re.search('Traceback|ERROR|Error', line)]
    print(json.dumps({
        'service_alive': alive,
        'errors_in_log': errors[:10],
        'memory_mb': {'before': round(before_mb), 'after': round(after_mb)},
        'attacks': [report.members() for report in reports],
    }, indent=2))  # fmt: skip
    return int(not alive or bool(errors) or any(report.failures for report in reports))


if __name__ == '__main__':
    sys.exit(main())
