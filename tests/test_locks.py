"""The locks of the image agree with pyproject.toml, and say nothing about where packages are."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
LOCKS = ROOT / "docker" / "locks"
NAMES = sorted(path.stem for path in LOCKS.glob("*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
WHERE = {"python_version": "3.11", "python_full_version": "3.11.2", "sys_platform": "linux"}
PROCESSORS = ("x86_64", "aarch64")


def pins(name: str, processor: str) -> dict[str, str]:
    """Version of each package that the lock installs on a Linux of this processor."""
    found: dict[str, str] = {}
    for line in (LOCKS / f"{name}.txt").read_text().splitlines():
        if not line.startswith(("#", " ")):
            one = Requirement(line.rstrip(" \\"))
            if one.marker is None or one.marker.evaluate({**WHERE, "platform_machine": processor}):
                (only,) = one.specifier
                assert only.operator == "==", line
                key = canonicalize_name(one.name)
                assert key not in found, line
                found[key] = only.version
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_version_has_hashes_and_nothing_else(name: str) -> None:
    text = (LOCKS / f"{name}.txt").read_text()
    blocks = re.split(r"\n(?=[^ ])", text.strip())
    for block in blocks[1:]:
        head, *hashes = block.splitlines()
        assert re.fullmatch(r"[a-z0-9-]+==[^ ]+(?: ; .+)? \\", head), head
        assert hashes, head
        for place, line in enumerate(hashes, 1):
            end = "" if place == len(hashes) else r" \\"
            assert re.fullmatch(rf"    --hash=sha256:[0-9a-f]{{64}}{end}", line), line
    assert "://" not in text


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("extra", ["", *(extra for extra in EXTRAS if extra != "dev")])
def test_what_is_required_is_locked(extra: str, processor: str) -> None:
    locked = pins("serve", processor) | pins("torch", processor)
    required = PROJECT["project"]["dependencies"]
    if extra:
        added = pins(extra, processor)
        assert not added.keys() & locked.keys()
        locked |= added
        required = [*required, *EXTRAS[extra]]
    for line in required:
        one = Requirement(line)
        version = locked[canonicalize_name(one.name)]
        assert one.specifier.contains(version), (line, version)


def test_what_builds_is_locked() -> None:
    for line in PROJECT["build-system"]["requires"]:
        one = Requirement(line)
        assert one.specifier.contains(pins("build", "x86_64")[one.name])


def test_the_embedder_is_that_of_the_makefile() -> None:
    (wanted,) = re.findall(r"^EMBEDDER := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    found = pins("embedder", "x86_64")
    assert [f"{name}=={version}" for name, version in found.items()] == [wanted]


def test_no_package_has_two_versions() -> None:
    seen: dict[str, str] = {}
    for name in NAMES:
        for package, version in pins(name, "x86_64").items():
            version = version.removesuffix("+cpu")
            assert seen.setdefault(package, version) == version, (name, package)


def test_nothing_for_gpus_is_in_another_lock_than_its_own() -> None:
    assert pins("gpu", "x86_64")
    for name in set(NAMES) - {"gpu"}:
        assert not [one for one in pins(name, "x86_64") if re.match("nvidia|cuda|triton", one)]
