"""The documents tell the truth: links lead somewhere, commands and targets exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from service.__main__ import main as service
from tests.fault.kill import main as kill
from training.__main__ import build_parser

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
PLACES = {page: str(page.relative_to(ROOT)) for page in PAGES}


def commands(page: Path) -> list[list[str]]:
    """Every command of the page's bash blocks, its comments dropped."""
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    found = []
    for line in joined.splitlines():
        line = re.sub(r"^torchrun .* -m training ", "python -m training ", line)
        if line.startswith(("python -m ", "make ")):
            found.append(shlex.split(line, comments=True))
    return found


@pytest.mark.parametrize("page", PAGES, ids=PLACES.get)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=PLACES.get)
def test_commands_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for words in commands(page):
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words
        elif words[2] == "training":
            build_parser().parse_args(words[3:])
        elif words[2] == "tests.fault.kill":
            with pytest.raises(SystemExit) as end:
                kill([*words[3:], "--help"])
            assert end.value.code == 0, words
        elif words[2].startswith("benchmarks."):
            asked = [sys.executable, "-m", words[2], "--help"]
            text = subprocess.run(
                asked, cwd=ROOT, capture_output=True, check=True, text=True
            ).stdout
            known = set(re.findall(r"--[a-z-]+", text))
            assert {word for word in words[3:] if word.startswith("--")} <= known, words
        else:
            assert words[2] == "service"
            with pytest.raises(SystemExit) as end:
                service([*words[3:], "--help"])
            assert end.value.code == 0, words
            known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
            assert {word for word in words[3:] if word.startswith("--")} <= known, words


def test_the_pages_have_no_open_places() -> None:
    for page in PAGES:
        assert not re.search(r"@[A-Z_]+@", page.read_text()), PLACES[page]


def test_every_module_is_small() -> None:
    for folder in ("models", "training", "service"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path.relative_to(ROOT)
