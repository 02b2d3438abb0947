"""From scores to answer bodies, the last step of every request.

Numbers stay numpy float32 until they are written, so that JSON holds the shortest text that reads
back as the same float32.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from models.scoring import Floats, Method
from service.modes import Choice, ModelState
from service.view import AnyView, Served

Contents = Callable[[AnyView, set[int]], dict[int, tuple[str, dict[str, Any]]]]
"""Reads texts and metadata by slot of a view; chunks that were deleted are left out."""


class Hit(NamedTuple):
    """A scored chunk or candidate."""

    id: str | None
    slot: int
    """Slot in the view, -1 for a vector of the caller's."""
    score: np.float32
    mixture: np.float32
    rerank: np.float32
    order: np.float32
    candidate: int | None = None
    """Place among explicit candidates."""


class Encoder:
    """Writes answers about one view and one of its models.

    Args:
        view: What was searched.
        served: What scored.
        contents: Reads texts and metadata; None leaves them out.
    """

    def __init__(self, view: AnyView, served: Served, contents: Contents | None) -> None:
        self._view = view
        self._state = served.state
        self._name = served.name
        self._contents = contents

    def answer(
        self,
        choice: Choice,
        alpha_L: Floats,
        hits: list[Hit],
        neighbours: tuple[Choice, list[Hit]] | None = None,
    ) -> dict[str, Any]:
        """Write one rank or score answer, timings aside.

        Chunks that were deleted since the view was taken are left out of ranked results.

        Args:
            choice: How it was answered.
            alpha_L: Weight of each context chunk.
            hits: Results, in order.
            neighbours: What retrieval alone would have answered, if that was asked for.
        """
        near = neighbours[1] if neighbours else []
        contents = self._read({hit.slot for hit in (*hits, *near) if hit.slot >= 0})
        answer = {
            "mode": choice.mode,
            "fallback_reason": choice.reason,
            "model": self.model(choice.method),
            "index_version": self._view.version,
            "alpha": np.ascontiguousarray(alpha_L),
            "results": self._results(hits, contents),
        }
        if neighbours:
            method = neighbours[0].method
            answer["explain"] = {"method": method, "results": self._results(near, contents)}
        return answer

    def _read(self, slots: set[int]) -> Mapping[int, tuple[str | None, dict[str, Any] | None]]:
        """Texts and metadata by slot; of chunks that are gone from the store there are none."""
        if self._contents is None:
            return dict.fromkeys(slots, (None, None))
        return self._contents(self._view, slots)

    def model(self, method: Method) -> dict[str, Any]:
        """Say what scored an answer."""
        checkpoint = self._state.usable
        took_part = checkpoint is not None and method is not Method.DIRECT
        space = "raw"
        if checkpoint is not None and method is Method.P8:
            space = checkpoint.model.config.space
        return {
            "name": self._name,
            "version": checkpoint.version if checkpoint is not None and took_part else None,
            "method": method,
            "space": space,
            "gate": gate_word(self._state),
            "embedding_model": self._view.embedding_model,
        }

    def _results(
        self, hits: list[Hit], contents: Mapping[int, tuple[str | None, dict[str, Any] | None]]
    ) -> list[dict[str, Any]]:
        slots = self._view.slots
        results = []
        for hit in hits:
            known = hit.slot in contents
            if hit.slot >= 0 and not known and hit.candidate is None:
                continue
            text, metadata = contents[hit.slot] if known else (None, None)
            result = {
                "id": hit.id,
                "document_id": slots.document_ids[hit.slot] if known else None,
                "position": int(slots.positions.array[hit.slot]) if known else None,
                "score": hit.score,
                "parts": {"mixture": hit.mixture, "order": hit.order, "rerank": hit.rerank},
                "text": text,
                "metadata": metadata,
            }
            if hit.candidate is not None:
                result["candidate"] = hit.candidate
            results.append(result)
        return results


def gate_word(state: ModelState) -> str | None:
    """``passed`` or ``failed``, or None without a usable checkpoint."""
    if state.usable is None:
        return None
    return "passed" if state.usable.passed else "failed"
