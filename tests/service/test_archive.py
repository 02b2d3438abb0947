"""Whole stores in one file: what is exported is imported, to the bit, or nothing is."""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.__main__ import main
from service.archive import BLOCK_BYTES, Archive, ArchiveError, back_up, write_archive
from service.collection import Collection
from service.folder import DataFolder
from service.opening import open_collection
from service.retrieval import Scope, nearest
from service.settings import Settings
from service.store import STORE_FILE, ChunkRow, Kind, Store, StoreError

from .conftest import DIMENSION, unit_rows, whole_chunks
from .test_migrations import are_the_first, version_of, write_first

ODD: dict[str, Any] = {
    "text": 'Line one\nline "two"\u2028\x00 größer 🜁 \\',
    "none": None,
    "numbers": [1, -(2**63), 2**64 - 1, 0.1, 1e-320, -0.0, 1.0],
    "nested": {"a.b": {"": [[], {}]}, "b": [True, False]},
}
KIND = Kind(dimension=DIMENSION, embedding_model="m")
Make = Callable[..., Path]


def chunk(name: str, vector_D: np.ndarray, text: str = "", **metadata: Any) -> ChunkRow:
    return ChunkRow(
        id=name, document_id="d/1", position=0, text=text, metadata=metadata, vector_D=vector_D
    )


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with chunks that are hard to carry, some of them replaced and deleted."""
    data = tmp_path / "filled"
    data.mkdir()
    vectors_ND = unit_rows(9, 3)
    vectors_ND[0] *= 1.0004  # as far from 1 as a store allows
    chunks = [
        ChunkRow(
            id=f"ü/{row}",
            document_id=f"d{row % 2}",
            position=(-(2**63), 2**63 - 1, 0)[row % 3],
            text=("", ODD["text"])[row % 2],
            metadata=({}, ODD)[row % 2],
            vector_D=vector_D,
        )
        for row, vector_D in enumerate(vectors_ND)
    ]
    with closing(Store(data / STORE_FILE, create=True)) as store:
        store.write(chunks, kind=KIND)
        store.write([chunks[2]], ["ü/5"])
    return data


def whole(data: Path) -> list[tuple[Any, ...]]:
    """All chunks of a folder, by id, with the bits of their vectors."""
    with closing(Store(data / STORE_FILE, read_only=True)) as store:
        return [
            (one.id, one.document_id, one.position, one.text, repr(one.metadata), bits(one))
            for one in whole_chunks(store)
        ]


def bits(chunk: ChunkRow) -> bytes:
    return chunk.vector_D.tobytes()


def run(command: str, data: Path, file: Path, *flags: str) -> int:
    return main([command, str(file), "--data", str(data), *flags])


def test_what_is_exported_is_imported_to_the_bit(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, again = tmp_path / "a.zip", tmp_path / "b.zip"
    assert run("export", filled, file) == 0
    assert run("import", tmp_path / "new", file) == 0
    assert whole(tmp_path / "new") == whole(filled)
    assert capsys.readouterr().out.splitlines() == [
        f"export: version 2, 8 chunks, in {file}",
        "import: 8 chunks, of which 0 replace others; store version 1, 8 chunks",
    ]
    with closing(Store(tmp_path / "new" / STORE_FILE)) as store:
        assert (store.info().dimension, store.info().embedding_model) == (DIMENSION, "m")
    assert run("export", tmp_path / "new", again) == 0
    assert again.read_bytes() == file.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "filled", "new"]


def test_others_can_read_it(filled: Path, tmp_path: Path) -> None:
    assert run("export", filled, tmp_path / "a.zip") == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        manifest = json.loads(archive.read("manifest.json"))
        lines = [json.loads(line) for line in archive.read("chunks.jsonl").split(b"\n")[:-1]]
        vectors_ND = np.load(io.BytesIO(archive.read("vectors.npy")), allow_pickle=False)
        for name, about in manifest["members"].items():
            content = archive.read(name)
            digest = hashlib.sha256(content).hexdigest()
            assert about == {"bytes": len(content), "sha256": digest}
        kinds = {info.filename: info.compress_type for info in archive.infolist()}
    assert kinds["vectors.npy"] == zipfile.ZIP_STORED
    assert kinds["chunks.jsonl"] == zipfile.ZIP_DEFLATED
    assert [(line["id"], line["text"]) for line in lines] == [
        (one[0], one[3]) for one in whole(filled)
    ]
    assert vectors_ND.tobytes() == b"".join(one[-1] for one in whole(filled))
    assert (manifest["chunks"], manifest["dimension"], manifest["version"]) == (8, DIMENSION, 1)


def test_an_import_is_merged_or_replaces_all(
    filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("export", filled, tmp_path / "a.zip") == 0
    data = tmp_path / "data"
    data.mkdir()
    fresh_ND = unit_rows(2, 8)
    with closing(Store(data / STORE_FILE, create=True)) as store:
        store.write([chunk("own", fresh_ND[0]), chunk("ü/0", fresh_ND[1])], kind=KIND)
    assert run("import", data, tmp_path / "a.zip") == 0
    assert "8 chunks, of which 1 replace others; store version 2, 9 chunks" in (
        capsys.readouterr().out
    )
    assert whole(data)[1:] == whole(filled)
    assert whole(data)[0][0] == "own"
    assert run("import", data, tmp_path / "a.zip", "--replace") == 0
    assert "8 chunks replace all that were there; store version 3, 8" in capsys.readouterr().out
    assert whole(data) == whole(filled)


def test_an_old_store_is_exported_and_copied_as_it_is(tmp_path: Path) -> None:
    path = write_first(tmp_path / "old")
    before = path.read_bytes()
    assert run("export", tmp_path / "old", tmp_path / "a.zip") == 0
    assert run("backup", tmp_path / "old", tmp_path / "b.sqlite") == 0
    assert path.read_bytes() == before
    assert version_of(tmp_path / "b.sqlite") == 1
    assert run("import", tmp_path / "new", tmp_path / "a.zip") == 0
    for copied in (tmp_path / "new" / STORE_FILE, tmp_path / "b.sqlite"):
        with closing(Store(copied)) as store:
            are_the_first(whole_chunks(store))
            assert (store.info().name, store.info().embedding_model) == ("old", "old-16")


def test_blocks_meet_without_a_seam(tmp_path: Path) -> None:
    dimension = 1024
    rows = BLOCK_BYTES // (4 * dimension) + 3
    vectors_ND = unit_rows(rows, 1, dimension)
    with closing(Store(tmp_path / STORE_FILE, create=True)) as store:
        names = (f"c{row}" for row in range(rows))
        kind = Kind(dimension=dimension, embedding_model="")
        store.merge(map(chunk, names, vectors_ND), kind=kind, name="wide")
        write_archive(store, tmp_path / "a.zip")
    with Archive(tmp_path / "a.zip") as archive:
        archive.check(None)
        assert [one.id for one in archive.chunks()] == [f"c{row}" for row in range(rows)]
        assert b"".join(map(bits, archive.chunks())) == vectors_ND.tobytes()


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Writes archives whose digests are right, whatever else is not."""

    def build(
        lines: list[bytes] | None = None, rows_ND: np.ndarray | None = None, **about: Any
    ) -> Path:
        vectors = io.BytesIO()
        np.save(vectors, unit_rows(2, 1) if rows_ND is None else rows_ND)
        content = {
            "chunks.jsonl": b"".join([line(id="a"), line(id="b")] if lines is None else lines),
            "vectors.npy": vectors.getvalue(),
        }
        manifest = {
            "format": "nextchunk-archive",
            "version": 1,
            "name": "made",
            "chunks": 2,
            "dimension": DIMENSION,
            "embedding_model": "",
            "members": {
                name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in content.items()
            },
        }
        with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
            archive.writestr("manifest.json", json.dumps({**manifest, **about}))
        return tmp_path / "made.zip"

    return build


