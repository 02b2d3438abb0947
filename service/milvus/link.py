"""The connection to Milvus, and whether it is there.

One thread asks Milvus every second whether it answers. While it does not, the circuit is open:
calls fail at once, so that nothing hangs and nothing piles up, and that thread goes on asking, over
a new connection each time, for one that was lost may take minutes to try again. A call that fails
does not open the circuit itself, since one slow question says little: it has that thread ask now.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc
from pymilvus import MilvusClient, MilvusException

from service.errors import IndexUnavailableError
from service.milvus.place import LITE, Place, place_of
from service.settings import Settings

log = logging.getLogger(__name__)
# It prints each call that fails, with a trace, by a handler of its own; `guarded` tells it once.
for _name in ("pymilvus", "pymilvus.milvus_client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)

PING_EVERY_S = 1.0
LEAST_PING_S = 1.0
RETRY_AFTER_S = 1
LEVELS = {"bounded": "Bounded", "strong": "Strong", "eventually": "Eventually"}
STRONG = LEVELS["strong"]
# Else grpc shares one with the connection that was lost, and its growing pauses between attempts.
OWN_CONNECTION = {"grpc.use_local_subchannel_pool": 1}


class Link:
    """Calls Milvus, if it is there.

    Args:
        place: Where it is.
        token: ``user:password`` or an API key; empty for none.
        timeout_s: Most seconds that one call may take, its retries included.
        level: What reads wait for, unless they say otherwise.

    Raises:
        IndexUnavailableError: If it is not there.
    """

    def __init__(self, place: Place, token: str, timeout_s: float, level: str) -> None:
        self.place = place
        self.level = LEVELS[level]
        self.needed: Sequence[str] = ()
        """Tables without which nothing can be answered; the first is asked whether it is there."""
        self._token = token
        self._timeout_s = timeout_s
        self._ping_s = min(timeout_s, max(LEAST_PING_S, timeout_s / 2))
        self._away_since_s: float | None = None
        self._doubt = threading.Event()
        self._closing = False
        self._client = self._connect(timeout_s)
        self._thread: threading.Thread | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "Link":
        """Connect as settings say.

        Raises:
            SettingsError: If the URL is not one.
            IndexUnavailableError: If nothing answers there.
        """
        token = settings.index_token.get_secret_value()
        place = place_of(settings.index_url)
        return cls(place, token, settings.index_timeout_s, settings.index_consistency)

    def watch(self, often: Callable[[], None]) -> None:
        """Begin to look whether Milvus is there.

        Args:
            often: Called after each time that it was, by the thread that looks.
        """
        self._thread = threading.Thread(target=self._watch, args=(often,), name="milvus")
        self._thread.daemon = True
        self._thread.start()

    @property
    def available(self) -> bool:
        """Whether it answered when it was asked last."""
        return self._away_since_s is None

    def check(self) -> None:
        """Raise IndexUnavailableError if it is away."""
        since_s = self._away_since_s
        if since_s is not None:
            raise IndexUnavailableError(
                f"the index is away: {self.place.shown} has not answered for "
                f"{time.monotonic() - since_s:.0f} s, and is asked every second",
                reason="away",
                retry_after_s=RETRY_AFTER_S,
            )

    def call(self, method: str, *args: Any, **named: Any) -> Any:
        """Call a method of pymilvus' client.

        Args:
            method: Its name.
            args: What it is given.
            named: What it is given by name; ``timeout`` takes the place of the usual one.

        Raises:
            IndexUnavailableError: If there is no answer, or it is an error.
        """
        client = self._client
        named.setdefault("timeout", self._timeout_s)
        return self.guarded(method, lambda: getattr(client, method)(*args, **named))

    def guarded(self, name: str, ask: Callable[[], Any]) -> Any:
        """Ask Milvus something.

        Raises:
            IndexUnavailableError: If there is no answer, or it is an error.
        """
        self.check()
        try:
            return ask()
        except (MilvusException, grpc.RpcError, ValueError) as error:
            # Of a channel that was closed meanwhile, grpc raises a bare ValueError.
            self._doubt.set()
            log.warning("Milvus: %s failed: %s", name, told(error))
            raise IndexUnavailableError(
                f"the index did not answer: {name} failed at {self.place.shown}",
                reason="failed",
                retry_after_s=RETRY_AFTER_S,
            ) from error

    def close(self) -> None:
        """End; waits for nothing."""
        self._closing = True
        self._doubt.set()
        if self._thread is not None:
            self._thread.join(self._ping_s)
        self._client.close()

    def _connect(self, timeout_s: float) -> MilvusClient:
        try:
            return MilvusClient(
                uri=self.place.uri,
                token=self._token,
                db_name=self.place.database,
                timeout=timeout_s,
                dedicated=not self.place.shown.startswith(LITE),
                grpc_options=OWN_CONNECTION,
            )
        except (MilvusException, grpc.RpcError) as error:
            log.info("Milvus: connecting failed: %s", told(error))
            raise IndexUnavailableError(
                f"the index is away: nothing answers at {self.place.shown}",
                reason="away",
                retry_after_s=RETRY_AFTER_S,
            ) from error

    def _watch(self, often: Callable[[], None]) -> None:
        while True:
            self._doubt.wait(PING_EVERY_S)
            self._doubt.clear()
            if self._closing:
                return
            if not self._answers():
                continue
            try:
                often()
            except IndexUnavailableError as error:
                log.info("Milvus: looking after it failed: %s", error)
            except Exception:
                log.exception("Milvus: looking after it failed")

    def _answers(self) -> bool:
        try:
            if self.available:
                self._ask(self._client)
            else:
                self._replace(self._returned())
        except (MilvusException, grpc.RpcError, IndexUnavailableError, ValueError) as error:
            if self.available and not self._closing:
                log.warning("Milvus is away: %s", told(error))
                self._away_since_s = time.monotonic()
            return False
        if not self.available:
            log.warning("Milvus is back")
            self._away_since_s = None
        return True

    def _returned(self) -> MilvusClient:
        """A new connection, to a server that can search."""
        client = self._connect(self._ping_s)
        try:
            there = client.list_collections(timeout=self._ping_s)
            for table in filter(there.__contains__, self.needed):
                # Which waits until it can be searched: a server that has come back takes a while
                # for that, and milvus-lite has to be told.
                client.load_collection(table, timeout=self._timeout_s)
            self._ask(client)
        except BaseException:
            client.close()
            raise
        return client

    def _ask(self, client: MilvusClient) -> None:
        """Ask something that only a server which can search answers."""
        if not self.needed:
            client.list_collections(timeout=self._ping_s)
        for table in self.needed[:1]:
            client.query(
                table,
                filter='key == ""',
                output_fields=["key"],
                consistency_level=LEVELS["eventually"],
                timeout=self._ping_s,
            )

    def _replace(self, client: MilvusClient) -> None:
        old, self._client = self._client, client
        # Calls that are under way on it end by themselves within their time.
        later = threading.Timer(self._timeout_s + 1.0, old.close)
        later.daemon = True
        later.start()


def told(error: BaseException) -> str:
    """Say in one line what pymilvus or gRPC says of an error."""
    text = error.message if isinstance(error, MilvusException) else str(error)
    return " ".join(f"{type(error).__name__}: {text}".split())[:300]
