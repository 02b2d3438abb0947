"""Built indexes kept beside the store, so that a start need not build them again.

Each says which rows of which store it covers, in the order of its vectors, and which checkpoint
projected them. One that is behind the store is used all the same: rows are never changed, so what
it lacks is newer and what it has too much was deleted. One that is damaged or foreign is ignored,
with one log line, and built again in the background.
"""

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from models.index import IndexMismatchError, Rows, VectorIndex
from models.scoring import Floats
from service.modes import DEFAULT_MODEL, ModelState

log = logging.getLogger(__name__)

RAW = "raw"
LEARNED = "learned"


class Snapshots:
    """The index files of a data folder.

    Args:
        folder: Where they are.
        store_id: The store that they belong to.
    """

    def __init__(self, folder: Path, store_id: str) -> None:
        self._folder = folder
        self._store_id = store_id

    def save(
        self, state: ModelState | None, index: VectorIndex, rows: Rows, name: str = DEFAULT_MODEL
    ) -> None:
        """Keep an index; one that cannot be written is told in the log, and built again later.

        Args:
            state: Model of the learned space, or None for the raw one.
            index: What was built.
            rows: Row of the store of each of its vectors.
            name: Name of the model.
        """
        try:
            index.save(self._path(state, name), self._fingerprint(state, index.dimension), rows)
            shutil.rmtree(self.scratch(state, name), ignore_errors=True)
        except (OSError, RuntimeError) as error:
            log.warning("the %s index could not be saved: %s", _word(state), error)

    def load(
        self, state: ModelState | None, vectors_ND: Floats, name: str = DEFAULT_MODEL
    ) -> tuple[VectorIndex, Rows] | None:
        """Read an index and the rows that it covers, or None if what is there cannot be used.

        Args:
            state: Model of the learned space, or None for the raw one.
            vectors_ND: The stored vectors, those that it covers first, in its order.
            name: Name of the model.
        """
        path = self._path(state, name)
        try:
            return VectorIndex.load(path, self._fingerprint(state, vectors_ND.shape[1]), vectors_ND)
        except IndexMismatchError as error:
            level = logging.WARNING if path.exists() else logging.INFO
            log.log(level, "rebuilding the %s index: %s", _word(state), error)
        except Exception as error:  # whatever a damaged file makes its reader raise
            kind = type(error).__name__
            log.warning("rebuilding the %s index: %s: %s", _word(state), path.name, kind)
        return None

    def scratch(self, state: ModelState | None, name: str = DEFAULT_MODEL) -> Path:
        """Where the build of an index keeps what it has done, so that a killed one goes on."""
        return self._folder / f"building-{self._path(state, name).stem}"

    def _path(self, state: ModelState | None, name: str) -> Path:
        suffix = "" if name == DEFAULT_MODEL else f"-{name}"
        return self._folder / f"index-{_word(state)}{suffix}.faiss"

    def _fingerprint(self, state: ModelState | None, dimension: int) -> dict[str, Any]:
        checkpoint = None if state is None else state.usable
        return {
            "store_id": self._store_id,
            "checkpoint": RAW if checkpoint is None else checkpoint.version,
            "dimension": dimension,
        }


def usable_part(rows: Rows, store_rows: Rows) -> bool:
    """Whether an index over some rows is worth using for a store that has others by now.

    Args:
        rows: Rising rows that the index covers.
        store_rows: Rising rows of the store.
    """
    here = np.isin(rows, store_rows)
    older = store_rows[store_rows <= rows[-1]]
    return bool(here.mean() >= 0.5 and np.isin(older, rows).all())


def _word(state: ModelState | None) -> str:
    return RAW if state is None else LEARNED
