"""What figures of a run are made of: medians over rounds, and of ratios taken within a round.

A run is plain data, as it stands in JSON; ``closed``, ``open`` and ``floor`` are lists of rows.
"""

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

Row = Mapping[str, Any]
Run = Mapping[str, Any]


def of(rows: Iterable[Row], **wanted: object) -> list[Row]:
    """Rows whose members are as wanted."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def middle(rows: Iterable[Row], member: str, **wanted: object) -> float | None:
    """Median of a member over the rounds; None where nothing was measured."""
    values = [row[member] for row in of(rows, **wanted)]
    return median(values) if values else None


def by_round(rows: Iterable[Row], member: str, **wanted: object) -> dict[int, float]:
    """A member in each round."""
    return {row["round"]: row[member] for row in of(rows, **wanted)}


def ratio(above: Mapping[int, float], below: Mapping[int, float]) -> float | None:
    """Median of the ratios in each round that has both; None if none has."""
    ratios = [above[turn] / below[turn] for turn in above if below.get(turn)]
    return median(ratios) if ratios else None


def against(
    run: Run, member: str, mine: Mapping[str, object], other: Mapping[str, object]
) -> float | None:
    """Ratio of one cell of the closed loop to another, by round."""
    return ratio(by_round(run["closed"], member, **mine), by_round(run["closed"], member, **other))


def best_floor(
    run: Run, batch: int, *, torch_alone: bool = False
) -> tuple[str, dict[int, float]] | None:
    """The fastest way to compute in batches of a size: its name, and windows a second by round.

    Args:
        run: With its ways to compute.
        batch: Windows computed together.
        torch_alone: Whether to leave out the forward of the service.
    """
    names = {row["way"] for row in of(run["floor"], batch=batch)}
    if torch_alone:
        names = {name for name in names if not name.startswith("packed")}
    if not names:
        return None
    best = max(names, key=lambda name: middle(run["floor"], "windows_s", way=name) or 0.0)
    return best, by_round(run["floor"], "windows_s", way=best)


def share_of_floor(
    run: Run, name: str, encoding: str, connections: int = 32, *, torch_alone: bool = False
) -> float | None:
    """Requests a second of a server, over windows a second of the compute alone."""
    floor = best_floor(run, 32, torch_alone=torch_alone)
    if floor is None:
        return None
    cell = {"target": name, "encoding": encoding, "connections": connections}
    return ratio(by_round(run["closed"], "requests_s", **cell), floor[1])


def kept(row: Row) -> bool:
    """Whether a server kept up with a constant rate: nearly all answered, and in time."""
    return (
        not row["failed"]
        and row["answered_s"] >= KEPT_SHARE * row["offered_s"]
        and row["p99_ms"] <= KEPT_P99_MS
    )


KEPT_SHARE = 0.97
KEPT_P99_MS = 250.0


def highest_kept(rows: Sequence[Row], name: str, encoding: str) -> Row | None:
    """The highest rate that a server kept up with, before the first that it did not."""
    best = None
    for row in sorted(of(rows, target=name, encoding=encoding), key=lambda row: row["offered_s"]):
        if not kept(row):
            break
        best = row
    return best


def slope(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Least-squares slope of values, a second."""
    mean_s, mean = sum(seconds) / len(seconds), sum(values) / len(values)
    above = sum((at - mean_s) * (value - mean) for at, value in zip(seconds, values, strict=True))
    below = sum((at - mean_s) ** 2 for at in seconds)
    return above / below if below else 0.0