def line(**changes: Any) -> bytes:
    plain = {"id": "a", "document_id": "d", "position": 0, "text": "", "metadata": {}}
    return json.dumps({**plain, **changes}).encode() + b"\n"


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def _flip(path: Path, where: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(where) + len(where) + 200] ^= 1
    path.write_bytes(content)


DAMAGED: list[tuple[Callable[[Make], object], str]] = [
    (lambda make: _cut(make()), "damaged, or not an archive of a store: File is not a zip file"),
    (lambda make: make().write_bytes(b"PK\x03\x04 and so on"), "File is not a zip file"),
    (lambda make: make().unlink(), "No such file or directory"),
    (lambda make: _flip(make(), b"NUMPY"), "Bad CRC-32 for file 'vectors.npy'"),
    (lambda make: make(version=2), "expected nextchunk-archive version 1, got ('nextchunk-a"),
    (lambda make: make(chunks=3), "vectors.npy: expected float32 (3, 16), got ((2, 16)"),
    (lambda make: make(dimension=None), "manifest.json: expected chunks of some dimension"),
    (lambda make: make(members={}), "members: expected chunks.jsonl and vectors.npy"),
    (lambda make: make(members=None), "manifest.json: expected other members"),
    (lambda make: make([line()]), "chunks.jsonl: ends after 1 of 2 lines"),
    (lambda make: make([line(id="a"), line(id="b"), line()]), "holds more than 2 chunks"),
    (lambda make: make([line(), line()]), "chunks.jsonl line 2: 'a' stands twice"),
    (lambda make: make([b"{\n", line()]), "chunks.jsonl line 1: not JSON"),
    (lambda make: make([line(more=1), line(id="b")]), "line 1: expected an object of id, docu"),
    (lambda make: make([line(), line(id="")]), "line 2: id: expected str"),
    (lambda make: make([line(position=True), line(id="b")]), "line 1: position: expected int"),
    (lambda make: make([line(position=2**63), line(id="b")]), "line 1: position: expected 64"),
    (lambda make: make(rows_ND=2 * unit_rows(2, 1)), "vectors.npy row 0: expected a unit vector"),
    (lambda make: make(rows_ND=unit_rows(2, 1) * np.nan), "row 0: expected a unit vector"),
    (lambda make: make(rows_ND=unit_rows(2, 1).astype(np.float64)), "expected float32 (2, 16)"),
    (lambda make: make(members=_foreign()), "chunks.jsonl: its sha256 is not its manifest's"),
    (lambda make: make(rows_ND=unit_rows(2, 1, 8), dimension=8), "dimension is 8, that of the st"),
    (lambda make: make(embedding_model="n"), "its embedding model is n, that of the store m"),
]


