"""Batches across requests: what waits is computed together, in turn, and nothing waits to fill."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from service.errors import QueueFullError, UnavailableError
from service.workers import BATCH_LIMIT, Workers


@dataclass
class Parts:
    """A question that is nothing but its parts."""

    tasks: list[Any]


class Gate:
    """Computes batches, each only when it may, and remembers them."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.began, self.go_on = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, parts: Sequence[Any]) -> list[Any]:
        self.batches.append(list(parts))
        self.began.release()
        assert self.go_on.acquire(timeout=10)
        return [None if part == "none" else f"{part}!" for part in parts]

    async def wait(self) -> None:
        assert await asyncio.to_thread(self.began.acquire, timeout=10)


def _asked(workers: Workers, *parts: Any) -> "asyncio.Task[list[Any]]":
    return asyncio.ensure_future(
        workers.ask(lambda: Parts(list(parts)), lambda _, outcomes: outcomes)
    )


def _with(limit: int, test: Callable[[Workers, Gate], Any]) -> None:
    gate = Gate()
    workers = Workers(1, limit, 7, compute=gate)
    try:
        asyncio.run(test(workers, gate))
    finally:
        for _ in range(100):
            gate.go_on.release()
        workers.close()


def test_what_comes_meanwhile_is_computed_together() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        first = _asked(workers, "a")
        await gate.wait()
        others = [_asked(workers, name) for name in "bcd"]
        await asyncio.sleep(0)
        gate.go_on.release()
        assert await first == ["a!"]
        gate.go_on.release()
        assert await asyncio.gather(*others) == [["b!"], ["c!"], ["d!"]]
        assert gate.batches == [["a"], ["b", "c", "d"]]

    _with(8, test)


def test_the_size_of_each_batch_is_told() -> None:
    sizes: list[int] = []
    gate = Gate()

    async def test() -> None:
        first = _asked(workers, "a")
        await gate.wait()
        others = [_asked(workers, name) for name in "bcd"]
        await asyncio.sleep(0)
        gate.go_on.release()
        gate.go_on.release()
        await asyncio.gather(first, *others, _asked(workers))

    workers = Workers(1, 8, 7, compute=gate, computed=sizes.append)
    try:
        asyncio.run(test())
    finally:
        for _ in range(100):
            gate.go_on.release()
        workers.close()
    assert sizes == [len(batch) for batch in gate.batches if batch] == [1, 3]


def test_a_large_question_gives_way_to_small_ones() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        hold = _asked(workers, "hold")
        await gate.wait()
        many = list(range(3 * BATCH_LIMIT))
        large, small = _asked(workers, *many), _asked(workers, "small")
        await asyncio.sleep(0)
        gate.go_on.release()
        await gate.wait()
        assert await hold == ["hold!"]
        assert gate.batches[1] == [0, "small", *range(1, BATCH_LIMIT - 1)]
        late = _asked(workers, "late")
        await asyncio.sleep(0)
        gate.go_on.release()
        assert await small == ["small!"]
        await gate.wait()
        assert "late" in gate.batches[2]
        assert not large.done()
        for _ in range(5):
            gate.go_on.release()
        assert await late == ["late!"]
        assert await large == [f"{one}!" for one in many]
        assert max(map(len, gate.batches)) == BATCH_LIMIT

    _with(8, test)


def test_one_that_fails_leaves_the_others() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        hold = _asked(workers, "hold")
        await gate.wait()

        def fail(*_: Any) -> Any:
            raise KeyError("x")

        good = _asked(workers, "good")
        early = asyncio.ensure_future(workers.ask(fail, lambda *_: None))
        late = asyncio.ensure_future(workers.ask(lambda: Parts(["late"]), fail))
        plain = asyncio.ensure_future(workers.run(lambda: 5))
        await asyncio.sleep(0)
        gate.go_on.release()
        gate.go_on.release()
        assert await hold == ["hold!"]
        assert await good == ["good!"]
        assert await plain == 5
        for failed in (early, late):
            with pytest.raises(KeyError):
                await failed

    _with(8, test)


def test_a_job_by_itself_is_answered_before_the_next_one_runs() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        held = threading.Event()
        first = asyncio.ensure_future(workers.run(lambda: 1))
        second = asyncio.ensure_future(workers.run(lambda: held.wait(10)))
        assert await asyncio.wait_for(first, 5) == 1
        assert not second.done()
        held.set()
        assert await second

    _with(4, test)


