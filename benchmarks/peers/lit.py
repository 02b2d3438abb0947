"""LitServe with batching.

    python -m benchmarks.peers.lit

Bodies of its requests are JSON, or files of a form.
"""

import os
from typing import Any

import litserve
import numpy as np

from benchmarks.peers.job import PORT, Floats, Job, batch_size, from_json, from_octets, wait_ms

FAST_QUEUE = "CONTEST_FAST_QUEUE"


class Ranker(litserve.LitAPI):
    """What LitServe calls.

    It reads annotations of ``decode_request`` and ``encode_response`` as FastAPI would; without
    them it takes JSON and forms.
    """

    def setup(self, device: str) -> None:
        """Load."""
        self.job = Job()

    def decode_request(self, request):
        """Read a window."""
        context = request["context"]
        if isinstance(context, list):
            return from_json(context)
        return from_octets(context.file.read())

    def batch(self, inputs: list[Floats]) -> Floats:
        """Put windows together."""
        return np.stack(inputs)

    def predict(self, context_BLD: Floats) -> list[dict[str, Any]]:
        """Rank for all of them."""
        return self.job.rank(context_BLD)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Take answers apart, which they are."""
        return output

    def encode_response(self, output):
        """Answer."""
        return output


if __name__ == "__main__":
    ranker = Ranker(max_batch_size=batch_size(), batch_timeout=wait_ms() / 1000.0, api_path="/rank")
    litserve.LitServer(
        ranker,
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=os.environ.get(FAST_QUEUE) == "1",
    ).run(
        host="127.0.0.1",
        port=int(os.environ[PORT]),
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )
