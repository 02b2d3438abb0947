"""Which index for how many vectors: recall, speed, memory and building, beside comparing all.

    python benchmarks/index.py FOLDER... --sizes 100k 1M 10M --scratch DIR

Real vectors expanded by noise (benchmarks/expanded.py), asked by real vectors that are not among
them. Each index is built, and then served, in a process of its own, on one thread, from an index
that the operating system no longer holds in memory at the beginning. ``--only build`` and ``--only
measure`` do one without the other, for machines where measuring needs more quiet than building.
Where the memory controller (version 1) may be written to, ``--limit-gib`` bounds what each process
takes, the files that it reads included, and the vectors are read from the disk as they are needed;
without it they are in the operating system's memory, as they are when they have been used a while.

Shapes: N vectors, B queries, K results, D dimension.
"""

import argparse
import json
import mmap
import multiprocessing
import os
import resource
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from expanded import Expanded, expanded
from serving import machine

from models.index import IndexKind, VectorIndex
from models.scoring import Floats

K = 10
BATCH = 32
WARM_UP, ASKED = 1000, 400
TUNED_ON = 480
"""Other held-out queries, which set how wide an index searches."""
CONTROLLER = Path("/sys/fs/cgroup/memory")
LARGEST_FLAT = 2_000_000
"""Vectors beyond which comparing all is not run: it would take the memory of the machine."""
SUFFIX = {"k": 1000, "M": 1_000_000}
KINDS = {100_000: ["hnsw", "ivf_sq8", "ivf_rabitq", "lean"]}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One index."""

    folders: tuple[Path, ...]
    scratch: Path
    size: int
    largest: int
    """Vectors of the file."""
    kind: str
    """A kind, or ``lean`` for ``ivf_rabitq`` without fine codes."""
    limit_gib: float | None
    threads: int
    target: float

    @property
    def path(self) -> Path:
        """Its index."""
        return self.scratch / f"index-{self.size}-{self.kind}.faiss"

    @property
    def notes(self) -> Path:
        """What was seen when it was built."""
        return self.path.with_suffix(".built")

    def data(self) -> Expanded:
        """Its vectors and queries."""
        data = expanded(self.folders, self.largest, self.scratch)
        return Expanded(
            vectors_ND=data.vectors_ND[: self.size],
            query_BD=data.query_BD,
            real=min(data.real, self.size),
        )


class Watch:
    """The most memory that this process takes, in its own pages and in those of files."""

    def __init__(self) -> None:
        self.anonymous_mb = self.file_mb = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        """Begin to look, ten times a second."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._ended.wait(0.1):
            anonymous_mb, file_mb = resident_mb()
            self.anonymous_mb = max(self.anonymous_mb, anonymous_mb)
            self.file_mb = max(self.file_mb, file_mb)


def resident_mb() -> tuple[float, float]:
    """Memory of this process now: anonymous pages, and pages of files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(status[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))  # type: ignore[return-value]


def forget(paths: Sequence[Path]) -> None:
    """Have the operating system drop what it holds of files."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def confined(limit_gib: float | None) -> Callable[[], float | None]:
    """Bound this process's memory, files included; what it returns tells the most used, in MB."""
    if limit_gib is None:
        return lambda: None
    group = CONTROLLER / f"nextchunk-{os.getpid()}"
    group.mkdir()
    (group / "memory.limit_in_bytes").write_text(str(int(limit_gib * 2**30)))
    (group / "cgroup.procs").write_text(str(os.getpid()))
    return lambda: int((group / "memory.max_usage_in_bytes").read_text()) / 2**20


def build(job: Job) -> None:
    """Build an index, save it, and note what it took."""
    faiss.omp_set_num_threads(job.threads)
    data = job.data()
    vectors_ND = data.vectors_ND
    forget([job.scratch / "vectors.npy"])
    used_mb = confined(job.limit_gib)
    stages: dict[str, float] = {}
    start_s = last_s = time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        stages[stage] = stages.get(stage, 0.0) + now_s - last_s
        last_s = now_s
        print(f"\r{job.path.name}: {stage} {done:,} of {total:,}, {now_s - start_s:.0f} s ", end="")

    lean = job.kind == "lean"
    with Watch() as watch:
        index = VectorIndex.build(
            vectors_ND,
            IndexKind.IVF_RABITQ if lean else IndexKind(job.kind),
            budget_bytes=job.size * vectors_ND.shape[1] // 2 if lean else None,
            target=job.target,
            query_BD=data.query_BD[ASKED : ASKED + TUNED_ON],
            progress=progress,
            scratch=job.scratch / job.path.stem,
        )
        index.save(job.path, {}, np.arange(job.size))
    print()
    used = resource.getrusage(resource.RUSAGE_SELF)
    job.notes.write_text(
        json.dumps(
            {
                "wall_s": time.monotonic() - start_s,
                "cpu_s": used.ru_utime + used.ru_stime,
                "stages_s": stages,
                "anonymous_mb": watch.anonymous_mb,
                "file_mb": watch.file_mb,
                "group_mb": used_mb(),
                "threads": job.threads,
                "facts": index.facts(),
            }
        )
    )


