"""The files of vectors in a data folder, and how much of them may be trusted.

    vectors-raw.TOKEN.f32       the raw vectors, by slot
    vectors-raw.TOKEN.i64       the row of the store of each slot
    vectors-learned.TOKEN.f32   their projections by one checkpoint, by slot
    vectors-raw.json, …         manifests: which TOKEN it is, and how many slots are on the disk

SQLite is the truth, and these are copies. A slot is written once, and a manifest counts it only
when it has been synchronised. So a process that is killed leaves files of which the counted part
is right; what is beyond is read from the store again. A file is known by a header, by its length,
and by some of its vectors, which must be the store's to the last bit; the rest is not read at a
start.

Shapes: N slots, D dimension.
"""

import contextlib
import json
import logging
import os
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.index import Rows
from models.scoring import Scorer
from service.mapped import FileMismatchError, Growing, Mapped
from service.modes import DEFAULT_MODEL, ModelState
from service.rows import StoreError
from service.slots import Slots
from service.snapshot import LEARNED, RAW, usable_part
from service.store import Store

log = logging.getLogger(__name__)

FORMAT = "nextchunk-vectors"
FORMAT_VERSION = 1
SAMPLE = 64
"""Vectors that are compared when a file is opened."""
PROJECTED_TOLERANCE = 1e-4
"""A projection depends in its last bits on what is computed beside it."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A learned space that is to be kept."""

    name: str
    """Of the model."""
    state: ModelState
    vectors: Growing


