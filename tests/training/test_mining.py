import numpy as np

from tests.synthetic import unit_rows, walks
from training.batches import batches
from training.config import TrainConfig
from training.mining import QUERIES_PER_DOCUMENT, mine_negatives


def test_mined_are_the_nearest_of_other_documents(generator: np.random.Generator) -> None:
    # Few enough chunks that every one of them asks.
    documents = [unit_rows(generator, QUERIES_PER_DOCUMENT, 16) for _ in range(12)]
    mined = mine_negatives(documents, 5, 0)
    for number, own in enumerate(documents):
        others = [
            (float((own @ other[row]).max()), index, row)
            for index, other in enumerate(documents)
            if index != number
            for row in range(len(other))
        ]
        best = [(index, row) for _, index, row in sorted(others, reverse=True)[:5]]
        found = list(zip(mined.document[number], mined.row[number], strict=True))
        assert found == best
        expected = np.stack([documents[index][row] for index, row in best])
        np.testing.assert_array_equal(mined.vectors(documents, number), expected)


def test_too_few_others_leave_places_empty() -> None:
    documents = walks(3, 2)
    mined = mine_negatives(documents, 60, 0)
    assert set(mined.document[0]) == {1, -1}
    assert set(mined.document[1]) == {0, -1}
    assert len(mined.vectors(documents, 0)) == (mined.document[0] >= 0).sum()
    assert len(mine_negatives(documents[:1], 4, 0).vectors(documents[:1], 0)) == 0


def test_mined_chunks_are_candidates_of_their_own_document_alone() -> None:
    documents = walks(4, 6)
    mined = mine_negatives(documents, 7, 0)
    config = TrainConfig(batch_documents=3, outside_weight=0.1)
    for batch in batches(documents, None, config, 5, 0, mined):
        own = batch.documents[-1][1].stop
        assert len(batch.chunks_ND) == own + 21
        for (windows, chunks), places in zip(batch.documents, batch.mined, strict=True):
            number = int(batch.document_N[chunks.start])
            np.testing.assert_array_equal(batch.chunks_ND[chunks], documents[number])
            np.testing.assert_array_equal(batch.chunks_ND[places], mined.vectors(documents, number))
            assert batch.document_N[places].tolist() == mined.document[number].tolist()
            assert batch.position_N[places].tolist() == mined.row[number].tolist()
            allowed = batch.allowed_WN[windows, own:]
            assert bool(allowed[:, places.start - own : places.stop - own].all())
            assert int(allowed.sum()) == 7 * (windows.stop - windows.start)
            weights = batch.log_weight_WN[windows, own:]
            np.testing.assert_allclose(weights, np.log(0.1), rtol=1e-6)
