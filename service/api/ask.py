"""Questions: which chunk is next, how well each follows, which comes first, in which order."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from service.answers import (
    OrderAnswer,
    OrderAnswers,
    RankAnswer,
    RankAnswers,
    ScoreAnswer,
    SequenceAnswer,
)
from service.api.reply import Octets, compute, compute_together
from service.openapi import answers, body_of
from service.schemas import (
    OrderBatch,
    OrderPair,
    RankBatch,
    RankQuery,
    ScoreQuery,
    SequenceQuery,
)
from service.security import requires

router = APIRouter(prefix="/v1", dependencies=[requires("read")], tags=["ask"])
_STATUSES = (400, 401, 403, 406, 409, 413, 415, 422, 429, 501, 503, 504)


@router.post(
    "/rank",
    response_model=RankAnswer | RankAnswers,
    responses=answers("rank", *_STATUSES),
    openapi_extra=body_of("rank", RankQuery, RankBatch),
)
async def rank(request: Request) -> Response:
    """Rank which chunks come next: of the index, or of explicit candidates."""
    return await compute_together(
        request,
        lambda engine, *rest: engine.ask_rank(*rest),
        Octets(kind=RankQuery, members=("context",)),
    )


@router.post(
    "/score",
    response_model=ScoreAnswer,
    responses=answers("score", *_STATUSES),
    openapi_extra=body_of("score", ScoreQuery),
)
async def score(request: Request) -> Response:
    """Score explicit candidates, in the given order."""
    return await compute_together(
        request,
        lambda engine, *rest: engine.ask_score(*rest),
        Octets(kind=ScoreQuery, members=("context",)),
    )


@router.post(
    "/order",
    response_model=OrderAnswer | OrderAnswers,
    responses=answers("order", *_STATUSES),
    openapi_extra=body_of("order", OrderPair, OrderBatch),
)
async def order(request: Request) -> Response:
    """Tell the probability that one chunk comes after another."""
    return await compute(
        request,
        lambda engine, *rest: engine.order(*rest),
        Octets(kind=OrderPair, members=("a", "b")),
    )


@router.post(
    "/sequence",
    response_model=SequenceAnswer,
    responses=answers("sequence", 404, *_STATUSES),
    openapi_extra=body_of("sequence", SequenceQuery),
)
async def sequence(request: Request) -> Response:
    """Put a bag of chunks into reading order, and point out those that do not belong to it."""
    return await compute(
        request,
        lambda engine, *rest: engine.sequence(*rest),
        Octets(kind=SequenceQuery, members=("chunks",)),
    )
