"""The client that waits for its answers."""

import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
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
from service.client.operations import Operations, Sync
from service.client.retry import Retry
from service.client.types import ChunkInput, DocumentSummary, Encoding, Upserted

T = TypeVar("T")


class Client(Operations, Sync):
    """Talks to one running service, from any number of threads.

    Every operation raises the service's own errors (``service.errors``), and ``UnreachableError``
    where nothing answers.

    Args:
        url: Where the service listens.
        timeout_s: Seconds for a call, its repetitions and the pauses between them included.
        api_key: Key that every request carries.
        encoding: How vectors travel: as ``base64`` in JSON, or all in ``msgpack``.
        retry: When a call is tried again; None is never.
        limits: How many connections are opened and kept.
        verify: Whether, or by which context, the service's certificate is checked.
        transport: How to get there, if not over the network.
        sleep: Waits for so many seconds.
        clock: Tells monotonic seconds.

    Raises:
        ValueError: If the key cannot stand in a header.
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
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers=default_headers(api_key),
            limits=limits,
            verify=verify,
            transport=transport,
        )
        self._manner = Manner(timeout_s=timeout_s, encoding=encoding, retry=retry, clock=clock)
        self._sleep = sleep
        self._free = threading.Semaphore(limits.max_connections or sys.maxsize)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown(self._http)!r})"

    def __enter__(self) -> Self:
        """Open."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, call: Call[T]) -> T:
        """Carry out a call, again where that may help.

        Raises:
            ServiceError: Whatever the service answered instead, or ``UnreachableError``.
        """
        exchange = Exchange(call, self._http, self._manner)
        while True:
            try:
                return exchange.answer(self._deliver(exchange))
            except (httpx.RequestError, RefusedError) as failure:
                pause_s = exchange.pause_s(failure)
            self._sleep(pause_s)

    def _deliver(self, exchange: Exchange[T]) -> httpx.Response:
        # Threads wait here and not for the pool: where they outnumber its connections, it may close
        # one that it has just given to another of them.
        if not self._free.acquire(timeout=exchange.left_s):
            raise httpx.PoolTimeout("all connections are in use")
        try:
            return self._http.send(exchange.request())
        finally:
            self._free.release()

    def upsert_many(
        self,
        chunks: Iterable[ChunkInput | Mapping[str, Any]],
        *,
        batch_size: int = BATCH_SIZE,
        wait: bool = True,
        timeout_s: float | None = None,
    ) -> Iterator[Upserted]:
        """Write any number of chunks, a batch each time that the next acknowledgement is asked for.

        Args:
            chunks: What to write; only one batch of them is held at a time.
            batch_size: Chunks in a batch; each is written as a whole or not at all.
            wait: Whether each is acknowledged only when its chunks can be found.
            timeout_s: Seconds that the service may take for a batch, if not what it is set to.
        """
        for call in upserts(chunks, batch_size, wait, timeout_s):
            yield self.send(call)

    def iter_documents(self, *, page_size: int = PAGE_SIZE) -> Iterator[DocumentSummary]:
        """Go through all documents, page by page.

        One that is written or deleted meanwhile may shift others past the reader, or before it.

        Args:
            page_size: Documents that are asked for at once.
        """
        pages = Pages(page_size)
        for call in pages:
            yield from pages.take(self.send(call))
