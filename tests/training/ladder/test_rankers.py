"""Every row's ranker: shapes, lengths, spans, and the scoring that evaluation uses."""

import numpy as np
import pytest
import torch

from models.scoring import Method, Scorer, cos_anchor
from tests.synthetic import shape, walks
from training.batches import batches
from training.evaluation import tally_methods
from training.ladder.build import as_the_row_sees_it, build_ranker, train_options
from training.ladder.config import ROWS, Budget, Row, UnknownRowError, rows_named
from training.ladder.judge import order_matrices, tally_rows, view
from training.ladder.rankers import Direct, Learner, Mean, P8Ranker, Ranker
from training.ladder.recommenders import Core
from training.protocols import project_documents

BUDGET = Budget(windows=200, epochs=3)
TRAIN = walks(1, 12)
TEST = walks(2, 6)


def ranker_of(row: Row) -> Ranker:
    return build_ranker(row, shape(), BUDGET, TRAIN)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_ranks_and_learns(row: Row) -> None:
    ranker = ranker_of(row)
    if isinstance(ranker, Learner):
        batch = next(iter(batches(TRAIN, None, train_options(row, BUDGET), row.window, 0)))
        ranker.train()
        for epoch in range(BUDGET.epochs):
            ranker.zero_grad()
            loss = ranker.loss(as_the_row_sees_it(batch, row), epoch)
            loss.backward()
            assert torch.isfinite(loss)
        grouped = [value for group in ranker.groups() for value in group.parameters]
        needed = {
            id(value)
            for name, value in ranker.named_parameters()
            if value.requires_grad and not name.startswith(("model.tower", "model.reranker"))
        }
        assert needed <= {id(value) for value in grouped}
        assert len(grouped) == len({id(value) for value in grouped})
        assert any(value.grad is not None and value.grad.any() for value in grouped)
    ranker.eval()
    seen = view(ranker, TEST[0], row)
    assert seen.score_WN.shape == seen.allowed_WN.shape == (len(TEST[0]) - 1, len(TEST[0]))
    assert np.isfinite(seen.score_WN).all()
    assert seen.allowed_WN[np.arange(len(seen.windows.next_W)), seen.windows.next_W].all()
    if row.kind != "sasrec":
        np.testing.assert_allclose(np.linalg.norm(seen.query_WD, axis=1), 1.0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(seen.space_ND, axis=1), 1.0, atol=1e-5)
    if isinstance(ranker, Direct | Mean | P8Ranker | Core):
        context = seen.space_ND[seen.windows.context_WL]
        anchor = cos_anchor(seen.query_WD, context, seen.windows.mask_WL)
        np.testing.assert_allclose(anchor, 1.0, atol=1e-4)


@pytest.mark.parametrize("name", ["p1", "p4", "p6", "p7-student", "qtower", "sasrec-softmax"])
def test_free_queries_leave_the_span(name: str) -> None:
    (row,) = rows_named([name])
    tally = tally_rows(ranker_of(row).eval(), TEST, row)
    assert tally.mean("cos_anchor") < 0.999


def test_a_padded_place_changes_no_query() -> None:
    for row in ROWS:
        ranker = ranker_of(row).eval()
        chunks = torch.from_numpy(TEST[0])
        space = ranker.space(chunks)
        mask = torch.ones(1, row.window, dtype=torch.bool)
        mask[0, :-1] = False
        rows = torch.zeros(1, row.window, dtype=torch.long)
        rows[0, -1] = 3
        other = rows.clone()
        other[0, :-1] = 9
        with torch.inference_mode():
            one = ranker.query(chunks, space, rows, mask)
            two = ranker.query(chunks, space, other, mask)
        torch.testing.assert_close(one, two, msg=row.name)


