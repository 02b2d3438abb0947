"""Which way a request is answered, and why not by P8 (DESIGN: the gate, and the fallback)."""

import dataclasses
import logging
import math
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from models.checkpoint import (
    Checkpoint,
    CheckpointError,
    CheckpointMissingError,
    load_checkpoint,
)
from models.packed import Dtype
from models.scoring import Method, Scorer
from service.errors import ModelUnavailableError, OrderUnavailableError

log = logging.getLogger(__name__)

DEFAULT_MODEL = "default"
"""Name of the model that answers where a request names none."""


class Mode(StrEnum):
    """What a client may ask for."""

    AUTO = "auto"
    P8 = "p8"
    RETRIEVAL = "retrieval"


class FallbackReason(StrEnum):
    """Why ``auto`` did not answer by P8."""

    NO_CHECKPOINT = "no_checkpoint"
    GATE_FAILED = "gate_failed"
    CHECKPOINT_INVALID = "checkpoint_invalid"
    DIMENSION_MISMATCH = "dimension_mismatch"
    MODEL_MISMATCH = "model_mismatch"
    DEADLINE = "deadline"


@dataclass(frozen=True, kw_only=True)
class ModelState:
    """What became of the configured checkpoint."""

    checkpoint: Checkpoint | None
    """Loaded, whether or not it can be used."""
    reason: FallbackReason | None
    """Why ``auto`` falls back; None if it uses P8."""
    detail: str | None
    """One line for a person, if there is a reason."""
    dtype: Dtype = "float32"
    """What the encoders of window and bag compute in."""

    @property
    def usable(self) -> Checkpoint | None:
        """The checkpoint, if it is valid and fits the index, whatever its gate said."""
        fits = self.reason in (None, FallbackReason.GATE_FAILED)
        return self.checkpoint if fits else None

    @property
    def learned(self) -> bool:
        """Whether the model works in a space of its own."""
        return self.usable is not None and self.usable.model.config.space == "learned"

    @property
    def status(self) -> str:
        """``ok``, or the reason."""
        return "ok" if self.reason is None else str(self.reason)

    def scorer(self, *, rerank: bool = True) -> Scorer:
        """Build a scorer: with the networks if they are usable, else training-free."""
        if self.usable is None:
            return Scorer()
        return Scorer(
            self.usable.model,
            order_weight=self.usable.order_weight,
            rerank=rerank,
            dtype=self.dtype,
        )

    @property
    def retrieval(self) -> Method:
        """The best method that is not P8."""
        if self.usable is not None and self.usable.tower_passed:
            return Method.TOWER
        return Method.DIRECT


@dataclass(frozen=True, kw_only=True)
class Choice:
    """How one request is answered."""

    mode: Mode
    """``p8`` or ``retrieval``."""
    method: Method
    reason: FallbackReason | None


def load_state(
    path: Path | None,
    dimension: int | None,
    embedding_model: str = "",
    dtype: Dtype = "float32",
) -> ModelState:
    """Load a checkpoint for a collection; whatever is wrong with it becomes a reason.

    Args:
        path: Checkpoint folder, if one was given.
        dimension: D of the collection; None if it is not decided.
        embedding_model: What made the vectors of the collection; empty if that is not known.
        dtype: What the encoders of window and bag are to compute in.
    """
    if path is None:
        return _state(None, FallbackReason.NO_CHECKPOINT, "no checkpoint was given")
    state = dataclasses.replace(_load(path, dimension, embedding_model), dtype=dtype)
    if state.detail is None:
        return state
    # Clients read the detail too, and the machine's folders are not theirs to know.
    shown = " ".join(state.detail.replace(str(path), path.name).split())
    return dataclasses.replace(state, detail=shown)


