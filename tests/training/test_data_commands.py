"""``prepare``, ``embed``, ``subset`` and ``parity``, as they are called."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from training.__main__ import COMMANDS, main
from training.dataset import PreparedDataset


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = [
        {"doc_id": f"doc {number}", "chunks": [f"Text {number} {n}." for n in range(9)]}
        for number in range(60)
    ]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture
def vectors(tmp_path: Path) -> Path:
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(540, 4)).astype(np.float16))
    return tmp_path / "v.npy"


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr().err
    assert captured.count("\n") == 1
    return captured


def test_from_documents_to_parity(corpus: Path, vectors: Path, tmp_path: Path, capsys):
    data, small = tmp_path / "data", tmp_path / "small"
    flags = ["--vectors", str(vectors), "--vectors-model", "m", "--name", "texts"]
    assert main(["prepare", str(corpus), "--out", str(data), *flags]) == 0
    assert "60 documents, 540 chunks" in capsys.readouterr().out
    manifest = PreparedDataset.open(data).manifest
    assert manifest["name"] == "texts"
    assert manifest["vectors"]["model"] == "m"
    assert str(tmp_path) not in (data / "manifest.json").read_text()
    assert main(["parity", str(data)]) == 0
    assert capsys.readouterr().out.count("parity ok") == 1
    assert {path.name for path in (data / "parity").iterdir()} == {"parity.json", "parity.png"}
    assert main(["subset", str(data), "--out", str(small), "--windows", "80"]) == 0
    assert "10 documents, 90 chunks, 80 windows" in capsys.readouterr().out


def test_unembedded_data_name_the_next_command(corpus: Path, tmp_path: Path, capsys):
    data = tmp_path / "data"
    assert main(["prepare", str(corpus), "--out", str(data)]) == 0
    assert f"next: python -m training embed {data}" in capsys.readouterr().out
    assert PreparedDataset.open(data).manifest["name"] == "data"
    assert main(["parity", str(data)]) == 2
    assert f"python -m training embed {data}" in error_line(capsys)


def test_embed_once(corpus: Path, tmp_path: Path, capsys):
    data = str(tmp_path / "data")
    corpus.write_text(corpus.read_text().partition("\n")[0])
    assert main(["prepare", str(corpus), "--out", data]) == 0
    assert main(["embed", data]) == 0
    assert "9 vectors of 384 dimensions by all-MiniLM-L6-v2" in capsys.readouterr().out
    assert main(["embed", data]) == 0
    assert "already embedded" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "--out", "{tmp}/x"], "INPUT: expected at least one file"),
        (["prepare", "{tmp}/absent", "--out", "{tmp}/x"], "absent: no such file or folder"),
        (["prepare", "{tmp}/v.npy", "--out", "{tmp}/x"], "expected a file ending in one of"),
        (["prepare", "{corpus}", "--out", "{tmp}"], "choose another folder"),
        (["prepare", "{corpus}", "--out", "{tmp}/x", "--packages", "numpy"], "--packages"),
        (["prepare", "{corpus}", "--out", "{tmp}/x", "--max-words", "1"], "max_words"),
        (["prepare", "{corpus}", "--out", "{tmp}/x", "--vectors", "{tmp}/n.npy"], "n.npy"),
        (["prepare", "{corpus}", "--out", "{tmp}/x", "--vectors", "{corpus}"], "a .npy file"),
        (["prepare", "--demo", "--packages", "nope", "--out", "{tmp}/x"], "got 'nope'"),
        (["embed", "{tmp}"], "is not prepared data"),
        (["subset", "{tmp}", "--out", "{tmp}", "--windows", "3"], "another folder than DIR"),
        (["subset", "{tmp}", "--out", "{tmp}/x", "--windows", "3"], "is not prepared data"),
    ],
)
def test_faults_are_one_line(
    corpus: Path, vectors: Path, tmp_path: Path, capsys, arguments: list[str], message: str
):
    filled = [one.format(tmp=tmp_path, corpus=corpus) for one in arguments]
    assert main(filled) == 2
    assert message in error_line(capsys)
    assert not (tmp_path / "x").exists()


def test_unknown_command_shows_usage(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["fly"])
    assert stopped.value.code == 2
    assert "usage: python -m training" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command", ["prepare", "embed", "subset", "parity", "train", "evaluate", "gate"]
)
def test_every_flag_says_its_default(command: str, capsys):
    assert command in COMMANDS
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = re.split(r"\n  (?=--)", capsys.readouterr().out)[1:]
    assert options
    for option in options:
        assert "default" in option or option.startswith("--out "), option


def test_help_is_light():
    script = (
        "import sys; from training.__main__ import build_parser; build_parser().format_help(); "
        "print({'torch', 'scipy', 'matplotlib', 'lxml', 'trafilatura'} & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_interrupt(corpus: Path, tmp_path: Path, capsys):
    data = tmp_path / "data"
    parser_free = [sys.executable, "-c", (
        "import sys, training.__main__ as m\n"
        "import training.readers.registry as r\n"
        "def stop(*_): raise KeyboardInterrupt\n"
        "r.READERS['.jsonl'] = stop\n"
        "sys.exit(m.main(sys.argv[1:]))"
    )]  # fmt: skip
    done = subprocess.run(
        [*parser_free, "prepare", str(corpus), "--out", str(data)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    assert not data.exists()
