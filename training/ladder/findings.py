"""What the ladder is expected to show, each claim with the values that decide whether it holds.

A claim that the numbers contradict is reported as not holding; nothing here is fitted to a run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.ladder.free import TEACHER_EPOCHS

Result = Mapping[str, Any]
Values = dict[str, float]

FREE = ("p1", "p2", "p3", "p4", "p5", "p6", "p6b", "p7", "p7-student")
PRESSED = ("p2", "p3", "p6b")
PREVS = ("p8-raw", "p8-raw-lstm", "p8-learned")
RIVALS = ("qtower", "core-softmax", "core-gbce", "sasrec-softmax", "sasrec-gbce")
SPAN_TOLERANCE = 1e-3
DIVERGED = 0.005
HARDLY = 0.03
LITTLE = 0.01


@dataclass(frozen=True)
class Facts:
    """A ladder's numbers, as claims ask for them."""

    rows: Mapping[str, Result]
    comparisons: Sequence[Result]

    def some(self, *names: str) -> list[str]:
        """Those of the rows that were climbed."""
        return [name for name in names if name in self.rows]

    def metric(self, name: str, metric: str, end: str = "value") -> float:
        """A test metric of a row, by mixture alone; its value or an end of its interval."""
        return float(self.rows[name]["without"][metric][end])

    def gain(self, name: str, metric: str, end: str = "value", part: str = "without") -> float:
        """A row's paired difference to DIRECT."""
        return float(self.rows[name]["difference"][part][metric][end])

    def apart(self, ours: str, theirs: str, end: str = "value", metric: str = "r@5") -> float:
        """A paired difference between two rows."""
        for line in self.comparisons:
            if (line["row"], line["minus"]) == (ours, theirs):
                return float(line[metric][end])
        raise KeyError(f"{ours} minus {theirs}")

    def epochs(self, name: str, metric: str) -> list[float]:
        """A row's course over its epochs."""
        return [float(line[metric]) for line in self.rows[name]["epochs"]]


@dataclass(frozen=True)
class Claim:
    """An expectation, the rows that it needs and how it is decided."""

    name: str
    text: str
    needs: tuple[str, ...]
    """Rows without which it cannot be decided; of the others those climbed count."""
    decide: Callable[[Facts], tuple[Values, bool]]


def find(
    rows: Mapping[str, Result], comparisons: Sequence[Result]
) -> list[dict[str, str | bool | Values]]:
    """Decide every claim whose rows were climbed.

    Args:
        rows: Results by row name.
        comparisons: Paired differences between rows.

    Returns:
        ``name``, ``claim``, ``values`` and ``holds`` of each.
    """
    facts = Facts(rows, comparisons)
    found: list[dict[str, str | bool | Values]] = []
    for claim in CLAIMS:
        if not all(name in rows for name in claim.needs):
            continue
        values, holds = claim.decide(facts)
        rounded = {name: round(value, 6) for name, value in values.items()}
        found.append({"name": claim.name, "claim": claim.text, "values": rounded, "holds": holds})
    return found


def _old_prev(facts: Facts) -> tuple[Values, bool]:
    names = [f"{name}-old-prev" for name in facts.some(*PREVS)]
    names = facts.some(*names)
    values = {f"{name}: margin against c_L": facts.metric(name, "margin_last") for name in names}
    return values, all(facts.metric(name, "margin_last", "high") < 0 for name in names)


def _right_prev(facts: Facts) -> tuple[Values, bool]:
    names = facts.some(*PREVS)
    values = {f"{name}: margin": facts.metric(name, "margin") for name in names}
    return values, all(facts.metric(name, "margin", "low") > 0 for name in names)


def _prev_costs(facts: Facts) -> tuple[Values, bool]:
    names = [name for name in facts.some(*PREVS) if f"{name}-old-prev" in facts.rows]
    values = {f"{name}: R@5 gained": facts.apart(name, f"{name}-old-prev") for name in names}
    return values, all(facts.apart(name, f"{name}-old-prev", "low") > 0 for name in names)


def _learned_gains(facts: Facts) -> tuple[Values, bool]:
    values = {
        "R@5 minus DIRECT": facts.gain("p8-learned", "r@5"),
        "low end": facts.gain("p8-learned", "r@5", "low"),
        "MRR@10 minus DIRECT": facts.gain("p8-learned", "mrr@10"),
        "low end of MRR@10": facts.gain("p8-learned", "mrr@10", "low"),
    }
    return values, min(values["low end"], values["low end of MRR@10"]) > 0


