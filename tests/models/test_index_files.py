"""Saved indexes: opened again, extended, damaged, and builds that were killed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from models.index import IndexKind, IndexMismatchError, VectorIndex
from models.index import files as index_files
from tests.synthetic import unit_rows

PRINT = {"store": 1, "checkpoint": "raw"}
KINDS = list(IndexKind)
LISTED = [IndexKind.IVF_SQ8, IndexKind.IVF_RABITQ]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index.faiss"


@pytest.mark.parametrize("kind", KINDS)
def test_save_and_load(path: Path, generator: np.random.Generator, kind: IndexKind) -> None:
    vectors = unit_rows(generator, 600, 16)
    index = VectorIndex.build(vectors, kind)
    rows = np.arange(600) * 3
    index.save(path, PRINT, rows)
    again, kept = VectorIndex.load(path, PRINT, vectors)
    np.testing.assert_array_equal(kept, rows)
    assert again.facts() == index.facts()
    for one, other in zip(again.search(vectors, 5), index.search(vectors, 5), strict=True):
        np.testing.assert_array_equal(one, other)


def test_flat_needs_no_vectors_to_be_loaded(path: Path, generator: np.random.Generator) -> None:
    vectors = unit_rows(generator, 100, 8)
    VectorIndex.build(vectors).save(path, PRINT, np.arange(100))
    again, _ = VectorIndex.load(path, PRINT)
    assert again.search(vectors, 1)[1][:, 0].tolist() == list(range(100))


@pytest.mark.parametrize("kind", LISTED)
def test_lists_need_their_vectors(path: Path, generator: np.random.Generator, kind: str) -> None:
    vectors = unit_rows(generator, 300, 8)
    VectorIndex.build(vectors, kind).save(path, PRINT, np.arange(300))
    with pytest.raises(IndexMismatchError, match=f"{kind} needs the stored vectors, got none"):
        VectorIndex.load(path, PRINT)
    for wrong in (vectors[:299], unit_rows(generator, 300, 9)):
        with pytest.raises(IndexMismatchError, match="expected 300 stored vectors of 8 dim"):
            VectorIndex.load(path, PRINT, wrong)


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_index_can_be_extended_and_saved_in_its_own_place(
    path: Path, generator: np.random.Generator, kind: IndexKind
) -> None:
    vectors = unit_rows(generator, 700, 16)
    VectorIndex.build(vectors[:600], kind).save(path, PRINT, np.arange(600))
    first, _ = VectorIndex.load(path, PRINT, vectors)
    expected = first.search(vectors, 4)
    before = path.stat().st_mtime_ns, path.stat().st_ino
    for size in (650, 700):
        more = first.extended(vectors[:size])
        more.save(path, PRINT, np.arange(size))
        again, rows = VectorIndex.load(path, PRINT, vectors)
        assert (again.size, len(rows)) == (size, size)
        np.testing.assert_array_equal(again.search(vectors, 4)[1], more.search(vectors, 4)[1])
    assert ((path.stat().st_mtime_ns, path.stat().st_ino) == before) == (kind in LISTED)
    np.testing.assert_array_equal(first.search(vectors, 4)[1], expected[1])
    # All anew, without a second part: its file must not stay behind.
    VectorIndex.build(vectors, kind).save(path, PRINT, np.arange(700))
    assert VectorIndex.load(path, PRINT, vectors)[0].facts()["parts"] == [700]
    assert not list(path.parent.glob("*.tail*"))


@pytest.mark.parametrize("kind", KINDS)
def test_another_fingerprint_is_refused(
    path: Path, generator: np.random.Generator, kind: IndexKind
) -> None:
    VectorIndex.build(unit_rows(generator, 100, 8), kind).save(path, PRINT, np.arange(100))
    with pytest.raises(IndexMismatchError, match="built from other data"):
        VectorIndex.load(path, {**PRINT, "store": 2})
    with pytest.raises(IndexMismatchError, match="there is none"):
        VectorIndex.load(path.with_name("none.faiss"), PRINT)


@pytest.mark.parametrize("kind", KINDS)
def test_every_damaged_file_is_refused(
    path: Path, generator: np.random.Generator, kind: IndexKind
) -> None:
    vectors = unit_rows(generator, 320, 8)
    whole = VectorIndex.build(vectors[:300], kind).extended(vectors)
    whole.save(path, PRINT, np.arange(320))
    files = sorted(one for one in path.parent.iterdir() if one.is_file())
    assert len(files) == (5 if kind in LISTED else 3)
    for file in files:
        content = file.read_bytes()
        flipped = bytearray(content)
        flipped[-1] ^= 1
        middle = bytearray(content)
        middle[len(content) // 2] ^= 0x40
        for damaged in (bytes(flipped), bytes(middle), content[:-1], content[:7], b""):
            file.write_bytes(damaged)
            with pytest.raises(IndexMismatchError):
                VectorIndex.load(path, PRINT, vectors)
        file.unlink()
        with pytest.raises(IndexMismatchError, match="there is none"):
            VectorIndex.load(path, PRINT, vectors)
        file.write_bytes(content)
    assert VectorIndex.load(path, PRINT, vectors)[0].size == 320


def test_a_large_file_is_checked_by_length_and_pieces(
    path: Path, generator: np.random.Generator
) -> None:
    file = path.with_suffix(".big")
    size = index_files.WHOLE_UP_TO + 12_345
    with file.open("wb") as writing:
        writing.truncate(size)
    known = index_files._digest(file)
    assert set(known) == {"bytes", "sampled_sha256"}
    assert index_files._check(file, known) is None
    for place in (0, size - 1):
        with file.open("r+b") as writing:
            writing.seek(place)
            writing.write(b"x")
        assert index_files._check(file, known) == "sampled_sha256"
        with file.open("r+b") as writing:
            writing.seek(place)
            writing.write(b"\0")
    # A hole as large as what a broken write leaves is met by some piece.
    with file.open("r+b") as writing:
        writing.seek(20_000_000)
        writing.write(b"x" * 2**20)
    assert index_files._check(file, known) == "sampled_sha256"
    os.truncate(file, size - 1)
    assert index_files._check(file, known) == "length"


@pytest.mark.parametrize("kind", LISTED)
def test_a_row_beyond_the_end_is_refused(
    path: Path, generator: np.random.Generator, kind: IndexKind
) -> None:
    vectors = unit_rows(generator, 300, 8)
    VectorIndex.build(vectors, kind).save(path, PRINT, np.arange(300))
    content = path.read_bytes()
    row = np.int64(299).tobytes()
    assert content.count(row) == 1
    path.write_bytes(content.replace(row, np.int64(2**40).tobytes()))
    manifest = json.loads(path.with_suffix(".json").read_bytes())
    manifest["parts"][0] |= index_files._digest(path)
    del manifest["sha256"]
    manifest["sha256"] = index_files._own(manifest)
    path.with_suffix(".json").write_text(json.dumps(manifest))
    with pytest.raises(IndexMismatchError, match="it names rows that there are not"):
        VectorIndex.load(path, PRINT, vectors)


def test_a_manifest_of_another_format_is_refused(
    path: Path, generator: np.random.Generator
) -> None:
    VectorIndex.build(unit_rows(generator, 10, 8)).save(path, PRINT, np.arange(10))
    path.with_suffix(".json").write_text(json.dumps({"fingerprint": PRINT}))
    with pytest.raises(IndexMismatchError, match="expected format 2, got None"):
        VectorIndex.load(path, PRINT)


KILLED = """
import os, signal, sys
from pathlib import Path
import numpy as np
from models.index import VectorIndex, building

