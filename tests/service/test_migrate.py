"""Chunks that are moved into Milvus and back are the same, to the bit, or nothing was changed."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from service.__main__ import main
from service.errors import IndexUnavailableError
from service.folder import DataFolder
from service.milvus.link import Link
from service.milvus.moving import (
    WRITTEN_AT_ONCE,
    MoveError,
    folder_target,
    milvus_source,
    move,
)
from service.milvus.store import MilvusStore
from service.milvus.tables import CHUNKS, DOCUMENTS, LEARNED, key_of, learned_row
from service.settings import Settings
from service.store import STORE_FILE, ChunkRow, Kind, Store

from .conftest import DIMENSION, unit_rows, whole_chunks
from .lite import LiteServer
from .test_archive import ODD

KIND = Kind(dimension=DIMENSION, embedding_model="m")
NASTY = [
    "plain",
    'quo"ted',
    "it's",
    "back\\slash",
    "new\nline",
    "nul\x00byte",
    "🜁 größer",
    "\u2028\u2029\ufeff\uffff\ud7ff\U0010ffff",
    "{}[]()% in ['a']",
    " ",
    "é",
    "e\u0301",
    "x" * 1024,
    "🜁" * 1024,
]
KILLED = """
import os, signal, sys
from pathlib import Path
from service.milvus.moving import folder_source, milvus_target, move
from service.settings import Settings

def watch(chunks, what):
    for number, chunk in enumerate(chunks):
        if what == "written" and number == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        yield chunk

data = Path(sys.argv[1])
settings = Settings(data=data, index_url=sys.argv[2])
with folder_source(data) as source, milvus_target(settings) as target:
    move(source, target, merge=False, watch=watch)
"""
DEEP: dict[str, Any] = {**ODD, "lists": [{"a": [1, "b", None]}] * 40, "größe": "🜁\x00", "": ""}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiteServer]:
    running = LiteServer(tmp_path_factory.mktemp("milvus")).start()
    yield running
    running.close()


@pytest.fixture
def url(server: LiteServer) -> str:
    server.empty()
    return server.url


def chunk(name: str, vector_D: np.ndarray, document: str = "d", **other: Any) -> ChunkRow:
    given = {"position": 0, "text": "", "metadata": {}, **other}
    return ChunkRow(id=name, document_id=document, vector_D=vector_D, **given)


def write(data: Path, chunks: list[ChunkRow], kind: Kind = KIND, name: str = "tiny") -> Path:
    data.mkdir(exist_ok=True)
    with closing(Store(data / STORE_FILE, create=True)) as store:
        store.merge(chunks, kind=kind, name=name)
    return data


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A folder with chunks that are hard to carry, in the order of their documents."""
    vectors_ND = unit_rows(3 * len(NASTY), 3)
    vectors_ND[0] *= 1.0004  # as far from 1 as a store allows
    chunks = [
        chunk(
            f"{name}{place}"[-1024:],
            vectors_ND[3 * number + place],
            name,
            position=(-(2**63), 0, 2**63 - 1)[place],
            text=("", name, ODD["text"])[place],
            metadata=({}, {name: [name, 2**53 + 1]}, DEEP)[place],
        )
        for number, name in enumerate(sorted(NASTY))
        for place in range(3)
    ]
    return write(tmp_path / "filled", chunks)


def whole(data: Path) -> list[tuple[Any, ...]]:
    """All chunks of a folder in row order, as their bytes."""
    with closing(Store(data / STORE_FILE, read_only=True)) as store:
        return [
            (
                one.id,
                one.document_id,
                one.position,
                one.text,
                orjson.dumps(one.metadata),
                one.vector_D.tobytes(),
            )
            for one in whole_chunks(store)
        ]


def run(source: Path | str, target: Path | str, *flags: str) -> int:
    return main(["migrate", "--from", str(source), "--to", str(target), *flags])


def opened(url: str) -> MilvusStore:
    settings = Settings(data=Path("none"), index_url=url, index_consistency="strong")
    return MilvusStore(Link.from_settings(settings))


def counts(url: str) -> tuple[int, int]:
    with closing(opened(url)) as store:
        return store.count(CHUNKS), store.count(DOCUMENTS)


