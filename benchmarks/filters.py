"""Recall and latency of filtered search over HTTP, against brute force, at four selectivities.

    python benchmarks/filters.py DATASET [DATASET ...] [--queries 200]

The chunks get two numbers as metadata: ``u``, drawn at random, and ``topic``, their rank along the
first principal direction of the vectors, so that what it leaves lies together and away from most
queries. Sets of documents are the third kind of filter. Each is asked in the raw space (mode
``retrieval``, DIRECT) and in the learned one (mode ``p8`` without the re-ranker). Brute force knows
nothing of the service but the checkpoint. Then the search step alone, in this process: comparing
one by one and searching the graph, side by side, on either side of the switch between them.

Shapes: B queries, N chunks, L window, D dimension, K results. Exit code 1 if a filtered search
misses anything.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from serving import SHIPPED, TOP_K, machine, serving, windows

from models.checkpoint import load_checkpoint
from models.ranking import RERANK_DEPTH
from models.scoring import Method, Scorer
from service.client import Client
from service.folder import DataFolder
from service.opening import open_collection
from service.prepared import Prepared, open_prepared
from service.retrieval import EXACT_UP_TO, Scope, nearest
from service.settings import Settings
from service.store import STORE_FILE, ChunkRow, Kind, Store
from service.view import Space, View

SHARES = (0.5, 0.05, 0.005, 0.0001)
SWITCH_SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
TIE = 2e-6
"""Sums differ in their last bits from brute force; nearer scores than this are level."""
ROUNDS = 3


@dataclass(frozen=True)
class Chunks:
    """The chunks of all datasets, and what they can be filtered by."""

    prepared: Sequence[Prepared]
    raw_ND: np.ndarray
    documents: dict[str, slice]
    """Rows of each document."""
    u_N: np.ndarray
    topic_N: np.ndarray

    @classmethod
    def read(cls, prepared: Sequence[Prepared], seed: int) -> "Chunks":
        """Read vectors and documents, and draw the numbers."""
        raw_ND = np.concatenate([one.vectors_ND for one in prepared])
        documents: dict[str, slice] = {}
        for row, chunk in enumerate(chunk for one in prepared for chunk in one.rows()):
            start = documents[chunk.document_id].start if chunk.position else row
            documents[chunk.document_id] = slice(start, row + 1)
        centred_ND = raw_ND - raw_ND.mean(0)
        along_N = centred_ND @ np.linalg.eigh(centred_ND.T @ centred_ND)[1][:, -1]
        return cls(
            prepared=prepared,
            raw_ND=raw_ND,
            documents=documents,
            u_N=np.random.default_rng(seed).random(len(raw_ND)),
            topic_N=np.argsort(np.argsort(along_N)) / len(raw_ND),
        )

    def rows(self) -> Iterator[ChunkRow]:
        """Walk the chunks with their numbers."""
        every = (chunk for one in self.prepared for chunk in one.rows())
        for chunk, u, topic in zip(every, self.u_N, self.topic_N, strict=True):
            yield replace(chunk, metadata={**chunk.metadata, "u": float(u), "topic": float(topic)})


@dataclass(frozen=True)
class Filtered:
    """A filter as the service is told it, and the rows that it leaves."""

    name: str
    filter: dict[str, Any] | None
    allowed_N: np.ndarray


def filters(chunks: Chunks, seed: int) -> Iterator[Filtered]:
    """None, then each kind at each selectivity."""
    yield Filtered("none", None, np.ones(len(chunks.raw_ND), np.bool_))
    for key, values_N in (("u", chunks.u_N), ("topic", chunks.topic_N)):
        for share in SHARES:
            told = {"metadata": {key: {"lt": share}}}
            yield Filtered(f"{key} < {share:g}", told, values_N < share)
    names = np.random.default_rng(seed).permutation(list(chunks.documents)).tolist()
    for share in SHARES:
        wanted = max(1, round(share * len(chunks.raw_ND)))
        allowed_N = np.zeros(len(chunks.raw_ND), np.bool_)
        some: list[str] = []
        while allowed_N.sum() < wanted:
            some.append(names[len(some)])
            rows = chunks.documents[some[-1]]
            allowed_N[rows.start : min(rows.stop, rows.start + wanted)] = True
        told = {"document_ids": some}
        if len(some) == 1:
            told["position"] = {"lt": wanted}
        yield Filtered(f"documents: {len(some)}", told, allowed_N)


def fill(chunks: Chunks, settings: Settings) -> None:
    """Write store and indexes as ``python -m service index`` does, with the numbers."""
    with DataFolder(settings.data):
        store = Store(settings.data / STORE_FILE, create=True)
        kind = Kind(dimension=chunks.raw_ND.shape[1], embedding_model="")
        store.replace(chunks.rows(), kind=kind, name="filters", source="")
        store.close()
    opened = open_collection(settings)
    began_s = time.monotonic()
    opened.collection.build()
    print(f"{len(chunks.raw_ND):,} chunks; indexes built in {time.monotonic() - began_s:.0f} s")
    opened.close()


class BruteForce:
    """Scores of all chunks for all queries.

    Args:
        vectors_ND: Unit vectors of a space.
        queries_BD: Unit queries of that space.
    """

    def __init__(self, vectors_ND: np.ndarray, queries_BD: np.ndarray) -> None:
        self._scores_BN = queries_BD @ vectors_ND.T

    def recall(self, query: int, rows: Sequence[int], allowed_N: np.ndarray, k: int) -> float:
        """Share of the ``k`` best allowed rows that were found; of level ones any will do."""
        scores_N = self._scores_BN[query]
        best = np.sort(scores_N[allowed_N])[::-1][:k]
        found = [row for row in dict.fromkeys(rows) if allowed_N[row]][:k]
        good = sum(scores_N[row] >= best[-1] - TIE for row in found)
        return good / len(best)


@dataclass(frozen=True)
class Question:
    """How one space is asked, and what is right there."""

    name: str
    members: dict[str, Any]
    truth: BruteForce


def ask(
    client: Client,
    question: Question,
    filtered: Filtered,
    contexts: Sequence[np.ndarray],
    row_of: dict[str, int],
) -> tuple[str, float]:
    """Ask with every window; a line of the table, and the recall."""
    recalls, took_ms, search_ms, decode_ms = [], [], [], []
    for number, context_LD in enumerate(contexts):
        began_s = time.monotonic()
        answer = client.rank(context_LD, filter=filtered.filter, **question.members)
        took_ms.append((time.monotonic() - began_s) * 1000.0)
        search_ms.append(answer["timings_ms"]["search"])
        decode_ms.append(answer["timings_ms"]["decode"])
        hits = sorted(answer["results"], key=lambda hit: -hit["parts"]["mixture"])
        rows = [row_of[str(hit["id"])] for hit in hits]
        assert filtered.allowed_N[rows].all(), "a chunk was answered that the filter forbids"
        recalls.append(question.truth.recall(number, rows, filtered.allowed_N, TOP_K))
    recall = float(np.mean(recalls))
    share = filtered.allowed_N.mean()
    p50, p99 = np.percentile(took_ms, [50, 99])
    line = (
        f"| {question.name} | {filtered.name} | {filtered.allowed_N.sum():,} ({share:.2%}) "
        f"| {recall:.4f} | {p50:.1f} | {p99:.1f} | {np.median(decode_ms):.1f} "
        f"| {np.median(search_ms):.1f} |"
    )
    return line, recall


def switch(chunks: Chunks, settings: Settings, queries: dict[str, np.ndarray]) -> None:
    """Time the search step and measure its recall, by both ways, in this process."""
    opened = open_collection(settings)
    view = opened.collection.view
    spaces = {"raw": view.raw, "learned": view.models["default"].space}
    print(f"\nThe search step alone, {RERANK_DEPTH} candidates; the switch is at {EXACT_UP_TO:,}\n")
    print("| space | filter | allowed | one by one, ms | graph, ms | graph's recall |")
    print("|---|---|---|---|---|---|")
    for name, space in spaces.items():
        print(f"| {name} | none | {_both_ways(view, space, queries[name], None)}", flush=True)
        for key, values_N in (("u", chunks.u_N), ("topic", chunks.topic_N)):
            for share in SWITCH_SHARES:
                line = _both_ways(view, space, queries[name], values_N < share)
                print(f"| {name} | {key} < {share:g} | {line}", flush=True)
    opened.close()


def _both_ways(
    view: View, space: Space, queries_BD: np.ndarray, allowed_N: np.ndarray | None
) -> str:
    every_N = np.ones(view.count, np.bool_) if allowed_N is None else allowed_N
    nothing = np.empty(0, np.int64)
    ways = (
        (Scope(allowed_N=every_N, excluded=nothing), view.count),
        (Scope(allowed_N=allowed_N, excluded=nothing), 0),
    )
    truth = BruteForce(space.vectors[: view.count], queries_BD)
    times_ms: tuple[list[float], list[float]] = ([], [])
    recalls = []
    for number, query_D in enumerate(np.concatenate([queries_BD] * ROUNDS)):
        for (scope, exact_up_to), some_ms in zip(ways, times_ms, strict=True):
            began_s = time.perf_counter()
            found = nearest(view, space, query_D, scope, RERANK_DEPTH, exact_up_to=exact_up_to)
            some_ms.append((time.perf_counter() - began_s) * 1000.0)
        query = number % len(queries_BD)
        recalls.append(truth.recall(query, found.tolist(), every_N, RERANK_DEPTH))
    one_by_one_ms, graph_ms = (np.median(some_ms) for some_ms in times_ms)
    return f"{every_N.sum():,} | {one_by_one_ms:.2f} | {graph_ms:.2f} | {np.mean(recalls):.4f} |"


def run(args: argparse.Namespace, folder: Path) -> int:
    """Fill, measure, and tell the exit code."""
    print(machine())
    chunks = Chunks.read([open_prepared(one) for one in args.datasets], args.seed)
    settings = Settings(data=folder / "data", checkpoint=args.checkpoint)
    fill(chunks, settings)
    checkpoint = load_checkpoint(args.checkpoint)
    scorer = Scorer(checkpoint.model, order_weight=checkpoint.order_weight)
    contexts = windows(chunks.raw_ND, args.seed, args.queries, scorer.window)
    asked = {
        name: np.concatenate(
            [scorer.query(*scorer.pack([one]), method).vectors_BD for one in contexts]
        )
        for name, method in (("raw", Method.DIRECT), ("learned", Method.P8))
    }
    # The order part, where there is one, moves the candidates; all of them are looked at then.
    deep = RERANK_DEPTH if scorer.order_weight else TOP_K
    questions = (
        Question(
            "raw",
            {"mode": "retrieval", "top_k": TOP_K},
            BruteForce(chunks.raw_ND, asked["raw"]),
        ),
        Question(
            "learned",
            {"mode": "p8", "rerank": False, "top_k": deep},
            BruteForce(scorer.project(chunks.raw_ND), asked["learned"]),
        ),
    )
    row_of = {
        f"{name}:{position}": rows.start + position
        for name, rows in chunks.documents.items()
        for position in range(rows.stop - rows.start)
    }
    missed = False
    with serving(settings.data, args.checkpoint) as url, Client(url, retry=None) as client:
        print(f"over HTTP, one connection, {args.queries} queries a line\n")
        print(
            "| space | filter | allowed | recall@10 | p50 ms | p99 ms | of which filter | search |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for question in questions:
            for filtered in filters(chunks, args.seed):
                line, recall = ask(client, question, filtered, contexts, row_of)
                missed |= filtered.filter is not None and recall < 1.0
                print(line, flush=True)
    if args.switch:
        few = {name: queries_BD[: args.switch] for name, queries_BD in asked.items()}
        switch(chunks, settings, few)
    return int(missed)


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("datasets", type=Path, nargs="+", metavar="DATASET", help="prepared folder")
    parser.add_argument("--queries", type=int, default=200, help="a line (default 200)")
    parser.add_argument(
        "--switch", type=int, default=50, help="queries of the second table (default 50; 0: none)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help=f"default {SHIPPED}")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nextchunk-filters-") as folder:
        return run(args, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