def _raw_hardly(facts: Facts) -> tuple[Values, bool]:
    values = {
        "raw: R@5 minus DIRECT": facts.gain("p8-raw", "r@5"),
        "learned minus raw, R@5": facts.apart("p8-learned", "p8-raw"),
        "low end": facts.apart("p8-learned", "p8-raw", "low"),
    }
    return values, values["raw: R@5 minus DIRECT"] < HARDLY and values["low end"] > 0


def _free_below(facts: Facts) -> tuple[Values, bool]:
    names = facts.some(*FREE)
    values = {f"{name}: R@5 minus DIRECT": facts.gain(name, "r@5") for name in names}
    return values, all(facts.gain(name, "r@5", "low") <= 0 for name in names)


def _backward(facts: Facts) -> tuple[Values, bool]:
    names = [name for name in facts.some(*FREE) if name != "p3"]
    values = {
        f"{name}: validation margin against c_L": facts.epochs(name, "validation_margin_last")[-1]
        for name in names
    }
    return values, all(value < 0 for value in values.values())


def _margin_by_losing(facts: Facts) -> tuple[Values, bool]:
    values = {
        "last epoch: validation margin against c_L": facts.epochs("p3", "validation_margin_last")[
            -1
        ],
        "last epoch: validation R@5": facts.epochs("p3", "validation_r@5")[-1],
        "first epoch: validation R@5": facts.epochs("p3", "validation_r@5")[0],
    }
    margin, last, first = values.values()
    return values, margin > 0 and last < first


def _divergence(facts: Facts) -> tuple[Values, bool]:
    values: Values = {}
    holds = True
    for name in facts.some(*PRESSED):
        gaps = [
            seen - unseen
            for seen, unseen in zip(
                facts.epochs(name, "train_margin_last"),
                facts.epochs(name, "validation_margin_last"),
                strict=True,
            )
        ]
        values |= {f"{name}: first epoch": gaps[0], f"{name}: last epoch": gaps[-1]}
        holds &= gaps[-1] > max(gaps[0], 0.0) + DIVERGED
    return values, holds


def _teacher_leaves(facts: Facts, metric: str) -> dict[str, tuple[float, float, float]]:
    """A metric of both P7 in the teacher's last epoch, in the next, and at the end."""
    courses = {name: facts.epochs(name, metric) for name in facts.some("p7", "p7-student")}
    return {
        name: (course[TEACHER_EPOCHS - 1], course[TEACHER_EPOCHS], course[-1])
        for name, course in courses.items()
    }


def _teacher_values(courses: dict[str, tuple[float, float, float]]) -> Values:
    moments = ("with the teacher", "an epoch after", "at the end")
    return {
        f"{name}: {moment}": value
        for name, course in courses.items()
        for moment, value in zip(moments, course, strict=True)
    }


def _teacher(facts: Facts) -> tuple[Values, bool]:
    courses = _teacher_leaves(facts, "cos_anchor")
    before, after, _ = courses["p7-student"]
    return _teacher_values(courses), after < before - LITTLE


def _teacher_collapse(facts: Facts) -> tuple[Values, bool]:
    courses = _teacher_leaves(facts, "validation_r@5")
    before, _, end = courses["p7-student"]
    return _teacher_values(courses), end < before


def _anchors(facts: Facts) -> tuple[Values, bool]:
    mixtures = [name for name in facts.rows if name.startswith("p8-")]
    free = facts.some(*FREE, "qtower")
    values = {
        "P8 rows, lowest": min(facts.metric(name, "cos_anchor") for name in mixtures),
        "free-output rows, highest": max(facts.metric(name, "cos_anchor") for name in free),
        "free-output rows, lowest": min(facts.metric(name, "cos_anchor") for name in free),
    }
    lowest, highest, _ = values.values()
    return values, lowest > 1.0 - SPAN_TOLERANCE and highest < 1.0 - SPAN_TOLERANCE


def _rivals(facts: Facts) -> tuple[Values, bool]:
    names = facts.some(*RIVALS)
    values = {f"{name}: behind by R@5": facts.apart("p8-learned", name) for name in names}
    return values, all(facts.apart("p8-learned", name, "low") > 0 for name in names)


