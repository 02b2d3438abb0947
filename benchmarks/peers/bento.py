"""BentoML with adaptive batching.

    bentoml serve benchmarks.peers.bento:Ranker

Its batches are of arrays, or of lists; it has no body of bare octets that would be batched.
"""

from typing import Annotated, Any

import bentoml
import numpy as np
from bentoml.validators import DType, Shape

from benchmarks.peers.job import DIMENSION, WINDOW, Job, batch_size, from_base64, wait_ms

Windows = Annotated[np.ndarray, DType("float32"), Shape((-1, WINDOW, DIMENSION))]
BATCHING = {"batchable": True, "max_batch_size": batch_size(), "max_latency_ms": int(wait_ms())}


@bentoml.service(
    workers=1,
    traffic={"timeout": 30},
    logging={"access": {"enabled": False}},
)
class Ranker:
    """The service."""

    def __init__(self) -> None:
        self.job = Job()

    @bentoml.api(**BATCHING)
    def numbers(self, context: Windows) -> list[dict[str, Any]]:
        """Rank for windows of numbers."""
        return self.job.rank(context)

    @bentoml.api(**BATCHING)
    def base64(self, context: list[list[str]]) -> list[dict[str, Any]]:
        """Rank for windows of base64 strings."""
        return self.job.rank(np.stack([from_base64(window) for window in context]))
