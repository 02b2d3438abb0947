import itertools
import operator
import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
import pytest

import service.columns
from service.columns import KEY_LIMIT, Columns, Condition

WORDS = ["", "a", "b", "B", "ab", "ä", "1", "true", "\uffff", "😀"]
NUMBERS = [0, -0.0, 1, 1.0, -1, 2.5, -1e300, 2**53, 2**53 + 1, 7, 7.000001]
KEYS = ["a", "b", "c", "a.b", "a.a", "b.c.a", "", ".", "none"]
COMPARE = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}


def values(metadata: dict[str, Any], key: str) -> list[Any]:
    found = []
    for name, value in metadata.items():
        if name == key:
            elements = value if isinstance(value, list) else [value]
            found += [one for one in elements if isinstance(one, str | int | float)]
        if isinstance(value, dict) and key.startswith(name + "."):
            found += values(value, key[len(name) + 1 :])
    return found


def comparable(value: Any) -> tuple[str, Any]:
    if isinstance(value, str | bool):
        return type(value).__name__, value
    return "number", float(value)


def passes(value: Any, name: str, wanted: Any) -> bool:
    if name == "exists":
        return bool(wanted)
    if name in ("eq", "in"):
        allowed = [wanted] if name == "eq" else wanted
        return comparable(value) in [comparable(one) for one in allowed]
    (kind, left), (other, right) = comparable(value), comparable(wanted)
    return kind == other and bool(COMPARE[name](left, right))


def holds(metadata: dict[str, Any], key: str, members: dict[str, Any]) -> bool:
    """The contract, slowly: members are named as in a request."""
    there = values(metadata, key)
    if not there:
        return members == {"exists": False}
    return any(all(passes(one, *member) for member in members.items()) for one in there)


def condition(members: dict[str, Any]) -> Condition:
    given = dict(members)
    if "in" in given:
        given["one_of"] = tuple(given.pop("in"))
    return Condition(**given)


def any_scalar(rng: random.Random) -> Any:
    return rng.choice([rng.choice(WORDS), rng.choice(NUMBERS), rng.random() < 0.5])


