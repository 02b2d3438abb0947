"""The client is light: what it imports is looked at in a process of its own."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "faiss", "models", "fastapi", "safetensors", "training"}


@pytest.mark.parametrize(
    "statement",
    [
        "from service.client import AsyncClient, Client; Client(), AsyncClient()",
        "import service.__main__",
        "import service.commands.rank, service.commands.order",
        "from service.__main__ import main; main(['rank', '--ids', 'a', '--url', 'http://[::1]:9'])",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    check = f"import sys; {statement}; print(*({HEAVY!r} & sys.modules.keys()))"
    found = subprocess.run(
        [sys.executable, "-W", "error", "-c", check], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ""
