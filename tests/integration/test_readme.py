"""The README's commands for one's own documents, typed one after the other."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.integration.conftest import TOPICS, serving

README = Path(__file__).parents[2] / "README.md"


def own_documents_block() -> list[list[str]]:
    section = README.read_text().split("## Your own documents")[1]
    block = re.search(r"```bash\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return [line.split("#")[0].split() for line in block[1].splitlines()]


def test_own_documents(tmp_path: Path, texts: Path) -> None:
    (tmp_path / "docs").symlink_to(texts)
    *steps, serve = own_documents_block()
    assert serve[3] == "serve"
    environment = {**os.environ, "PYTHONPATH": str(README.parent)}
    for words in steps:
        assert words[:2] == ["python", "-m"]
        extra = ["--epochs", "1"] if words[3] == "train" else []
        done = subprocess.run(
            [sys.executable, *words[1:], *extra],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=110,
        )
        assert done.returncode == 0, (words, done.stderr)
    gate = json.loads((tmp_path / "checkpoint" / "gate.json").read_bytes())
    paths = [tmp_path / word if word in ("store", "checkpoint") else word for word in serve[4:]]
    with serving(*paths) as client:
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
