"""The checkpoint: a folder that says what it is, loaded strictly and never unpickled.

    config.json         shapes, order weight, resolved training options, data, weights' sha256
    model.safetensors   weights; float32 tensors that float16 holds exactly are stored as that
    metrics.json        what evaluation measured
    gate.json           thresholds, values, verdict
    README.md           model card

Errors:

    CheckpointError (ValueError)
    ├── CheckpointMissingError    there is no checkpoint at that path
    └── CheckpointInvalidError    there is one that is damaged, foreign or inconsistent
"""

import dataclasses
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from models.config import P8Config
from models.model import P8Model

FORMAT = "nextchunk-p8"
FORMAT_VERSION = 1
CONFIG, WEIGHTS, METRICS, GATE, CARD = (
    "config.json",
    "model.safetensors",
    "metrics.json",
    "gate.json",
    "README.md",
)


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line and says why."""


class CheckpointMissingError(CheckpointError):
    """There is no checkpoint at the given path."""


class CheckpointInvalidError(CheckpointError):
    """The checkpoint is damaged, foreign or inconsistent."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A loaded checkpoint."""

    model: P8Model
    """Networks, in evaluation mode."""
    order_weight: float
    """Weight of the order verifier in the score, fitted on validation documents."""
    gate: dict[str, Any]
    """Content of gate.json; ``gate["verdict"]`` is ``passed`` or ``failed``."""
    metrics: dict[str, Any]
    """Content of metrics.json."""
    provenance: dict[str, Any]
    """Training options, seed, data fingerprint and embedding model."""
    version: str
    """First 12 hex digits of the weights' sha256."""

    @property
    def passed(self) -> bool:
        """Whether P8 passed its gate."""
        return self.gate.get("verdict") == "passed"

    @property
    def tower_passed(self) -> bool:
        """Whether the checkpoint holds a query tower that passed its own gate."""
        tower = self.gate.get("tower") or {}
        return self.model.tower is not None and tower.get("verdict") == "passed"


def save_checkpoint(
    folder: str | os.PathLike[str],
    model: P8Model,
    *,
    order_weight: float,
    gate: dict[str, Any],
    metrics: dict[str, Any],
    provenance: dict[str, Any],
    card: str,
) -> str:
    """Write a checkpoint folder; config.json comes last, so that a torn write is not loadable.

    Returns:
        The checkpoint's version.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    (target / CONFIG).unlink(missing_ok=True)
    weights = save_safetensors({k: _stored(v) for k, v in model.state_dict().items()})
    digest = hashlib.sha256(weights).hexdigest()
    config = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": dataclasses.asdict(model.config),
        "order_weight": order_weight,
        "weights_sha256": digest,
        "provenance": provenance,
    }
    write_atomically(target / WEIGHTS, weights)
    write_atomically(target / METRICS, _json(metrics))
    write_atomically(target / GATE, _json(gate))
    write_atomically(target / CARD, card.encode())
    write_atomically(target / CONFIG, _json(config))
    return digest[:12]


def round_weights(model: P8Model) -> None:
    """Round all that is stored to float16's precision, in place, so that it is stored in half.

    Call it before calibrating and judging: what is judged is then what is stored. Values beyond
    float16's range stay as they are.
    """
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.dtype == torch.float32:
                rounded = value.half().float()
                value.copy_(torch.where(rounded.isfinite(), rounded, value))


def _stored(tensor: Tensor) -> Tensor:
    """The tensor as float16 if that loses nothing, else as it is."""
    half = tensor.half()
    exact = tensor.dtype == torch.float32 and torch.equal(half.float(), tensor)
    return (half if exact else tensor).contiguous()


def load_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Load and verify a checkpoint folder.

    Raises:
        CheckpointMissingError: If the folder, or its config.json, is not there.
        CheckpointInvalidError: If anything in it is damaged, foreign or inconsistent.
    """
    source = Path(folder)
    if not source.is_dir():
        raise CheckpointMissingError(f"{source}: no such checkpoint folder")
    if not (source / CONFIG).is_file():
        raise CheckpointMissingError(f"{source}: no {CONFIG} in it")
    config = _read_json(source / CONFIG)
    if config.get("format") != FORMAT or config.get("format_version") != FORMAT_VERSION:
        found = f"{config.get('format')!r} version {config.get('format_version')!r}"
        raise CheckpointInvalidError(
            f"{source / CONFIG}: expected format {FORMAT!r} version {FORMAT_VERSION}, got {found}"
        )
    try:
        shape = P8Config(**config["model"])
        order_weight = float(config["order_weight"])
        expected, provenance = str(config["weights_sha256"]), dict(config["provenance"])
        if not math.isfinite(order_weight):
            raise ValueError(f"order_weight: expected a finite number, got {order_weight}")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointInvalidError(
            f"{source / CONFIG}: {type(error).__name__}: {error}"
        ) from error
    gate = _read_json(source / GATE)
    for field in ("tower", "kinds"):
        if not isinstance(gate.get(field), dict | None):
            raise CheckpointInvalidError(f"{source / GATE}: {field}: expected an object or null")
    model = P8Model(shape)
    _load_weights(model, source / WEIGHTS, expected)
    return Checkpoint(
        model=model.eval(),
        order_weight=order_weight,
        gate=gate,
        metrics=_read_json(source / METRICS),
        provenance=provenance,
        version=expected[:12],
    )


def _load_weights(model: P8Model, path: Path, expected_sha256: str) -> None:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CheckpointInvalidError(f"{path}: {error.strerror}") from error
    digest = hashlib.sha256(raw).hexdigest()
    if digest != expected_sha256:
        raise CheckpointInvalidError(
            f"{path}: expected sha256 {expected_sha256[:12]}…, got {digest[:12]}… "
            f"({len(raw)} bytes): damaged or from another checkpoint"
        )
    try:
        state = load_safetensors(raw)
        model.load_state_dict(state, strict=True)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointInvalidError(f"{path}: does not fit its configuration: {reason}") from error
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise CheckpointInvalidError(f"{path}: {name} holds NaN or infinity")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointInvalidError(f"{path}: not readable as JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointInvalidError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value
