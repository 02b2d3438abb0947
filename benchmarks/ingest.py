"""Writes real chunks into an empty live service while others rank; each must be found at once.

    python benchmarks/ingest.py DATASET [--chunks 50000] [--batch 100]

One connection writes, others rank without a pause. After each acknowledgement one chunk of the
batch is searched for by its own vector and must come first (or level with the first), and each of
its documents must list all chunks that were acknowledged. The service stands still but for the
ranks before the bulk of the writes and after it, which gives the quiet latencies of the same run.
Exit code 1 if anything acknowledged was not found, or any rank failed.
"""

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
from serving import (
    FIGURES_HEAD,
    SHIPPED,
    TOP_K,
    Figures,
    Load,
    Span,
    machine,
    serving,
    stage_medians,
    windows,
)

from service.client import Client
from service.prepared import open_prepared
from service.store import ChunkRow

FIRST = 1000
"""Chunks written before the quiet phase, so that ranks have candidates there."""
TIE = 1e-6
POLL_S = 0.25


@dataclass
class Found:
    """What became of acknowledged chunks."""

    searched: list[ChunkRow] = field(default_factory=list)
    """One of each batch."""
    lost: list[str] = field(default_factory=list)
    """Ids that a search or a look-up did not show."""
    looked_up: int = 0