def _verifier(facts: Facts) -> tuple[Values, bool]:
    gains = {
        name: row["with"]["r@5"]["value"] - row["without"]["r@5"]["value"]
        for name, row in facts.rows.items()
        if name.startswith(("direct", "p8-raw", "p8-learned")) and not name.endswith("old-prev")
    }
    values = {f"{name}: R@5 gained": gain for name, gain in gains.items()}
    return values, all(abs(gain) < LITTLE for gain in gains.values())


def _window(facts: Facts) -> tuple[Values, bool]:
    others = facts.some("p8-window-1", "p8-window-3", "p8-window-8")
    values = {f"{name}: behind L = 5": facts.apart("p8-window-5", name) for name in others}
    return values, "p8-window-1" in others and facts.apart("p8-window-5", "p8-window-1", "low") > 0


def _candidates(facts: Facts) -> tuple[Values, bool]:
    values = {
        "R@5 gained over the document's alone": facts.apart("p8-learned", "p8-document"),
        "R@5 gained over the batch's alone": facts.apart("p8-learned", "p8-batch"),
        "low end of the latter": facts.apart("p8-learned", "p8-batch", "low"),
    }
    return values, values["low end of the latter"] > 0


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "old_prev_out_of_reach",
        "Trained against c_L, as earlier work defined prev, P8's margin against it stays negative",
        ("p8-raw-old-prev",),
        _old_prev,
    ),
    Claim(
        "right_prev_positive",
        "With the right prev, P8's margin is positive",
        ("p8-raw",),
        _right_prev,
    ),
    Claim(
        "right_prev_ranks_better",
        "The right prev ranks better than the old one, all else being equal",
        ("p8-raw", "p8-raw-old-prev"),
        _prev_costs,
    ),
    Claim(
        "learned_space_beats_direct",
        "P8 in the learned space beats DIRECT, with the interval above zero",
        ("p8-learned",),
        _learned_gains,
    ),
    Claim(
        "raw_space_hardly",
        f"P8 in the raw space gains less than {HARDLY} R@5 on DIRECT, and the learned space gains "
        "more",
        ("p8-learned", "p8-raw"),
        _raw_hardly,
    ),
    Claim(
        "free_output_not_above_direct",
        "No free-output row (P1 to P7) beats DIRECT in R@5",
        ("p1",),
        _free_below,
    ),
    Claim(
        "backward_margin",
        "Free-output rows other than P3 end closer to the last chunk than to the next",
        ("p1",),
        _backward,
    ),
    Claim(
        "margin_by_losing_rank",
        "Margin alone (P3) gets a positive margin against c_L by giving up the ranking",
        ("p3",),
        _margin_by_losing,
    ),
    Claim(
        "train_validation_divergence",
        "Under margin pressure (P2, P3, P6b) the training margin runs away from validation's, "
        f"by more than {DIVERGED}",
        ("p3",),
        _divergence,
    ),
    Claim(
        "teacher_leaves",
        f"When P7's teacher leaves, the query moves out of its context's span (cos_anchor falls by "
        f"more than {LITTLE}; lambda read as the student's share)",
        ("p7-student",),
        _teacher,
    ),
    Claim(
        "teacher_leaves_collapse",
        "P7 ends with a lower validation R@5 than it had with its teacher",
        ("p7-student",),
        _teacher_collapse,
    ),
    Claim(
        "only_p8_stays_in_span",
        "cos_anchor is 1 for P8 and below 1 for every free output",
        ("p8-raw", "p1"),
        _anchors,
    ),
    Claim(
        "p8_ahead_of_rivals",
        "P8 in the learned space beats QTower, CORE-style and SASRec-style rankers in R@5",
        ("p8-learned", "qtower"),
        _rivals,
    ),
    Claim(
        "order_verifier_adds_little",
        f"The order verifier changes R@5 of DIRECT and P8 by less than {LITTLE}",
        ("direct", "p8-raw"),
        _verifier,
    ),
    Claim(
        "negatives_of_the_document",
        "Negatives of the document are what P8 learns from: without them it is worse",
        ("p8-learned", "p8-document", "p8-batch"),
        _candidates,
    ),
    Claim(
        "five_chunks_beat_one",
        "A window of 5 chunks ranks better than the last chunk alone",
        ("p8-window-5", "p8-window-1"),
        _window,
    ),
)