@pytest.mark.parametrize("name", ["p8-raw", "p8-raw-lstm", "p8-learned"])
def test_p8_is_judged_as_evaluation_judges_it(name: str) -> None:
    (row,) = rows_named([name])
    ranker = ranker_of(row)
    assert isinstance(ranker, P8Ranker)
    with torch.no_grad():
        for parameter in ranker.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    ranker.eval()
    ours = tally_rows(
        ranker, TEST, row, orders=order_matrices(ranker.model.order, TEST), weight=0.02
    )
    scorer = Scorer(ranker.model, order_weight=0.02)
    theirs, _ = tally_methods(scorer, project_documents(scorer, TEST), [Method.P8])
    for metric in ("r@1", "r@5", "mrr@10", "margin", "margin_last"):
        expected = theirs[Method.P8].in_document.mean(metric)
        assert ours.mean(metric) == pytest.approx(expected, abs=1e-5), metric


def test_baselines_are_judged_as_evaluation_judges_them() -> None:
    scorer = Scorer(window=5)
    theirs, _ = tally_methods(scorer, project_documents(scorer, TEST), [Method.DIRECT, Method.MEAN])
    for ranker, method, name in (
        (Direct(), Method.DIRECT, "direct"),
        (Mean(), Method.MEAN, "mean"),
    ):
        (row,) = rows_named([name])
        ours = tally_rows(ranker, TEST, row)
        for metric in ("r@1", "r@5", "mrr@10", "margin", "margin_last"):
            expected = theirs[method].in_document.mean(metric)
            assert ours.mean(metric) == pytest.approx(expected, abs=1e-6)


def test_old_prev_is_the_last_chunk_and_a_candidate() -> None:
    old, right = rows_named(["p8-raw-old-prev", "p8-raw"])
    batch = next(iter(batches(TRAIN, None, train_options(old, BUDGET), 5, 0)))
    seen = as_the_row_sees_it(batch, old)
    rows = torch.arange(len(batch.next_W))
    assert torch.equal(seen.prev_W, batch.next_W - 1)
    assert seen.allowed_WN[rows, seen.prev_W].all()
    assert not batch.allowed_WN[rows, seen.prev_W].any()
    same = as_the_row_sees_it(batch, right)
    assert torch.equal(same.allowed_WN, batch.allowed_WN)
    assert torch.equal(same.prev_W, batch.prev_W)


def test_negatives_of_the_batch_or_the_document_alone() -> None:
    for name, inside in (("p8-document", True), ("p8-batch", False)):
        (row,) = rows_named([name])
        batch = next(iter(batches(TRAIN, None, train_options(row, BUDGET), 5, 0)))
        seen = as_the_row_sees_it(batch, row)
        for windows, chunks in batch.documents:
            allowed = seen.allowed_WN[windows].clone()
            allowed[torch.arange(len(allowed)), batch.next_W[windows]] = False
            own, others = allowed[:, chunks].any(), allowed.sum() - allowed[:, chunks].sum()
            assert bool(own) == inside
            assert bool(others) != inside


def test_all_window_lengths_rank_the_same_candidates() -> None:
    rows = rows_named(["direct-window", "p8-window-1", "p8-window-3", "p8-window-8"])
    views = [view(ranker_of(row).eval(), TEST[0], row) for row in rows]
    for row, seen in zip(rows, views, strict=True):
        np.testing.assert_array_equal(seen.allowed_WN, views[0].allowed_WN)
        batch = next(iter(batches(TRAIN, None, train_options(row, BUDGET), row.window, 0)))
        allowed = as_the_row_sees_it(batch, row).allowed_WN
        for number, target in enumerate(batch.next_W.tolist()):
            start = max(chunks.start for _, chunks in batch.documents if chunks.start <= target)
            assert not allowed[number, max(start, target - 8) : target].any()
            assert allowed[number, target]


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert rows_named(None) == ROWS
    with pytest.raises(UnknownRowError, match="got p9"):
        rows_named(["p1", "p9"])


@pytest.mark.parametrize(
    ("field", "value"), [("windows", 0), ("batch_documents", 0), ("epochs", 2)]
)
def test_wrong_budgets_name_their_field(field: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{field}: expected"):
        Budget(**{field: value})  # type: ignore[arg-type]
