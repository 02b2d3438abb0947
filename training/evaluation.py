"""Evaluate a scorer on documents: every protocol, every method, every metric, with intervals.

The answer is plain data, ready to be written as JSON; ``docs/training.md`` describes its keys.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from models.ranking import Corpus
from models.scoring import Floats, Method, Scorer
from training.ceiling import tally_ceiling
from training.metrics import Estimate, Tally, add_ranks, bootstrap_difference
from training.ordering import evaluate_bags, evaluate_pairs
from training.protocols import (
    DocumentVectors,
    anchors,
    corpus_ranks,
    project_documents,
    tally_document,
    window_groups,
)

ANCHOR_TOLERANCE = 1e-4


class ConstraintError(ValueError):
    """A query of P8 left the span of its context: the scoring code is wrong."""


@dataclass(kw_only=True)
class MethodTallies:
    """What one method scored in each protocol."""

    in_document: Tally = field(default_factory=Tally)
    classic8: Tally = field(default_factory=Tally)
    corpus: Tally = field(default_factory=Tally)


def methods_of(scorer: Scorer) -> list[Method]:
    """Every method that a scorer can answer, the baseline first."""
    methods = [Method.DIRECT, Method.MEAN]
    if scorer.model is not None:
        methods.append(Method.P8)
        if scorer.model.tower is not None:
            methods.append(Method.TOWER)
    return methods


def tally_methods(
    scorer: Scorer,
    documents: Sequence[DocumentVectors],
    methods: Sequence[Method],
    seed: int = 0,
    *,
    classic8: bool = True,
    most_windows: int | None = None,
) -> tuple[dict[Method, MethodTallies], float]:
    """``in_document`` and, if wanted, ``classic8`` of each method; mean number of candidates.

    Args:
        scorer: What is judged.
        documents: Documents to judge it on.
        methods: Its methods to judge.
        seed: Seed of random negatives.
        classic8: Whether to judge on classic sets, too.
        most_windows: Most windows of a document, spread evenly over it; all if None.
    """
    tallies = {method: MethodTallies() for method in methods}
    weighted, windows = 0.0, 0
    for method, own in tallies.items():
        groups = window_groups(scorer, documents, method, most_windows)
        weighted, windows = 0.0, 0  # all methods have the same candidates
        for number, (document, some, queries) in enumerate(groups):
            generator = np.random.default_rng([seed, number])  # the same negatives for all
            classic = own.classic8 if classic8 else None
            mean = tally_document(
                scorer, document, some, queries, own.in_document, classic, generator
            )
            weighted += mean * len(some.next_W)
            windows += len(some.next_W)
    return tallies, weighted / max(windows, 1)


def evaluate(
    scorer: Scorer, vectors: Sequence[Floats], *, seed: int = 0, corpus: bool = True
) -> dict[str, Any]:
    """Evaluate on documents; see ``evaluate_tallied``, whose report this is."""
    return evaluate_tallied(scorer, vectors, seed=seed, corpus=corpus)[0]


def evaluate_tallied(
    scorer: Scorer, vectors: Sequence[Floats], *, seed: int = 0, corpus: bool = True
) -> tuple[dict[str, Any], dict[Method, MethodTallies]]:
    """Evaluate on documents, each given by its raw unit vectors (n, D).

    Args:
        scorer: Model and order weight, or training-free.
        vectors: Documents; those of a single chunk have no window and are left out.
        seed: Seed of random negatives and of the bootstrap.
        corpus: Whether to run the ``corpus`` protocol.

    Returns:
        The report, and what it was worked out from.

    Raises:
        ValueError: If no document has two chunks.
        ConstraintError: If a query of P8 is not in the span of its context.
    """
    documents = project_documents(scorer, vectors)
    if not documents:
        raise ValueError("documents: expected at least one of two chunks or more, got none")
    methods = methods_of(scorer)
    tallies, candidates = tally_methods(scorer, documents, methods, seed)
    if corpus:
        _tally_corpus(scorer, documents, tallies)
    protocols = ("in_document", "classic8") + (("corpus",) if corpus else ())
    report: dict[str, Any] = {
        "documents": len(documents),
        "windows": sum(len(document.raw_ND) - 1 for document in documents),
        "candidates": round(candidates, 3),
        "protocols": {
            protocol: {
                method.value: _json(getattr(tally, protocol).estimates(seed))
                for method, tally in tallies.items()
            }
            for protocol in protocols
        },
        "ceiling": _json(tally_ceiling(documents, scorer.window).estimates(seed)),
        "cos_anchor": _anchors(scorer, documents, methods),
    }
    if scorer.model is not None:
        mixture = Scorer(scorer.model, rerank=False, dtype=scorer.dtype)
        alone, _ = tally_methods(mixture, documents, [Method.P8], seed)
        for protocol in ("in_document", "classic8"):
            estimates = getattr(alone[Method.P8], protocol).estimates(seed)
            report["protocols"][protocol]["p8_mixture"] = _json(estimates)
        report["difference"] = {
            protocol: _json(differences(tallies, protocol, Method.P8, seed))
            for protocol in protocols
        }
        report["order"] = _json(evaluate_pairs(scorer, documents, seed))
        for section, estimates in evaluate_bags(scorer, documents, seed).items():
            report[section] = _json(estimates)
    return report, tallies


def _tally_corpus(
    scorer: Scorer,
    documents: Sequence[DocumentVectors],
    tallies: dict[Method, MethodTallies],
) -> None:
    index = Corpus.build(np.concatenate([document.raw_ND for document in documents]), scorer)
    for method, tally in tallies.items():
        for rank_W in corpus_ranks(scorer, documents, index, method):
            add_ranks(tally.corpus, rank_W, wide=True)


def differences(
    tallies: Mapping[Method, MethodTallies], protocol: str, method: Method, seed: int = 0
) -> dict[str, Estimate]:
    """Paired difference of a method to DIRECT, a metric each, over the same documents."""
    ours: Tally = getattr(tallies[method], protocol)
    theirs: Tally = getattr(tallies[Method.DIRECT], protocol)
    return {
        metric: bootstrap_difference(ours.sums(metric), theirs.sums(metric), seed)
        for metric in ("r@1", "r@5", "mrr@10")
        if ours.sums(metric)[1].sum()
    }


def _anchors(
    scorer: Scorer, documents: Sequence[DocumentVectors], methods: Sequence[Method]
) -> dict[str, float]:
    means = {}
    for method in methods:
        if method in (Method.DIRECT, Method.MEAN):
            continue
        anchor_W = np.concatenate([anchors(scorer, document, method) for document in documents])
        if method is Method.P8 and abs(anchor_W - 1.0).max() > ANCHOR_TOLERANCE:
            raise ConstraintError(
                f"cos_anchor: expected 1 within {ANCHOR_TOLERANCE}, got {anchor_W.min():.6f}"
            )
        means[method.value] = round(float(anchor_W.mean()), 6)
    return means


def _json(estimates: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    return {metric: estimate.json() for metric, estimate in estimates.items()}
