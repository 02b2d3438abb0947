"""Three replicas behind the balancer: one is killed, one is stopped, all are away, under load.

    python docker/check_scale.py DATA              each replica on a copy of an indexed folder
    python docker/check_scale.py --index-url URL   all on one Milvus, filled by this check
    python docker/check_scale.py --milvus BINARY   the same on a Milvus of its own (.ci/milvus),
                                                   which is frozen, killed and stopped, too

Runs services with the Python that runs it, and nginx (``NGINX``, or the one on the path) with
docker/balancer/nginx.conf. Ends with status 1 at the first thing that is not as it must be.
"""

import argparse
import contextlib
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import survive
from balanced import Balancer, Load, Replica, find_nginx, start_replicas
from index_away import check_index_away
from refusing import check_passes
from wire import Service, check

from tests.milvus.server import MilvusServer

REPLICAS = 3
PHASE_S = 4.0
AWAY_WITHIN_S = 5.0


def say(line: str) -> None:
    """Tell a person."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def question(balancer: Balancer) -> dict[str, Any]:
    """What is asked again and again."""
    dimension = survive.dimension_of(Service(balancer.url))
    return {"context": survive.vectors(dimension)[:2], "top_k": 3, "mode": "retrieval"}


def check_load(balancer: Balancer, replicas: list[Replica]) -> None:
    """Kill one replica and stop another under load: no request fails, and both come back."""
    load = Load(port=balancer.port, question=question(balancer))
    time.sleep(PHASE_S)
    before = load.answered
    check(all(one.answered() > 0 for one in replicas), "a replica was asked nothing")
    first, second = replicas[:2]
    check(first.end(signal.SIGKILL) == -signal.SIGKILL, "SIGKILL did not kill")
    say(f"load:    replica 1 killed after {before} answers")
    time.sleep(PHASE_S)
    killed = load.answered
    first.start()
    first.wait()
    time.sleep(PHASE_S)
    check(first.answered() > 0, "the replica that came back is asked nothing")
    check(second.end(signal.SIGTERM) == 0, "SIGTERM: expected exit status 0")
    time.sleep(PHASE_S)
    second.start()
    second.wait()
    load.stop()
    check(not load.failed, f"{len(load.failed)} requests failed: {load.failed[:3]}")
    check(killed > before and load.answered > killed, "no answers while a replica was away")
    say(
        f"load:    {load.answered} ranks over {load.connections} connections, 0 failed; "
        f"{killed - before} in the {PHASE_S:g} s after the kill; worst {load.worst_s * 1000:.0f} ms"
    )


def check_away(balancer: Balancer, replicas: list[Replica]) -> None:
    """Without any replica: 503, a problem, Retry-After, at once; and back when they are."""
    for replica in replicas:
        replica.end(signal.SIGTERM)
    began = time.monotonic()
    for _ in range(5):
        status, problem = Service(balancer.url).call("/v1/rank", {"context_ids": ["a"]})
        check((status, problem["code"]) == (503, "unavailable"), f"got {status} {problem}")
    took = time.monotonic() - began
    check(took < AWAY_WITHIN_S, f"five answers took {took:.1f} s")
    for replica in replicas:
        replica.start()
    Service(balancer.url).wait()
    say(f"away:    503 unavailable, five in {took * 1000:.0f} ms; back by itself")


@contextlib.contextmanager
def dying(count: int) -> Iterator[tuple[list[int], list[str]]]:
    """Servers that read a request, note its first line, and hang up without an answer."""
    asked: list[str] = []
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]

    def serve(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                with connection:
                    head = connection.recv(65_536).decode(errors="replace")
                    asked.append(" ".join(head.split()[:2]))

    for one in sockets:
        threading.Thread(target=serve, args=(one,), daemon=True).start()
    try:
        yield [one.getsockname()[1] for one in sockets], asked
    finally:
        for one in sockets:
            one.close()


def check_repeats(binary: Path, folder: Path) -> None:
    """What a replica dies of is asked of the others only where that is safe."""
    wanted = (
        ("POST", "/v1/rank", REPLICAS),
        ("POST", "/v1/sequence", REPLICAS),
        ("PUT", "/v1/chunks", REPLICAS),
        ("GET", "/v1/stats", REPLICAS),
        ("POST", "/v1/model/reload", 1),
    )
    for number, (method, path, times) in enumerate(wanted):
        with dying(REPLICAS) as (ports, asked):
            balancer = Balancer(binary, folder / f"dying-{number}", ports)
            status, _ = Service(balancer.url).call(path, {}, method)
            balancer.stop()
        check(status == 503, f"{method} {path}: expected 503, got {status}")
        check(asked == [f"{method} {path}"] * times, f"expected {times} tries, got {asked}")
    say("repeats: questions, PUT and GET on every replica; a reload on one")


def check_shared(replicas: list[Replica]) -> None:
    """What is written through one replica is found through the others, and kept by none."""
    say(f"shared:  {survive.write(replicas[0].url)}, by replica 1")
    say(f"shared:  {found(replicas[1:])}, by replicas 2 and 3")
    for replica in replicas:
        kept = sorted(path.name for path in replica.data.iterdir())
        check(not kept, f"expected nothing in the data folder, got {kept}")


def found(replicas: list[Replica]) -> str:
    """All that was written is found through each of these; says so."""
    (told,) = {survive.find(replica.url) for replica in replicas}
    return told


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("data", nargs="?", type=Path, help="indexed folder to copy")
    given.add_argument("--index-url", default="", help="Milvus to share instead")
    given.add_argument("--milvus", type=Path, help="program to start as the Milvus to share")
    arguments = parser.parse_args()
    binary = find_nginx()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as ending:
        folder = Path(name)
        folder.chmod(0o755)
        check_repeats(binary, folder)
        say(check_passes(binary, folder))
        server, index_url = None, arguments.index_url
        if arguments.milvus is not None:
            server = ending.enter_context(MilvusServer(folder / "milvus", arguments.milvus))
            index_url = server.url()
        replicas = start_replicas(arguments.data, folder, index_url, REPLICAS)
        ending.callback(lambda: [one.end(signal.SIGKILL) for one in replicas])
        if index_url:
            check_shared(replicas)
        balancer = Balancer(binary, folder / "balancer", [one.port for one in replicas])
        ending.callback(balancer.stop)
        check_load(balancer, replicas)
        if server is not None:
            for line in check_index_away(balancer, replicas, server, question(balancer)):
                say(line)
            say(f"index:   {found(replicas)}, by every replica")
        check_away(balancer, replicas)


if __name__ == "__main__":
    main()
