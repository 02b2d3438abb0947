"""The HTTP routes: each reads its body, hands it to a worker, and returns what comes back."""

from fastapi import APIRouter

from service.api import ask, data, operate

router = APIRouter()
for part in (operate.health, operate.metrics, operate.models, ask.router, data.router):
    router.include_router(part)
