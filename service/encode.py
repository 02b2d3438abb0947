"""From scores to answer bodies, the last step of every request.

Numbers stay numpy float32 until they are written, so that JSON holds the shortest text that reads
back as the same float32.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from models.scoring import Floats, Method
from service.library import Library
from service.modes import Choice, ModelState


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A scored chunk or candidate."""

    id: str | None
    row: int
    """Row in the library, -1 for a vector of the caller's."""
    score: np.float32
    mixture: np.float32
    rerank: np.float32
    order: np.float32
    candidate: int | None = None
    """Place among explicit candidates."""


class Encoder:
    """Writes answers about one library and one model state."""

    def __init__(self, library: Library, state: ModelState) -> None:
        self._library = library
        self._state = state

    def answer(
        self,
        choice: Choice,
        alpha_L: Floats,
        hits: list[Hit],
        neighbours: tuple[Choice, list[Hit]] | None = None,
    ) -> dict[str, Any]:
        """Write one rank or score answer, timings aside.

        Args:
            choice: How it was answered.
            alpha_L: Weight of each context chunk.
            hits: Results, in order.
            neighbours: What retrieval alone would have answered, if that was asked for.

        Raises:
            StoreChangedError: If the store was replaced since it was loaded.
        """
        near = neighbours[1] if neighbours else []
        contents = self._contents([*hits, *near])
        answer = {
            "mode": choice.mode,
            "fallback_reason": choice.reason,
            "model": self.model(choice.method),
            "index_version": self._library.info.version,
            "alpha": np.ascontiguousarray(alpha_L),
            "results": self._results(hits, contents),
        }
        if neighbours:
            method = neighbours[0].method
            answer["explain"] = {"method": method, "results": self._results(near, contents)}
        return answer

    def model(self, method: Method) -> dict[str, Any]:
        """Say what scored an answer."""
        checkpoint = self._state.usable
        took_part = checkpoint is not None and method is not Method.DIRECT
        space = "raw"
        if checkpoint is not None and method is Method.P8:
            space = checkpoint.model.config.space
        return {
            "version": checkpoint.version if checkpoint is not None and took_part else None,
            "method": method,
            "space": space,
            "gate": gate_word(self._state),
            "embedding_model": self._library.info.embedding_model,
        }

    def _contents(self, hits: Iterable[Hit]) -> dict[str, tuple[str, dict[str, Any]]]:
        ids = self._library.catalogue.ids
        wanted = sorted({ids[hit.row] for hit in hits if hit.row >= 0})
        return self._library.store.contents(wanted, self._library.info.version)

    def _results(
        self, hits: list[Hit], contents: dict[str, tuple[str, dict[str, Any]]]
    ) -> list[dict[str, Any]]:
        catalogue = self._library.catalogue
        results = []
        for hit in hits:
            known = hit.row >= 0
            text, metadata = contents[catalogue.ids[hit.row]] if known else (None, None)
            result = {
                "id": hit.id,
                "document_id": catalogue.document_ids[hit.row] if known else None,
                "position": catalogue.positions[hit.row] if known else None,
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


def to_json(value: object) -> bytes:
    """Write an answer body; float32 numbers as their shortest exact text."""
    return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
