"""Random samples over HTTP with a delay: this package, webdataset's curl pipe, fsspec. Run: python tests/bench/remote.py

The server is on this machine and shares its cores; every answer begins 30 ms after its request. Samples have seven
members and 1.1 MB together. webdataset cannot read at random: it reads the same shards from their beginning.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.hardware import described

RUNS = 5
SHARDS = 3
SAMPLES_PER_SHARD = 50
FRAME_BYTES = 157_000
DELAY_S = 0.03
THREADS = 16

Span = tuple[str, int, int]
"""A sample: its shard, and the bytes [start, stop) in it."""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        spans = write_shards(Path(folder))
        server = subprocess.Popen(
            [sys.executable, __file__, "serve", folder], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}"
            print(json.dumps(measure(url, spans, Path(folder))))
        finally:
            server.terminate()
            server.wait()


def measure(url: str, spans: list[Span], folder: Path) -> dict[str, object]:
    order = random.Random(1).sample(spans, len(spans))
    caches = iter(range(1000))
    ways: dict[str, Callable[[], None]] = {
        "srloss_16_threads": lambda: read_with_srloss(url, order, None),
        "srloss_16_threads_cold_cache": lambda: read_with_srloss(url, order, folder / f"cache{next(caches)}"),
        "srloss_16_threads_warm_cache": lambda: read_with_srloss(url, order, folder / "warm"),
        "webdataset_curl_pipe": lambda: read_with_webdataset(url),
        "fsspec_cat_file": lambda: read_with_fsspec(url, order),
    }
    # Once unmeasured: imports, the page cache, the warm cache.
    for way in ways.values():
        way()
    # In turn, so that a machine that slows down slows all of them.
    runs = [{name: seconds(way) for name, way in ways.items()} for _ in range(RUNS)]
    rates = {name: [len(spans) / run[name] for run in runs] for name in ways}
    return {
        "benchmark": "remote",
        "samples_per_s": {name: round(statistics.median(values)) for name, values in rates.items()},
        "all_runs": {name: [round(value) for value in values] for name, values in rates.items()},
        "times_webdataset": round(ratio(runs, "webdataset_curl_pipe"), 2),
        "times_fsspec": round(ratio(runs, "fsspec_cat_file"), 2),
        "sample_bytes": spans[0][2] - spans[0][1],
        "samples": len(spans),
        "delay_s": DELAY_S,
        "runs": RUNS,
        **described(),
    }


def ratio(runs: list[dict[str, float]], other: str) -> float:
    return statistics.median(run[other] / run["srloss_16_threads"] for run in runs)


def seconds(way: Callable[[], None]) -> float:
    started = time.perf_counter()
    way()
    return time.perf_counter() - started


def read_with_srloss(url: str, order: list[Span], cache: Path | None) -> None:
    from shards.storage.cache import CachedStorage, CacheSettings
    from shards.storage.http import HttpStorage, WebAddress

    storage = CachedStorage(HttpStorage(WebAddress(url)), CacheSettings(cache))
    with ThreadPoolExecutor(THREADS) as pool:
        parts = pool.map(lambda span: len(storage.read(*span)), order)
        assert sum(parts) == sum(stop - start for _, start, stop in order)


def read_with_webdataset(url: str) -> None:
    import webdataset

    urls = [f"pipe:curl -s -f {url}/{number}.tar" for number in range(SHARDS)]
    dataset = webdataset.WebDataset(urls, shardshuffle=False)
    assert sum(1 for _ in dataset) == SHARDS * SAMPLES_PER_SHARD


def read_with_fsspec(url: str, order: list[Span]) -> None:
    import fsspec

    files = fsspec.filesystem("http")
    for file, start, stop in order:
        assert len(files.cat_file(f"{url}/{file}", start=start, end=stop)) == stop - start


def write_shards(folder: Path) -> list[Span]:
    spans: list[Span] = []
    for shard in range(SHARDS):
        with tarfile.open(folder / f"{shard}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for sample in range(SAMPLES_PER_SHARD):
                start = tar.offset
                for frame in range(1, 8):
                    member = tarfile.TarInfo(f"{sample:05}.im{frame}.png")
                    member.size = FRAME_BYTES
                    tar.addfile(member, BytesIO(random.Random(sample).randbytes(FRAME_BYTES)))
                spans.append((f"{shard}.tar", start, tar.offset))
    return spans


async def serve(folder: Path) -> None:
    """A server that does nothing but ranges, fast enough not to be what is measured."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                await asyncio.sleep(DELAY_S)
                path = folder / head.split()[1].lstrip("/")
                size = path.stat().st_size
                found = re.search(r"(?im)^range: bytes=(\d+)-(\d+)", head)
                start, stop = (int(found[1]), int(found[2]) + 1) if found else (0, size)
                status = (
                    f"206 Partial Content\r\nContent-Range: bytes {start}-{stop - 1}/{size}"
                    if found
                    else "200 OK"
                )
                writer.write(
                    f'HTTP/1.1 {status}\r\nETag: "1"\r\nContent-Length: {stop - start}\r\n\r\n'.encode()
                )
                await writer.drain()
                with path.open("rb") as file:
                    await asyncio.get_running_loop().sendfile(writer.transport, file, start, stop - start)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        asyncio.run(serve(Path(sys.argv[2])))
    else:
        main()
