from pathlib import Path

import pytest

from training.chunking import ChunkingConfig
from training.raw import EmptyInputError, InputError
from training.readers.text import read_text


def test_paragraphs(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("\ufeffOne\r\nline.\r\n \t\r\nTwo.\n\n\n\nThree.".encode())
    (document,) = read_text(tmp_path / "a.txt", "name", ChunkingConfig(min_words=0))
    assert [chunk.text for chunk in document.chunks] == ["One line.", "Two.", "Three."]
    assert (document.doc_id, document.title) == ("name", "a")


def test_not_utf8(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(InputError, match=r"a\.txt byte 3: expected UTF-8"):
        list(read_text(tmp_path / "a.txt", "name", ChunkingConfig()))


def test_empty(tmp_path: Path):
    (tmp_path / "a.txt").write_text(" \n\n ")
    with pytest.raises(EmptyInputError, match=r"a\.txt: expected at least one paragraph"):
        list(read_text(tmp_path / "a.txt", "name", ChunkingConfig()))