building.BLOCK, building.GRAPH_BLOCK, building.GRAPH_KEPT_EVERY = 500, 500, 500
kind, folder, last = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])

def progress(stage, done, total):
    print(stage, done, flush=True)
    if stage == "add" and done == last:
        os.kill(os.getpid(), signal.SIGKILL)

vectors = np.load(folder / "vectors.npy", mmap_mode="r")
index = VectorIndex.build(vectors, kind, progress=progress, scratch=folder / "scratch")
index.save(folder / "index.faiss", {}, np.arange(len(vectors)))
"""


@pytest.mark.parametrize("kind", ["hnsw", *LISTED])
def test_a_killed_build_goes_on_where_it_was(
    path: Path, generator: np.random.Generator, kind: str
) -> None:
    folder = path.parent
    vectors = unit_rows(generator, 3000, 16)
    np.save(folder / "vectors.npy", vectors)

    def run(last: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", KILLED, kind, str(folder), str(last)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    killed = run(1500)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    left = {one.name: one.stat().st_mtime_ns for one in (folder / "scratch").iterdir()}
    assert "index.partial" in left
    if kind != "hnsw":
        assert (folder / "scratch" / "lists.partial").stat().st_size == 4 * 1500
        with (folder / "scratch" / "lists.partial").open("ab") as lists:
            lists.write(b"torn")
    done = run(-1)
    assert done.returncode == 0, done.stderr
    assert ("train 0" in done.stdout) is False
    assert list((folder / "scratch").iterdir()) == []
    index, _ = VectorIndex.load(path, {}, vectors)
    whole = VectorIndex.build(vectors, kind)
    if kind != "hnsw":  # a graph that went on has other links, and is as good
        np.testing.assert_array_equal(index.search(vectors, 10)[1], whole.search(vectors, 10)[1])
    assert index.facts() | {"ef": 0} == whole.facts() | {
        "ef": 0,
        "recall_at_10": index.facts()["recall_at_10"],
    }


def test_scratch_of_other_vectors_is_not_used(path: Path, generator: np.random.Generator) -> None:
    scratch = path.parent / "scratch"
    scratch.mkdir()
    (scratch / "plan.json").write_text("{")
    (scratch / "index.partial").write_bytes(b"of another")
    (scratch / "lists.partial").write_bytes(b"of another")
    vectors = unit_rows(generator, 400, 8)
    index = VectorIndex.build(vectors, "ivf_sq8", scratch=scratch)
    assert (index.search(vectors, 1)[1][:, 0] == np.arange(400)).mean() > 0.9
