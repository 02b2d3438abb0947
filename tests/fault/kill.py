"""Kill a service that is written to, again and again, and compare what is left with what it said.

    python -m tests.fault.kill DATASET [--kills 20] [--chunks N]

DATASET is a prepared folder with vectors. After each SIGKILL the service is started again, and

- every acknowledged chunk is there once, with its last acknowledged content, and every
  acknowledged deletion has happened;
- a batch that was not answered has happened as a whole or not at all, and sending it again under
  the same Idempotency-Key is a replay in the first case and a write in the second;
- store, index and statistics agree, SQLite finds nothing wrong, and a sample of the chunks is
  found by search.
"""

import argparse
import functools
import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import ormsgpack

from service.prepared import open_prepared
from service.store import STORE_FILE, ChunkRow
from tests.fault.writing import Batch, Contents, State, Writer, send

ROOT = Path(__file__).parent.parent.parent
CHECKPOINT = ROOT / "checkpoints" / "p8-minilm-l6-v2"
SOONEST_S, LATEST_S = 0.2, 3.0
SAMPLE = 50
TOP_K = 10
MOST_TOLD = 20
SAME = 1e-6
"""One text embedded twice, in different company, may differ by so much; so do float32 scores."""


class Process:
    """A service in a process of its own; when this returns it is ready.

    Args:
        data: Its data folder.
        checkpoint: Its checkpoint, or None.
        log: File to which its log is appended.
    """

    def __init__(self, data: Path, checkpoint: Path | None, log: Path) -> None:
        flags = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        command = [sys.executable, "-m", "service", "serve", "--data", str(data), "--port", "0"]
        started = time.perf_counter()
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                [*command, *flags], stdout=subprocess.PIPE, stderr=stderr, text=True, cwd=ROOT
            )
        assert self._process.stdout is not None
        self.url = ""
        for line in self._process.stdout:
            if found := re.match(r"listening on (\S+)", line):
                self.url = found[1]
            if line.startswith("ready:"):
                break
        else:
            self.end()
            raise RuntimeError(f"the service did not become ready, see {log}")
        self.ready_s = time.perf_counter() - started
        self.http = httpx.Client(base_url=self.url, timeout=120)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._process.kill()

    def end(self) -> None:
        """Stop it, if it still runs."""
        if self._process.poll() is None:
            self._process.terminate()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        if hasattr(self, "http"):
            self.http.close()


@dataclass(kw_only=True)
class Report:
    """What was found."""

    ready_s: list[float] = field(default_factory=list)
    chunks: int = 0
    batches: int = 0
    lost: int = 0
    revived: int = 0
    duplicated: int = 0
    half_written: int = 0
    unfound: int = 0
    troubles: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.troubles

    def count(self, kind: str, number: int, what: str) -> None:
        """Note violations of a kind."""
        if number:
            setattr(self, kind, getattr(self, kind) + number)
            self.troubles.append(f"{kind}: {what}")


