import numpy as np

from tests.synthetic import unit_rows, walks
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