def test_what_goes_to_milvus_comes_back_to_the_bit(
    filled: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    total, before = 3 * len(NASTY), whole(filled)
    assert run(filled, url) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(f"migrate: {total} chunks, of which 0 replace others, in ")
    assert told[0].endswith(f"; {url} now holds {total}")
    assert "learned vectors" in told[1]
    assert counts(url) == (total, len(NASTY))
    assert run(url, tmp_path / "back") == 0
    assert "builds its indexes" in capsys.readouterr().out
    assert whole(tmp_path / "back") == before == whole(filled)
    with closing(Store(tmp_path / "back" / STORE_FILE, read_only=True)) as store:
        info = store.info()
    assert (info.dimension, info.embedding_model, info.name) == (DIMENSION, "m", "tiny")


def test_a_folder_that_a_service_uses_can_be_read_and_not_written(
    filled: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with DataFolder(filled):
        assert run(filled, url) == 0
        assert run(url, filled, "--merge") == 1
    assert "in use by another nextchunk process" in capsys.readouterr().err
    assert run(url, filled, "--merge") == 0
    total = 3 * len(NASTY)
    assert f"{total} chunks, of which {total} replace others" in capsys.readouterr().out
    assert len(whole(filled)) == total


def test_rows_come_in_the_order_of_documents_and_keep_that_of_one_position(
    tmp_path: Path, url: str
) -> None:
    vectors_ND = unit_rows(600, 4)
    # A batch and a part; the ids of one position do not sort as they came.
    chunks = [
        chunk(f"{row * 7919 % 600}", vectors_ND[row], f"d{row % 3}", position=row % 2)
        for row in range(600)
    ]
    data = write(tmp_path / "data", chunks)
    assert run(data, url) == 0
    assert run(url, tmp_path / "back") == 0
    wanted = sorted(whole(data), key=lambda one: (one[1], one[2]))
    assert whole(tmp_path / "back") == wanted


def test_chunks_of_other_ids_stay_and_those_of_the_same_are_replaced(
    filled: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors_ND, [moved, *_] = unit_rows(3, 8), whole(filled)
    own = [chunk("own", vectors_ND[0], "left"), chunk(moved[0], vectors_ND[1], "gone")]
    assert run(write(tmp_path / "own", own), url) == 0
    with closing(opened(url)) as store:
        # As a replica that serves a checkpoint has made it.
        store.make_table(f"{LEARNED}v", DIMENSION)
        rows = [learned_row(row, row["vector"]) for row in store.put_chunks(own, 1)]
        store.put(f"{LEARNED}v", rows)
    capsys.readouterr()
    for place, what in ((url, f"{url}: "), (tmp_path / "own", f"{tmp_path / 'own'}: ")):
        source = url if place != url else filled
        assert run(source, place) == 1
        assert f"{what}holds 2 chunks; --merge keeps" in capsys.readouterr().err
    assert run(filled, url, "--merge") == 0
    total = 3 * len(NASTY)
    assert f"{total} chunks, of which 1 replace others" in capsys.readouterr().out
    assert counts(url) == (total + 1, len(NASTY) + 1)
    with closing(opened(url)) as store:
        # The vector of what it was would be found for it.
        left = store.query(f"{LEARNED}v", "written > 0", ["key"])
        assert [row["key"] for row in left] == [key_of("own")]
    assert run(url, tmp_path / "own", "--merge") == 0
    found = whole(tmp_path / "own")
    assert sorted(found) == sorted(whole(filled) + [one for one in found if one[0] == "own"])


def test_between_two_of_milvus(filled: Path, tmp_path: Path, url: str) -> None:
    file = f"milvus-lite:{tmp_path / 'other.db'}"
    assert run(filled, url) == 0
    assert run(url, file) == 0
    # The file is opened anew, after all that it held was forgotten to be loaded.
    assert run(file, tmp_path / "back") == 0
    assert whole(tmp_path / "back") == whole(filled)


def test_what_cannot_be_done_is_told_in_one_line_and_nothing_is_changed(
    filled: Path, tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    row_D, other_D = unit_rows(1, 5)[0], unit_rows(1, 5, 8)[0]
    empty = write(tmp_path / "empty", [])
    long_text = write(tmp_path / "text", [chunk("a", row_D), chunk("b", row_D, text="ü" * 33_000)])
    long_id = write(tmp_path / "id", [chunk("🜁" * 1025, row_D)])
    many = {f"k{number}": "v" * 20 for number in range(2000)}
    much = write(tmp_path / "much", [chunk("a", row_D, metadata=many)])
    cases: list[tuple[Path | str, Path | str, str]] = [
        (filled, tmp_path / "new", "'export' and 'import'"),
        (url, url.replace("/default", ""), "is where they are already"),
        (tmp_path / "none", url, "no such store"),
        (empty, url, f"{empty}: holds no chunks; nothing was changed"),
        (url, tmp_path / "new", f"{url}: holds no chunks; nothing was changed"),
        (long_text, url, "chunk 'b': text: expected at most 65535 bytes, which is what Milvus"),
        (long_id, url, ": id: expected at most 4096 bytes"),
        (much, url, "chunk 'a': metadata: expected at most 65000 bytes of digests for filters"),
        (filled, "milvus://a b", "--to: expected milvus://HOST:PORT/DATABASE"),
        ("milvus://u:secret@host", filled, "got something else that begins with 'milvus'"),
        (filled, "milvus://127.0.0.1:1", "nothing answers at milvus://127.0.0.1:1/default"),
    ]
    for source, target, message in cases:
        assert run(source, target, "--index-timeout-s", "1") == 1, message
        told = capsys.readouterr().err
        assert message in told
        assert told.count("\n") == 1
    with closing(opened(url)) as store:
        assert not store.dimension
    assert not (tmp_path / "new" / STORE_FILE).exists()

    assert run(filled, url) == 0
    small = write(tmp_path / "small", [chunk("a", other_D)], Kind(dimension=8, embedding_model="m"))
    other = write(
        tmp_path / "other", [chunk("a", row_D)], Kind(dimension=DIMENSION, embedding_model="n")
    )
    capsys.readouterr()
    kinds = [
        (small, url, f"{small}: its dimension is 8, that of {url} 16"),
        (url, small, f"{url}: its dimension is 16, that of {small} 8"),
        (other, url, f"{other}: its embedding model is n, that of {url} m"),
        (url, other, f"{url}: its embedding model is m, that of {other} n"),
    ]
    for source, target, message in kinds:
        assert run(source, target, "--merge") == 1
        assert capsys.readouterr().err == f"migrate: {message}\n"
    assert counts(url) == (3 * len(NASTY), len(NASTY))
    assert len(whole(small)) == len(whole(other)) == 1


def test_one_that_was_killed_is_completed(
    tmp_path: Path, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors_ND = unit_rows(600, 6)
    data = write(
        tmp_path / "data",
        [chunk(f"c{row:03}", vectors_ND[row], f"d{row // 40:02}") for row in range(600)],
    )
    words = [sys.executable, "-c", KILLED, str(data), url, "550"]
    assert subprocess.run(words, check=False).returncode == -signal.SIGKILL
    done, _ = counts(url)
    assert done == WRITTEN_AT_ONCE
    assert run(data, url) == 1
    assert f"holds {done} chunks; --merge keeps" in capsys.readouterr().err
    assert run(data, url, "--merge") == 0
    assert f"600 chunks, of which {done} replace others" in capsys.readouterr().out
    assert counts(url) == (600, 15)
    assert run(url, tmp_path / "back") == 0
    assert whole(tmp_path / "back") == whole(data)


def test_a_milvus_that_changes_or_goes_away_leaves_a_folder_as_it_was(
    tmp_path: Path, server: LiteServer, url: str
) -> None:
    vectors_ND = unit_rows(300, 9)
    data = write(tmp_path / "data", [chunk(f"c{row}", vectors_ND[row]) for row in range(300)])
    own = write(tmp_path / "own", [chunk("own", vectors_ND[0])])
    before = whole(own)
    assert run(data, url) == 0
    settings = Settings(data=own, index_url=url, index_timeout_s=1)

    def meanwhile(disturb: Callable[[], Any]) -> None:
        def watch(chunks: Iterator[ChunkRow], what: str) -> Iterator[ChunkRow]:
            assert what == "written"
            yield next(chunks)
            disturb()
            yield from chunks

        with milvus_source(settings) as source, folder_target(own) as target:
            move(source, target, merge=True, watch=watch)

    with closing(opened(url)) as store:
        row_D = vectors_ND[1]
        with pytest.raises(MoveError, match="300 were read; is it written to meanwhile"):
            meanwhile(lambda: store.put_chunks([chunk("new", row_D)], store.next_version()))
        store.delete_chunks(["new"])
        again = [chunk(f"c{row}", row_D) for row in range(290)]
        with pytest.raises(MoveError, match="or are others than were there before"):
            meanwhile(lambda: store.put_chunks(again, store.next_version()))
        with pytest.raises(MoveError, match="chunks are gone"):
            meanwhile(lambda: store.delete_chunks([one.id for one in again]))
    assert run(data, url, "--merge") == 0
    with pytest.raises(IndexUnavailableError, match="did not answer"):
        meanwhile(server.kill)
    server.start()
    assert whole(own) == before
    assert run(url, own, "--merge") == 0
    assert len(whole(own)) == 301
