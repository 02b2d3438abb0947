"""The gate: a checkpoint's verdict, which the service obeys.

During training (``kill_reason``) a hopeless run is stopped; at its end (``gate_report``) P8 passes
only if, on validation documents, it beats DIRECT beyond doubt. Thresholds and values are all
written down.
"""

from collections.abc import Sequence
from typing import Any

from models.scoring import Method, Scorer
from training.evaluation import MethodTallies, differences, tally_methods
from training.metrics import bootstrap_mean
from training.protocols import DocumentVectors

KILL_AFTER_EPOCH = 2
KILL_MARGIN = 0.0
KILL_R5_BELOW_DIRECT = -0.05


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
    documents: Sequence[DocumentVectors],
    *,
    killed: str | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a trained model on validation documents.

    Returns:
        What gate.json holds: ``verdict``, ``checks`` with threshold and value, and the same for
        the query tower under ``tower`` (None if there is none).
    """
    methods = [Method.DIRECT, Method.P8]
    has_tower = scorer.model is not None and scorer.model.tower is not None
    tallies, _ = tally_methods(
        scorer, documents, [*methods, Method.TOWER] if has_tower else methods, seed
    )
    report = _verdict(tallies, Method.P8, seed)
    if killed is not None:
        report["verdict"] = "failed"
        report["killed"] = killed
    report["split"] = "validation"
    report["documents"] = len(documents)
    report["tower"] = _verdict(tallies, Method.TOWER, seed) if has_tower else None
    return report


def _verdict(tallies: dict[Method, MethodTallies], method: Method, seed: int) -> dict[str, Any]:
    checks = []
    for metric, estimate in differences(tallies, "in_document", method, seed).items():
        if metric == "r@1":
            continue
        checks.append(
            {
                "name": f"in_document {metric} minus direct, low end of its 95% interval",
                "threshold": 0.0,
                "value": round(estimate.low, 6),
                "difference": estimate.json(),
                "passed": estimate.low > 0.0,
            }
        )
    margin = bootstrap_mean(*tallies[method].in_document.sums("margin"), seed=seed)
    checks.append(
        {
            "name": "margin (next against prev)",
            "threshold": 0.0,
            "value": round(margin.value, 6),
            "passed": margin.value > 0.0,
        }
    )
    passed = len(checks) == 3 and all(check["passed"] for check in checks)
    return {"verdict": "passed" if passed else "failed", "checks": checks}


def gate_lines(report: dict[str, Any]) -> list[str]:
    """A gate report for people, a line a check."""
    lines = [f"gate: {report['verdict']} (on {report['documents']} validation documents)"]
    if "killed" in report:
        lines.append(f"  stopped early: {report['killed']}")
    for check in report["checks"]:
        mark = "ok  " if check["passed"] else "FAIL"
        lines.append(f"  {mark} {check['name']}: {check['value']:+.4f} > {check['threshold']}")
    return lines
