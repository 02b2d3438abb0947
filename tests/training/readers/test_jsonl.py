import gzip
import json
import lzma
from pathlib import Path

import pytest
import zstandard

from training.chunking import ChunkingConfig
from training.raw import Chunk, InputError, RawDocument
from training.readers.jsonl import read_jsonl

LINES = [
    {
        "doc_id": "a",
        "title": "T",
        "source": "S",
        "licence": "CC0-1.0",
        "chunks": [{"text": "tiny", "section": "Intro"}, {"text": "word " * 900}],
    },
    {"doc_id": "b", "chunks": ["bare"], "group": "g", "title": None},
]
CONTENT = "\n".join(map(json.dumps, LINES)).encode() + b"\n\n"


def read(path: Path) -> list[RawDocument]:
    return list(read_jsonl(path, "unused", ChunkingConfig()))


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("c.jsonl", bytes),
        ("c.jsonl.gz", gzip.compress),
        ("c.jsonl.xz", lzma.compress),
        ("c.jsonl.zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_every_compression(tmp_path: Path, name: str, compress):
    (tmp_path / name).write_bytes(compress(CONTENT))
    a, b = read(tmp_path / name)
    assert (a.doc_id, a.title, a.source, a.licence, a.group) == ("a", "T", "S", "CC0-1.0", None)
    assert a.chunks == (Chunk(text="tiny", section="Intro"), Chunk(text="word " * 900))
    assert (b.doc_id, b.chunks, b.group, b.title) == ("b", (Chunk(text="bare"),), "g", "")
    assert b.origin == f"{name} line 2"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected an object, got list"),
        ('{"chunks": ["x"]}', "doc_id: expected a non-empty string, got nothing"),
        ('{"doc_id": 7, "chunks": ["x"]}', "doc_id: expected a string, got int '7'"),
        ('{"doc_id": "x"}', "chunks: expected a non-empty list, got nothing"),
        ('{"doc_id": "x", "chunks": []}', "chunks: expected a non-empty list"),
        ('{"doc_id": "x", "chunks": ["y", {}]}', r"chunks\.1: expected a string or"),
        (
            '{"doc_id": "x", "chunks": [{"text": "y", "section": 1}]}',
            r"chunks\.0: section: expected a string",
        ),
    ],
)
def test_broken_line_is_named(tmp_path: Path, line: str, message: str):
    path = tmp_path / "c.jsonl"
    path.write_text('{"doc_id": "ok", "chunks": ["x"]}\n' + line + "\n")
    with pytest.raises(InputError, match=rf"c\.jsonl line 2: .*{message}"):
        read(path)


def test_not_utf8(tmp_path: Path):
    (tmp_path / "c.jsonl").write_bytes(b'{"doc_id": "\xff"}\n')
    with pytest.raises(InputError, match="line 1: not JSON"):
        read(tmp_path / "c.jsonl")


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("c.gz", gzip.compress),
        ("c.xz", lzma.compress),
        ("c.zst", zstandard.ZstdCompressor().compress),
    ],
)
def test_damaged_archive(tmp_path: Path, name: str, compress):
    (tmp_path / name).write_bytes(compress(CONTENT * 50)[:-9])
    with pytest.raises(InputError, match=name):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b"plain text")
    with pytest.raises(InputError, match=f"{name} after line 0: cannot be decompressed"):
        read(tmp_path / name)
