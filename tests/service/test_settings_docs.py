import re
from pathlib import Path

import pytest

from service.errors import UnreachableError, error_classes
from service.settings import (
    Settings,
    SettingsError,
    add_flags,
    flag_of,
    settings_from,
    variable_of,
)

DOCS = Path(__file__).parents[2] / "docs"


def _table(name: str, heading: str) -> list[list[str]]:
    """Cells of the first table under a heading."""
    section = (DOCS / name).read_text().split(f"## {heading}\n", 1)[1]
    rows = re.search(r"(?:^\|.*\n)+", section, re.MULTILINE)
    assert rows
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in rows[0].splitlines()]
    return cells[2:]


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.is_required():
        return "required"
    return "none" if str(field.default) in ("None", "") else f"`{field.default}`"


def test_every_setting_has_its_row() -> None:
    expected = [
        [f"`{flag_of(name)}`", f"`{variable_of(name)}`", _default(name), str(field.description)]
        for name, field in Settings.model_fields.items()
    ]
    assert _table("configuration.md", "Settings of the service") == expected


def test_every_error_has_its_row() -> None:
    expected = {
        (f"`{kind.code}`", str(kind.status), kind.title)
        for kind in error_classes()
        if kind is not UnreachableError
    }
    rows = _table("api.md", "Errors")
    assert {(code, status, title) for code, status, title, _ in rows} == expected
    assert len(rows) == len(expected)


def _parsed(*flags: str) -> Settings:
    import argparse

    parser = argparse.ArgumentParser()
    add_flags(parser)
    return settings_from(parser.parse_args(flags))


def test_a_flag_wins_over_the_environment_and_that_over_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NEXTCHUNK_PORT", "9000")
    monkeypatch.setenv("NEXTCHUNK_DATA", "somewhere")
    monkeypatch.setenv("NEXTCHUNK_CHECKPOINT", "")
    settings = _parsed("--queue-limit", "3")
    assert (settings.port, settings.queue_limit, settings.workers) == (9000, 3, 2)
    assert (settings.data, settings.checkpoint) == (Path("somewhere"), None)
    assert _parsed("--port", "9001").port == 9001
    assert settings.rerank
    monkeypatch.setenv("NEXTCHUNK_RERANK", "false")
    assert not _parsed().rerank
    assert _parsed("--rerank", "true").rerank


def test_mistakes_are_named_with_flag_and_variable() -> None:
    with pytest.raises(SettingsError) as caught:
        _parsed("--port", "99999", "--rerank", "maybe", "--log-level", "loud")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "--data (NEXTCHUNK_DATA)",
        "--rerank (NEXTCHUNK_RERANK)",
        "--port (NEXTCHUNK_PORT)",
        "--log-level (NEXTCHUNK_LOG_LEVEL)",
    ]
    assert lines[0].endswith("got nothing")
    assert lines[2].endswith("got '99999'")
