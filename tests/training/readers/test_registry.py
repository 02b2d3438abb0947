import logging
from pathlib import Path

import pytest

from training.raw import EmptyInputError, InputError
from training.readers import READERS, read_inputs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.txt", "a/z.md", "a/B.TXT", "a/picture.png", ".git/c.txt", "a/.hidden.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"The text of {name}.")
    return tmp_path


def test_folder_is_walked_in_order(folder: Path):
    documents = list(read_inputs([folder]))
    assert [document.doc_id for document in documents] == ["a/B.TXT", "a/z.md", "b.txt"]


def test_files_are_read_in_the_order_given(folder: Path):
    documents = list(read_inputs([folder / "b.txt", str(folder / "a" / "z.md")]))
    assert [document.doc_id for document in documents] == ["b.txt", "z.md"]


def test_empty_file_is_passed_over_in_a_folder_only(folder: Path, caplog):
    (folder / "b.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        assert len(list(read_inputs([folder]))) == 2
    assert "passed over: b.txt" in caplog.text
    with pytest.raises(EmptyInputError, match=r"b\.txt"):
        list(read_inputs([folder / "b.txt"]))


def test_unknown_suffix_lists_the_known(folder: Path):
    with pytest.raises(InputError, match=r"picture\.png: .*\.jsonl.*\.npz, got '\.png'"):
        list(read_inputs([folder / "a" / "picture.png"]))


def test_nothing_to_read(tmp_path: Path):
    with pytest.raises(InputError, match="at least one file"):
        list(read_inputs([tmp_path]))
    with pytest.raises(FileNotFoundError, match="absent"):
        list(read_inputs([tmp_path / "absent"]))


def test_a_bad_path_is_found_before_anything_is_read(folder: Path):
    with pytest.raises(FileNotFoundError):
        next(read_inputs([folder, folder / "absent"]))


def test_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in READERS)
