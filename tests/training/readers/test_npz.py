from pathlib import Path

import numpy as np
import pytest

from training.chunking import ChunkingConfig
from training.raw import InputError, RawDocument
from training.readers.npz import read_npz

L, D = 3, 4


def windows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    starts = range(len(vectors) - L)
    return np.stack([vectors[start : start + L] for start in starts]), vectors[L:]


def read(path: Path, **arrays: np.ndarray) -> list[RawDocument]:
    np.savez(path, **arrays)
    return list(read_npz(path, "s.npz", ChunkingConfig()))


@pytest.fixture
def articles(generator: np.random.Generator) -> list[np.ndarray]:
    return [generator.normal(size=(n, D)).astype(np.float32) for n in (6, 9)]


@pytest.mark.parametrize("shuffled", [False, True])
def test_overlapping_rows_are_chained(tmp_path: Path, articles, generator, shuffled: bool):
    parts = [windows(article) for article in articles]
    contexts = np.concatenate([part[0] for part in parts])
    targets = np.concatenate([part[1] for part in parts])
    ids = np.repeat(["p", "q"], [3, 6])
    order = generator.permutation(9) if shuffled else np.arange(9)
    documents = read(
        tmp_path / "s.npz", contexts=contexts[order], targets=targets[order], article_ids=ids[order]
    )
    found = {document.doc_id: document for document in documents}
    assert set(found) == {"s.npz#p", "s.npz#q"}
    for name, article in zip("pq", articles, strict=True):
        document = found[f"s.npz#{name}"]
        np.testing.assert_array_equal(document.vectors, article)
        assert document.group == name
        assert [chunk.text for chunk in document.chunks] == [""] * len(article)


def test_rows_that_do_not_overlap_stay_apart_but_share_their_group(tmp_path: Path, generator):
    contexts, targets = generator.normal(size=(2, L, D)), generator.normal(size=(2, D))
    documents = read(tmp_path / "s.npz", X=contexts, y=targets, doc_ids=np.array([7, 7]))
    assert [d.doc_id for d in documents] == ["s.npz#7.0", "s.npz#7.1"]
    assert {d.group for d in documents} == {"7"}
    assert [len(d.chunks) for d in documents] == [L + 1] * 2


def test_without_ids_rows_chain_by_content(tmp_path: Path, articles):
    contexts, targets = windows(articles[0])
    (document,) = read(tmp_path / "s.npz", context=contexts, target=targets)
    assert (document.doc_id, document.group) == ("s.npz#0", None)
    np.testing.assert_array_equal(document.vectors, articles[0])


def test_rows_of_different_articles_never_chain(tmp_path: Path, articles):
    contexts, targets = windows(articles[0])
    ids = np.array(["p", "p", "q"])
    documents = read(tmp_path / "s.npz", contexts=contexts, targets=targets, article_ids=ids)
    assert [len(d.chunks) for d in documents] == [L + 2, L + 1]


def test_padding_before_a_context_is_dropped(tmp_path: Path, articles):
    padded = np.concatenate([np.zeros((L - 1, D), np.float32), articles[0]])
    contexts, targets = windows(padded)
    (document,) = read(tmp_path / "s.npz", contexts=contexts, targets=targets)
    np.testing.assert_array_equal(document.vectors, articles[0])


def test_a_circle_is_cut_once(tmp_path: Path, generator):
    a, b = generator.normal(size=(2, D))
    contexts, targets = np.array([[a, b, a], [b, a, b]]), np.array([b, a])
    (document,) = read(tmp_path / "s.npz", contexts=contexts, targets=targets)
    assert len(document.chunks) == L + 2


ONES = {"contexts": np.ones((2, L, D)), "targets": np.ones((2, D))}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"contexts": ONES["contexts"]}, "expected an array 'targets'"),
        ({"targets": ONES["targets"]}, "expected an array 'contexts'"),
        ({**ONES, "contexts": np.ones((2, D))}, r"contexts: .*got float64 \(2, 4\)"),
        ({**ONES, "contexts": np.ones((0, L, D))}, "contexts"),
        ({**ONES, "targets": np.ones((3, D))}, r"targets: expected floating-point \(2, 4\)"),
        ({**ONES, "article_ids": np.array(["a"])}, r"article_ids: expected \(2,\), got \(1,\)"),
        ({**ONES, "targets": np.full((2, D), np.nan)}, "row 0: expected finite"),
        ({**ONES, "targets": np.zeros((2, D))}, "row 0: expected finite vectors with a direction"),
    ],
)
def test_broken(tmp_path: Path, arrays: dict[str, np.ndarray], message: str):
    with pytest.raises(InputError, match=message):
        read(tmp_path / "s.npz", **arrays)


def test_pickles_and_garbage_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="NPZ"):
        read(tmp_path / "s.npz", **ONES, article_ids=np.array(["a", None], dtype=object))
    (tmp_path / "s.npz").write_bytes(b"garbage")
    with pytest.raises(InputError, match="NPZ"):
        list(read_npz(tmp_path / "s.npz", "s.npz", ChunkingConfig()))