def _foreign() -> dict[str, Any]:
    return {name: {"bytes": 0, "sha256": "0" * 64} for name in ("chunks.jsonl", "vectors.npy")}


@pytest.mark.parametrize(("damage", "message"), DAMAGED, ids=[case[1][-40:] for case in DAMAGED])
def test_a_file_that_is_not_as_it_should_be_changes_nothing(
    filled: Path,
    tmp_path: Path,
    make: Make,
    damage: Callable[[Make], object],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(make)
    before = (filled / STORE_FILE).read_bytes()
    assert run("import", filled, tmp_path / "made.zip") == 1
    told = capsys.readouterr().err
    assert told.startswith(f"import: {tmp_path / 'made.zip'}: ")
    assert message in told
    assert told.count("\n") == 1
    assert (filled / STORE_FILE).read_bytes() == before


def test_an_import_that_breaks_off_changes_nothing(filled: Path, tmp_path: Path) -> None:
    before = whole(filled)

    def breaking() -> Iterator[ChunkRow]:
        yield from (chunk(f"ü/{row}", vector) for row, vector in enumerate(unit_rows(600, 4)))
        raise ArchiveError("here")

    with closing(Store(filled / STORE_FILE)) as store:
        with pytest.raises(ArchiveError, match="here"):
            store.merge(breaking(), kind=KIND, name="")
        with pytest.raises(ArchiveError, match="here"):
            store.replace(breaking(), kind=KIND, name="", source="")
        assert store.info().version == 2
    assert whole(filled) == before


def test_what_cannot_be_done_is_told_in_one_line(
    filled: Path, tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    nothing = {"chunks": 0, "dimension": None, "rows_ND": np.empty((0, 0), np.float32)}
    cases = [
        (("export", tmp_path / "none", tmp_path / "a.zip"), "no such store"),
        (("backup", tmp_path / "none", tmp_path / "a.zip"), "no such store"),
        (("export", filled, filled / STORE_FILE), "expected a place outside the data folder"),
        (("backup", filled, filled / STORE_FILE), "expected a place outside the data folder"),
        (("export", filled, tmp_path / "no" / "a.zip"), "No such file or directory"),
        (("backup", filled, tmp_path / "no" / "a.zip"), "unable to open database file"),
        (("import", filled, make([], **nothing), "--replace"), "holds no chunks"),
    ]
    for words, message in cases:
        assert run(*words) == 1
        told = capsys.readouterr().err
        assert message in told, words
        assert told.count("\n") == 1
    with DataFolder(filled):
        assert run("import", filled, make()) == 1
    assert "in use by another nextchunk process; stop that first" in capsys.readouterr().err
    assert [path.name for path in tmp_path.glob(".*")] == []
    assert len(whole(filled)) == 8


def test_a_store_that_is_damaged_is_not_taken_along(filled: Path, tmp_path: Path) -> None:
    with closing(Store(filled / STORE_FILE)) as store:
        store._db.execute("UPDATE chunks SET vector = zeroblob(64) WHERE id = 'ü/1'")
        with pytest.raises(StoreError, match="unit vectors"):
            write_archive(store, tmp_path / "a.zip")
    content = bytearray((filled / STORE_FILE).read_bytes())
    content[8192:12288] = bytes(4096)
    (filled / STORE_FILE).write_bytes(content)
    with (
        closing(Store(filled / STORE_FILE, read_only=True)) as store,
        pytest.raises(StoreError, match=r"damaged|malformed"),
    ):
        back_up(store, tmp_path / "a.sqlite")
    assert [path.name for path in tmp_path.iterdir()] == ["filled"]


def find(collection: Collection, vector_D: np.ndarray) -> str:
    view = collection.view
    scope = Scope(allowed_N=None, excluded=np.empty(0, np.int64))
    return view.slots.ids[int(nearest(view, view.raw, vector_D, scope, 1)[0])]


def test_indexes_of_what_came_after_a_backup_do_not_outlive_it(tmp_path: Path) -> None:
    data, copy = tmp_path / "data", tmp_path / "b.sqlite"
    vectors_ND = unit_rows(60, 2)

    def write(start: int, stop: int, word: str, *, build: bool = False) -> None:
        opened = open_collection(Settings(data=data))
        rows = range(start, stop)
        opened.collection.upsert([chunk(f"{word}:{row}", vectors_ND[row]) for row in rows])
        if build:
            opened.collection.build()
        opened.close()

    write(0, 20, "kept", build=True)
    assert run("backup", data, copy) == 0
    write(20, 40, "lost", build=True)
    (data / STORE_FILE).write_bytes(copy.read_bytes())
    write(40, 60, "later")  # in rows of the same numbers as the lost ones
    opened = open_collection(Settings(data=data))
    assert opened.collection.view.living == 40
    for row in (*range(20), *range(40, 60)):
        word = "kept" if row < 20 else "later"
        assert find(opened.collection, vectors_ND[row]) == f"{word}:{row}"
    opened.close()
