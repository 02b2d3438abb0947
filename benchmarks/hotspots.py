"""Where the service's time goes under load: stacks sampled from outside, summed up by stage.

    python -m benchmarks.hotspots DATASET [--encoding binary] [--connections 32]

Needs py-spy, which the peers' environment has, and leave to look into another process (root, or
``kernel.yama.ptrace_scope`` 0). Shares are of the samples of a thread that was doing something.
"""

import argparse
import re
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.contest.load import closed
from benchmarks.contest.prepare import find_wrk, peers_environment, prepare
from benchmarks.contest.race import Pace, Race
from benchmarks.contest.targets import ENCODINGS, OURS_FLAGS, ours

RATE = 200
"""Samples a second."""
WARM_UP_S, LEAST_SHARE, MOST_FRAMES = 3, 0.02, 25
STAGES = (
    ("forward", r"Scorer\.query|models/(p8|packed|forward)"),
    ("search", r"retrieve_many|VectorIndex\.search"),
    ("rescoring and re-ranking", r"_rank_found|_rank_given|rank_rows"),
    ("parse and decode", r"prepare \(service|_Call\.parse|read_octets|read_body|\._decode"),
    ("texts from the store", r"contents"),
    ("encode and write", r"finish \(service|Question\.answer|Encoder|write_body"),
    ("waiting", r"Condition\.wait|EpollSelector\.select|_take \(service"),
    ("HTTP: parse", r"data_received|_read_ready"),
    ("HTTP: send", r"\.send \(|sender|_send|send_with_headers|Transport\.write"),
    ("log, metrics, traces", r"_finish \(service/middleware"),
    ("HTTP: routing and middleware", r"starlette|fastapi|uvicorn|middleware"),
)
"""In which stage a stack is: the first whose pattern one of its frames matches."""
Stack = tuple[list[str], int]
NOTHING = Pace(
    rounds=1,
    seconds=1,
    warm_up_s=1,
    connections=(),
    encodings=(),
    rates=(),
    rate_s=0,
    starts=1,
    floor_s=0.0,
)


def parse(raw: str) -> list[Stack]:
    """Read py-spy's raw output: frames, outermost first, and how often they were seen."""
    lines = (line.rpartition(" ") for line in raw.splitlines())
    return [(frames.split(";"), int(count)) for frames, _, count in lines]


def stage_of(frames: Iterable[str]) -> str:
    """Name the stage that a stack is in."""
    text = ";".join(frames)
    return next((name for name, pattern in STAGES if re.search(pattern, text)), "other")


def summary(stacks: Sequence[Stack]) -> list[str]:
    """Say for each thread what its samples are shared among."""
    threads = Counter[str]()
    for frames, count in stacks:
        threads[frames[0]] += count
    lines = []
    for thread, total in threads.most_common():
        mine = [(frames[1:], count) for frames, count in stacks if frames[0] == thread]
        stages, inclusive = Counter[str](), Counter[str]()
        for frames, count in mine:
            stages[stage_of(frames)] += count
            for frame in set(frames):
                inclusive[frame] += count
        lines += ["", f"{thread}: {total} samples"]
        lines += [f"  {n / total:6.1%} {name}" for name, n in stages.most_common()]
        lines += ["  frames, with what they call:"]
        frequent = [item for item in inclusive.most_common() if item[1] >= LEAST_SHARE * total]
        lines += [f"  {n / total:6.1%} {frame}" for frame, n in frequent[:MOST_FRAMES]]
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve, load, sample, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hotspots", description=__doc__)
    parser.add_argument("dataset", type=Path, help="prepared and embedded folder, 384 dimensions")
    parser.add_argument("--encoding", choices=ENCODINGS, default="binary", help="binary")
    parser.add_argument("--connections", type=int, default=32, help="32")
    parser.add_argument("--seconds", type=int, default=15, help="15")
    parser.add_argument("--work", type=Path, default=Path(".data/bench"), help=".data/bench")
    parser.add_argument("--flags", default=OURS_FLAGS, help=f"of our serve ({OURS_FLAGS})")
    args = parser.parse_args(arguments)
    wrk, programs = find_wrk(), peers_environment(args.work / "peers")
    folder = args.work / args.dataset.resolve().name
    prepare(args.dataset, folder)
    target = ours(folder, args.flags)
    form = target.forms[args.encoding]
    with (
        tempfile.TemporaryDirectory() as scratch,
        Race([target], folder, wrk, programs / "k6", NOTHING) as race,
    ):
        server = race.start(target)
        server.thaw()
        asked = (wrk, server.url, form.path, form.content_type, race.file(form))
        cell = {"connections": args.connections}
        found = closed(*asked, seconds=WARM_UP_S + args.seconds, **cell)
        load = threading.Thread(
            target=lambda: closed(*asked, seconds=WARM_UP_S + args.seconds + 2, **cell)
        )
        load.start()
        raw = Path(scratch) / "raw"
        sample = [programs / "py-spy", "record", "--pid", str(server.pid), "--format", "raw"]
        sample += ["--threads", "--rate", str(RATE), "--duration", str(args.seconds)]
        subprocess.run([*sample, "--output", raw], check=True, capture_output=True)
        load.join()
        stacks = parse(raw.read_text())
    print(
        f"{args.encoding}, {args.connections} connections, {target.setup}: without the sampler "
        f"{found.requests_s:.0f} requests/s, p50 {found.p50_ms:.1f}, p99 {found.p99_ms:.1f} ms"
    )
    print("\n".join(summary(stacks)))


if __name__ == "__main__":
    main()
