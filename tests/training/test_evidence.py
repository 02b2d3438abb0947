"""The evaluation tables of docs/evidence.md are what their JSON says, to the last figure."""

import json
import re
from pathlib import Path

from training.tables import render_reports

DOCS = Path(__file__).parents[2] / "docs"


def test_the_evidence_is_the_rendered_reports() -> None:
    page = (DOCS / "evidence.md").read_text()
    sections = re.findall(
        r"<!-- tables:(\S+):begin ([^\n]+) -->\n(.*?)<!-- tables:\1:end -->", page, re.DOTALL
    )
    assert sections
    assert page.count("<!-- tables:") == 2 * len(sections)
    for name, files, text in sections:
        reports = [json.loads((DOCS / file).read_bytes()) for file in files.split()]
        assert text.strip() == render_reports(reports).strip(), name
