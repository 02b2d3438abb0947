"""Fills a data folder with many chunks, and measures how soon and in how much memory it is served.

    python benchmarks/opening.py DATASET --chunks 1M --scratch DIR [--checkpoint FOLDER]

DATASET is a prepared folder with vectors. Beyond its own size its vectors are repeated with a
little noise and made unit again: 40 chunks a document, short texts and ids, a title and a section.
The folder is filled by ``python -m service index`` and stays in DIR, so that a second run measures
the start alone. A start is timed from the start of the process to the first answered rank, once
with an empty page cache where that can be had (root), then with a warm one; memory is told as
anonymous (must be there) and of files (may be taken back), beside that of an empty service.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from serving import SHIPPED, Figures, machine

from service.prepared import open_prepared

NOISE = 0.02
"""Of each component's standard deviation; unit vectors of 384 stay within a cosine of 0.93."""
CHUNKS_A_DOCUMENT = 40
BLOCK = 50_000
WARM_RANKS, RANKS = 20, 300
WINDOW = 5
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Resident memory of a process, in MB."""

    anonymous: float
    of_files: float

    @classmethod
    def of(cls, pid: int) -> "Memory":
        """Read it."""
        status = Path(f"/proc/{pid}/status").read_text()
        found = dict(re.findall(r"^(\w+):\s+(\d+) kB", status, re.MULTILINE))
        return cls(anonymous=int(found["RssAnon"]) / 1000, of_files=int(found["RssFile"]) / 1000)

    def __str__(self) -> str:
        return f"{self.anonymous:,.0f} MB anonymous, {self.of_files:,.0f} MB of files"


@dataclass(frozen=True, kw_only=True)
class Started:
    """A service that has answered its first rank."""

    pid: int
    http: httpx.Client
    listening_s: float
    ready_s: float
    answered_s: float


def count_of(text: str) -> int:
    """Read a number such as 72k or 1M."""
    unit = {"k": 1000, "M": 1_000_000}.get(text[-1], 1)
    return int(text.rstrip("kM")) * unit


def prepare(source: Path, folder: Path, count: int) -> None:
    """Write a prepared folder of so many chunks, if it is not there."""
    if (folder / "manifest.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    prepared = open_prepared(source)
    shape = (count, prepared.dimension)
    vectors_ND = np.lib.format.open_memmap(
        folder / "vectors.npy", "w+", dtype=np.float32, shape=shape
    )
    generator = np.random.default_rng(0)
    for start in range(0, count, BLOCK):
        rows = np.arange(start, min(start + BLOCK, count))
        block_ND = np.array(prepared.vectors_ND[rows % prepared.chunks])
        noise_ND = generator.standard_normal(block_ND.shape, np.float32) * np.float32(NOISE)
        block_ND += noise_ND * (rows >= prepared.chunks)[:, None]
        vectors_ND[rows] = block_ND / np.linalg.norm(block_ND, axis=1, keepdims=True)
    vectors_ND.flush()
    with (
        (folder / "documents.jsonl").open("w") as documents,
        (folder / "chunks.jsonl").open("w") as chunks,
    ):
        for number, start in enumerate(range(0, count, CHUNKS_A_DOCUMENT)):
            size = min(CHUNKS_A_DOCUMENT, count - start)
            about = {"doc_id": f"d{number}", "title": f"Title {number}"}
            documents.write(json.dumps({**about, "start": start, "count": size}) + "\n")
            for place in range(size):
                text = f"Chunk {place} of document {number}."
                chunks.write(json.dumps({"text": text, "section": f"s{place // 8}"}) + "\n")
    about = {"format": 1, "name": folder.name, "chunks": count, "fingerprint": folder.name}
    about["vectors"] = {"model": None, "dimension": prepared.dimension, "noise": NOISE}
    (folder / "manifest.json").write_text(json.dumps(about))


def fill(prepared: Path, data: Path, flags: list[str]) -> None:
    """Fill a data folder by ``service index``, and say how long each part took."""
    command = [sys.executable, "-m", "service", "index", str(prepared), "--data", str(data)]
    started_s = time.perf_counter()
    with subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  {time.perf_counter() - started_s:7.1f} s  {line.rstrip()}", flush=True)
    if process.returncode:
        raise SystemExit(process.returncode)


@contextmanager
def started(data: Path, flags: list[str], body: dict[str, Any] | None) -> Iterator[Started]:
    """Start a service and wait for its first answer."""
    command = [sys.executable, "-m", "service", "serve", "--port", "0", "--data", str(data)]
    began_s = time.perf_counter()
    with (
        (data.parent / "serve.log").open("a") as log,
        subprocess.Popen([*command, *flags], stdout=subprocess.PIPE, stderr=log, text=True) as one,
    ):
        try:
            assert one.stdout is not None
            url, seconds = "", []
            for line in one.stdout:
                if found := re.search(r"listening on (\S+)|^ready:", line):
                    seconds.append(time.perf_counter() - began_s)
                    url = url or found[1]
                if len(seconds) == 2:
                    break
            with httpx.Client(base_url=url, timeout=120) as http:
                if body is not None:
                    http.post("/v1/rank", json=body).raise_for_status()
                yield Started(
                    pid=one.pid,
                    http=http,
                    listening_s=seconds[0],
                    ready_s=seconds[1],
                    answered_s=time.perf_counter() - began_s,
                )
        finally:
            one.terminate()
            one.wait(60)


def question(number: int, count: int) -> dict[str, Any]:
    """Ask for what follows the first chunks of a document."""
    document = number * 7919 % (count // CHUNKS_A_DOCUMENT)
    return {"context_ids": [f"d{document}:{place}" for place in range(WINDOW)]}


def measure(data: Path, flags: list[str], count: int, *, cold: bool) -> None:
    """Start, ask, and say what that took."""
    if cold:
        subprocess.run(["sync"], check=True)
        DROP_CACHES.write_text("1")
    with started(data, flags, question(0, count)) as service:
        print(
            f"{'cold' if cold else 'warm'} page cache: listening {service.listening_s:.2f} s, "
            f"ready {service.ready_s:.2f} s, first rank answered {service.answered_s:.2f} s"
        )
        print(f"  after the first rank: {Memory.of(service.pid)}")
        times_ms = []
        for number in range(WARM_RANKS + RANKS):
            body = question(number + 1, count)
            asked_s = time.perf_counter()
            service.http.post("/v1/rank", json=body).raise_for_status()
            times_ms.append((time.perf_counter() - asked_s) * 1000)
        figures = Figures.of(times_ms[WARM_RANKS:])
        print(f"  {RANKS} ranks: p50 {figures.p50:.1f} ms, p99 {figures.p99:.1f} ms")
        print(f"  after them: {Memory.of(service.pid)}")


def main() -> int:
    """Run it as a person asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("dataset", type=Path, help="prepared folder with vectors")
    parser.add_argument("--chunks", type=count_of, default=72_000, help="such as 72k or 1M")
    parser.add_argument("--scratch", type=Path, required=True, help="where folders are made")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="default: the shipped")
    parser.add_argument("--starts", type=int, default=2, help="starts of each kind (default 2)")
    args = parser.parse_args()
    flags = ["--checkpoint", str(args.checkpoint)]
    prepared, data = (args.scratch / f"{what}-{args.chunks}" for what in ("prepared", "data"))
    print(machine())
    prepare(args.dataset, prepared, args.chunks)
    fill(prepared, data, flags)
    empty = args.scratch / "empty"
    shutil.rmtree(empty, ignore_errors=True)
    with started(empty, flags, None) as service:
        print(f"an empty service: ready {service.ready_s:.2f} s, {Memory.of(service.pid)}")
    for cold in [True] * args.starts + [False] * args.starts:
        if not cold or DROP_CACHES.exists():
            measure(data, flags, args.chunks, cold=cold)
    files = sorted(path for path in data.rglob("*") if path.is_file())
    for path in files:
        print(f"  {path.stat().st_blocks * 512 / 1e6:9.1f} MB  {path.relative_to(data)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