class Watch(threading.Thread):
    """Follows by /metrics when indexes are built."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._stopping = threading.Event()
        self.building: list[Span] = []
        """When an index was being built, to within POLL_S."""
        self.versions: list[int] = []
        """Store versions of which indexes were built, in their order."""

    def run(self) -> None:
        """Look until told to stop."""
        with httpx.Client(base_url=self._url) as http:
            began_s: float | None = None
            while not self._stopping.wait(POLL_S):
                text = http.get("/metrics").text
                version = int(_gauge(text, "indexed_version"))
                if version not in self.versions:
                    self.versions.append(version)
                now_s = time.monotonic()
                building = _gauge(text, "index_building") == 1.0
                if building and began_s is None:
                    began_s = now_s
                if not building and began_s is not None:
                    self.building.append(Span(began_s, now_s))
                    began_s = None

    def stop(self) -> None:
        """Stop looking."""
        self._stopping.set()
        self.join()


def _gauge(text: str, name: str) -> float:
    found = re.search(rf"^nextchunk_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


class Ingest:
    """Writes batch after batch, and checks each.

    Args:
        client: The one connection that writes.
        check: Whether to check at all.
    """

    def __init__(self, client: Client, *, check: bool) -> None:
        self._client = client
        self._check = check
        self._acknowledged: dict[str, set[str]] = defaultdict(set)
        self.found = Found()
        self.took_ms: list[float] = []
        self.count = 0

    def write(self, batch: Sequence[ChunkRow]) -> None:
        """Write a batch and check it."""
        body = [
            {
                "id": chunk.id,
                "document_id": chunk.document_id,
                "position": chunk.position,
                "text": chunk.text,
                "metadata": chunk.metadata,
                "vector": chunk.vector_D,
            }
            for chunk in batch
        ]
        began_s = time.monotonic()
        answer = self._client.upsert(body)
        self.took_ms.append((time.monotonic() - began_s) * 1000.0)
        assert (answer["upserted"], answer["status"]) == (len(batch), "searchable")
        self.count += len(batch)
        if self._check:
            self._look(batch)

    def search_again(self) -> None:
        """Search once more for all chunks that were searched for, wherever they are by now."""
        for chunk in self.found.searched:
            self._search(chunk)

    def _look(self, batch: Sequence[ChunkRow]) -> None:
        for chunk in batch:
            self._acknowledged[chunk.document_id].add(chunk.id)
        for document_id in {chunk.document_id for chunk in batch}:
            content = self._client.document(document_id)["content"]
            missing = self._acknowledged[document_id] - {chunk["id"] for chunk in content}
            self.found.lost += missing
        self.found.looked_up += len(batch)
        sample = batch[len(self.took_ms) % len(batch)]
        self.found.searched.append(sample)
        self._search(sample)

    def _search(self, chunk: ChunkRow) -> None:
        answer = self._client.rank([chunk.vector_D], mode="retrieval", top_k=TOP_K)
        assert answer["model"]["method"] == "direct"
        hits = answer["results"]
        best = hits[0]["score"] if hits else 0.0
        if chunk.id not in {hit["id"] for hit in hits if hit["score"] >= best - TIE}:
            self.found.lost.append(chunk.id)


def batches(chunks: Iterator[ChunkRow], size: int) -> Iterator[list[ChunkRow]]:
    """Cut a walk over chunks into batches."""
    while batch := list(islice(chunks, size)):
        yield batch


def run(args: argparse.Namespace, folder: Path) -> int:
    """Measure, report, and tell the exit code."""
    prepared = open_prepared(args.dataset)
    rows = islice(prepared.rows(), min(args.chunks, prepared.chunks))
    contexts = windows(prepared.vectors_ND, 1, 1000)
    print(machine())
    with (
        serving(folder / "data", args.checkpoint) as url,
        Client(url, retry=None, encoding=args.encoding) as client,
    ):
        ingest = Ingest(client, check=not args.no_checks)
        watch = Watch(url)
        watch.start()
        for batch in batches(islice(rows, FIRST), args.batch):
            ingest.write(batch)
        ingest.took_ms.clear()
        with Load(url, args.readers, contexts, mode="p8") as load:
            time.sleep(args.quiet_s / 2)  # while they come up
            before = _pause(args.quiet_s)
            during = _timed(ingest, batches(rows, args.batch))
            while watch.building and client.stats()["index"]["building"]:
                time.sleep(POLL_S)
            after = _pause(args.quiet_s)
        watch.stop()
        ingest.search_again()
        stats = client.stats()
    _report(args, ingest, load, (before, during, after), watch, stats)
    failed = [one for one in load.asked if one.problem is not None]
    return 1 if ingest.found.lost or failed else 0


def _pause(seconds: float) -> Span:
    start_s = time.monotonic()
    time.sleep(seconds)
    return Span(start_s, time.monotonic())


def _timed(ingest: Ingest, some: Iterator[list[ChunkRow]]) -> Span:
    start_s = time.monotonic()
    for batch in some:
        ingest.write(batch)
    return Span(start_s, time.monotonic())


def _report(
    args: argparse.Namespace,
    ingest: Ingest,
    load: Load,
    spans: tuple[Span, Span, Span],
    watch: Watch,
    stats: Any,
) -> None:
    before, during, after = spans
    written, found = ingest.count - FIRST, ingest.found
    writing_s, wall_s = sum(ingest.took_ms) / 1000.0, during.end_s - during.start_s
    print(f"{written:,} chunks in batches of {args.batch}, after {FIRST:,} others")
    print(f"chunks/s while a write is under way: {written / writing_s:,.0f}")
    print(f"chunks/s by the clock, checks included: {written / wall_s:,.0f} ({wall_s:.1f} s)")
    lost = len(set(found.lost))
    if found.looked_up:
        share = 1.0 - lost / found.looked_up
        print(f"looked up: {found.looked_up:,}; searched for, and again at the end: ", end="")
        print(f"{len(found.searched):,}; not found: {lost}; fraction found: {share:.6f}")
    spent = ", ".join(f"{span.end_s - span.start_s:.1f}" for span in watch.building)
    print(f"indexes were built {len(watch.versions) - 1} times, in stretches of (s): {spent}")
    print("\n" + FIGURES_HEAD)
    print(Figures.of(ingest.took_ms).row("upsert of a batch"))

    phases = {
        "rank before": [before],
        "rank during the writes": [during],
        "rank while an index is built": watch.building,
        "rank after": [after],
    }
    asked = {name: load.during(some) for name, some in phases.items()}
    base = Figures.of([one.took_ms for one in asked["rank after"]])
    for name, some in asked.items():
        print(Figures.of([one.took_ms for one in some]).row(name, base))
    print("\nmedian ms of each stage of a rank:")
    for name, some in asked.items():
        print(f"{name:30}" + stage_medians(some))
    problems = [one.problem for one in load.asked if one.problem is not None]
    print(f"ranks refused: {len(problems)} {sorted(set(problems))}")
    print("stats: " + json.dumps(stats))


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="prepared folder")
    parser.add_argument("--chunks", type=int, default=50_000, help="default 50000")
    parser.add_argument("--batch", type=int, default=100, help="chunks in a write (default 100)")
    parser.add_argument("--readers", type=int, default=2, help="connections that rank (default 2)")
    parser.add_argument("--quiet-s", type=float, default=15.0, help="quiet phases (default 15)")
    parser.add_argument("--encoding", choices=("base64", "msgpack"), default="base64")
    parser.add_argument("--no-checks", action="store_true", help="only write and rank")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help=f"default {SHIPPED}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nextchunk-ingest-") as folder:
        return run(args, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
