"""The ladder's budget and its rows, as data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["direct", "mean", "fixed", "free", "p8", "qtower", "core", "sasrec"]
Free = Literal["p1", "p2", "p3", "p4", "p5", "p6", "p6b", "p7", "p7-student"]

WINDOW = 5
LONGEST_WINDOW = 8


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What every row may spend, the same for all.

    Raises:
        ValueError: If a field is out of range; the message names field, expected and actual.
    """

    windows: int = 20_000
    """Windows to train on, the same share of every training document."""
    epochs: int = 6
    """Passes over them; the one with the best validation MRR@10 is kept."""
    train_documents: int | None = None
    """Train on this many documents, drawn by the seed; all if None."""
    judge_documents: int | None = None
    """Validate and test on this many documents each, drawn by the seed; all if None."""
    seed: int = 0
    """Seed of windows, initial weights, shuffling, negatives and dropout."""
    learning_rate: float = 1e-3
    """Peak of the warm-up and cosine schedule, as in ``train``."""
    batch_documents: int = 4
    """Documents a step, as in ``train``."""

    def __post_init__(self) -> None:
        """Check every field."""
        for name in ("windows", "batch_documents"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if self.epochs < 3:
            raise ValueError(
                f"epochs: expected at least 3, for P7's teacher stays for 2, got {self.epochs}"
            )


QUICK = Budget(windows=6_000, epochs=3, train_documents=240, judge_documents=60)
"""A look that takes minutes: less of everything, the findings' directions stay."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: what is trained, how, and on which candidates it is judged."""

    name: str
    """What ``--rows`` and the JSON call it."""
    group: str
    """Table that it stands in."""
    label: str
    """What the table calls it."""
    kind: Kind
    """What ranks."""
    free: Free | None = None
    """Which free-output idea, for rows of that kind."""
    arch: Literal["transformer", "lstm"] = "transformer"
    """Encoder of the window."""
    space: Literal["raw", "learned"] = "raw"
    """Where P8 mixes and scores."""
    old_prev: bool = False
    """Whether ``prev`` is the last chunk of the window, as earlier work had it."""
    candidates: Literal["both", "document", "batch"] = "both"
    """Where the listwise loss takes its negatives from."""
    learned_temperature: bool = False
    """Whether the loss's temperature is a parameter; fixed at 0.07 if not."""
    sampled: Literal["softmax", "gbce"] = "softmax"
    """Loss of the recommenders."""
    window: int = WINDOW
    """L."""
    hidden: int = WINDOW
    """How many chunks before the target are never candidates, in training and judgement."""


def _p8(name: str, label: str, group: str, **options: object) -> Row:
    fields: dict[str, object] = {"kind": "p8", "space": "learned", **options}
    return Row(name=name, label=label, group=group, **fields)  # type: ignore[arg-type]


def _both_prevs(name: str, label: str, **options: object) -> tuple[Row, Row]:
    old = _p8(f"{name}-old-prev", f"{label}, old prev", "p8", old_prev=True, **options)
    return old, _p8(name, f"{label}, right prev", "p8", **options)


def _free(name: Free, label: str) -> Row:
    return Row(name=name, group="free", label=label, kind="free", free=name)


def _windows() -> tuple[Row, ...]:
    rows = [
        _p8(f"p8-window-{n}", f"P8 learned, L = {n}", "window", window=n, hidden=LONGEST_WINDOW)
        for n in (1, 3, 5, 8)
    ]
    direct = Row(
        name="direct-window",
        group="window",
        label="DIRECT",
        kind="direct",
        hidden=LONGEST_WINDOW,
    )
    return direct, *rows


ROWS: tuple[Row, ...] = (
    Row(name="direct", group="baseline", label="DIRECT, cosine to the last chunk", kind="direct"),
    Row(name="mean", group="baseline", label="uniform mean of the window", kind="mean"),
    Row(name="fixed", group="baseline", label="learned fixed weights", kind="fixed"),
    _free("p1", "P1 regression (MSE)"),
    _free("p2", "P2 regression and margin"),
    _free("p3", "P3 margin alone"),
    _free("p4", "P4 margin of the displacement"),
    _free("p5", "P5 curriculum"),
    _free("p6", "P6 next-token target"),
    _free("p6b", "P6b defended (margin controller)"),
    _free("p7", "P7 blend, 0.8 of the teacher"),
    _free("p7-student", "P7 blend, 0.8 of the student"),
    *_both_prevs("p8-raw", "P8 raw, transformer", space="raw"),
    *_both_prevs("p8-raw-lstm", "P8 raw, LSTM", space="raw", arch="lstm"),
    *_both_prevs("p8-learned", "P8 learned space"),
    Row(name="qtower", group="rival", label="QTower", kind="qtower"),
    Row(name="core-softmax", group="rival", label="CORE, sampled softmax", kind="core"),
    Row(name="core-gbce", group="rival", label="CORE, gBCE", kind="core", sampled="gbce"),
    Row(name="sasrec-softmax", group="rival", label="SASRec, sampled softmax", kind="sasrec"),
    Row(name="sasrec-gbce", group="rival", label="SASRec, gBCE", kind="sasrec", sampled="gbce"),
    _p8("p8-document", "negatives of the document alone", "ablation", candidates="document"),
    _p8("p8-batch", "negatives of the batch alone", "ablation", candidates="batch"),
    _p8("p8-temperature", "learned temperature", "ablation", learned_temperature=True),
    *_windows(),
)


class UnknownRowError(ValueError):
    """A row of that name does not exist."""


def rows_named(names: Sequence[str] | None) -> tuple[Row, ...]:
    """Rows of these names, in the ladder's order; all if None.

    Raises:
        UnknownRowError: If one does not exist.
    """
    if names is None:
        return ROWS
    unknown = set(names) - {row.name for row in ROWS}
    if unknown:
        known = ", ".join(row.name for row in ROWS)
        raise UnknownRowError(f"rows: expected some of {known}; got {', '.join(sorted(unknown))}")
    return tuple(row for row in ROWS if row.name in names)
