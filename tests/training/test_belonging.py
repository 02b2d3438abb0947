import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from models.belonging import belonging_features
from tests.prepared import write_prepared
from tests.synthetic import Floats, unit_rows
from training.__main__ import main
from training.belonging import (
    CLEAN_TIMES,
    SHARES,
    BelongingError,
    auc,
    evaluate_belonging,
    fit_belonging,
    make_bags,
)


def themed(seed: int, documents: int) -> list[Floats]:
    """Documents around themes of their own, loosely, so that not everything can be told."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(documents):
        count = int(generator.integers(8, 40))
        rows = 0.7 * unit_rows(generator, 1, 24) + unit_rows(generator, count, 24)
        found.append((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32))
    return found


KINDS = {"one": themed(1, 12), "two": themed(2, 9)}


def test_bags_hold_what_they_should() -> None:
    bags = list(make_bags(KINDS, "one", 120, seed=4))
    assert {bag.document for bag in bags} == set(range(12))
    origins = {"same": 0, "other": 0}
    for number, bag in enumerate(bags):
        share, size = SHARES[number % len(SHARES)], len(bag.own_N)
        foreign = 1 if share is None else int(np.ceil(share * size))
        assert (~bag.own_N).sum() == foreign
        document = {row.tobytes() for row in KINDS["one"][bag.document]}
        assert [row.tobytes() in document for row in bag.raw_ND] == bag.own_N.tolist()
        assert len({row.tobytes() for row in bag.raw_ND[bag.own_N]}) == size - foreign
        folder = {row.tobytes() for rows in KINDS["one"] for row in rows}
        for row in bag.raw_ND[~bag.own_N]:
            assert (row.tobytes() in folder) == bag.same_folder
            origins["same" if bag.same_folder else "other"] += 1
    assert min(origins.values()) > 20


def test_a_folder_of_one_document_makes_no_bags() -> None:
    with pytest.raises(BelongingError, match="two documents"):
        next(make_bags({"one": KINDS["one"][:1]}, "one", 1))


def test_auc_is_the_well_known_one() -> None:
    generator = np.random.default_rng(5)
    own, belongs = generator.random(50) < 0.8, generator.random(50).round(1)
    assert auc(own, belongs) == pytest.approx(roc_auc_score(own, belongs))


def test_the_fit_is_a_logistic_regression_of_weighted_bags() -> None:
    bags = list(make_bags(KINDS, "one", 120)) + list(make_bags(KINDS, "two", 120))
    fit = fit_belonging(bags)
    features, own, times = [], [], []
    for bag in bags:
        features.append(belonging_features(bag.raw_ND))
        own.append(bag.own_N)
        times.append(np.full(len(bag.own_N), CLEAN_TIMES if bag.own_N.all() else 1))
    theirs = LogisticRegression(C=1e8, tol=1e-8, max_iter=1000).fit(
        np.concatenate(features), np.concatenate(own), np.concatenate(times)
    )
    np.testing.assert_allclose(list(fit.weights.values()), theirs.coef_[0], rtol=1e-2)
    assert fit.intercept == pytest.approx(theirs.intercept_[0], rel=1e-2)


def test_evaluation_tells_foreign_chunks_and_counts_alarms() -> None:
    report = evaluate_belonging(KINDS, "one", 240)
    assert set(report) == {"all", "same folder", "other folder", "3-9", "10-29", "30-100"}
    whole = report["all"]
    assert whole["auc"].value > 0.8
    assert whole["alarmed"].value <= whole["false alarms"].value
    assert 0 < whole["recall"].value < 1


def test_the_command_measures_and_fits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_prepared(tmp_path / "data", [9] * 30, dimension=8)
    base = ["belonging", str(tmp_path / "data"), "--split", "all", "--bags", "60"]
    assert main([*base, "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    value = report["kinds"]["small"]["all"]["auc"]["value"]
    assert f"{value:.3f}" in capsys.readouterr().out
    assert main([*base, "--fit"]) == 0
    assert set(json.loads(capsys.readouterr().out)["weights"]) == {"near", "company"}
