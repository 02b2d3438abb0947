"""Small seeded stand-ins for documents: random walks whose order and nearness mean something."""

import numpy as np
from numpy.typing import NDArray

from models.config import P8Config

Floats = NDArray[np.float32]


def unit_rows(generator: np.random.Generator, rows: int, dimension: int) -> Floats:
    """Random unit vectors."""
    vectors = generator.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def walk(generator: np.random.Generator, count: int, dimension: int, drift: Floats) -> Floats:
    """A synthetic document: a noisy random walk with a drift, so that mixing pays off."""
    steps = 0.3 * generator.standard_normal((count, dimension)) / dimension**0.5
    noise = 0.6 * generator.standard_normal((count, dimension)) / dimension**0.5
    path = np.cumsum(steps, axis=0) + unit_rows(generator, 1, dimension) + noise
    path += 1.5 * drift * np.linspace(-1.0, 1.0, count)[:, None]
    return (path / np.linalg.norm(path, axis=1, keepdims=True)).astype(np.float32)


def walks(seed: int, documents: int, dimension: int = 16) -> list[Floats]:
    """Synthetic documents that share a direction of travel."""
    generator = np.random.default_rng(seed)
    drift = unit_rows(np.random.default_rng(7), 1, dimension)
    return [
        walk(generator, int(generator.integers(28, 40)), dimension, drift) for _ in range(documents)
    ]


def shape(**changes: object) -> P8Config:
    """A small network's shape."""
    small: dict[str, object] = {
        "dimension": 16,
        "hidden": 16,
        "layers": 1,
        "heads": 2,
        "adapter_hidden": 32,
        "order_hidden": 16,
        "rerank_hidden": 16,
        "bag_hidden": 32,
        "bag_layers": 1,
        "bag_rank": 8,
    }
    return P8Config(**{**small, **changes})  # type: ignore[arg-type]
