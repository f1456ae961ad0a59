# SPDX-License-Identifier: Apache-2.0
"""Command: put a service under load, and report the results.

    python test/web_load.py clients --clients 64 --requests 512
    python test/web_load.py fuzz --uploads 10000

Each starts its own service with a bundled model. `clients` compares the throughput with that of
the bare Segmenter on the same images, one after the other, measured just before; run it on an
idle machine. The exit status is 0 if the service met its requirements.
"""

import argparse
import random
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import httpx
import numpy as np
from patience import PATIENCE_S

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from streets import street_images
from web_service import ServiceProcess

from segmentation_node.images.files import encode_jpeg, encode_png
from segmentation_node.runtimes.memory import keep_freed_memory
from segmentation_node.segmenter import Segmenter
from segmentation_node.web.service_settings import ServiceSettings

#: Growth of memory that is not counted as a leak: memory that allocators keep.
FLAT_MB = 64


def damaged(rng: random.Random, samples: list[bytes]) -> bytes:
    """Return a damaged image file, or random bytes."""
    data = bytearray(rng.choice(samples))
    match rng.randrange(6):
        case 0:
            return rng.randbytes(rng.randrange(400))
        case 1:
            return bytes(data[: rng.randrange(len(data))])
        case 2:  # only the beginning is valid
            return bytes(data[: rng.randrange(40)]) + rng.randbytes(rng.randrange(2000))
        case 3:
            for _ in range(rng.randrange(1, 20)):
                data[rng.randrange(min(200, len(data)))] = rng.randrange(256)
        case 4:
            start = rng.randrange(len(data))
            del data[start : start + rng.randrange(1, 200)]
        case _:
            start = rng.randrange(len(data))
            data[start:start] = rng.randbytes(rng.randrange(1, 200))
    return bytes(data)


def fuzz(
    client: httpx.Client, samples: list[bytes], uploads: int, seed: int = 0
) -> Iterator[httpx.Response]:
    """Send damaged uploads, one after the other."""
    rng = random.Random(seed)
    for _ in range(uploads):
        yield client.post('/predict', files={'image': damaged(rng, samples)})


def memory_mb(client: httpx.Client) -> float:
    """Return the resident memory of the service in MB."""
    found = re.search(r'^process_resident_memory_bytes (\S+)', client.get('/metrics').text, re.M)
    assert found
    return float(found[1]) / 2**20


def run_fuzz(args: argparse.Namespace) -> int:
    """Send damaged uploads: none may cause a failure or a memory leak."""
    [small] = street_images(1, (96, 64))
    samples = [encode_jpeg(small), encode_png(small), encode_png(small[..., 0])]
    statuses: Counter[int] = Counter()
    with (
        ServiceProcess('--model', args.model) as service,
        httpx.Client(base_url=service.url, timeout=PATIENCE_S) as client,
    ):
        memory = []
        for part in range(10):
            answers = fuzz(client, samples, args.uploads // 10, seed=part)
            statuses.update(answer.status_code for answer in answers)
            memory.append(memory_mb(client))
    # Buffers and caches are filled in the first half.
    grown = memory[-1] - memory[4]
    print(f'{sum(statuses.values())} damaged uploads: {dict(sorted(statuses.items()))}; memory in '
          f'MB after each tenth: {", ".join(f"{m:.0f}" for m in memory)}')  # fmt: skip
    return int(max(statuses) >= 500 or grown > FLAT_MB)


@dataclass(frozen=True)
class Body:
    """Upload that is prepared once, because clients share the cores with the service."""

    content: bytes
    headers: dict[str, str]

    @classmethod
    def of(cls, image: bytes) -> 'Body':
        request = httpx.Request('POST', 'http://service/predict', files={'image': image})
        return cls(request.read(), {'Content-Type': request.headers['Content-Type']})

    def post(self, http: HTTPConnection) -> HTTPResponse:
        http.request('POST', '/predict', self.content, self.headers)
        return http.getresponse()


def run_clients(args: argparse.Namespace) -> int:
    """Run many clients at once: no error except 503, and at least 90 % of the bare throughput."""
    images = street_images(8, (1024, 512))
    uploads = [Body.of(encode_jpeg(image)) for image in images]
    keep_freed_memory()  # as the service does
    segmenter = Segmenter(args.model, runtime=args.runtime)
    segmenter.segment(images[:1])
    started_s = time.perf_counter()
    for i in range(args.bare):
        segmenter.segment(images[i % 8 : i % 8 + 1])
    bare = args.bare / (time.perf_counter() - started_s)
    latencies: list[float] = []
    statuses: Counter[int] = Counter()
    left = iter(range(args.requests))
    lock = threading.Lock()

    def client() -> None:
        with closing(HTTPConnection(url.host, url.port, timeout=PATIENCE_S)) as http:
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                asked_s = time.perf_counter()
                answer = uploads[number % 8].post(http)
                answer.read()
                with lock:
                    statuses[answer.status] += 1
                    if answer.status == 200:
                        latencies.append(time.perf_counter() - asked_s)
                if answer.status == 503:
                    time.sleep(float(answer.headers['Retry-After']))

    options = ('--model', args.model, '--runtime', args.runtime)
    with ServiceProcess(*options, environment={'OMP_NUM_THREADS': ''}) as service:
        url = httpx.URL(service.url)
        with closing(HTTPConnection(url.host, url.port, timeout=PATIENCE_S)) as warm:
            answer = uploads[0].post(warm)
            content = answer.read()
            assert answer.status == 200, content
        started_s, own_cpu_s = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(args.clients) as pool:
            for done in [pool.submit(client) for _ in range(args.clients)]:
                done.result()
        took_s, own_cpu_s = time.perf_counter() - started_s, time.process_time() - own_cpu_s
        served = len(latencies) / took_s
    p50, p99 = np.percentile(latencies, (50, 99))
    print(f'{args.clients} clients: {dict(statuses)}; {served:.2f} images/s, bare Segmenter '
          f'{bare:.2f}, ratio {served / bare:.2f}; p50 {p50:.2f} s, p99 {p99:.2f} s; the clients '
          f'took {1000 * own_cpu_s / args.requests:.1f} ms of a core per request')  # fmt: skip
    return int(bool(set(statuses) - {200, 503}) or served < 0.9 * bare)


def main() -> int:
    """Run the command and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else '')
    commands = parser.add_subparsers(required=True)
    clients = commands.add_parser('clients')
    clients.set_defaults(run=run_clients)
    clients.add_argument('--clients', type=int, default=64)
    clients.add_argument('--requests', type=int, default=512)
    clients.add_argument(
        '--runtime', default=ServiceSettings.runtime, help='of service and Segmenter'
    )
    clients.add_argument('--bare', type=int, default=100, help='images for the bare Segmenter')
    uploads = commands.add_parser('fuzz')
    uploads.set_defaults(run=run_fuzz)
    uploads.add_argument('--uploads', type=int, default=10_000)
    for command in (clients, uploads):
        command.add_argument('--model', default='deeplabv3plus')
    args = parser.parse_args()
    status: int = args.run(args)
    return status


if __name__ == '__main__':
    sys.exit(main())
