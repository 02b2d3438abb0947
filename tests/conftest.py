"""Fixtures that every part shares."""

import numpy as np
import pytest
import torch

from models.model import P8Model
from tests.synthetic import shape


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture(
    params=[
        ("transformer", "raw"),
        ("transformer", "learned"),
        ("lstm", "raw"),
        ("lstm", "learned"),
    ],
    ids="-".join,
)
def any_model(request: pytest.FixtureRequest) -> P8Model:
    """A model of every architecture in every space, its adapter moved off the identity."""
    arch, space = request.param
    model = P8Model(shape(arch=arch, space=space, tower=True)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model
