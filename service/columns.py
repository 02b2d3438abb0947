"""Metadata of all chunk slots in memory: for each key, the slots that have a value and the values.

One thread appends, slot after slot; any number of threads evaluate conditions meanwhile, without a
lock. A reader brings the number of slots that exist for it, which it learned after they had been
appended, and sees nothing of later ones.

What can be filtered by:

- Strings, finite numbers and booleans. They are of different kinds and never equal. Numbers are
  compared as float64, so integers beyond 2**53 that round to the same float64 are equal.
- Members of nested objects, under dotted keys: ``{"a": {"b": 1}}`` has a value for ``a.b`` and none
  for ``a``. A key that contains a dot itself is not told apart from that.
- Elements of lists: one that passes the whole condition is enough. Lists and objects inside lists
  are ignored.
- Null, an empty list and an empty object are the same as no value at all; so is what lies under a
  key longer than ``KEY_LIMIT``, dots included.

Shapes: N slots, E entries (values of one key and kind), W distinct words of one key.
"""

import math
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
import orjson
from numpy.typing import DTypeLike, NDArray

Scalar = str | bool | float
Slots = NDArray[np.int64]

KEY_LIMIT = 1024
_FIRST_CAPACITY = 8
# Beside its characters, a distinct word costs its places in a dictionary and in a list.
_WORD_OVERHEAD_BYTES = 100


@dataclass(frozen=True, kw_only=True)
class Condition:
    """What a value of a key must pass; all members that are given must hold for the same value."""

    eq: Scalar | None = None
    one_of: tuple[Scalar, ...] | None = None
    gt: str | float | None = None
    gte: str | float | None = None
    lt: str | float | None = None
    lte: str | float | None = None
    exists: bool = True
    """If false, passed by the slots that have no value for the key, and by them alone."""

    @property
    def bounds(self) -> list[tuple[Callable[[Any, Any], Any], str | float]]:
        """The comparisons that a value must pass, each with what it is compared to."""
        every = (
            (operator.gt, self.gt),
            (operator.ge, self.gte),
            (operator.lt, self.lt),
            (operator.le, self.lte),
        )
        return [(compare, bound) for compare, bound in every if bound is not None]

    @property
    def asks_for_a_value(self) -> bool:
        """Whether more is asked than that there is, or is not, a value."""
        return self.eq is not None or self.one_of is not None or bool(self.bounds)

    def wanted(self, kind: type) -> list[Scalar] | None:
        """Values of a kind that ``eq`` and ``one_of`` allow, or None where neither is given."""
        given: list[tuple[Scalar, ...]] = [] if self.eq is None else [(self.eq,)]
        given += [] if self.one_of is None else [self.one_of]
        if not given:
            return None
        return list(set.intersection(*({v for v in vs if kind_of(v) is kind} for vs in given)))


def kind_of(value: Scalar) -> type[str] | type[bool] | type[float]:
    """Tell the kind of a value: str, bool, or float for every number."""
    if isinstance(value, str):
        return str
    return bool if isinstance(value, bool) else float


