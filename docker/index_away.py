"""Milvus is frozen and killed, and later stopped, under load, and comes back each time."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from balanced import Balancer, Caller, Load, Replica
from wire import check

from tests.milvus.server import MilvusServer

CODE = "index_unavailable"
# The service's default for --index-timeout-s, and what may come on top of it: nginx asks another
# replica, which may find out at that moment.
INDEX_TIMEOUT_S = 5.0
GRACE_S = 5.0
WITHIN_S = INDEX_TIMEOUT_S + GRACE_S
AWAY_S = WITHIN_S + 4.0
BACK_WITHIN_S = 60.0
QUIET_S = 3.0


@dataclass(frozen=True, kw_only=True)
class Outage:
    """One way to lose Milvus."""

    name: str
    begin: Callable[[], object]
    end: Callable[[], object]
    """Comes before it is started again."""


def check_index_away(
    balancer: Balancer, replicas: list[Replica], server: MilvusServer, question: dict[str, Any]
) -> list[str]:
    """Every question is answered or refused at once; replicas stay up, and recover; says how."""
    load = Load(port=balancer.port, question=question, refusal=CODE)
    try:
        time.sleep(QUIET_S)
        told = [
            _lose(load, replicas, server, outage)
            for outage in (
                Outage(name="frozen", begin=server.freeze, end=server.kill),
                Outage(name="stopped", begin=server.stop, end=lambda: None),
            )
        ]
    finally:
        load.stop()
    _check_only_expected(load)
    check(all(one.runs for one in replicas), "a replica ended while Milvus was away")
    told.append(
        f"index:   {load.answered} ranks and {load.refused} refusals, 0 others; worst "
        f"{load.worst_s:.1f} s; no replica was restarted"
    )
    return told


def _lose(load: Load, replicas: list[Replica], server: MilvusServer, outage: Outage) -> str:
    refused, began = load.refused, time.monotonic()
    outage.begin()
    time.sleep(max(0.0, began + AWAY_S - time.monotonic()))
    _check_only_expected(load)
    late = load.last_answered_s - began
    check(late < WITHIN_S, f"{outage.name}: ranks were still answered after {late:.1f} s")
    check(load.refused > refused, f"{outage.name}: nothing was refused")
    for number, replica in enumerate(replicas, 1):
        caller = Caller(replica.port)
        asked = time.monotonic()
        answer = caller.ask("GET", "/readyz")
        took = time.monotonic() - asked
        caller.close()
        check(answer.refuses(CODE), f"{outage.name}: /readyz of replica {number}: {answer}")
        check(took < 1.0, f"{outage.name}: /readyz of replica {number} took {took:.1f} s")
    refused = load.refused - refused
    outage.end()
    began = time.monotonic()
    up_s = server.start()
    while load.last_answered_s < began or time.monotonic() - load.last_refused_s < QUIET_S:
        _check_only_expected(load)
        check(time.monotonic() - began < BACK_WITHIN_S, f"{outage.name}: not answered again")
        time.sleep(0.1)
    back_s = load.last_refused_s - began
    return (
        f"index:   {outage.name} under load: last rank after {max(late, 0.0):.1f} s, then "
        f"{refused} answers of 503 {CODE}; up {up_s:.1f} s after its start, last refusal after "
        f"{back_s:.1f} s"
    )


def _check_only_expected(load: Load) -> None:
    check(not load.failed, f"{len(load.failed)} requests failed: {load.failed[:3]}")
    check(load.worst_s < WITHIN_S, f"an answer took {load.worst_s:.1f} s")
