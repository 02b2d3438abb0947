import pytest

from training.chunking import ChunkingConfig, chunk_paragraphs, count_words
from training.raw import Chunk


def words(count: int, word: str = "word") -> str:
    return " ".join([word] * count)


def texts(paragraphs: list[str], **sizes: int) -> list[str]:
    chunks = chunk_paragraphs([Chunk(text=text) for text in paragraphs], ChunkingConfig(**sizes))
    return [chunk.text for chunk in chunks]


def test_good_sizes_stay():
    paragraphs = [words(20, "a"), words(300, "b"), words(15, "c")]
    assert texts(paragraphs) == paragraphs


def test_tiny_paragraph_joins_the_next():
    assert texts(["Note:", words(20)]) == ["Note:\n\n" + words(20)]


def test_tiny_paragraph_at_the_end_joins_the_one_before():
    assert texts([words(20), "The end."]) == [words(20) + "\n\nThe end."]


def test_tiny_paragraphs_alone_stay_together():
    assert texts(["One.", "Two."]) == ["One.\n\nTwo."]


def test_sections_never_mix():
    chunks = chunk_paragraphs([Chunk(text="One.", section="A"), Chunk(text=words(30), section="B")])
    assert [chunk.section for chunk in chunks] == ["A", "B"]


def test_huge_paragraph_is_cut_at_sentence_ends():
    sentences = [f"Sentence {number} has exactly seven words here." for number in range(100)]
    pieces = texts([" ".join(sentences)])
    assert len(pieces) == 3
    assert all(piece.endswith("here.") for piece in pieces)
    assert all(count_words(piece) <= 300 for piece in pieces)
    assert " ".join(pieces).split() == " ".join(sentences).split()


def test_endless_sentence_is_cut_between_words():
    pieces = texts([words(1000)])
    assert all(15 <= count_words(piece) <= 300 for piece in pieces)
    assert sum(map(count_words, pieces)) == 1000


def test_blank_paragraphs_vanish():
    assert texts(["  ", "\n", words(20)]) == [words(20)]


def test_nothing_is_joined_at_zero():
    assert texts(["One.", "Two."], min_words=0) == ["One.", "Two."]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"min_words": -1}, "min_words: expected at least 0, got -1"),
        ({"min_words": 20, "max_words": 30}, "max_words: expected .*40.*, got 30"),
        ({"min_words": 0, "max_words": 0}, "max_words"),
    ],
)
def test_bad_sizes(sizes: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        ChunkingConfig(**sizes)
