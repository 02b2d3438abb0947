import json
import logging
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.__main__ import main
from service.keys import Key, KeyFile, KeyFileError, create_key, read_keys, revoke_key

KEY = re.compile(r"nck_[A-Za-z0-9_-]{43}")
START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def _names(path: Path) -> list[str]:
    return [key.name for key in read_keys(path).keys]


def test_create_prints_the_key_alone_and_keeps_its_hash_alone(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["key", "create", "--file", str(file), "--name", "app"]
    assert main([*asked, "--scopes", "write,read", "--expires-days", "30"]) == 0
    out, err = capsys.readouterr()
    secret = out.removesuffix("\n")
    assert KEY.fullmatch(secret)
    assert secret not in err + file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (key,) = read_keys(file).keys
    assert read_keys(file).find(secret) == key
    assert key.scopes == ("read", "write")
    assert key.expires == key.created + timedelta(days=30)
    assert key.sha256 not in repr(read_keys(file)) + repr(key)


def test_list_and_revoke(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create_key(file, "old", ["admin"], lifetime=timedelta(days=1), now=START)
    secret = create_key(file, "app", ["read", "write"], now=START)
    assert main(["key", "list", "--file", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "name  scopes      created     expires",
        "old   admin       2026-01-01  2026-01-02 (expired)",
        "app   read,write  2026-01-01  never",
    ]
    assert main(["key", "revoke", "--file", str(file), "app"]) == 0
    assert capsys.readouterr().out == ""
    assert read_keys(file).find(secret) is None
    assert _names(file) == ["old"]


def test_what_cannot_be_done_is_said_in_one_line(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    create_key(file, "app", ["read"])
    before = file.read_bytes()
    none = str(file.with_name("none.json"))
    for arguments, said in (
        (["create", "--file", str(file), "--name", "app"], "a key named app already"),
        (["create", "--file", str(file), "--name", "a b"], "name: String should match"),
        (["create", "--file", "/nowhere/keys.json", "--name", "x"], "No such file or directory"),
        (["revoke", "--file", str(file), "other"], "no key named other"),
        (["revoke", "--file", none, "app"], "none.json: No such file or directory"),
        (["list", "--file", none], "none.json: No such file or directory"),
    ):
        assert main(["key", *arguments]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("key: ")
        assert said in err
        assert err.count("\n") == 1
    for flags in (["--scopes", "read,root"], ["--scopes", ""], ["--expires-days", "0"]):
        with pytest.raises(SystemExit) as end:
            main(["key", "create", "--file", str(file), "--name", "x", *flags])
        assert end.value.code == 2
    assert file.read_bytes() == before


def test_creates_at_the_same_time_are_all_kept(file: Path) -> None:
    command = [sys.executable, "-m", "service", "key", "create", "--file", str(file), "--name"]
    running = [
        subprocess.Popen([*command, f"k{number}"], stdout=subprocess.PIPE, text=True)
        for number in range(6)
    ]
    secrets = [process.communicate()[0].strip() for process in running]
    ring = read_keys(file)
    found = [ring.find(secret) for secret in secrets]
    assert [key and key.name for key in found] == [f"k{number}" for number in range(6)]
    assert {path.name for path in file.parent.iterdir()} == {"keys.json", "keys.json.lock"}


def test_a_link_to_the_file_stays_one(tmp_path: Path, file: Path) -> None:
    link = tmp_path / "link.json"
    link.symlink_to(file)
    create_key(link, "app", ["read"])
    assert link.is_symlink()
    assert _names(file) == ["app"]


@pytest.mark.parametrize(
    ("own", "allowed"),
    [
        (("read",), {"read"}),
        (("write",), {"read", "write"}),
        (("admin",), {"read", "write", "admin"}),
        (("read", "admin"), {"read", "write", "admin"}),
    ],
)
def test_scopes_include_lesser_ones(own: tuple[str, ...], allowed: set[str]) -> None:
    key = Key(name="x", sha256="0" * 64, scopes=own, created=START)  # type: ignore[arg-type]
    assert {scope for scope in ("read", "write", "admin") if key.allows(scope)} == allowed  # type: ignore[arg-type]


SECRET = "nck_" + "s" * 43
GOOD = {"name": "x", "sha256": "0" * 64, "scopes": ["read"], "created": "2026-01-01T00:00:00Z"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (SECRET, "not JSON"),
        ([], "Input should be an object"),
        ({}, "keys: Field required"),
        ({"keys": [{**GOOD, "sha256": SECRET}]}, "keys.0.sha256: String should match"),
        ({"keys": [{**GOOD, "name": f"{SECRET} "}]}, "keys.0.name: String should match"),
        ({"keys": [{**GOOD, "scopes": [SECRET]}]}, "keys.0.scopes.0: Input should be 'read'"),
        ({"keys": [{**GOOD, "scopes": []}]}, "keys.0.scopes: Tuple should have at least 1"),
        ({"keys": [{**GOOD, "created": SECRET}]}, "keys.0.created: Input should be a valid date"),
        ({"keys": [{**GOOD, "expires": "2027-01-01T00:00:00"}]}, "keys.0.expires: Input should"),
        ({"keys": [{**GOOD, SECRET: 1}]}, "keys.0: Extra inputs are not permitted"),
        ({"keys": [GOOD, {**GOOD, "sha256": "1" * 64}]}, "two keys have the same name"),
        ({"keys": [GOOD, {**GOOD, "name": "y"}]}, "two keys have the same sha256"),
    ],
)
def test_a_mistake_in_the_file_is_located_and_not_quoted(
    file: Path, content: object, said: str
) -> None:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(KeyFileError) as caught:
        read_keys(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert said in message
    assert "\n" not in message
    assert SECRET not in message
    assert caught.value.__cause__ is None


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Iterator[Clock]:
    return Clock()


def test_a_change_is_seen_after_a_second_and_not_before(file: Path, clock: Clock) -> None:
    old = create_key(file, "old", ["read"])
    keys = KeyFile(file, clock)
    new = create_key(file, "new", ["read"])
    revoke_key(file, "old")
    clock.now_s += 0.9
    assert keys.ring().find(old)
    assert not keys.ring().find(new)
    clock.now_s += 0.2
    assert not keys.ring().find(old)
    assert keys.ring().find(new)


def test_a_spoiled_file_keeps_the_last_good_keys_and_is_reported_once(
    file: Path, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    secret = create_key(file, "app", ["read"])
    keys = KeyFile(file, clock)

    def warnings_after(looks: int) -> list[str]:
        caplog.clear()
        for _ in range(looks):
            clock.now_s += 1
            assert keys.ring().find(secret)
        return [record.message for record in caplog.records if record.levelno >= logging.WARNING]

    good = file.read_text()
    file.write_text(good[:-20])
    (warning,) = warnings_after(3)
    assert warning == f"the API keys stay as they were: {file}: not JSON"
    file.unlink()
    (warning,) = warnings_after(3)
    assert warning.endswith("No such file or directory")
    file.write_text(good)
    assert warnings_after(3) == []
    aside = file.rename(file.with_name("aside.json"))
    assert len(warnings_after(2)) == 1
    aside.rename(file)
    assert warnings_after(2) == []
    file.rename(aside)
    assert len(warnings_after(2)) == 1
    replacement = create_key(file, "other", ["read"])
    clock.now_s += 1
    assert keys.ring().find(replacement)
    assert not keys.ring().find(secret)


def test_at_the_start_the_file_must_be_good(file: Path) -> None:
    with pytest.raises(KeyFileError, match="No such file"):
        KeyFile(file)