def _load(path: Path, dimension: int | None, embedding_model: str) -> ModelState:
    try:
        checkpoint = load_checkpoint(path)
        _check_numbers(checkpoint)
    except CheckpointMissingError as error:
        return _state(None, FallbackReason.NO_CHECKPOINT, str(error))
    except CheckpointError as error:
        return _state(None, FallbackReason.CHECKPOINT_INVALID, str(error))
    except Exception as error:  # a foreign folder can fail anywhere, and must not stop the start
        log.warning("checkpoint failed to load with %s", type(error).__name__)
        detail = f"{path}: {type(error).__name__} while loading"
        return _state(None, FallbackReason.CHECKPOINT_INVALID, detail)
    found = checkpoint.model.config.dimension
    if dimension is not None and found != dimension:
        detail = f"{path}: expected dimension {dimension} of the index, got {found}"
        return _state(checkpoint, FallbackReason.DIMENSION_MISMATCH, detail)
    models = embedding_models(checkpoint)
    if embedding_model and models and _bare(embedding_model) not in map(_bare, models):
        named = " and ".join(map(repr, models))
        detail = f"{path}: expected embedding model {embedding_model!r} of the index, got {named}"
        return _state(checkpoint, FallbackReason.MODEL_MISMATCH, detail)
    if not checkpoint.passed:
        detail = f"{path}: its gate verdict is {checkpoint.gate.get('verdict')!r}"
        return _state(checkpoint, FallbackReason.GATE_FAILED, detail)
    return ModelState(checkpoint=checkpoint, reason=None, detail=None)


def choose(wanted: Mode, state: ModelState) -> Choice:
    """Choose how to answer.

    Raises:
        ModelUnavailableError: If P8 is insisted on and there is no usable checkpoint.
    """
    if wanted is Mode.RETRIEVAL:
        return Choice(mode=Mode.RETRIEVAL, method=state.retrieval, reason=None)
    if wanted is Mode.P8 and state.usable is None:
        raise ModelUnavailableError(
            f"mode p8 needs a usable checkpoint: {state.detail}", reason=state.status
        )
    if wanted is Mode.P8 or state.reason is None:
        return Choice(mode=Mode.P8, method=Method.P8, reason=None)
    return Choice(mode=Mode.RETRIEVAL, method=state.retrieval, reason=state.reason)


def out_of_time() -> Choice:
    """Fall back to what needs no network at all."""
    return Choice(mode=Mode.RETRIEVAL, method=Method.DIRECT, reason=FallbackReason.DEADLINE)


def require_order(state: ModelState) -> Checkpoint:
    """Return the checkpoint whose verifier answers order.

    Raises:
        OrderUnavailableError: If none is usable.
    """
    if state.usable is None:
        raise OrderUnavailableError(
            f"order needs a usable checkpoint: {state.detail}", reason=state.status
        )
    return state.usable


def _state(checkpoint: Checkpoint | None, reason: FallbackReason, detail: str) -> ModelState:
    return ModelState(checkpoint=checkpoint, reason=reason, detail=detail)


def embedding_models(checkpoint: Checkpoint) -> list[str]:
    """Name the models whose vectors a checkpoint was trained on, as far as it records them."""
    entries: Any = checkpoint.provenance.get("data")
    vectors = [
        entry.get("vectors")
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    ]
    names = [record.get("model") for record in vectors if isinstance(record, dict)]
    return list(dict.fromkeys(name for name in names if isinstance(name, str) and name))


def _bare(model: str) -> str:
    """A model's name without the organisation that ``models.embedder`` leaves out too."""
    return model.removeprefix("sentence-transformers/")


def _check_numbers(checkpoint: Checkpoint) -> None:
    """Check what the checkpoint format leaves open and scoring would trip over later.

    Raises:
        CheckpointError: If the order weight is not finite, or a verdict is not where it belongs.
    """
    if not math.isfinite(checkpoint.order_weight):
        raise CheckpointError(f"order_weight: expected a number, got {checkpoint.order_weight}")
    tower: Any = checkpoint.gate.get("tower")
    if tower is not None and not isinstance(tower, dict):
        raise CheckpointError(f"gate.json: tower: expected an object, got {type(tower).__name__}")