def test_questions_wait_for_one_job_at_most_between_two_batches() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        held, ran = threading.Event(), threading.Semaphore(0)

        def job() -> bool:
            ran.release()
            return held.wait(10)

        hold = _asked(workers, "hold")
        await gate.wait()
        question = _asked(workers, "a")
        jobs = [asyncio.ensure_future(workers.run(job)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.go_on.release()
        assert await hold == ["hold!"]
        assert await asyncio.to_thread(ran.acquire, timeout=10)
        held.set()
        assert await jobs[0]
        await gate.wait()
        assert gate.batches == [["hold"], ["a"]]
        assert not ran.acquire(blocking=False)
        gate.go_on.release()
        assert await question == ["a!"]
        assert all(await asyncio.gather(*jobs))

    _with(8, test)


def test_a_compute_that_fails_is_told_to_all_of_its_batch() -> None:
    class BrokenError(Exception):
        pass

    def broken(parts: Sequence[Any]) -> Sequence[Any]:
        raise BrokenError(str(parts))

    def first_error(_: Parts, outcomes: list[Any]) -> Any:
        raise outcomes[0]

    async def test() -> None:
        for _ in range(2):  # the thread lives on
            with pytest.raises(BrokenError):
                await workers.ask(lambda: Parts([1]), first_error)

    workers = Workers(1, 4, 1, compute=broken)
    asyncio.run(test())
    workers.close()


def test_whoever_goes_leaves_the_queue_and_its_place() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        hold = _asked(workers, "hold")
        await gate.wait()
        going = [_asked(workers, name) for name in "bc"]
        await asyncio.sleep(0)
        assert workers.waiting == 2
        with pytest.raises(QueueFullError):
            await _asked(workers, "d")
        for one in going:
            one.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        assert workers.waiting == 0
        staying = [_asked(workers, name) for name in "ef"]
        await asyncio.sleep(0)
        gate.go_on.release()
        gate.go_on.release()
        assert await hold == ["hold!"]
        assert await asyncio.gather(*staying) == [["e!"], ["f!"]]
        assert gate.batches == [["hold"], ["e", "f"]]

    _with(2, test)


def test_closing_finishes_what_runs_and_drops_what_waits() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        running = _asked(workers, "a")
        await gate.wait()
        waiting = _asked(workers, "b")
        await asyncio.sleep(0)
        closing = asyncio.ensure_future(asyncio.to_thread(workers.close))
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.go_on.release()
        await closing
        assert await running == ["a!"]
        with pytest.raises(UnavailableError):
            await _asked(workers, "c")

    _with(4, test)


def test_an_empty_question_is_answered() -> None:
    async def test(workers: Workers, gate: Gate) -> None:
        gate.go_on.release()
        assert await _asked(workers) == []

    _with(1, test)


def test_a_lone_batch_has_all_cores_and_two_share_them() -> None:
    told: list[tuple[str, int]] = []
    gate = Gate()

    def share(parts: int) -> None:
        told.append((threading.current_thread().name, parts))

    async def both_idle() -> None:
        while len(workers._idle) < 2:
            await asyncio.sleep(0.001)

    async def test() -> None:
        await both_idle()
        first = _asked(workers, "a")
        await gate.wait()
        second = _asked(workers, "b")
        await gate.wait()
        gate.go_on.release()
        gate.go_on.release()
        await asyncio.gather(first, second)
        await both_idle()
        third = _asked(workers, "c")
        await gate.wait()
        gate.go_on.release()
        await third

    workers = Workers(2, 8, 7, compute=gate, share=share)
    try:
        asyncio.run(test())
    finally:
        workers.close()
    assert told == [("worker-0", 1), ("worker-1", 2), ("worker-0", 1)]


@pytest.mark.parametrize(("threads", "shares"), [(1, [1, 1]), (2, [1, 2, 2])])
def test_a_batch_has_all_cores_only_if_nobody_else_asks(threads: int, shares: list[int]) -> None:
    told: list[int] = []
    gate = Gate()

    async def test() -> None:
        asked = []
        for name in "ab"[:threads]:  # a batch for each thread
            asked.append(_asked(workers, name))
            await gate.wait()
        asked.append(_asked(workers, "last"))
        await asyncio.sleep(0)
        gate.go_on.release()
        await gate.wait()
        for _ in range(threads):
            gate.go_on.release()
        await asyncio.gather(*asked)

    workers = Workers(threads, 8, 7, compute=gate, share=told.append)
    try:
        asyncio.run(test())
    finally:
        workers.close()
    assert told == shares


def test_one_thread_leaves_half_to_the_other() -> None:
    gate = Gate()

    async def test() -> None:
        held = [_asked(workers, "x"), _asked(workers, "y")]
        await gate.wait()
        await gate.wait()
        rest = [_asked(workers, name) for name in "abcdef"]
        for _ in range(8):
            gate.go_on.release()
        await asyncio.gather(*held, *rest)

    workers = Workers(2, 16, 7, compute=gate)
    try:
        asyncio.run(test())
    finally:
        workers.close()
    assert sorted(gate.batches[:2]) == [["x"], ["y"]]
    assert all(len(batch) <= 4 for batch in gate.batches)
    assert sorted(part for batch in gate.batches for part in batch) == sorted("xyabcdef")


def test_a_batch_waits_for_callers_who_were_just_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Long enough that a busy machine does not come between.
    monkeypatch.setattr("service.workers.STEP_S", 0.5)
    monkeypatch.setattr("service.workers.GATHERED_FOR_S", 5.0)

    async def test(workers: Workers, gate: Gate) -> None:
        hold = _asked(workers, "hold")
        await gate.wait()
        first = [_asked(workers, name) for name in "abcd"]
        await asyncio.sleep(0)
        gate.go_on.release()
        await hold
        await gate.wait()
        gate.go_on.release()
        await asyncio.gather(*first)
        again = []
        for name in "abcd":  # they ask again, one after the other
            again.append(_asked(workers, name))
            await asyncio.sleep(0.01)
        gate.go_on.release()
        assert await asyncio.gather(*again) == [["a!"], ["b!"], ["c!"], ["d!"]]
        assert gate.batches == [["hold"], [*"abcd"], [*"abcd"]]

    _with(8, test)
