"""How well foreign chunks in a bag are told, and the fit of what tells them (models/belonging.py).

A bag is part of one document, with none, one, 10% or 20% of its chunks replaced by foreign ones:
from another document of the same folder, or of another folder; all from one document, or each from
its own. Bags of at most two distinct chunks are never made.

Shapes: N chunks of a bag, D dimension, M chunks of several bags, F features.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.belonging import FEATURES, Values, belonging, belonging_features
from models.scoring import Bools, Floats
from training.metrics import Calibration, Estimate, Tally

SHARES = (0.0, None, 0.0, 0.1, 0.0, 0.2)
"""Parts of a bag that are foreign, in turn; None is a single chunk."""
CLEAN_TIMES = 9
"""How often each clean bag counts: nine in ten bags are taken to be clean."""
SMALLEST, LARGEST = 3, 100
SIZES = {"3-9": (3, 9), "10-29": (10, 29), "30-100": (30, 100)}


class BelongingError(ValueError):
    """Bags cannot be made of these documents."""


class Bag(NamedTuple):
    """Chunks of one document, shuffled, with foreign ones among them."""

    raw_ND: Floats
    own_N: Bools
    """True where a chunk is the document's own."""
    document: int
    """Which document of its folder that is."""
    same_folder: bool
    """Whether foreign chunks are of the same folder; without meaning in a clean bag."""


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A logistic regression on ``FEATURES``."""

    weights: dict[str, float]
    intercept: float
    log_loss: float


def make_bags(
    kinds: Mapping[str, Sequence[Floats]], name: str, count: int, seed: int = 0
) -> Iterator[Bag]:
    """Bags of the documents of one folder, in turn.

    Half of them are runs of neighbours, half are drawn from the whole document; half of the bags
    take what is foreign from the same folder, half from others, if there are any; sizes are
    log-uniform from 3 to 100, or to what the document holds.

    Args:
        kinds: Documents (n, D) of every folder, by its name.
        name: The folder whose documents the bags are made of.
        count: How many bags to make.
        seed: Of everything random.

    Raises:
        BelongingError: If the folder holds too little.
    """
    generator = np.random.default_rng(seed)
    documents = kinds[name]
    usable = [number for number, raw_ND in enumerate(documents) if len(raw_ND) >= SMALLEST]
    if not usable or len(documents) < 2:
        raise BelongingError(
            f"{name}: expected two documents, one of them of {SMALLEST} chunks or more"
        )
    for number in range(count):
        document = usable[number // len(SHARES) % len(usable)]
        raw_ND, share = documents[document], SHARES[number % len(SHARES)]
        largest = min(LARGEST, len(raw_ND))
        size = round(math.exp(generator.uniform(math.log(SMALLEST), math.log(largest))))
        foreign = 1 if share is None else math.ceil(share * size)
        own_ND = raw_ND[_draw(len(raw_ND), size - foreign, generator)]
        same_folder = len(kinds) == 1 or bool(generator.random() < 0.5)
        foreign_ND = _foreign(kinds, (name, document), foreign, same_folder, generator)
        shuffled_N = generator.permutation(size)
        yield Bag(
            raw_ND=np.concatenate([own_ND, *foreign_ND])[shuffled_N],
            own_N=shuffled_N < size - foreign,
            document=document,
            same_folder=same_folder,
        )


def _draw(count: int, size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """Rows of a document: a run of neighbours, or any, in equal parts."""
    if generator.random() < 0.5:
        return np.arange(size) + generator.integers(count - size + 1)
    return generator.choice(count, size, replace=False)


def _foreign(
    kinds: Mapping[str, Sequence[Floats]],
    home: tuple[str, int],
    count: int,
    same_folder: bool,
    generator: np.random.Generator,
) -> Iterator[Floats]:
    """Foreign chunks (1, D): all of one document, or each of its own, in equal parts."""
    others = [home[0]] if same_folder else [name for name in kinds if name != home[0]]
    together = bool(generator.random() < 0.5)
    source: Floats | None = None
    for _ in range(count):
        if source is None or not together:
            name = others[generator.integers(len(others))]
            places = [p for p in range(len(kinds[name])) if (name, p) != home]
            source = kinds[name][places[generator.integers(len(places))]]
        yield source[generator.integers(len(source))][None]


class BelongingTally:
    """Metrics of bags, kept a document for the bootstrap."""

    def __init__(self) -> None:
        self.tally = Tally()
        self.calibration = Calibration()

    def add(self, bags: Sequence[Bag], belongs: Sequence[Values]) -> None:
        """Add the bags of one document and what was answered of each."""
        pairs = list(zip(bags, belongs, strict=True))
        weighted = [pair for pair in pairs for _ in range(_times(pair[0]))]
        own_M = np.concatenate([bag.own_N for bag, _ in weighted])
        belongs_M = np.concatenate([belongs_N for _, belongs_N in weighted])
        flagged_M = belongs_M < 0.5
        self.calibration.add(belongs_M, own_M)
        self.tally.add("precision", ~own_M[flagged_M])
        self.tally.add("expected", 1.0 - belongs_M[flagged_M])
        self.tally.add("recall", flagged_M[~own_M])
        mixed = [auc(bag.own_N, belongs_N) for bag, belongs_N in pairs if not bag.own_N.all()]
        self.tally.add("auc", np.array(mixed))
        clean = [(belongs_N < 0.5).sum() for bag, belongs_N in pairs if bag.own_N.all()]
        self.tally.add("false alarms", np.array(clean, np.float64))
        self.tally.add("alarmed", np.array(clean) > 0)

    def estimates(self, seed: int) -> dict[str, Estimate]:
        """All metrics, at the threshold of 0.5 where they need one.

        ``auc``: within a bag. Of the chunks below 0.5, ``precision`` is the part that is foreign
        and ``expected`` the part that should be by their probabilities; ``recall`` is the part of
        foreign chunks that are among them. ``false alarms`` counts chunks a clean bag, ``alarmed``
        is the part of clean bags with any. ``ece``: expected calibration error.
        """
        return self.tally.estimates(seed) | {"ece": self.calibration.estimate(seed)}


def _times(bag: Bag) -> int:
    return CLEAN_TIMES if bag.own_N.all() else 1


def auc(own_N: Bools, belongs_N: Values) -> float:
    """Probability that an own chunk is rated above a foreign one of its bag; ties count half."""
    own_X1, foreign_Y = belongs_N[own_N][:, None], belongs_N[~own_N]
    return float((own_X1 > foreign_Y).mean() + 0.5 * (own_X1 == foreign_Y).mean())


def evaluate_belonging(
    kinds: Mapping[str, Sequence[Floats]], name: str, count: int, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Metrics of bags of one folder: ``all``, by origin of the foreign chunks, and by size."""
    tallies: dict[str, BelongingTally] = {}
    by_document: dict[int, list[tuple[Bag, Values]]] = {}
    for bag in make_bags(kinds, name, count, seed):
        by_document.setdefault(bag.document, []).append((bag, belonging(bag.raw_ND)))
    for answered in by_document.values():
        parts: dict[str, list[tuple[Bag, Values]]] = {"all": answered}
        for bag, belongs_N in answered:
            origin = "same folder" if bag.same_folder else "other folder"
            sizes = [size for size, (low, high) in SIZES.items() if low <= len(belongs_N) <= high]
            for part in (origin, *sizes):
                parts.setdefault(part, []).append((bag, belongs_N))
        for part, pairs in parts.items():
            bags, belongs = zip(*pairs, strict=True)
            tallies.setdefault(part, BelongingTally()).add(bags, belongs)
    names = ("all", "same folder", "other folder", *SIZES)
    return {part: tallies[part].estimates(seed) for part in names if part in tallies}


