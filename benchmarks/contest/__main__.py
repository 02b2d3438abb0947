"""Run it: ``python -m benchmarks.contest DATASET [--quick]``."""

import argparse
import json
import os
import platform
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contest.floor import Floor
from benchmarks.contest.page import PAGE, PLOT, RESULTS, replaced
from benchmarks.contest.plot import plot_run
from benchmarks.contest.prepare import MissingToolError, find_wrk, peers_environment, prepare
from benchmarks.contest.race import Pace, Race
from benchmarks.contest.targets import OURS, OURS_FLAGS, Target, ours, peers
from benchmarks.peers.job import CHECKPOINT, IDS
from models.checkpoint import load_checkpoint

FULL = Pace(
    rounds=2,
    seconds=3,
    warm_up_s=1,
    connections=(1, 8, 32, 128),
    aside=(1, 32),
    encodings=("json", "base64", "binary"),
    rates=(50, 100, 150, 200, 300, 400, 600, 800, 1000, 1200, 1500),
    rate_s=5,
    starts=2,
    floor_s=1.0,
)
QUICK = Pace(
    rounds=1,
    seconds=2,
    warm_up_s=1,
    connections=(1, 32),
    aside=(32,),
    encodings=("json", "binary"),
    rates=(200,),
    rate_s=3,
    starts=1,
    floor_s=0.4,
)
PEERS = ("uvicorn", "fastapi", "bentoml", "litserve", "mosec", "ray", "k6")


def main(arguments: Sequence[str] | None = None) -> int:
    """Prepare, measure, write; 0 if every answer was right."""
    args = _parser().parse_args(arguments)
    # As an exception it ends the servers, of which most are frozen.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        wrk, programs = find_wrk(), peers_environment(args.work / "peers")
    except MissingToolError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    folder = args.work / args.dataset.resolve().name
    targets = _targets(args, folder, programs)
    with_ours = any(target.name.startswith(OURS) for target in targets)
    prepare(args.dataset, folder, service_too=with_ours)
    pace = QUICK if args.quick else FULL
    began_s = time.monotonic()
    run: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "versions": versions(programs),
        "settings": asdict(pace) | {"quick": args.quick},
        "job": {
            "data": args.dataset.resolve().name,
            "chunks": len(json.loads((folder / IDS).read_bytes())),
            "parameters": sum(
                weight.numel()
                for weight in load_checkpoint(folder / CHECKPOINT).model.p8.parameters()
            ),
        },
        "targets": [
            {"name": target.name, "label": target.label, "setup": target.setup}
            for target in targets
        ],
    }
    floor = Floor(folder)
    with Race(targets, folder, wrk, programs / "k6", pace, floor) as race:
        run |= race.run()
    floor.close()
    _write(run, args.out or (args.work / "quick.json" if args.quick else RESULTS))
    print(f"bench: {time.monotonic() - began_s:.0f} s")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contest", description=__doc__)
    parser.add_argument("dataset", type=Path, help="prepared and embedded folder, 384 dimensions")
    parser.add_argument("--quick", action="store_true", help="a first look, in some minutes")
    parser.add_argument(
        "--work", type=Path, default=Path(".data/bench"), help="where all is made (.data/bench)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="results as JSON, a page and a plot beside them (docs/benchmarks.json; of a first "
        "look quick.json under --work)",
    )
    parser.add_argument("--only", default="", help="servers, comma-separated (default: all)")
    parser.add_argument("--flags", default=OURS_FLAGS, help=f"of our serve ({OURS_FLAGS})")
    parser.add_argument(
        "--also", action="append", default=[], metavar="FLAGS", help="ours once more, so set"
    )
    return parser


def _targets(args: argparse.Namespace, folder: Path, programs: Path) -> list[Target]:
    full = args.flags.replace("bfloat16", "float32")
    targets = [
        ours(folder, args.flags),
        ours(
            folder, args.flags, "nextchunk, with texts", f"{OURS}-texts", contents=True, aside=True
        ),
        ours(folder, full, "nextchunk in float32", f"{OURS}-float32", aside=True),
    ]
    for number, flags in enumerate(args.also, start=1):
        targets.append(ours(folder, flags, f"nextchunk, {flags}", f"ours-{number}"))
    targets += peers(folder, programs)
    wanted = set(filter(None, args.only.split(",")))
    return [target for target in targets if not wanted or target.name in wanted]


def machine() -> dict[str, Any]:
    """Say what measures, and how busy it is."""
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": found[1] if found else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gb": round(memory / 2**30),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "load": round(os.getloadavg()[0], 1),
    }


def versions(programs: Path) -> dict[str, str]:
    """Versions of what takes part."""
    found = {"Python": platform.python_version()}
    for name in ("torch", "faiss-cpu", "numpy"):
        found[name] = version(name)
    for name in PEERS:
        for folder in (programs.parent / "lib").glob(f"python3*/site-packages/{name}-*.dist-info"):
            found[name] = folder.name.removesuffix(".dist-info").partition("-")[2]
    return found


def _write(run: dict[str, Any], out: Path) -> None:
    if out == RESULTS and out.exists():
        before = json.loads(out.read_bytes())
        run = {**{name: before[name] for name in ("soak",) if name in before}, **run}
    out.write_text(json.dumps(run, indent=1) + "\n")
    page = PAGE if out == RESULTS else out.with_suffix(".md")
    text = page.read_text() if page.exists() else "<!-- contest:begin -->\n<!-- contest:end -->\n"
    page.write_text(replaced(text, run))
    plot = PLOT if out == RESULTS else out.with_suffix(".svg")
    plot_run(run, plot)
    print(f"wrote {out}, {page}, {plot}")


if __name__ == "__main__":
    sys.exit(main())