class Kills:
    """The service, those who write to it, and what must hold.

    Args:
        chunks: What is written.
        work: Empty folder for data and log.
        checkpoint: The service's checkpoint, or None.
        seed: Of all that is random.
        say: Told a line for each kill.
    """

    def __init__(
        self,
        chunks: Sequence[ChunkRow],
        work: Path,
        *,
        checkpoint: Path | None,
        seed: int = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.contents = Contents(chunks)
        self.data, self.log = work / "data", work / "service.log"
        self.report = Report()
        self._checkpoint, self._say = checkpoint, say
        self._random = random.Random(seed)
        self._log_read = 0
        self._again: list[tuple[Writer, Batch, bool]] = []
        self.writers = [
            Writer(
                name=f"writer-{number}",
                contents=self.contents,
                rows=list(range(number, len(chunks), 2)),
                generator=np.random.default_rng([seed, number]),
            )
            for number in range(2)
        ]

    def run(
        self, kills: int, *, soonest_s: float = SOONEST_S, latest_s: float = LATEST_S
    ) -> Report:
        """Kill so many times, then write the rest, and look a last time."""
        process = self.start()
        try:
            for number in range(1, kills + 1):
                after_s = self._random.uniform(soonest_s, latest_s)
                threads = [writer.start(process.url) for writer in self.writers]
                time.sleep(after_s)
                process.kill()
                for thread in threads:
                    thread.join()
                process.end()
                process = self.start()
                self.look(process, f"kill {number:2} after {after_s:4.2f} s")
                if not self.report.ok:
                    return self.report
            for writer in self.writers:
                writer.finish(process.http)
            self.look(process, "the rest is written")
            process.end()
            process = self.start()
            self.look(process, "stopped and started")
        finally:
            process.end()
        return self.report

    def start(self) -> Process:
        """Start the service, and time it."""
        process = Process(self.data, self._checkpoint, self.log)
        self.report.ready_s.append(process.ready_s)
        return process

    def look(self, process: Process, when: str) -> None:
        """Compare everything, and send again what was not answered."""
        report = self.report
        for writer in self.writers:
            report.troubles += writer.troubles
        found = self._download(process.http)
        pending, written = 0, 0
        for writer in self.writers:
            if writer.pending is not None:
                pending += 1
                written += self._resolve(writer, found)
        states = [writer.state for writer in self.writers]
        expected: State = {row: of for state in states for row, of in state.items() if of}
        self._compare(expected, found)
        self._check_store(found)
        self._check_stats(process.http, len(expected))
        self._search(process.http, expected)
        self._check_log()
        report.chunks = len(expected)
        report.batches = sum(writer.acknowledged for writer in self.writers)
        fate = f"{pending} unanswered ({written} written)"
        self._say(
            f"{when}: {report.chunks} chunks, {report.batches} batches acknowledged, {fate}, "
            f"ready in {process.ready_s:.2f} s: {'ok' if report.ok else 'NOT OK'}"
        )
        self._send_again(process.http)

    def _resolve(self, writer: Writer, found: State) -> bool:
        """Find out whether an unanswered batch was written."""
        batch = writer.pending
        assert batch is not None
        new = batch.changes
        got = {row: found.get(row) for row in new}
        written = got == new
        if not written and got != {row: writer.state.get(row) for row in new}:
            self.report.count("half_written", 1, f"{writer.name}: {new} is {got}")
        writer.settle(written=written)
        self._again.append((writer, batch, written))
        return written

    def _send_again(self, http: httpx.Client) -> None:
        """Send what was not answered once more: if it was written, nothing may happen."""
        for writer, batch, written in self._again:
            answer = send(http, self.contents, batch)
            if answer.status not in (200, 202) or answer.replayed != written:
                self.report.troubles.append(
                    f"{writer.name}: sent again, written before: {written}, got {answer}"
                )
            writer.state.update(batch.changes)
        self._again.clear()

    def _download(self, http: httpx.Client) -> State:
        """Read all chunks of all documents through the API."""
        found: State = {}
        for document_id in _documents(http):
            answer = http.get(
                f"/v1/documents/{quote(document_id, safe='')}",
                params={"vectors": "true"},
                headers={"Accept": "application/msgpack"},
            ).raise_for_status()
            for chunk in ormsgpack.unpackb(answer.content)["content"]:
                name = chunk["id"]
                known = self.contents.revision(chunk)
                if known is None:
                    self.report.troubles.append(f"{name}: of content that was never sent")
                    continue
                self.report.count("duplicated", int(known[0] in found), f"{name} twice")
                found[known[0]] = known[1]
        return found

    def _compare(self, expected: State, found: State) -> None:
        lost = [row for row, of in expected.items() if found.get(row) != of]
        revived = [row for row in found if row not in expected]
        name = self.contents.id
        told = [f"{name(row)}: {found.get(row)}, not {expected[row]}" for row in lost]
        self.report.count("lost", len(lost), ", ".join(told[:MOST_TOLD]))
        self.report.count("revived", len(revived), ", ".join(map(name, revived[:MOST_TOLD])))

    def _check_store(self, found: State) -> None:
        url = f"{(self.data / STORE_FILE).absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(url, uri=True)) as db:
            verdict = db.execute("PRAGMA integrity_check").fetchall()
            ids = [name for (name,) in db.execute("SELECT id FROM chunks")]
        if verdict != [("ok",)]:
            self.report.troubles.append(f"integrity_check: {verdict[:3]}")
        if sorted(ids) != sorted(self.contents.id(row) for row in found):
            self.report.troubles.append(f"{len(ids)} ids in the store, {len(found)} in the index")

    def _check_stats(self, http: httpx.Client, expected: int) -> None:
        stats = http.get("/v1/stats").raise_for_status().json()
        store, index = stats["store"], stats["index"]
        counts = (store["rows"], store["chunks"], index["searchable"])
        if counts != (expected,) * 3:
            self.report.troubles.append(f"rows, chunks, searchable: {counts}, not {expected}")
        newest = max(writer.version for writer in self.writers)
        if store["version"] < newest:
            self.report.troubles.append(f"version {store['version']}, acknowledged was {newest}")

    def _search(self, http: httpx.Client, expected: State) -> None:
        """Each of a sample, the last acknowledged ones among them, is nearest to its own vector."""
        last = [row for writer in self.writers for row in writer.last if expected.get(row)]
        last = self._random.sample(last, min(len(last), SAMPLE // 5))
        some = self._random.sample(sorted(expected), min(len(expected), SAMPLE - len(last)))
        for row in dict.fromkeys([*last, *some]):
            revision = expected[row]
            assert revision is not None
            body = {
                "context": [self.contents.body(row, revision)["vector"]],
                "mode": "retrieval",
                "top_k": TOP_K,
            }
            headers = {"X-Request-Timeout": "60"}
            answer = http.post("/v1/rank", json=body, headers=headers).raise_for_status().json()
            ids = [hit["id"] for hit in answer["results"]]
            name = self.contents.id(row)
            self.report.count("duplicated", len(ids) - len(set(ids)), f"among results of {name}")
            if ids[:1] != [name] and not self._twin(row, revision, ids, expected):
                self.report.count("unfound", 1, f"{name} [{revision}]: found {ids[:3]}")

    def _twin(self, row: int, revision: int, ids: list[str], expected: State) -> bool:
        """Whether the first result has the same vector, as far as a score can tell."""
        other = self.contents.row(ids[0]) if ids else None
        its = None if other is None else expected.get(other)
        if other is None or its is None:
            return False
        cosine = self.contents.vector(other, its) @ self.contents.vector(row, revision)
        return bool(cosine > 1.0 - SAME)

    def _check_log(self) -> None:
        with self.log.open("rb") as file:
            file.seek(self._log_read)
            for line in file:
                said = json.loads(line)
                if said["level"] in ("error", "critical"):
                    self.report.troubles.append(f"log: {said}")
            self._log_read = file.tell()


def _documents(http: httpx.Client) -> Iterator[str]:
    offset, total = 0, 1
    while offset < total:
        answer = http.get("/v1/documents", params={"limit": 1000, "offset": offset})
        page = answer.raise_for_status().json()
        total, offset = page["total"], offset + 1000
        yield from (document["id"] for document in page["documents"])


def summary(report: Report) -> str:
    """Say what was found, in one line."""
    ready_s = sorted(report.ready_s)
    return (
        f"{report.chunks} chunks at the end, {report.batches} batches acknowledged; "
        f"{len(ready_s)} starts, ready after {ready_s[len(ready_s) // 2]:.2f} s (p50), "
        f"{ready_s[-1]:.2f} s (max); lost {report.lost}, duplicated {report.duplicated}, "
        f"revived {report.revived}, half-written batches {report.half_written}, "
        f"not found {report.unfound}"
    )


def main(arguments: list[str] | None = None) -> int:
    """Run it as a person asks for; 1 if anything was not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault.kill", description=__doc__)
    parser.add_argument("dataset", type=Path, help="prepared folder with vectors")
    parser.add_argument("--kills", type=int, default=20, help="default 20")
    parser.add_argument("--chunks", type=int, help="default: all")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="default: the shipped")
    parser.add_argument("--seed", type=int, default=0, help="default 0")
    args = parser.parse_args(arguments)
    say = functools.partial(print, flush=True)
    chunks = list(open_prepared(args.dataset).rows())[: args.chunks]
    work = Path(tempfile.mkdtemp(prefix="nextchunk-kill-"))
    kills = Kills(chunks, work, checkpoint=args.checkpoint, seed=args.seed, say=say)
    report = kills.run(args.kills)
    for trouble in report.troubles[:MOST_TOLD]:
        say(trouble[:1000])
    say(summary(report))
    if report.ok:
        shutil.rmtree(work)
        return 0
    say(f"data folder and log are kept in {work}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