def fit_belonging(bags: Sequence[Bag]) -> Fit:
    """Weights of least log loss over all distinct chunks of bags that hold three or more."""
    features: list[Values] = []
    signs: list[Values] = []
    times: list[Values] = []
    for bag in bags:
        distinct_UD, first_U = np.unique(bag.raw_ND, axis=0, return_index=True)
        if len(distinct_UD) > 2:
            features.append(np.insert(belonging_features(distinct_UD), 0, 1.0, axis=1))
            signs.append(np.where(bag.own_N[first_U], 1.0, -1.0))
            times.append(np.full(len(first_U), float(_times(bag))))
    sign_M, times_M = np.concatenate(signs), np.concatenate(times)
    signed_MF = np.concatenate(features) * sign_M[:, None]

    def loss(weights_F: Values) -> tuple[float, Values]:
        margin_M = signed_MF @ weights_F
        slope_M = -times_M / (1.0 + np.exp(margin_M))
        total = times_M.sum()
        return float(times_M @ np.logaddexp(0.0, -margin_M) / total), slope_M @ signed_MF / total

    best = minimize(loss, np.zeros(len(FEATURES) + 1), jac=True, method="BFGS")
    return Fit(
        weights=dict(zip(FEATURES, map(float, best.x[1:]), strict=True)),
        intercept=float(best.x[0]),
        log_loss=float(best.fun),
    )
