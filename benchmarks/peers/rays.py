"""Ray Serve with dynamic request batching.

python -m benchmarks.peers.rays
"""

import os
import time
from typing import Any

import numpy as np
import ray
from ray import serve
from starlette.requests import Request

from benchmarks.peers.job import PORT, Floats, Job, batch_size, from_json, from_octets, wait_ms


@serve.deployment(num_replicas=1, max_ongoing_requests=512)
class Ranker:
    """The deployment: one replica."""

    def __init__(self) -> None:
        self.job = Job()

    @serve.batch(max_batch_size=batch_size(), batch_wait_timeout_s=wait_ms() / 1000.0)
    async def rank(self, windows: list[Floats]) -> list[dict[str, Any]]:
        """Rank for all windows of a batch."""
        return self.job.rank(np.stack(windows))

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Answer a request."""
        if request.headers["content-type"] == "application/octet-stream":
            return await self.rank(from_octets(await request.body()))
        return await self.rank(from_json((await request.json())["context"]))


if __name__ == "__main__":
    passed = {name: value for name, value in os.environ.items() if name.startswith("CONTEST_")}
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=100_000_000,
        log_to_driver=False,
        runtime_env={"env_vars": {**passed, "PYTHONPATH": os.environ["PYTHONPATH"]}},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ[PORT])})
    serve.run(Ranker.bind(), route_prefix="/rank")
    while True:
        time.sleep(60)
