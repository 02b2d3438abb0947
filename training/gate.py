"""The gate: a checkpoint's verdict, which the service obeys.

During training (``kill_reason``) a hopeless run is stopped; at its end (``gate_report``) P8 passes
only if, on validation documents, it beats DIRECT beyond doubt among the chunks of whole documents,
and is not beaten beyond doubt among eight: on all documents, and on those of each kind alone. A
kind is a prepared folder. Others can be judged later (``with_kinds``). Thresholds and values are
all written down.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from models.scoring import Method, Scorer
from training.evaluation import MethodTallies, differences, tally_methods
from training.metrics import Estimate
from training.protocols import DocumentVectors

KILL_AFTER_EPOCH = 2
KILL_MARGIN = 0.0
KILL_R5_BELOW_DIRECT = -0.05
CHECKS = 3
"""Fewest checks of a verdict: documents too short for ``classic8`` have no more."""


def kill_reason(epoch: int, margin: float, r5_minus_direct: float) -> str | None:
    """Why a run should stop now, or None.

    Args:
        epoch: Finished epochs, from 1.
        margin: Validation margin (next against prev).
        r5_minus_direct: Validation R@5 in-document, minus DIRECT's.
    """
    if epoch < KILL_AFTER_EPOCH:
        return None
    if margin < KILL_MARGIN:
        return f"validation margin {margin:+.4f} < {KILL_MARGIN} after epoch {epoch}"
    if r5_minus_direct < KILL_R5_BELOW_DIRECT:
        return (
            f"validation R@5 is {r5_minus_direct:+.4f} against DIRECT, "
            f"below {KILL_R5_BELOW_DIRECT} after epoch {epoch}"
        )
    return None


def gate_report(
    scorer: Scorer,
    kinds: Mapping[str, Sequence[DocumentVectors]],
    *,
    killed: str | None = None,
    split: str = "validation",
    seed: int = 0,
    tallies: Mapping[Method, MethodTallies] | None = None,
) -> dict[str, Any]:
    """Judge a trained model on validation documents.

    Args:
        scorer: The model, calibrated.
        kinds: Documents of each kind, by its name.
        killed: Why training was stopped early, if it was.
        split: Where the documents come from.
        seed: Seed of random negatives and of the bootstrap.
        tallies: Of all these documents in this order, if they are at hand already, with this seed.

    Returns:
        What gate.json holds: ``verdict``, ``checks`` with threshold and value over all documents,
        the same for the query tower under ``tower`` (None if there is none), and for each kind
        under ``kinds``. The verdict is ``passed`` only if that of every kind is.
    """
    documents = [document for own in kinds.values() for document in own]
    has_tower = scorer.model is not None and scorer.model.tower is not None
    if tallies is None:
        methods = [Method.DIRECT, Method.P8, *([Method.TOWER] if has_tower else [])]
        tallies, _ = tally_methods(scorer, documents, methods, seed)
    report = _verdict(tallies, Method.P8, seed)
    if killed is not None:
        report["killed"] = killed
    report["split"] = split
    report["documents"] = len(documents)
    report["tower"] = _verdict(tallies, Method.TOWER, seed) if has_tower else None
    judged, start = {}, 0
    for name, own in kinds.items():
        rows = slice(start, start + len(own))
        parts = {
            method: MethodTallies(
                in_document=tally.in_document.part(rows), classic8=tally.classic8.part(rows)
            )
            for method, tally in tallies.items()
        }
        verdict = _verdict(parts, Method.P8, seed)
        judged[name] = {**verdict, "split": split, "documents": len(own)}
        start = rows.stop
    return with_kinds(report, judged)


def with_kinds(report: dict[str, Any], kinds: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A gate report with kinds added or judged again, and the verdict that follows.

    Args:
        report: Content of a gate.json, with or without ``kinds``.
        kinds: What stands under another report's ``kinds``.
    """
    merged = {**(report.get("kinds") or {}), **kinds}
    passed = (
        "killed" not in report
        and _passed(report.get("checks", []))
        and all(kind["verdict"] == "passed" for kind in merged.values())
    )
    return {**report, "verdict": "passed" if passed else "failed", "kinds": merged}


def _verdict(tallies: Mapping[Method, MethodTallies], method: Method, seed: int) -> dict[str, Any]:
    checks = []
    for metric, estimate in _ranking(tallies, "in_document", method, seed):
        name = f"in_document {metric} minus direct, low end of its 95% interval"
        checks.append({**_check(name, estimate.low), "difference": estimate.json()})
    margin = tallies[method].in_document.mean("margin")
    checks.append(_check("margin (next against prev)", margin))
    # Few arbitrary candidates are another task: beaten there beyond doubt is beaten.
    for metric, estimate in _ranking(tallies, "classic8", method, seed):
        name = f"classic8 {metric} minus direct, high end of its 95% interval"
        check = _check(name, estimate.high, relation=">=")
        checks.append({**check, "difference": estimate.json()})
    return {"verdict": "passed" if _passed(checks) else "failed", "checks": checks}


def _ranking(
    tallies: Mapping[Method, MethodTallies], protocol: str, method: Method, seed: int
) -> list[tuple[str, Estimate]]:
    found = differences(tallies, protocol, method, seed)
    return [(metric, found[metric]) for metric in ("r@5", "mrr@10") if metric in found]


def _check(name: str, value: float, *, relation: str = ">") -> dict[str, Any]:
    passed = value >= 0.0 if relation == ">=" else value > 0.0
    return {
        "name": name,
        "threshold": 0.0,
        "relation": relation,
        "value": round(value, 6),
        "passed": passed,
    }


def _passed(checks: Sequence[Mapping[str, Any]]) -> bool:
    return len(checks) >= CHECKS and all(check["passed"] for check in checks)


def gate_lines(report: dict[str, Any]) -> list[str]:
    """A gate report for people: a line a check, then a line a kind and the checks that it fails."""
    lines = [f"gate: {report['verdict']} (on {report['documents']} {report['split']} documents)"]
    if "killed" in report:
        lines.append(f"  stopped early: {report['killed']}")
    lines += [f"  {_check_line(check)}" for check in report["checks"]]
    for name, kind in report["kinds"].items():
        lines.append(
            f"  {name}: {kind['verdict']} (on {kind['documents']} {kind['split']} documents)"
        )
        lines += [f"    {_check_line(check)}" for check in kind["checks"] if not check["passed"]]
    return lines


def _check_line(check: Mapping[str, Any]) -> str:
    mark = "ok  " if check["passed"] else "FAIL"
    relation = check.get("relation", ">")
    return f"{mark} {check['name']}: {check['value']:+.4f} {relation} {check['threshold']}"