class VectorFiles:
    """The vectors of a data folder.

    Args:
        folder: Where they are.
        store_id: The store that they belong to.
    """

    def __init__(self, folder: Path, store_id: str) -> None:
        self._folder = folder
        self._store_id = store_id
        self._closed = False

    def new_slots(self, dimension: int, capacity: int = 0) -> Slots:
        """Make slots whose vectors lie in files of their own, or in memory if there is no room."""
        token = _token()
        raw = self._made(RAW, ".f32", token, {}, dimension, capacity)
        rows = self._made(RAW, ".i64", token, {}, None, capacity)
        return Slots(dimension, rows, raw)

    def open_slots(self, store: Store, dimension: int, store_rows: Rows) -> Slots | None:
        """Find the slots of which vectors and rows are there, with nothing else told of them.

        Returns:
            None if there are none to be used, which the log tells.
        """
        try:
            token, size = self._manifest(RAW)
            rows = self._opened(RAW, ".i64", token, {}, None, size)
            raw = self._opened(RAW, ".f32", token, {}, dimension, size)
            _check_raw(rows.array[:size], raw, store, store_rows)
            for array in (rows, raw):
                array.reserve(size + int((store_rows > rows.array[size - 1]).sum()))
        except (FileMismatchError, OSError) as error:
            self._give_up(RAW, "reading all vectors from the store", error)
            return None
        return Slots(dimension, rows, raw)

    def new_learned(self, name: str, state: ModelState, slots: Slots) -> Growing:
        """Make room for the projections of all slots."""
        space, about = _space(name), self._about_learned(state, slots)
        return self._made(space, ".f32", _token(), about, slots.dimension, slots.count)

    def open_learned(
        self, name: str, state: ModelState, slots: Slots, scorer: Scorer
    ) -> Growing | None:
        """Find the projections of the first slots, or None if there are none to be used."""
        space = _space(name)
        try:
            token, size = self._manifest(space)
            about = self._about_learned(state, slots)
            if size > slots.count:
                raise FileMismatchError(f"{space}: of {size} slots, there are {slots.count}")
            vectors = self._opened(space, ".f32", token, about, slots.dimension, size)
            places = _sample(np.arange(size))
            expected_ND = scorer.project(slots.raw.array[places])
            if not np.allclose(vectors.array[places], expected_ND, atol=PROJECTED_TOLERANCE):
                raise FileMismatchError(f"{vectors.path.name}: holds other vectors")
            vectors.reserve(slots.count)
        except (FileMismatchError, OSError) as error:
            self._give_up(space, f"projecting all vectors of model {name} again", error)
            return None
        return vectors

    def save(self, slots: Slots, count: int, projections: Iterable[Projection]) -> bool:
        """Synchronise the vectors of the first slots, and count them from now on.

        Returns:
            Whether it could be done; if not, the log tells why, and what was counted before is
            still there.
        """
        if self._closed:
            return False
        raw, rows = slots.raw, slots.rows
        try:
            if not count:
                self._manifest_path(RAW).unlink(missing_ok=True)
                return True
            if isinstance(raw, Mapped) and isinstance(rows, Mapped):
                raw.flush()
                rows.flush()
                self._write(RAW, raw, count)
            for one in projections:
                if isinstance(one.vectors, Mapped):
                    size = min(count, one.vectors.size)
                    one.vectors.flush()
                    self._write(_space(one.name), one.vectors, size)
        except OSError as error:
            log.warning("how far the vectors are kept could not be written: %s", error)
            return False
        return True

    def clean(self) -> None:
        """Delete files that no manifest names, which were left by what was interrupted."""
        named = set()
        for path in self._folder.glob("vectors-*.json"):
            with contextlib.suppress(FileMismatchError, OSError):
                space = path.stem.removeprefix("vectors-")
                named.add((space, self._manifest(space)[0]))
        for path in self._folder.glob("vectors-*"):
            found = _FILE.fullmatch(path.name)
            if found and found.groups() not in named:
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Write nothing any more: the folder may be another's from now on."""
        self._closed = True

    def _made(
        self,
        space: str,
        suffix: str,
        token: str,
        about: dict[str, Any],
        width: int | None,
        capacity: int,
    ) -> Growing:
        dtype = _DTYPES[suffix]
        if width == 0 or self._closed:  # nothing is known of the vectors yet
            return Growing(dtype, width)
        mapped = None
        try:
            mapped = Mapped(self._path(space, token, suffix), self._about(about), dtype, width)
            mapped.reserve(capacity)
        except OSError as error:
            if mapped is not None:
                mapped.remove()
            log.warning("keeping the %s vectors in memory, there is no room: %s", space, error)
            return Growing(dtype, width)
        return mapped

    def _give_up(self, space: str, what: str, error: Exception) -> None:
        there = self._manifest_path(space).exists()
        log.log(logging.WARNING if there else logging.INFO, "%s: %s", what, error)
        if there and isinstance(error, FileMismatchError):
            self._manifest_path(space).unlink(missing_ok=True)

    def _opened(
        self,
        space: str,
        suffix: str,
        token: str,
        about: dict[str, Any],
        width: int | None,
        size: int,
    ) -> Mapped:
        path = self._path(space, token, suffix)
        return Mapped(path, self._about(about), _DTYPES[suffix], width, size=size)

    def _about(self, more: dict[str, Any]) -> dict[str, Any]:
        about = {"format": FORMAT, "version": FORMAT_VERSION, "store_id": self._store_id}
        return {**about, **more}

    def _about_learned(self, state: ModelState, slots: Slots) -> dict[str, Any]:
        assert state.usable is not None
        raw = slots.raw
        token = _token_of(raw.path) if isinstance(raw, Mapped) else _token()
        return {"checkpoint": state.usable.version, "slots": token}

    def _path(self, space: str, token: str, suffix: str) -> Path:
        return self._folder / f"vectors-{space}.{token}{suffix}"

    def _manifest_path(self, space: str) -> Path:
        return self._folder / f"vectors-{space}.json"

    def _manifest(self, space: str) -> tuple[str, int]:
        path = self._manifest_path(space)
        try:
            manifest = json.loads(path.read_bytes())
        except FileNotFoundError as error:
            raise FileMismatchError(f"{path.name}: there is none") from error
        except ValueError as error:
            raise FileMismatchError(f"{path.name}: not JSON") from error
        about = manifest if isinstance(manifest, dict) else {}
        token, size = about.get("token"), about.get("size")
        if not (isinstance(token, str) and token.isalnum() and type(size) is int and size > 0):
            raise FileMismatchError(f"{path.name}: expected a token and a size")
        return token, size

    def _write(self, space: str, vectors: Mapped, size: int) -> None:
        path = self._manifest_path(space)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with partial.open("w") as file:
                json.dump({"token": _token_of(vectors.path), "size": size}, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


_DTYPES = {".f32": "<f4", ".i64": "<i8"}
_FILE = re.compile(r"vectors-(.+)\.([0-9a-f]{12})\.(?:f32|i64)")


def _check_raw(rows: Rows, raw: Mapped, store: Store, store_rows: Rows) -> None:
    if rows[0] < 1 or (np.diff(rows) < 1).any():
        raise FileMismatchError(f"{raw.path.name}: damaged, its rows do not rise")
    if not len(store_rows) or not usable_part(rows, store_rows):
        raise FileMismatchError(f"{raw.path.name}: of other chunks, or mostly of such as are gone")
    places = _sample(np.flatnonzero(np.isin(rows, store_rows)))
    try:
        expected_ND = store.vectors(rows[places])
    except StoreError as error:
        raise FileMismatchError(str(error)) from error
    found_ND = raw.array[places]
    if expected_ND.tobytes() != found_ND.tobytes():
        raise FileMismatchError(f"{raw.path.name}: holds other vectors than the store")


def _sample(places: Rows) -> Rows:
    """Some of them, the first and the last included."""
    picked = np.linspace(0, len(places) - 1, min(SAMPLE, len(places))).astype(np.int64)
    return places[picked]


def _space(name: str) -> str:
    return LEARNED if name == DEFAULT_MODEL else f"{LEARNED}-{name}"


def _token() -> str:
    return uuid.uuid4().hex[:12]


def _token_of(path: Path) -> str:
    return path.stem.rpartition(".")[2]
