"""Mosec: a server in Rust around a batching Python worker.

python -m benchmarks.peers.rust --port 8000
"""

import os
from typing import Any

import numpy as np
from mosec import Server, Worker

from benchmarks.peers.job import (
    DIMENSION,
    WINDOW,
    Floats,
    Job,
    batch_size,
    from_json,
    from_octets,
    wait_ms,
)

OCTETS = 4 * WINDOW * DIMENSION


class Ranker(Worker):
    """What Mosec calls."""

    def __init__(self) -> None:
        super().__init__()
        self.job = Job()

    def deserialize(self, data: bytes) -> Floats:
        """Read a window; a worker is not told the type of a body."""
        if len(data) == OCTETS:
            return from_octets(data)
        return from_json(super().deserialize(data)["context"])

    def forward(self, data: list[Floats]) -> list[dict[str, Any]]:
        """Rank for all windows of a batch."""
        return self.job.rank(np.stack(data))


if __name__ == "__main__":
    server = Server()
    server.append_worker(
        Ranker,
        num=1,
        max_batch_size=batch_size(),
        max_wait_time=round(wait_ms()),
        timeout=30,
        env=[dict(os.environ)],
    )
    server.run()