def as_number(value: float) -> float:
    """Round a number to float64, beyond whose range it is infinite."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class _Entries:
    """Values of one key and kind, rising in slot."""

    def __init__(self, kind: type, dtype: DTypeLike) -> None:
        self._kind = kind
        self._size = 0
        self._slots_E: Slots = np.empty(_FIRST_CAPACITY, np.int64)
        self._values_E: NDArray[Any] = np.empty(_FIRST_CAPACITY, dtype)

    @property
    def nbytes(self) -> int:
        return self._slots_E.nbytes + self._values_E.nbytes

    def append(self, slot: int, value: Any) -> None:
        size = self._size
        if size == len(self._slots_E):
            self._slots_E, self._values_E = _doubled(self._slots_E), _doubled(self._values_E)
        self._slots_E[size] = slot
        self._values_E[size] = value
        self._size = size + 1

    def extend(self, slots: Sequence[int], values: Sequence[Any]) -> None:
        size, end = self._size, self._size + len(slots)
        while end > len(self._slots_E):
            self._slots_E, self._values_E = _doubled(self._slots_E), _doubled(self._values_E)
        self._slots_E[size:end] = slots
        self._values_E[size:end] = values
        self._size = end

    def slots(self, count: int) -> Slots:
        """Slots below ``count`` that have an entry."""
        return self._below(count)[0]

    def passing(self, condition: Condition, count: int) -> Slots:
        """Slots below ``count`` of which an entry passes."""
        slots_E, values_E = self._below(count)
        passing_E = self._passes(condition, values_E)
        return slots_E[passing_E]

    def _below(self, count: int) -> tuple[Slots, NDArray[Any]]:
        # The size first: arrays that are read later hold at least as many entries.
        size = self._size
        slots_E, values_E = self._slots_E, self._values_E
        end = int(np.searchsorted(slots_E[:size], count))
        return slots_E[:end], values_E[:end]

    def _passes(self, condition: Condition, values_E: NDArray[Any]) -> NDArray[np.bool_]:
        wanted = condition.wanted(self._kind)
        passing_E = np.ones(len(values_E), np.bool_)
        if wanted is not None:
            # The other way is slower for booleans, and not open to float64.
            passing_E &= np.isin(values_E, np.array(wanted, values_E.dtype), kind="sort")
        for compare, bound in condition.bounds:
            passing_E &= kind_of(bound) is self._kind and compare(values_E, bound)
        return passing_E


class _Texts(_Entries):
    """Strings; each distinct one is kept once, and the entries hold its number, below W."""

    def __init__(self) -> None:
        super().__init__(str, np.int32)
        self._words: list[str] = []
        self._codes: dict[str, int] = {}
        self._words_bytes = 0

    @property
    def nbytes(self) -> int:
        return super().nbytes + self._words_bytes

    def append(self, slot: int, value: str) -> None:
        super().append(slot, self._code(value))

    def extend(self, slots: Sequence[int], values: Sequence[str]) -> None:
        super().extend(slots, [self._code(value) for value in values])

    def _code(self, value: str) -> int:
        code = self._codes.get(value)
        if code is None:
            code = len(self._words)
            self._words.append(value)
            self._codes[value] = code
            self._words_bytes += sys.getsizeof(value) + _WORD_OVERHEAD_BYTES
        return code

    def _passes(self, condition: Condition, values_E: NDArray[Any]) -> NDArray[np.bool_]:
        wanted: list[Any] | None = condition.wanted(str)
        codes = None
        if wanted is not None:
            codes = [code for code in map(self._codes.get, wanted) if code is not None]
        # Counted after the codes were read: the writer may add words, and its list comes first.
        words = len(self._words)
        passing_W = np.full(words, codes is None)
        passing_W[codes or []] = True
        for compare, bound in condition.bounds:
            # Every word is compared once, however many slots have it.
            passing_W &= isinstance(bound, str) and np.fromiter(
                map(compare, self._words, repeat(bound)), np.bool_, count=words
            )
        passing_E: NDArray[np.bool_] = passing_W[values_E]
        return passing_E


class Columns:
    """The metadata of slots 0, 1, 2 and so on, append-only.

    One thread at a time may call ``append``; all other methods may be called by any thread.
    Memory is proportional to the number of values.
    """

    def __init__(self) -> None:
        self._columns: dict[str, dict[type, _Entries]] = {}
        self._next = 0

    def append(self, slot: int, metadata: Mapping[str, Any]) -> None:
        """Add the metadata of a slot.

        Args:
            slot: Above all slots that were appended before; those left out have no metadata.
            metadata: What a JSON object decodes to.

        Raises:
            ValueError: If the slot does not come after all others.
        """
        if slot < self._next:
            raise ValueError(f"expected a slot of {self._next} or more, got {slot}")
        self._next = slot + 1
        for key, kind, value in values_of(metadata):
            self._entries(key, kind).append(slot, value)

    def extend(self, slots: Slots, documents: Sequence[str]) -> None:
        """Add the metadata of many slots.

        Args:
            slots: Rising, and above all slots that were appended before.
            documents: The metadata of each as a JSON object.

        Raises:
            ValueError: If one is not JSON, or the first slot does not come after all others.
        """
        if slots[0] < self._next:
            raise ValueError(f"expected a slot of {self._next} or more, got {slots[0]}")
        self._next = int(slots[-1]) + 1
        columns: dict[tuple[str, type], tuple[list[int], list[Any]]] = {}
        # Chunks of one document often say the same.
        known: dict[str, list[tuple[list[int], list[Any], Any]]] = {}
        for slot, document in zip(slots.tolist(), documents, strict=True):
            parts = known.get(document)
            if parts is None:
                parts = known[document] = [
                    (*columns.setdefault((key, kind), ([], [])), value)
                    for key, kind, value in values_of(orjson.loads(document))
                ]
            for slots_E, values_E, value in parts:
                slots_E.append(slot)
                values_E.append(value)
        for (key, kind), entries in columns.items():
            self._entries(key, kind).extend(*entries)

    def matching(self, key: str, condition: Condition, count: int) -> NDArray[np.bool_]:
        """Tell which of the first ``count`` slots (count,) have a value that passes.

        A key that no slot has matches nothing, unless the condition is that it does not exist.
        """
        kinds = tuple(self._columns.get(key, {}).values())
        matching_N = np.zeros(count, np.bool_)
        if not condition.asks_for_a_value:
            for entries in kinds:
                matching_N[entries.slots(count)] = True
            return matching_N if condition.exists else ~matching_N
        if condition.exists:
            for entries in kinds:
                matching_N[entries.passing(condition, count)] = True
        return matching_N

    def keys(self) -> list[str]:
        """Dotted keys that any slot has a value for, in order of appearance."""
        return list(self._columns)

    @property
    def nbytes(self) -> int:
        """Approximate memory of the values."""
        columns = list(self._columns.values())
        return sum(entries.nbytes for kinds in columns for entries in tuple(kinds.values()))

    def _entries(self, key: str, kind: type) -> _Entries:
        kinds = self._columns.get(key)
        entries = None if kinds is None else kinds.get(kind)
        if entries is None:
            if kind is str:
                entries = _Texts()
            else:
                entries = _Entries(kind, np.float64 if kind is float else np.bool_)
            self._columns.setdefault(key, {})[kind] = entries
        return entries


def values_of(metadata: Mapping[str, Any]) -> Iterator[tuple[str, type, Any]]:
    """Walk the values of an object: dotted key, kind, and value."""
    # A list, not recursion: objects may be nested deeper than Python's stack is high.
    nested = [("", metadata)]
    while nested:
        prefix, members = nested.pop()
        for name, value in members.items():
            key = prefix + name
            if len(key) > KEY_LIMIT:
                continue
            kind = type(value)
            if kind is dict:
                nested.append((key + ".", value))
                continue
            for element in value if kind is list else (value,):
                kind = type(element)
                if kind is str or kind is bool:
                    yield key, kind, element
                elif kind is int or kind is float:
                    yield key, float, as_number(element)


def _doubled(array: NDArray[Any]) -> NDArray[Any]:
    longer = np.empty(2 * len(array), array.dtype)
    longer[: len(array)] = array
    return longer
