"""Fixtures that every part shares."""

import numpy as np
import pytest
import torch

from models.model import P8Model
from models.packed import has_bfloat16
from tests.synthetic import shape


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have bfloat16 computed in: on a processor without it, by plain layers, which are slow."""
    if not has_bfloat16():
        for module in ("models.packed", "service.lifecycle"):
            monkeypatch.setattr(f"{module}.has_bfloat16", lambda: True)
        monkeypatch.setattr("models.packed._can_pack", lambda: False)


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
