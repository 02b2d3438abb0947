"""The ladder's section of docs/evidence.md is what its JSON says, to the last figure."""

import json
import re
from pathlib import Path

from training.ladder.report import render

DOCS = Path(__file__).parents[3] / "docs"


def test_the_evidence_is_the_rendered_ladder() -> None:
    report = json.loads((DOCS / "ladder" / "ladder.json").read_bytes())
    page = (DOCS / "evidence.md").read_text()
    sections = re.findall(r"<!-- ladder:begin -->\n(.*?)<!-- ladder:end -->", page, re.DOTALL)
    assert len(sections) == 1
    assert sections[0].strip() == render(report).strip()
    assert (DOCS / "ladder" / "ladder.png").read_bytes().startswith(b"\x89PNG")
