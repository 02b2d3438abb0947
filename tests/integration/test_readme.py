"""The README's commands for one's own documents, typed one after the other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import TOPICS, serving

ROOT = Path(__file__).parents[2]
FLAGS = ("--data", "--checkpoint")


def own_documents_blocks() -> list[list[list[str]]]:
    """Blocks of commands: with the shipped checkpoint, then with one's own."""
    section = (ROOT / "README.md").read_text().split("## Your own documents")[1].split("\n## ")[0]
    blocks = re.findall(r"```bash\n(.*?)```", section, re.DOTALL)
    return [[line.split("#")[0].split() for line in block.splitlines()] for block in blocks]


@pytest.mark.timeout(240)
def test_own_documents(tmp_path: Path, texts: Path) -> None:
    (tmp_path / "docs").symlink_to(texts)
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    shipped, own = own_documents_blocks()
    for block in (shipped, own):
        *steps, serve = block
        for words in steps:
            run(words, tmp_path)
        assert serve[:4] == ["python", "-m", "service", "serve"]
        data, checkpoint = (tmp_path / serve[serve.index(flag) + 1] for flag in FLAGS)
        ask(data, checkpoint)


def run(words: list[str], folder: Path) -> None:
    """Run a command; a gate may say no, anything else must succeed."""
    assert words[:2] == ["python", "-m"]
    extra = ["--epochs", "1"] if words[3] == "train" else []
    done = subprocess.run(
        [sys.executable, *words[1:], *extra],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    if words[3] == "gate":
        verdict = "failed" if done.returncode else "passed"
        assert done.stdout.startswith(f"gate: {verdict} "), (words, done.stdout, done.stderr)
    else:
        assert done.returncode == 0, (words, done.stderr)


def ask(data: Path, checkpoint: Path) -> None:
    """Serve, and ask what the README asks."""
    gate = json.loads((checkpoint / "gate.json").read_bytes())
    with serving("--data", data, "--checkpoint", checkpoint) as client:
        document = f"{TOPICS[0]}.txt"
        ids = [f"{document}:{place}" for place in range(3)]
        answer = client.post("/v1/rank", json={"context_ids": ids}).raise_for_status().json()
        assert len(answer["results"]) == 10
        passed = gate["verdict"] == "passed"
        assert answer["mode"] == ("p8" if passed else "retrieval")
        assert answer["fallback_reason"] == (None if passed else "gate_failed")
        pair = {"a_id": ids[0], "b_id": ids[2]}
        forth = client.post("/v1/order", json=pair).raise_for_status().json()
        back = client.post("/v1/order", json={"a_id": ids[2], "b_id": ids[0]}).json()
        assert forth["p_b_after_a"] == 1 - back["p_b_after_a"]
