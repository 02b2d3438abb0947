"""Clients of the service, one that waits and one that is awaited; both raise the service's errors.

They need httpx, numpy and ormsgpack alone: neither torch nor faiss is imported.

    with Client("http://127.0.0.1:8000") as client:
        answer = client.rank(context_ids=["a:0", "a:1"], top_k=3)

    async with AsyncClient("http://127.0.0.1:8000") as client:
        answer = await client.rank(context_ids=["a:0", "a:1"], top_k=3)
"""

from service.client.aio import AsyncClient
from service.client.calls import Call
from service.client.retry import Retry
from service.client.sync import Client
from service.client.types import (
    Alive,
    Answer,
    AnsweringModel,
    Candidate,
    CheckpointStatus,
    Chunk,
    ChunkInput,
    Deleted,
    Document,
    Documents,
    DocumentSummary,
    Filter,
    IndexStats,
    IndexStatus,
    LoadedModel,
    ModelDetails,
    Models,
    Neighbours,
    Pair,
    Parts,
    Place,
    RankQuery,
    Ready,
    ReadyIndex,
    Reloaded,
    Result,
    SequenceAnswer,
    SequencePlace,
    Stats,
    StoreStats,
    StoreStatus,
    Upserted,
)
from service.client.wire import decode_vector, encode_vector

__all__ = [
    "Alive",
    "Answer",
    "AnsweringModel",
    "AsyncClient",
    "Call",
    "Candidate",
    "CheckpointStatus",
    "Chunk",
    "ChunkInput",
    "Client",
    "Deleted",
    "Document",
    "DocumentSummary",
    "Documents",
    "Filter",
    "IndexStats",
    "IndexStatus",
    "LoadedModel",
    "ModelDetails",
    "Models",
    "Neighbours",
    "Pair",
    "Parts",
    "Place",
    "RankQuery",
    "Ready",
    "ReadyIndex",
    "Reloaded",
    "Result",
    "Retry",
    "SequenceAnswer",
    "SequencePlace",
    "Stats",
    "StoreStats",
    "StoreStatus",
    "Upserted",
    "decode_vector",
    "encode_vector",
]