def any_value(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.random()
    if kind < 0.6:
        return any_scalar(rng)
    if kind < 0.7 or depth == 3:
        return None
    if kind < 0.85:
        return [any_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return any_metadata(rng, depth + 1)


def any_metadata(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    names = rng.sample(["a", "b", "c", "a.b", ""], rng.randrange(5))
    return {name: any_value(rng, depth) for name in names}


def any_members(rng: random.Random) -> dict[str, Any]:
    bound = rng.choice([WORDS, NUMBERS])
    every = {
        "eq": any_scalar(rng),
        "in": [any_scalar(rng) for _ in range(rng.randrange(1, 6))],
        "exists": rng.random() < 0.6,
        **{name: rng.choice(bound) for name in COMPARE},
    }
    return {name: every[name] for name in rng.sample(list(every), rng.choice([1, 1, 1, 2, 2, 3]))}


def filled(rows: list[dict[str, Any]]) -> Columns:
    columns = Columns()
    for slot, metadata in enumerate(rows):
        columns.append(slot, metadata)
    return columns


@pytest.mark.parametrize("seed", range(8))
def test_conditions_agree_with_brute_force(seed: int) -> None:
    rng = random.Random(seed)
    rows = [any_metadata(rng) for _ in range(150)]
    columns = filled(rows)
    matched: dict[str, set[bool]] = {}
    for _ in range(800):
        key, members = rng.choice(KEYS), any_members(rng)
        count = rng.choice([0, 1, rng.randrange(len(rows)), len(rows)])
        found = columns.matching(key, condition(members), count)
        wanted = [holds(metadata, key, members) for metadata in rows[:count]]
        assert found.dtype == np.bool_
        assert found.tolist() == wanted, (key, members, count)
        for name in members:
            matched.setdefault(name, set()).update(wanted)
    # Each kind of condition was put to the test: it let some slots pass and held others back.
    assert all(outcomes == {True, False} for outcomes in matched.values())
    assert matched.keys() == {"eq", "in", "exists", *COMPARE}


def test_readers_see_exactly_their_slots_while_another_thread_appends() -> None:
    rng = random.Random(11)
    rows = [any_metadata(rng) | {"word": f"w{rng.randrange(2000)}"} for _ in range(4000)]
    questions = [(rng.choice([*KEYS[:6], "word"]), any_members(rng)) for _ in range(40)]
    questions += [("word", {"gte": "w3", "lt": "w5"}), ("word", {"in": ["w1", "w1999", "w77"]})]
    answers = [[holds(row, key, members) for row in rows] for key, members in questions]
    columns, published = Columns(), [0]
    somebody_read, done = threading.Event(), threading.Event()

    def write() -> None:
        for slot, metadata in enumerate(rows):
            columns.append(slot, metadata)
            published[0] = slot + 1
            if slot % 40 == 0:  # or a busy machine might run all of this before the first reader
                somebody_read.clear()
                if not somebody_read.wait(10.0):
                    break
        done.set()

    def read(seed: int) -> set[int]:
        order, counts = random.Random(seed), set()
        while not done.is_set():
            which = order.randrange(len(questions))
            key, members = questions[which]
            count = published[0]
            found = columns.matching(key, condition(members), count)
            assert found.tolist() == answers[which][:count], (key, members, count)
            counts.add(count)
            somebody_read.set()
        return counts

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            readers = [pool.submit(read, seed) for seed in range(3)]
            pool.submit(write).result()
            counts = set().union(*(reader.result() for reader in readers))
    finally:
        sys.setswitchinterval(interval)
    assert published == [len(rows)]
    assert len(counts) > 20


@contextmanager
def at_each_line(step: Callable[[], None]) -> Iterator[list[int]]:
    """Call a step before every line of ``service.columns`` that runs; gives the lines' numbers."""
    lines: list[int] = []

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename != service.columns.__file__:
            return None
        if event == "line":
            lines.append(frame.f_lineno)
            step()  # is not traced itself
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


QUESTIONS: list[dict[str, Any]] = [
    *({"eq": one} for one in ("w3", "w40", 3, True)),
    *({"in": [f"w{number}" for number in range(start, 60, 3)]} for start in (0, 1)),
    *({"gte": "w2", "lt": "w4"}, {"gt": 1, "lte": 30}, {"exists": True}, {"exists": False}),
]


def busy_row(slot: int) -> dict[str, Any]:
    return {"k": [f"w{slot}", slot, slot % 2 == 0], f"new{slot}": slot} if slot % 5 else {}


@pytest.mark.parametrize("members", QUESTIONS, ids=str)
def test_what_is_appended_between_any_two_lines_of_a_reader_changes_nothing(
    members: dict[str, Any],
) -> None:
    for count in range(12):
        columns = filled([busy_row(slot) for slot in range(count)])
        slots = itertools.count(count)

        def append(columns: Columns = columns, slots: Iterator[int] = slots) -> None:
            slot = next(slots)
            columns.append(slot, busy_row(slot))

        wanted = condition(members)
        with at_each_line(append) as lines:
            found = columns.matching("k", wanted, count)
        assert len(lines) >= 5
        assert found.tolist() == [holds(busy_row(slot), "k", members) for slot in range(count)]


def test_what_is_read_between_any_two_lines_of_the_writer_is_whole() -> None:
    columns, reads = Columns(), 0
    questions = [(members, condition(members)) for members in QUESTIONS]
    for slot in range(40):
        wanted = [[holds(busy_row(one), "k", ask) for one in range(slot)] for ask, _ in questions]

        def read(slot: int = slot, wanted: list[list[bool]] = wanted) -> None:
            nonlocal reads
            reads += 1
            found = [columns.matching("k", ask, slot).tolist() for _, ask in questions]
            assert found == wanted
            assert columns.nbytes >= 0
            assert len(columns.keys()) <= slot + 2

        with at_each_line(read):
            columns.append(slot, busy_row(slot))
    assert reads > 40 * 20


def test_kinds_never_mix() -> None:
    columns = filled([{"k": one} for one in ("1", 1, 1.0, True, "true", 0, False, "", None)])

    def slots(**members: Any) -> list[int]:
        return np.flatnonzero(columns.matching("k", condition(members), 9)).tolist()

    assert slots(eq="1") == [0]
    assert slots(eq=1) == slots(eq=1.0) == [1, 2]
    assert slots(eq=True) == [3]
    assert slots(eq="true") == [4]
    assert slots(eq=0) == [5]
    assert slots(eq=False) == [6]
    assert slots(eq="") == [7]
    assert slots(gte=0) == [1, 2, 5]
    assert slots(gte="") == [0, 4, 7]
    assert slots(exists=False) == [8]


def test_one_element_of_a_list_must_pass_the_whole_condition() -> None:
    columns = filled([{"k": [0, 5]}, {"k": [0, 2, 5]}, {"k": [[2]]}, {"k": [{"x": 2}]}, {"k": []}])
    assert columns.matching("k", Condition(gt=1, lt=3), 5).tolist() == [False, True] + [False] * 3
    assert columns.matching("k", Condition(exists=False), 5).tolist() == [False] * 2 + [True] * 3
    assert columns.keys() == ["k"]


def test_strings_are_ordered_by_code_point() -> None:
    columns = filled([{"k": word} for word in ("Z", "a", "z", "ä", "\uffff", "😀")])
    assert columns.matching("k", Condition(gt="a", lt="\U00010000"), 6).tolist() == [
        *[False, False],
        *[True, True, True],
        False,
    ]


def test_integers_are_compared_as_float64() -> None:
    columns = filled([{"k": 2**53}, {"k": 2**53 + 1}, {"k": 10**400}, {"k": -(10**400)}])
    assert columns.matching("k", Condition(eq=2**53 + 1), 4).tolist() == [True, True, False, False]
    assert columns.matching("k", Condition(gt=1e308), 4).tolist() == [False, False, True, False]
    assert columns.matching("k", Condition(lt=0), 4).tolist() == [False, False, False, True]


def test_an_unknown_key_matches_nothing_but_that_it_does_not_exist() -> None:
    columns = filled([{"k": 1}, {}])
    assert columns.matching("other", Condition(eq=1), 2).tolist() == [False, False]
    assert columns.matching("other", Condition(), 2).tolist() == [False, False]
    assert columns.matching("other", Condition(exists=False), 2).tolist() == [True, True]


def test_however_deep_objects_are_only_keys_that_can_be_asked_for_are_kept() -> None:
    deepest: dict[str, Any] = {"b": 1}
    for depth in range(1, 50_000):
        deepest = {"a": deepest, "b": 1} if depth % 2 else {"a": deepest}
    columns = filled([deepest, {"x" * KEY_LIMIT: 1, "y" * (KEY_LIMIT + 1): 1}])
    assert len(columns.keys()) == KEY_LIMIT // 4 + 1
    assert max(map(len, columns.keys())) == KEY_LIMIT


def test_slots_may_be_left_out_but_not_repeated() -> None:
    columns = Columns()
    columns.append(0, {"k": 1})
    columns.append(3, {"k": 1})
    for slot in (0, 3):
        with pytest.raises(ValueError, match=f"expected a slot of 4 or more, got {slot}"):
            columns.append(slot, {"k": 1})
    assert columns.matching("k", Condition(), 5).tolist() == [True, False, False, True, False]


def test_memory_is_proportional_to_the_values() -> None:
    entries, word = 4096, "word" * 1000
    assert Columns().nbytes == filled([{}, {"k": None}, {"k": []}]).nbytes == 0
    numbers = filled([{"k": float(slot)} for slot in range(entries)]).nbytes
    assert 16 * entries <= numbers <= 2 * 16 * entries
    repeated = filled([{"k": word} for _ in range(entries)]).nbytes
    assert len(word) + 12 * entries <= repeated <= 2 * len(word) + 2 * 12 * entries
    distinct = filled([{"k": f"{slot}{word}"} for slot in range(100)]).nbytes
    assert 100 * len(word) <= distinct <= 2 * 100 * len(word)
