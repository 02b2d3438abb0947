"""Whether a server's answers are right: its scores are the exact ones, its ids the best.

Windows are sent at once, so that they are computed in batches.
"""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.contest.bodies import Form
from benchmarks.contest.prepare import PROJECTED
from benchmarks.contest.servers import post
from benchmarks.contest.targets import Answer, Target
from benchmarks.peers.job import CHECKPOINT, IDS, TOP_K
from models.checkpoint import load_checkpoint
from models.scoring import Floats, Method, Scorer

AT_ONCE = 16
LEAST_RECALL = 0.95
"""Of an approximate search; what each server reached is reported."""


class WrongAnswerError(RuntimeError):
    """A server answered what the direct computation does not."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """How right a server's answers are."""

    windows: int
    recall: float
    """Of the exact best ten; ids level with the tenth within the tolerance count."""
    worst_error: float
    """Greatest difference of a score from the exact one of its chunk."""


class Direct:
    """The direct computation: each window by itself, against every chunk, in float32.

    Args:
        folder: What ``prepare`` made.
        windows: That answers will be compared for.
    """

    def __init__(self, folder: Path, windows: Sequence[Floats]) -> None:
        self._windows = windows
        scorer = Scorer(load_checkpoint(folder / CHECKPOINT).model)
        projected_ND = np.load(folder / PROJECTED, mmap_mode="r")
        queries = [scorer.query(*scorer.pack([window]), Method.P8) for window in windows]
        self._scores = [projected_ND @ query.vectors_BD[0] for query in queries]
        ids: list[str] = json.loads((folder / IDS).read_bytes())
        self._rows = {id_: row for row, id_ in enumerate(ids)}

    def check(self, target: Target, port: int, form: Form) -> Found:
        """Ask a server for every window and compare.

        Raises:
            WrongAnswerError: If a score is wrong, or too many ids are not the best.
        """

        def ask(window: Floats) -> Answer:
            status, answer = post(port, form.path, form.content_type, form.body(window))
            if status != 200:
                raise WrongAnswerError(f"{target.label}: expected 200, got {status}: {answer!r}")
            return target.read(json.loads(answer))

        with ThreadPoolExecutor(AT_ONCE) as pool:
            answers = list(pool.map(ask, self._windows))
        return self.compare(target.label, answers, target.tolerance)

    def compare(self, label: str, answers: Sequence[Answer], tolerance: float) -> Found:
        """Compare an answer for each window.

        Raises:
            WrongAnswerError: If a score is wrong, or too many ids are not the best.
        """
        worst, hits = 0.0, 0
        for scores_N, (ids, scores) in zip(self._scores, answers, strict=True):
            if len(set(ids)) != TOP_K or scores != sorted(scores, reverse=True):
                raise WrongAnswerError(f"{label}: expected {TOP_K} ids, best first, got {ids}")
            exact = scores_N[[self._rows[id_] for id_ in ids]]
            worst = max(worst, float(np.abs(exact - np.array(scores)).max()))
            level = np.partition(scores_N, -TOP_K)[-TOP_K] - tolerance
            hits += int((exact >= level).sum())
        recall = hits / (TOP_K * len(self._windows))
        if worst > tolerance or recall < LEAST_RECALL:
            raise WrongAnswerError(
                f"{label}: expected scores within {tolerance:g} and recall of {LEAST_RECALL}, "
                f"got {worst:g} and {recall:.3f}"
            )
        return Found(windows=len(answers), recall=recall, worst_error=worst)
