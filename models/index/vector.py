"""A FAISS index over unit vectors: the retrieval step, shared by evaluation and the service.

At this boundary vectors are C-contiguous float32 of unit length, ids are int64 rows, a higher
score is better (inner product = cosine), and ``-1`` means "fewer than k".

Shapes: B queries, N indexed vectors, K results, C candidates, D dimension.
"""

import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from models.index import building, files
from models.index.building import Plan, Progress
from models.index.files import IndexMismatchError, Part, Rows
from models.index.kinds import HNSW_LINKS, IVF, IndexKind, choose, lists_for, needed_bytes
from models.index.searching import search_parts
from models.index.tuning import (
    RECALL_AT,
    RECALL_TARGET,
    Recall,
    Truth,
    Width,
    tune,
)
from models.scoring import Bools, Floats

TAIL_SHARE = 0.25
"""Vectors that lists may take in beside those they were trained on, before all is built anew."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found out when an index was built."""

    width: Width
    recall: Recall
    """Of the ten nearest."""
    target: float
    queries: int
    size: int
    """Vectors that it had then."""


class VectorIndex:
    """An inner-product index that is searched concurrently and never changed once built.

    Made by ``build``, ``extended`` or ``load``.

    Args:
        parts: In the order of rows.
        plan: What was to be built.
        measured: How wide it searches, and what that finds.
        vectors_ND: The stored vectors, of which scores are made; referenced, not copied.
        asked: Type that the caller wanted, if any.
        budget_bytes: Memory that the caller allowed, if there is a limit.
    """

    def __init__(
        self,
        parts: tuple[Part, ...],
        plan: Plan,
        measured: Measured,
        vectors_ND: Floats | None,
        *,
        asked: IndexKind | None,
        budget_bytes: int | None,
    ) -> None:
        self._parts = parts
        self._plan = plan
        self._measured = measured
        self._asked = asked
        self._budget_bytes = budget_bytes
        self.kind = plan.kind
        self.size = sum(part.size for part in parts)
        self.dimension = plan.dimension
        self._vectors_ND = None if plan.kind is IndexKind.FLAT else vectors_ND

    @classmethod
    def build(
        cls,
        vectors_ND: Floats,
        kind: IndexKind | str | None = None,
        *,
        budget_bytes: int | None = None,
        target: float = RECALL_TARGET,
        query_BD: Floats | None = None,
        progress: Progress | None = None,
        scratch: Path | None = None,
    ) -> "VectorIndex":
        """Build an index, and set how wide it searches by measuring what it finds.

        Args:
            vectors_ND: Unit vectors. They are referenced and must not change, except where the
                type is ``flat``; they may be mapped from a file.
            kind: Type; None for the one that suits the size and the budget.
            budget_bytes: Most memory that the index may take beside the vectors; None for any.
            target: Recall of the ten nearest to tune for, from 0 to 1.
            query_BD: Unit queries to tune on that are like those to come and not among the vectors;
                without them, some are made of the vectors.
            progress: Told ``(stage, done, total)``.
            scratch: Folder in which a build that is killed finds again what it has done.

        Raises:
            ValueError: If ``vectors_ND`` is not a non-empty float32 matrix, or there is no such
                kind.
            BudgetError: If no type fits the budget.
        """
        if vectors_ND.ndim != 2 or vectors_ND.dtype != np.float32 or not len(vectors_ND):
            raise ValueError(
                "vectors: expected a non-empty float32 matrix, "
                f"got {vectors_ND.dtype} {vectors_ND.shape}"
            )
        if not 0 < target <= 1:
            raise ValueError(f"target: expected a recall above 0 and at most 1, got {target}")
        asked = None if kind is None else _known(kind)
        plan = _plan(len(vectors_ND), vectors_ND.shape[1], asked, budget_bytes)
        # Without the class of a mapped array, whose views cost several microseconds each.
        vectors_ND = np.asarray(vectors_ND)
        truth = None if plan.kind is IndexKind.FLAT else Truth(vectors_ND, query_BD)
        seen = building.unseen if truth is None else truth.see
        index, empty = building.built(vectors_ND, plan, progress, scratch, seen)
        parts = (Part(index=index, first=0, mark=uuid.uuid4().hex, empty=empty),)
        if truth is None:
            measured = Measured(
                width=Width(),
                recall=Recall(mean=1.0, lower=1.0),
                target=target,
                queries=0,
                size=plan.size,
            )
        else:
            asking_BD = truth.query_BD
            width, recall = tune(
                truth,
                lambda width: search_parts(
                    parts, plan, width, vectors_ND, asking_BD, RECALL_AT + 1, None, 1
                )[1],
                plan,
                target,
                progress or building.silent,
            )
            measured = Measured(
                width=width,
                recall=recall,
                target=target,
                queries=len(truth.query_BD),
                size=plan.size,
            )
        return cls(parts, plan, measured, vectors_ND, asked=asked, budget_bytes=budget_bytes)

    def extended(
        self,
        vectors_ND: Floats,
        *,
        progress: Progress | None = None,
        scratch: Path | None = None,
    ) -> "VectorIndex":
        """Build the index of more vectors, of which the first ``size`` are those of this one.

        This one stays as it is. Flat and HNSW are copied and grow by what is new. Lists are shared,
        not copied: what came after they were trained goes into a second part of the same centroids,
        and when that outgrows a quarter of the first, or the size asks for another type, all is
        built and tuned anew.

        Args:
            vectors_ND: All vectors, as for ``build``.
            progress: Told ``(stage, done, total)``.
            scratch: As for ``build``; used if all is built anew.
        """
        size, first = len(vectors_ND), self._parts[0]
        plan = _plan(size, self.dimension, self._asked, self._budget_bytes)
        same = (plan.kind, plan.fine) == (self._plan.kind, self._plan.fine)
        if not same or (plan.kind in IVF and size > (1 + TAIL_SHARE) * first.size):
            return VectorIndex.build(
                vectors_ND,
                self._asked,
                budget_bytes=self._budget_bytes,
                target=self._measured.target,
                progress=progress,
                scratch=scratch,
            )
        vectors_ND = np.asarray(vectors_ND)
        parts: tuple[Part, ...] = (first,)
        if plan.kind not in IVF:
            grown = faiss.clone_index(first.index)
            building.append(grown, np.ascontiguousarray(vectors_ND[self.size :]))
            parts = (Part(index=grown, first=0, mark=uuid.uuid4().hex),)
        elif size > first.size:
            assert first.empty is not None  # as all lists have
            tail = building.filled(first.empty, vectors_ND, first.size, progress)
            parts = (first, Part(index=tail, first=first.size, mark=uuid.uuid4().hex))
        return VectorIndex(
            parts,
            replace(self._plan, size=size),
            self._measured,
            vectors_ND,
            asked=self._asked,
            budget_bytes=self._budget_bytes,
        )

    def search(
        self,
        query_BD: Floats,
        k: int,
        allowed_N: Bools | None = None,
        *,
        effort: int = 1,
    ) -> tuple[Floats, Rows]:
        """Find the ``k`` best rows of each query.

        Args:
            query_BD: Unit queries.
            k: Results wanted a query; fewer are found when fewer are allowed.
            allowed_N: If given, only rows where it is True may be answered.
            effort: How many times wider than usual a graph or lists are searched.

        Returns:
            Scores and rows, each (B, k), best first; row -1 with score -inf where there is no
            result. Scores are the products with the stored vectors, except by codes of a byte a
            dimension if an HNSW was loaded without them.
        """
        return search_parts(
            self._parts,
            self._plan,
            self._measured.width,
            self._vectors_ND,
            np.ascontiguousarray(query_BD, np.float32),
            k,
            allowed_N,
            effort,
        )

    def warm(self) -> None:
        """Read its mapped files once, so that first searches need not wait for the disk."""
        for part in self._parts:
            if part.file is not None:
                files.read_through(part.file)

    @property
    def factory(self) -> str:
        """Its type in the words of FAISS, for people."""
        lists = f"IVF{self._plan.lists}"
        match self.kind:
            case IndexKind.FLAT:
                return "Flat"
            case IndexKind.HNSW:
                return f"HNSW{HNSW_LINKS},SQ8"
            case IndexKind.IVF_SQ8:
                return f"{lists},SQ8"
            case IndexKind.IVF_RABITQ:
                return f"{lists},RaBitQ" + (",Refine(SQ8)" if self._plan.fine else "")

    def facts(self) -> dict[str, Any]:
        """What it is and what was measured, for manifests, logs and people."""
        width = {name: value for name, value in asdict(self._measured.width).items() if value}
        return {
            "kind": self.kind.value,
            "factory": self.factory,
            "size": self.size,
            "dimension": self.dimension,
            "lists": self._plan.lists,
            "fine": self._plan.fine,
            **width,
            "recall_target": self._measured.target,
            f"recall_at_{RECALL_AT}": round(self._measured.recall.mean, 4),
            "recall_at_least": round(self._measured.recall.lower, 4),
            "recall_queries": self._measured.queries,
            "recall_measured_at_size": self._measured.size,
            "memory_bytes": needed_bytes(
                self.kind, self.size, self.dimension, fine=self._plan.fine
            ),
            "parts": [part.size for part in self._parts],
        }

    def save(self, path: Path, fingerprint: dict[str, Any], rows_N: Rows) -> None:
        """Write the index and, last, a manifest that says what it was built from.

        Args:
            path: File of the index; what belongs to it stands beside.
            fingerprint: What it was built from.
            rows_N: What the caller calls each of its vectors.
        """
        manifest = {
            **self.facts(),
            "asked": self._asked,
            "budget_bytes": self._budget_bytes,
            "plan": asdict(self._plan),
            "measured": asdict(self._measured),
        }
        files.save(path, self._parts, manifest, fingerprint, rows_N)

    @classmethod
    def load(
        cls, path: Path, fingerprint: dict[str, Any], vectors_ND: Floats | None = None
    ) -> tuple["VectorIndex", Rows]:
        """Open an index and its rows, if it was built from ``fingerprint`` and is undamaged.

        Args:
            path: What ``save`` was given.
            fingerprint: What it must have been built from.
            vectors_ND: The stored vectors, which it references; at least as many as it has rows.
                Flat needs none.

        Raises:
            IndexMismatchError: If not; the message says why.
        """
        parts, manifest, rows_N = files.load(path, fingerprint)
        try:
            measured = manifest["measured"]
            plan = Plan(**{**manifest["plan"], "kind": IndexKind(manifest["plan"]["kind"])})
            width, recall = Width(**measured["width"]), Recall(**measured["recall"])
            known = Measured(**{**measured, "width": width, "recall": recall})
            asked, budget_bytes = manifest["asked"], manifest["budget_bytes"]
        except (KeyError, TypeError, ValueError) as error:
            raise IndexMismatchError(f"{path.name}: not readable: {error!r}") from error
        if vectors_ND is not None:
            if len(vectors_ND) < len(rows_N) or vectors_ND.shape[1] != plan.dimension:
                raise IndexMismatchError(
                    f"{path.name}: expected {len(rows_N)} stored vectors of {plan.dimension} "
                    f"dimensions, got {vectors_ND.shape}"
                )
            vectors_ND = np.asarray(vectors_ND)[: len(rows_N)]
        elif plan.kind in IVF:
            raise IndexMismatchError(f"{path.name}: {plan.kind} needs the stored vectors, got none")
        index = cls(
            parts,
            plan,
            known,
            vectors_ND,
            asked=None if asked is None else IndexKind(asked),
            budget_bytes=budget_bytes,
        )
        return index, rows_N


def _known(kind: IndexKind | str) -> IndexKind:
    try:
        return IndexKind(kind)
    except ValueError:
        names = ", ".join(one.value for one in IndexKind)
        raise ValueError(f"kind: expected one of {names}, got {kind!r}") from None


def _plan(size: int, dimension: int, asked: IndexKind | None, budget_bytes: int | None) -> Plan:
    kind, fine = choose(size, dimension, budget_bytes, asked)
    return Plan(
        kind=kind,
        size=size,
        dimension=dimension,
        lists=lists_for(size) if kind in IVF else 0,
        fine=fine and kind is IndexKind.IVF_RABITQ,
    )