def serve(job: Job) -> dict[str, Any]:
    """Open an index and ask it."""
    faiss.omp_set_num_threads(1)
    data = job.data()
    mapped: Any = data.vectors_ND
    query_BD = data.query_BD[:ASKED]
    warm_BD = data.query_BD[-WARM_UP:]
    forget(list(job.scratch.glob(f"{job.path.stem}.*")))
    if job.limit_gib is None:
        float(sum(block_ND.sum() for block_ND in np.array_split(data.vectors_ND, 100)))
    else:
        forget([job.scratch / "vectors.npy"])
    used_mb = confined(job.limit_gib)
    before_mb = resident_mb()
    start_s = time.monotonic()
    index, _ = VectorIndex.load(job.path, {}, data.vectors_ND)
    index.search(warm_BD[:1], K)
    opened_s = time.monotonic() - start_s
    index.warm()
    if job.limit_gib is not None:
        # Single vectors are read from everywhere: reading on would bring in others.
        mapped._mmap.madvise(mmap.MADV_RANDOM)
    times = asked(lambda query_BD: index.search(query_BD, K)[1], query_BD, warm_BD)
    after_mb = resident_mb()
    return {
        **times,
        "opened_s": opened_s,
        "anonymous_mb": after_mb[0] - before_mb[0],
        "file_mb": after_mb[1] - before_mb[1],
        "group_mb": used_mb(),
        "facts": index.facts(),
    }


def flat(job: Job) -> dict[str, Any]:
    """Compare all, by FAISS, with the vectors in memory."""
    faiss.omp_set_num_threads(1)
    data = job.data()
    before_mb = resident_mb()
    index = faiss.IndexFlatIP(data.vectors_ND.shape[1])
    for start in range(0, job.size, 100_000):
        index.add(np.ascontiguousarray(data.vectors_ND[start : start + 100_000]))
    anonymous_mb = resident_mb()[0] - before_mb[0]
    few = max(BATCH, ASKED // max(job.size // 50_000, 1))
    times = asked(
        lambda query_BD: index.search(query_BD, K)[1], data.query_BD[:few], data.query_BD[-1:]
    )
    return {**times, "anonymous_mb": anonymous_mb, "file_mb": 0.0}


def asked(search: Callable[[Floats], Any], query_BD: Floats, warm_BD: Floats) -> dict[str, Any]:
    """Time a search, one query at a time and by the batch."""
    for query_D in warm_BD:
        search(query_D[None])
    found: list[list[int]] = []
    first_s: list[float] = []
    single_s: list[float] = []
    for times_s in (first_s, single_s):
        for query_D in query_BD:
            start_s = time.perf_counter()
            found.append(search(query_D[None])[0].tolist())
            times_s.append(time.perf_counter() - start_s)
    start_s = time.perf_counter()
    for start in range(0, len(query_BD), BATCH):
        search(query_BD[start : start + BATCH])
    together_s = time.perf_counter() - start_s
    return {
        "first_p50_ms": float(np.percentile(first_s, 50)) * 1e3,
        "p50_ms": float(np.percentile(single_s, 50)) * 1e3,
        "p95_ms": float(np.percentile(single_s, 95)) * 1e3,
        "single_per_s": len(query_BD) / sum(single_s),
        "batch_per_s": len(query_BD) / together_s,
        "found": found[: len(query_BD)],
    }


def truth(job: Job) -> np.ndarray[Any, Any]:
    """The K nearest rows of each query, found exactly, (B, K); kept in a file."""
    path = job.scratch / f"truth-{job.size}.npy"
    if not path.exists():
        data = job.data()
        query_BD = data.query_BD[:ASKED]
        best = np.full((ASKED, K), -np.inf, np.float32), np.full((ASKED, K), -1)
        for start in range(0, job.size, 50_000):
            block_ND = np.ascontiguousarray(data.vectors_ND[start : start + 50_000])
            scores_BK, rows_BK = faiss.knn(query_BD, block_ND, K, faiss.METRIC_INNER_PRODUCT)
            scores = np.concatenate([best[0], scores_BK], axis=1)
            rows = np.concatenate([best[1], rows_BK + start], axis=1)
            order = np.argsort(-scores, axis=1)[:, :K]
            best = np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)
        print(
            f"{job.size:,} vectors, of which {data.real:,} real: cosine of a query to its nearest "
            f"p5 {np.percentile(best[0][:, 0], 5):.2f}, p50 {np.median(best[0][:, 0]):.2f}, p95 "
            f"{np.percentile(best[0][:, 0], 95):.2f}; to its tenth p50 "
            f"{np.median(best[0][:, K - 1]):.2f}"
        )
        np.save(path, best[1])
    return np.asarray(np.load(path))


