"""The client whose answers are awaited."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from service.client.calls import Call
from service.client.exchange import (
    LIMITS,
    RETRY,
    TIMEOUT_S,
    URL,
    Exchange,
    Manner,
    RefusedError,
    default_headers,
    shown,
)
from service.client.many import BATCH_SIZE, PAGE_SIZE, Pages, upserts
from service.client.operations import Async, Operations
from service.client.retry import Retry
from service.client.types import ChunkInput, DocumentSummary, Encoding, Upserted

T = TypeVar("T")


class AsyncClient(Operations, Async):
    """Talks to one running service, from any number of tasks of one event loop.

    The arguments, operations and errors are those of ``Client``; only ``sleep`` is awaited.
    """

    def __init__(
        self,
        url: str = URL,
        *,
        timeout_s: float = TIMEOUT_S,
        api_key: str | None = None,
        encoding: Encoding = "base64",
        retry: Retry | None = RETRY,
        limits: httpx.Limits = LIMITS,
        verify: ssl.SSLContext | bool = True,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=default_headers(api_key),
            limits=limits,
            verify=verify,
            transport=transport,
        )
        self._manner = Manner(timeout_s=timeout_s, encoding=encoding, retry=retry, clock=clock)
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self._http)!r})"

    async def __aenter__(self) -> Self:
        """Open."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def send(self, call: Call[T]) -> T:
        """Carry out a call, as ``Client.send`` does."""
        exchange = Exchange(call, self._http, self._manner)
        while True:
            try:
                return exchange.answer(await self._http.send(exchange.request()))
            except (httpx.RequestError, RefusedError) as failure:
                pause_s = exchange.pause_s(failure)
            await self._sleep(pause_s)

    async def upsert_many(
        self,
        chunks: Iterable[ChunkInput | Mapping[str, Any]],
        *,
        batch_size: int = BATCH_SIZE,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Upserted]:
        """Write any number of chunks, as ``Client.upsert_many`` does."""
        for call in upserts(chunks, batch_size, wait, timeout_s):
            yield await self.send(call)

    async def iter_documents(self, *, page_size: int = PAGE_SIZE) -> AsyncIterator[DocumentSummary]:
        """Go through all documents, as ``Client.iter_documents`` does."""
        pages = Pages(page_size)
        for call in pages:
            for document in pages.take(await self.send(call)):
                yield document
