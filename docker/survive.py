"""Write to a running service, look for what was written, and hold a request through its end.

    python3 docker/survive.py write URL    writes and deletes; prints what must be there afterwards
    python3 docker/survive.py find URL     all of it is there, and is found by search
    python3 docker/survive.py drain URL    begins a request, says so, waits until the service takes
                                           no more connections, and then expects the answer

docker/check.sh kills the service between the first two, and stops it during the third. Needs
nothing but Python.
"""

import http.client
import json
import math
import random
import socket
import sys
import time
import urllib.parse

from wire import TIMEOUT_S, Service, check

CHUNKS = 300
BATCH = 100
DOCUMENT = "written-by-check"
DELETED = range(0, CHUNKS, 10)
SEED = 6
CLOSED_WITHIN_S = 8.0
CLOSE = 1e-4


def name(place: int) -> str:
    """Id of a chunk."""
    return f"{DOCUMENT}:{place}"


def text(place: int) -> str:
    """Text of a chunk."""
    return f"Chunk {place} of {CHUNKS}, größer."


def vectors(dimension: int) -> list[list[float]]:
    """Unit vectors, the same ones each time."""
    draw = random.Random(SEED)
    rows = [[draw.gauss(0, 1) for _ in range(dimension)] for _ in range(CHUNKS)]
    return [[value / math.hypot(*row) for value in row] for row in rows]


def dimension_of(service: Service) -> int:
    """Dimension of the store."""
    dimension = service.ok("/v1/stats")["store"]["dimension"]
    check(isinstance(dimension, int), f"expected a store with a dimension, got {dimension}")
    return int(dimension)


def write(url: str) -> str:
    """Write chunks, and delete some of them."""
    service = Service(url)
    rows = vectors(dimension_of(service))
    chunks = [
        {
            "id": name(place),
            "document_id": DOCUMENT,
            "position": place,
            "vector": row,
            "text": text(place),
            "metadata": {"place": place},
        }
        for place, row in enumerate(rows)
    ]
    for start in range(0, CHUNKS, BATCH):
        part = chunks[start : start + BATCH]
        told = service.ok("/v1/chunks", {"chunks": part}, "PUT")
        check(told["upserted"] == len(part), f"expected {len(part)} upserted, got {told}")
    told = service.ok("/v1/chunks", {"ids": [name(place) for place in DELETED]}, "DELETE")
    check(told["deleted"] == len(DELETED), f"expected {len(DELETED)} deleted, got {told}")
    return f"{CHUNKS} chunks written, {len(DELETED)} of them deleted, all acknowledged"


def find(url: str) -> str:
    """Look for each chunk by its id and by its vector."""
    service = Service(url)
    rows = vectors(dimension_of(service))
    same = {"filter": {"document_ids": [DOCUMENT]}, "mode": "retrieval", "top_k": 1}
    found = 0
    for place, row in enumerate(rows):
        status, chunk = service.call(f"/v1/chunks/{urllib.parse.quote(name(place))}")
        if place in DELETED:
            check(status == 404, f"{name(place)}: was deleted, and is there again: {chunk}")
            continue
        check(status == 200, f"{name(place)}: acknowledged, and lost: {status} {chunk}")
        kept = (chunk["position"], chunk["text"], chunk["metadata"].get("place"))
        check(kept == (place, text(place), place), f"{name(place)}: changed: {chunk}")
        (best,) = service.ok("/v1/rank", {"context": [row], **same})["results"]
        near = math.isclose(best["score"], 1, abs_tol=CLOSE)
        check(best["id"] == name(place) and near, f"{name(place)}: not found first: {best}")
        found += 1
    return f"{found} chunks there and found by search, {len(DELETED)} deleted ones not there"


def drain(url: str) -> str:
    """Hold a request that has begun until nobody can connect, then finish it."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    address = (parts.hostname, parts.port or 80)
    dimension = dimension_of(Service(url))
    context = vectors(dimension)[:2]
    body = json.dumps({"context": context, "top_k": 3}).encode()
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    connection.putrequest("POST", "/v1/rank")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:-1])
    # Answered after the other has been begun: both are taken by the same loop, in turn.
    Service(url).ok("/livez")
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    began = time.monotonic()
    while _takes_connections(address):
        check(time.monotonic() - began < CLOSED_WITHIN_S, "it takes connections for ever")
        time.sleep(0.02)
    connection.send(body[-1:])
    response = connection.getresponse()
    answer = json.loads(response.read())
    check(response.status == 200, f"expected the answer, got {response.status}: {answer}")
    check(len(answer["results"]) == 3, f"expected three results, got {answer}")
    return "no new connections, and the request that had begun was answered 200"


def _takes_connections(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=1).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    told = {"write": write, "find": find, "drain": drain}[sys.argv[1]](sys.argv[2])
    sys.stdout.write(told + "\n")