def alone(function: Callable[[Job], Any], job: Job) -> Any:
    """Call in a fresh process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, job).result()


HEAD = (
    "| vectors | index | lists, probed | recall@10 | first asked: p50 ms "
    "| again, one by one: p50, p95 ms | queries/s | x Flat "
    "| 32 at once: queries/s | x Flat | memory MB: own + of files | opened s | built s (CPU s) | "
    "building MB: own + of files |\n" + "|---" * 14 + "|"
)


def row(job: Job, seen: dict[str, Any], compared: dict[str, Any] | None) -> str:
    """Say a line of the table."""
    true_BK = truth(job)
    recall = np.mean(
        [np.isin(true, found).mean() for true, found in zip(true_BK, seen["found"], strict=False)]
    )
    ratio = ["", ""]
    if compared is not None:
        names = ("single_per_s", "batch_per_s")
        ratio = [f"{seen[name] / compared[name]:.1f}" for name in names]
    made = {} if job.kind == "flat" else json.loads(job.notes.read_text())
    facts = seen.get("facts", {})
    cells = [
        f"{job.size:,}",
        job.kind,
        f"{facts['lists']:,}, {facts['probes']}" if facts.get("lists") else "",
        f"{recall:.4f}",
        f"{seen['first_p50_ms']:.2f}",
        f"{seen['p50_ms']:.2f}, {seen['p95_ms']:.2f}",
        f"{seen['single_per_s']:,.0f}",
        ratio[0],
        f"{seen['batch_per_s']:,.0f}",
        ratio[1],
        f"{seen['anonymous_mb']:,.0f} + {seen['file_mb']:,.0f}",
        f"{seen['opened_s']:.2f}" if "opened_s" in seen else "",
        f"{made['wall_s']:,.0f} ({made['cpu_s']:,.0f})" if made else "",
        f"{made['anonymous_mb']:,.0f} + {made['file_mb']:,.0f}" if made else "",
    ]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Build and measure what is asked for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--sizes", nargs="+", default=["100k", "1M"], help="such as 100k or 10M")
    parser.add_argument("--scratch", type=Path, required=True, help="for vectors and indexes")
    parser.add_argument("--kinds", nargs="+", help="instead of those that suit a size")
    parser.add_argument("--only", choices=["build", "measure"])
    parser.add_argument("--limit-gib", type=float, help="memory of each process, files included")
    parser.add_argument("--target", type=float, default=0.98, help="recall@10 (default 0.98)")
    parser.add_argument("--threads", type=int, default=1, help="for building (default 1)")
    options = parser.parse_args()
    options.scratch.mkdir(parents=True, exist_ok=True)
    sizes = [int(float(one[:-1]) * SUFFIX[one[-1]]) for one in options.sizes]
    if options.only != "build":
        print(machine() + "\n\n" + HEAD)
    for size in sizes:
        jobs = {
            kind: Job(
                folders=tuple(options.folders),
                scratch=options.scratch,
                size=size,
                largest=max(sizes),
                kind=kind,
                limit_gib=options.limit_gib,
                threads=options.threads,
                target=options.target,
            )
            for kind in ["flat", *(options.kinds or KINDS.get(size, ["ivf_rabitq", "lean"]))]
        }
        compared = None
        if size <= LARGEST_FLAT and options.only != "build":
            compared = alone(flat, jobs["flat"])
            print(row(jobs["flat"], compared, compared), flush=True)
        for kind, job in jobs.items():
            if kind == "flat":
                continue
            if options.only != "measure" and not job.notes.exists():
                alone(build, job)
                truth(job)
            if options.only != "build":
                print(row(job, alone(serve, job), compared), flush=True)


if __name__ == "__main__":
    main()
