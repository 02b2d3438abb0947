"""Climb the ladder: train and judge every row, keep each as a file, and put them together.

A finished row is a JSON file in the output folder; it is used again if budget, data and the row's
definition are the same, so that an interrupted run goes on where it stopped.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.checkpoint import write_atomically
from models.config import P8Config
from models.model import P8Model
from models.scoring import Floats, Scorer
from training.calibration import fit_tau
from training.config import TrainConfig
from training.dataset import PreparedDataset
from training.ladder.build import build_ranker
from training.ladder.config import ROWS, Budget, Row, rows_named
from training.ladder.findings import find
from training.ladder.fit import Data, fit_row, fit_verifier
from training.ladder.judge import (
    ceiling_of,
    compare,
    estimates,
    fit_weight,
    order_matrices,
    tally_rows,
)
from training.ladder.rankers import Direct, Learner, Ranker
from training.metrics import Tally, bootstrap_difference
from training.ordering import evaluate_pairs
from training.protocols import project_documents
from training.run import keep_windows, split_vectors

FORMAT = 1
"""Raised when a row of the same definition would come out differently."""

# Row against row: what one definition, one space or one option is worth.
COMPARISONS: tuple[tuple[str, str], ...] = (
    ("p8-raw", "p8-raw-old-prev"),
    ("p8-raw-lstm", "p8-raw-lstm-old-prev"),
    ("p8-learned", "p8-learned-old-prev"),
    ("p8-learned", "p8-raw"),
    ("p8-learned", "qtower"),
    ("p8-learned", "core-softmax"),
    ("p8-learned", "core-gbce"),
    ("p8-learned", "sasrec-softmax"),
    ("p8-learned", "sasrec-gbce"),
    ("p8-learned", "p8-document"),
    ("p8-learned", "p8-batch"),
    ("p8-learned", "p8-temperature"),
    ("p8-window-5", "p8-window-1"),
    ("p8-window-5", "p8-window-3"),
    ("p8-window-5", "p8-window-8"),
)

Say = Callable[[str], None]


def load_data(dataset: PreparedDataset, budget: Budget) -> Data:
    """The documents and windows that every row sees."""
    train = _some(split_vectors(dataset, "train"), budget.train_documents, budget.seed)
    windows = min(budget.windows, sum(len(document) - 1 for document in train))
    keep = keep_windows(train, TrainConfig(subset=windows, seed=budget.seed))
    assert keep is not None
    validation, test = (
        _some(split_vectors(dataset, split), budget.judge_documents, budget.seed)
        for split in ("validation", "test")
    )
    return Data(train=train, keep=keep, validation=validation, test=test)


def _some(documents: list[Floats], count: int | None, seed: int) -> list[Floats]:
    if count is None or count >= len(documents):
        return documents
    chosen = np.sort(np.random.default_rng(seed).permutation(len(documents))[:count])
    return [documents[index] for index in chosen]


class Climb:
    """What rows share: data, baseline and the order verifier, each made when first needed.

    Args:
        data: Documents and windows.
        shape: Shape of the networks; rows change window, encoder and space.
        budget: What every row may spend.
    """

    def __init__(self, data: Data, shape: P8Config, budget: Budget) -> None:
        self.data, self.shape, self.budget = data, shape, budget
        self._direct: dict[int, Tally] = {}

    def direct(self, hidden: int) -> Tally:
        """DIRECT on the test documents, by how many chunks before the target are hidden."""
        if hidden not in self._direct:
            row = Row(name="", group="", label="", kind="direct", hidden=hidden)
            self._direct[hidden] = tally_rows(Direct(), self.data.test, row, anchor=False)
        return self._direct[hidden]

    @cached_property
    def verifier(self) -> P8Model:
        """The shared order verifier, trained and calibrated."""
        return fit_verifier(self.shape, ROWS[0], self.data, self.budget)

    @cached_property
    def orders(self) -> tuple[list[Floats], list[Floats]]:
        """Log-odds of the shared verifier, of validation and test documents."""
        return self._orders(self.verifier)

    def _orders(self, networks: P8Model) -> tuple[list[Floats], list[Floats]]:
        return (
            order_matrices(networks.order, self.data.validation),
            order_matrices(networks.order, self.data.test),
        )

    def row(self, row: Row) -> dict[str, Any]:
        """Train and judge one row; test documents are read after everything is chosen."""
        started = time.perf_counter()
        data, seed = self.data, self.budget.seed
        ranker = build_ranker(row, self.shape, self.budget, data.train)
        history = fit_row(ranker, row, data, self.budget) if isinstance(ranker, Learner) else []
        ranker.eval()
        trained = time.perf_counter()
        validation_orders, test_orders = self._orders_for(ranker)
        weight = fit_weight(ranker, data.validation, row, validation_orders)
        alone = tally_rows(ranker, data.test, row)
        both = tally_rows(ranker, data.test, row, orders=test_orders, weight=weight, anchor=False)
        direct = self.direct(row.hidden)
        ceiling = None
        if ranker.mixes_in_its_own_space and row.hidden == row.window:
            ceiling = estimates(ceiling_of(ranker, data.test, row), seed)
        best = max(history, key=lambda line: line["validation_mrr@10"])["epoch"] if history else 0
        return {
            **asdict(row),
            "parameters": sum(parameter.numel() for parameter in ranker.parameters()),
            "own_verifier": ranker.networks is not None,
            "order_weight": weight,
            "best_epoch": best,
            "without": estimates(alone, seed),
            "with": {m: e for m, e in estimates(both, seed).items() if "margin" not in m},
            "difference": {
                "without": {m: e.json() for m, e in compare(alone, direct, seed).items()},
                "with": {m: e.json() for m, e in compare(both, direct, seed).items()},
            },
            "ceiling": ceiling,
            "epochs": history,
            "sums": {m: [part.tolist() for part in alone.sums(m)] for m in ("r@5", "mrr@10")},
            "seconds": {
                "train": round(trained - started, 1),
                "judge": round(time.perf_counter() - trained, 1),
            },
        }

    def _orders_for(self, ranker: Ranker) -> tuple[list[Floats], list[Floats]]:
        if ranker.networks is None:
            return self.orders
        documents = project_documents(Scorer(window=1), self.data.validation)
        fit_tau(ranker.networks, documents, self.budget.seed)
        return self._orders(ranker.networks)

    def order(self) -> dict[str, Any]:
        """Accuracy and calibration of the shared verifier on the test documents."""
        documents = project_documents(Scorer(window=1), self.data.test)
        pairs = evaluate_pairs(Scorer(self.verifier), documents, self.budget.seed)
        return {metric: estimate.json() for metric, estimate in pairs.items()}

    def ceiling(self) -> dict[str, Any]:
        """The raw space's ceiling on the test documents."""
        return estimates(ceiling_of(Direct(), self.data.test, ROWS[0]), self.budget.seed)


