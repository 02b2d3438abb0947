"""Recall and latency of one collection over HTTP, wherever its chunks are kept.

    python benchmarks/backends.py DATASET [--chunks 5000] [--milvus URL]

The same chunks are written to a data folder (SQLite and FAISS), to milvus-lite in the process of
the service, and to a Milvus, which must be empty and is left so; a Milvus is asked at each level of
consistency. ``fresh`` is right after the last write, ``settled`` after a flush and when the indexes
are built. Recall is that of the ten nearest against brute force, which knows nothing of the service
but the checkpoint: in the raw space (mode ``retrieval``, DIRECT) and in the learned one (mode
``p8`` without the re-ranker). Latencies are of one connection: DIRECT by vectors, P8 by ids with
all that the checkpoint has, and writes of chunks that are found when the answer comes.

Shapes: B queries, N chunks, L window, D dimension. Exit code 1 if a recall is below ``--floor``.
"""

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filters import BruteForce, Question
from serving import SHIPPED, TOP_K, machine, serving, windows

from models.checkpoint import load_checkpoint
from models.ranking import RERANK_DEPTH
from models.scoring import Method, Scorer
from service.client import Client
from service.prepared import open_prepared
from service.store import ChunkRow

AT_ONCE = 200
"""Chunks a write while the collection is filled."""
MANY = 100
WRITES = {1: 30, MANY: 10}
"""Writes that are timed, by how many chunks each holds."""
PATIENT = ("--deadline-ms", "60000")
"""Late answers are measured, too."""
LEVELS = ("bounded", "strong", "eventually")
NEW = "written by benchmarks/backends.py"
COLUMNS = (
    "",
    "state",
    "recall@10 raw",
    "learned",
    "DIRECT p50",
    "p95",
    "P8 by ids p50",
    "p95",
    "write 1 p50",
    "p95",
    f"write {MANY} p50",
    "p95",
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What every backend is asked."""

    chunks: Sequence[ChunkRow]
    contexts: Sequence[np.ndarray]
    ids: Sequence[list[str]]
    """Windows as ids."""
    questions: Sequence[Question]
    checkpoint: Path
    seed: int

    @property
    def row_of(self) -> dict[str, int]:
        """Row of each chunk."""
        return {chunk.id: row for row, chunk in enumerate(self.chunks)}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A backend, and how it is made to settle."""

    name: str
    flags: tuple[str, ...]
    settle: Callable[[], None]


def prepare(args: argparse.Namespace) -> Work:
    """Read the chunks, draw the questions, and compute what is right."""
    prepared = open_prepared(args.dataset)
    chunks = list(itertools.islice(prepared.rows(), args.chunks))
    raw_ND = np.stack([chunk.vector_D for chunk in chunks])
    loaded = load_checkpoint(args.checkpoint)
    scorer = Scorer(loaded.model, order_weight=loaded.order_weight)
    contexts = windows(raw_ND, args.seed, args.queries, scorer.window)
    asked = {
        method: np.concatenate(
            [scorer.query(*scorer.pack([one]), method).vectors_BD for one in contexts]
        )
        for method in (Method.DIRECT, Method.P8)
    }
    # The order part, where there is one, moves the candidates; all of them are looked at then.
    deep = RERANK_DEPTH if scorer.order_weight else TOP_K
    starts = np.random.default_rng(args.seed).integers(0, len(chunks) - scorer.window, args.queries)
    return Work(
        chunks=chunks,
        contexts=contexts,
        ids=[[one.id for one in chunks[start : start + scorer.window]] for start in starts],
        questions=(
            Question(
                "raw",
                {"mode": "retrieval", "top_k": TOP_K},
                BruteForce(raw_ND, asked[Method.DIRECT]),
            ),
            Question(
                "learned",
                {"mode": "p8", "rerank": False, "top_k": deep},
                BruteForce(scorer.project(raw_ND), asked[Method.P8]),
            ),
        ),
        checkpoint=args.checkpoint,
        seed=args.seed,
    )


def given(chunk: ChunkRow) -> dict[str, Any]:
    """A chunk as the client wants it."""
    return {
        "id": chunk.id,
        "document_id": chunk.document_id,
        "position": chunk.position,
        "vector": chunk.vector_D,
        "text": chunk.text,
        "metadata": chunk.metadata,
    }


def fill(client: Client, chunks: Sequence[ChunkRow]) -> float:
    """Write all chunks; how many a second."""
    began_s = time.monotonic()
    for _ in client.upsert_many(map(given, chunks), batch_size=AT_ONCE):
        pass
    return len(chunks) / (time.monotonic() - began_s)


def recall(client: Client, work: Work, question: Question) -> float:
    """Mean recall of the ten nearest over all windows."""
    row_of, every_N = work.row_of, np.ones(len(work.chunks), np.bool_)
    found = []
    for number, context_LD in enumerate(work.contexts):
        results = client.rank(context_LD, contents=False, **question.members)["results"]
        hits = sorted(results, key=lambda hit: -hit["parts"]["mixture"])
        rows = [row_of[str(hit["id"])] for hit in hits]
        found.append(question.truth.recall(number, rows, every_N, TOP_K))
    return float(np.mean(found))


def write(client: Client, work: Work, size: int) -> Iterator[float]:
    """Write new chunks, and delete them; the milliseconds of each write."""
    shape = (size, len(work.chunks[0].vector_D))
    for number in range(WRITES[size]):
        rows_ND = np.random.default_rng((work.seed, number)).normal(size=shape)
        chunks = [
            {
                "id": f"{NEW}: {number}.{row}",
                "document_id": NEW,
                "position": row,
                "vector": row_D.astype(np.float32),
                "text": work.chunks[row].text,
            }
            for row, row_D in enumerate(rows_ND)
        ]
        yield from timed([lambda chunks=chunks: client.upsert(chunks)])
    client.delete_document(NEW)


def timed(calls: Sequence[Callable[[], object]]) -> list[float]:
    """The milliseconds of each call."""
    took_ms = []
    for call in calls:
        began_s = time.perf_counter()
        call()
        took_ms.append((time.perf_counter() - began_s) * 1000.0)
    return took_ms


def measure(client: Client, work: Work) -> tuple[list[str], float]:
    """Cells of a line of the table, and the worst recall."""
    recalls = [recall(client, work, question) for question in work.questions]
    direct = {"mode": "retrieval", "top_k": TOP_K}
    asked = (
        [lambda one=one: client.rank(one, **direct) for one in work.contexts],
        [lambda one=one: client.rank(context_ids=one, mode="p8") for one in work.ids],
    )
    latencies = [timed(calls) for calls in asked]
    latencies += [list(write(client, work, size)) for size in WRITES]
    cells = [f"{one:.4f}" for one in recalls]
    for took_ms in latencies:
        cells += [f"{one:.1f}" for one in np.percentile(took_ms, [50, 95])]
    return cells, min(recalls)


def run_on(targets: Sequence[Target], work: Work, folder: Path) -> float:
    """Fill the store that some targets share, and measure all; the worst recall."""
    worst = 1.0
    folder.mkdir()
    for place, target in enumerate(targets):
        with (
            serving(folder / "data", work.checkpoint, *PATIENT, *target.flags) as url,
            Client(url, retry=None, timeout_s=120) as client,
        ):
            there = client.stats()["store"]["chunks"]
            if not place:
                if there:
                    raise SystemExit(f"{target.name}: expected no chunks, found {there:,}")
                rate = fill(client, work.chunks)
                print(f"{target.name}: filled at {rate:,.0f} chunks/s", file=sys.stderr)
                worst = min(worst, _line(client, work, target.name, "fresh"))
                target.settle()
            worst = min(worst, _line(client, work, target.name, "settled"))
    return worst


def _line(client: Client, work: Work, name: str, state: str) -> float:
    cells, worst = measure(client, work)
    print("| " + " | ".join([name, state, *cells]) + " |", flush=True)
    return worst


def flush(uri: str, database: str, wait_s: float) -> None:
    """Have Milvus seal what was written, and wait until its indexes cover it."""
    from pymilvus import MilvusClient  # an extra

    client = MilvusClient(uri=uri, db_name=database)
    for table in client.list_collections():
        client.flush(table)
    until = time.monotonic() + wait_s
    while time.monotonic() < until:
        described = [
            client.describe_index(table, name)
            for table in client.list_collections()
            for name in client.list_indexes(table)
        ]
        if not any(int(one.get("pending_index_rows", 0)) for one in described):
            break
        time.sleep(0.5)
    client.close()
    time.sleep(wait_s / 4)  # until what was indexed is loaded


def drop(uri: str, database: str) -> None:
    """Drop the tables, which were empty before."""
    from pymilvus import MilvusClient  # an extra

    client = MilvusClient(uri=uri, db_name=database)
    for table in client.list_collections():
        if table.startswith("nextchunk_"):
            client.drop_collection(table)
    client.close()


def run(args: argparse.Namespace, folder: Path) -> int:
    """Measure all backends, and tell the exit code."""
    print(machine())
    work = prepare(args)
    print(f"{len(work.chunks):,} chunks, {len(work.contexts)} questions a figure, ms\n")
    wait = lambda: time.sleep(args.settle_s)  # noqa: E731
    print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|")
    worst = run_on([Target(name="SQLite, FAISS", flags=(), settle=wait)], work, folder / "embedded")
    if args.lite:
        flags = ("--index-url", f"milvus-lite:{folder / 'lite.db'}")
        lite = Target(name="milvus-lite", flags=flags, settle=wait)
        worst = min(worst, run_on([lite], work, folder / "lite"))
    if args.milvus:
        from service.milvus.place import place_of

        place = place_of(args.milvus)
        settle = lambda: flush(place.uri, place.database, args.settle_s)  # noqa: E731
        targets = [
            Target(
                name=f"Milvus, {level}",
                flags=("--index-url", args.milvus, "--index-consistency", level),
                settle=settle,
            )
            for level in LEVELS
        ]
        try:
            worst = min(worst, run_on(targets, work, folder / "milvus"))
        finally:
            drop(place.uri, place.database)
    return int(worst < args.floor)


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="prepared folder")
    parser.add_argument("--chunks", type=int, default=5000, help="default 5000")
    parser.add_argument("--queries", type=int, default=200, help="of each kind (default 200)")
    parser.add_argument("--milvus", default="", metavar="URL", help="an empty one (default: none)")
    parser.add_argument(
        "--no-lite", dest="lite", action="store_false", help="leave out milvus-lite, the slowest"
    )
    parser.add_argument(
        "--settle-s", type=float, default=20.0, help="most that settling may take (default 20)"
    )
    parser.add_argument("--floor", type=float, default=0.95, help="least recall (default 0.95)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help=f"default {SHIPPED}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nextchunk-backends-") as folder:
        return run(args, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
