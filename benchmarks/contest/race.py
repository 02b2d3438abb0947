"""A run: every server in turn, round after round, the others frozen."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from benchmarks.contest.bodies import Form, write_bodies, write_for_k6
from benchmarks.contest.floor import WAYS, Floor
from benchmarks.contest.load import K6_BODIES, Closed, FailedLoadError, closed, open_loop
from benchmarks.contest.prepare import WINDOWS
from benchmarks.contest.servers import Server, free_port
from benchmarks.contest.stats import kept
from benchmarks.contest.targets import ENCODINGS, Target
from benchmarks.contest.verify import Direct

LOAD_WINDOWS, CHECKED_WINDOWS = 200, 50
OPEN_ENCODINGS = ("json", "binary")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How long a run takes."""

    rounds: int
    seconds: int
    """Of a cell of the closed loop."""
    warm_up_s: int
    """Before each cell, dropped."""
    connections: tuple[int, ...]
    aside: tuple[int, ...] = ()
    """Those of servers that stand aside."""
    encodings: tuple[str, ...]
    rates: tuple[int, ...]
    """Of arrival, requests a second."""
    rate_s: int
    """Of each of them."""
    starts: int
    """Cold starts of each server."""
    floor_s: float
    """Of each way of the compute alone."""


class Race:
    """Servers that are measured in turn.

    Args:
        targets: The servers.
        folder: What ``prepare`` made.
        wrk: The program.
        k6: The program.
        pace: How long it takes.
        floor: The compute alone.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        folder: Path,
        wrk: str,
        k6: Path,
        pace: Pace,
        floor: Floor | None = None,
    ) -> None:
        self._targets, self._folder, self._wrk, self._k6 = targets, folder, wrk, k6
        self._pace, self._floor = pace, floor
        self._windows = np.load(folder / WINDOWS)
        self._servers: dict[str, Server] = {}
        self._bodies: dict[Form, Path] = {}
        self._stack = ExitStack()
        self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._found: dict[str, list[dict[str, Any]]] = {
            name: []
            for name in ("starts", "restarted", "memory", "verified", "floor", "closed", "open")
        }

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop all servers."""
        for server in self._servers.values():
            server.stop()
        self._stack.close()

    def run(self) -> dict[str, list[dict[str, Any]]]:
        """Measure everything.

        Raises:
            FailedLoadError: If a request failed.
            WrongAnswerError: If an answer is wrong.
            StartError: If a server does not start.
        """
        for target in self._targets:
            for left in reversed(range(self._pace.starts)):
                self.start(target, keep=left == 0)
        self.verify()
        for turn in range(self._pace.rounds):
            self.compute(turn)
            for encoding in self._pace.encodings:
                for connections in self._pace.connections:
                    for target in self._targets:
                        if encoding in target.forms and not (
                            target.aside and connections not in self._pace.aside
                        ):
                            self.closed(turn, target, encoding, connections)
        self.open()
        for target in self._targets:
            self._remember(target, "loaded", **asdict(self._servers[target.name].memory()))
        return self._found

    def start(self, target: Target, *, keep: bool = True) -> Server:
        """Start a server and time its first answer; it is then frozen, or stopped."""
        server = self._launch(target)
        form = target.forms["json"]
        seconds = server.wait(form.path, form.content_type, form.body(self._windows[0]))
        self._tell("starts", target=target.name, seconds=seconds)
        if keep:
            self._remember(target, "idle", **asdict(server.memory()))
            server.freeze()
        else:
            server.stop()
        return server

    def verify(self) -> None:
        """Compare every server's answers, in every encoding, with the direct computation."""
        direct = Direct(self._folder, self._windows[:CHECKED_WINDOWS])
        for target in self._targets:
            for encoding in ENCODINGS:
                if encoding in target.forms:
                    with self._awake(target) as server:
                        found = direct.check(target, server.port, target.forms[encoding])
                    self._tell("verified", target=target.name, encoding=encoding, **asdict(found))

    def compute(self, turn: int) -> None:
        """Measure the compute alone, in every way."""
        for way in WAYS if self._floor else ():
            assert self._floor is not None
            speed = self._floor.measure(way, self._pace.floor_s)
            self._tell("floor", round=turn, batch=way.batch, way=way.told(), windows_s=speed)

    def closed(self, turn: int, target: Target, encoding: str, connections: int) -> dict[str, Any]:
        """Measure a server under connections that do not pause."""
        try:
            found = self._asked(target, encoding, connections)
        except FailedLoadError:
            if target.strict:
                raise
            self._restart(target)  # Ray takes it ill to be frozen for minutes
            found = self._asked(target, encoding, connections)
        cell = {"target": target.name, "encoding": encoding, "connections": connections}
        return self._tell("closed", round=turn, **cell, **asdict(found))

    def _asked(self, target: Target, encoding: str, connections: int) -> Closed:
        form = target.forms[encoding]
        with self._awake(target) as server:
            asked = (self._wrk, server.url, form.path, form.content_type, self.file(form))
            for seconds in (self._pace.warm_up_s, self._pace.seconds):
                found = closed(
                    *asked, connections=connections, seconds=seconds, strict=target.strict
                )
        return found

    def _restart(self, target: Target) -> None:
        self._servers[target.name].stop()
        form = target.forms["json"]
        server = self._launch(target)
        server.wait(form.path, form.content_type, form.body(self._windows[0]))
        server.freeze()
        self._tell("restarted", target=target.name)

    def _launch(self, target: Target) -> Server:
        port = free_port()
        log = self._folder / f"{target.name}.log"
        server = Server(target.command(port), target.environment, log, port)
        self._servers[target.name] = server
        return server

    def open(self) -> None:
        """Measure servers at rates of arrival, each until it does not keep up."""
        for encoding in OPEN_ENCODINGS:
            going = [
                target for target in self._targets if encoding in target.forms and not target.aside
            ]
            for rate in self._pace.rates:
                for target in list(going):
                    row = self.at_rate(target, encoding, rate)
                    if not kept(row):
                        going.remove(target)

    def at_rate(
        self, target: Target, encoding: str, rate: int, *, seconds: int = 0, minutes: int = 0
    ) -> dict[str, Any]:
        """Measure a server at a rate of arrival, for as long as the pace says if not said."""
        form = target.forms[encoding]
        bodies = [form.body(window) for window in self._windows[:K6_BODIES]]
        path = self._scratch / f"{target.name}-{encoding}.k6"
        size = write_for_k6(bodies, path)
        with self._awake(target) as server:
            asked = (self._k6, server.url + form.path, form.content_type, path)
            found = open_loop(
                *asked,
                rate=rate,
                seconds=seconds or self._pace.rate_s,
                size=size,
                minutes=minutes,
            )
        return self._tell("open", target=target.name, encoding=encoding, **asdict(found))

    def file(self, form: Form) -> Path:
        """Write the bodies of a form for wrk, once."""
        if form not in self._bodies:
            path = self._scratch / f"{len(self._bodies)}.wrk"
            write_bodies([form.body(window) for window in self._windows[:LOAD_WINDOWS]], path)
            self._bodies[form] = path
        return self._bodies[form]

    @contextmanager
    def _awake(self, target: Target) -> Iterator[Server]:
        server = self._servers[target.name]
        server.thaw()
        try:
            yield server
        finally:
            server.freeze()

    def _remember(self, target: Target, when: str, **memory: float) -> None:
        self._tell("memory", target=target.name, when=when, **memory)

    def _tell(self, kind: str, **row: Any) -> dict[str, Any]:
        self._found[kind].append(row)
        told = ", ".join(
            f"{name} {value:,.5g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
        )
        os.write(1, f"{kind}: {told}\n".encode())
        return row