def climb(
    dataset: PreparedDataset,
    out: Path,
    budget: Budget,
    *,
    names: Sequence[str] | None = None,
    say: Say = lambda line: None,
    shape: P8Config | None = None,
) -> dict[str, Any]:
    """Train and judge rows, resuming from those that are finished.

    Args:
        dataset: Prepared and embedded documents.
        out: Folder of the rows' files.
        budget: What every row may spend.
        names: Rows to climb; all if None.
        say: Called with a line for each finished row.
        shape: Shape of the networks; that of ``train`` if None.

    Returns:
        The report, as ladder.json holds it.

    Raises:
        UnknownRowError: If a row does not exist.
        TooFewDocumentsError: If a split is empty.
    """
    rows = rows_named(names)
    data = load_data(dataset, budget)
    shared = Climb(data, shape or P8Config(dimension=dataset.dimension), budget)
    common = {
        "format": FORMAT,
        "budget": asdict(budget),
        "data": dataset.fingerprint,
        "shape": asdict(shared.shape),
    }
    folder = out / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, Any]] = {}
    for row in rows:
        identity = {**common, "row": asdict(row)}
        done = _kept(folder / f"{row.name}.json", identity, partial(shared.row, row))
        results[row.name] = done
        say(_line(done, len(results), len(rows)))
    order = _kept(folder / "_order.json", common, shared.order)
    ceiling = _kept(folder / "_ceiling.json", common, shared.ceiling)
    comparisons = [
        _comparison(results[ours], results[theirs], budget.seed)
        for ours, theirs in COMPARISONS
        if ours in results and theirs in results
    ]
    for result in results.values():
        del result["sums"]
    return {
        "format": FORMAT,
        "data": {
            "name": dataset.manifest["name"],
            "fingerprint": dataset.fingerprint,
            "dimension": dataset.dimension,
            "train_documents": len(data.train),
            "train_windows": sum(len(rows_w) for rows_w in data.keep),
            "validation_documents": len(data.validation),
            "test_documents": len(data.test),
            "test_windows": sum(len(document) - 1 for document in data.test),
        },
        "budget": asdict(budget),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "seconds": round(sum(sum(r["seconds"].values()) for r in results.values()), 1),
        "ceiling": ceiling,
        "order": order,
        "rows": list(results.values()),
        "comparisons": comparisons,
        "findings": find(results, comparisons),
    }


def _kept(path: Path, identity: dict[str, Any], make: Callable[[], dict[str, Any]]) -> Any:
    """What the file holds, if it was made of the same; else make it and keep it."""
    identity = json.loads(json.dumps(identity))
    if path.is_file():
        kept = json.loads(path.read_bytes())
        if kept["identity"] == identity:
            return kept["result"]
    result = json.loads(json.dumps(make()))
    text = json.dumps({"identity": identity, "result": result}, indent=1)
    write_atomically(path, text.encode())
    return result


def _comparison(ours: dict[str, Any], theirs: dict[str, Any], seed: int) -> dict[str, Any]:
    differences = {}
    for metric in ours["sums"]:
        one, two = ([np.asarray(part) for part in row["sums"][metric]] for row in (ours, theirs))
        estimate = bootstrap_difference((one[0], one[1]), (two[0], two[1]), seed)
        differences[metric] = estimate.json()
    return {"row": ours["name"], "minus": theirs["name"], **differences}


def _line(row: dict[str, Any], number: int, rows: int) -> str:
    alone, both = row["without"], row["with"]
    spent = sum(row["seconds"].values())
    return (
        f"{number:>2}/{rows} {row['name']:<22} r@5 {alone['r@5']['value']:.3f}, with verifier "
        f"{both['r@5']['value']:.3f}; mrr@10 {alone['mrr@10']['value']:.3f}; margin "
        f"{alone['margin']['value']:+.3f}, against c_L {alone['margin_last']['value']:+.3f}; "
        f"{spent:.0f} s"
    )
