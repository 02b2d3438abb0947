"""When a call is sent again, and when not: both clients, over real sockets."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import httpx
import pytest
import trustme

from service import errors
from service.client import AsyncClient, Client, Retry
from service.errors import ServiceError

from .clients import KINDS, Connect, Play, Scripted, Time, connecting, problem

ALIVE = {"status": "alive"}
NOON = 1_700_000_000.0
CHUNKS = [{"id": "a:0", "document_id": "a", "position": 0, "vector": [1.0, 0.0]}]
STORED = {"upserted": 1, "version": 2, "status": "searchable"}


@pytest.fixture(params=KINDS)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    with connecting(request.param) as opened:
        yield opened


def always(part: float, **options: Any) -> Retry:
    return Retry(draw=lambda: part, **options)


def refused(kind: type[ServiceError], **headers: str) -> Play:
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return Play(status=kind.status, body=problem(kind), headers=headers)


@pytest.mark.parametrize("kind", [errors.QueueFullError, errors.RateLimitedError])
def test_retry_after_is_the_least_that_it_waits(connect: Connect, kind: type[ServiceError]) -> None:
    waiting = Time()
    with Scripted([refused(kind, Retry_After="2"), Play(body={"mode": "p8"})]) as server:
        client = connect(server.url, time=waiting, retry=always(0.5))
        assert client.model() == {"mode": "p8"}
    assert len(server.asked) == 2
    assert waiting.pauses == [pytest.approx(2.05)]


def test_it_really_waits(connect: Connect) -> None:
    with Scripted([refused(errors.NotReadyError, Retry_After="1"), Play()]) as server:
        client = connect(server.url)
        began = time.monotonic()
        client.model()
        assert 1.0 <= time.monotonic() - began < 5.0


def test_retry_after_may_be_a_date_by_the_clock_of_the_service(connect: Connect) -> None:
    waiting = Time()
    dates = {
        "Date": formatdate(NOON, usegmt=True),
        "Retry_After": formatdate(NOON + 3, usegmt=True),
    }
    past = {"Date": formatdate(NOON, usegmt=True), "Retry_After": formatdate(NOON - 3, usegmt=True)}
    script = [refused(errors.NotReadyError, **given) for given in (dates, past)]
    with Scripted([*script, Play()]) as server:
        connect(server.url, time=waiting, retry=always(0.0)).model()
    assert waiting.pauses == [3.0, 0.0]


def test_a_date_counts_from_now_where_the_answer_has_none(connect: Connect) -> None:
    waiting = Time()
    soon = formatdate(time.time() + 5, usegmt=True)
    with Scripted([refused(errors.NotReadyError, Retry_After=soon), Play()]) as server:
        connect(server.url, time=waiting, retry=always(0.0)).model()
    assert 2.0 < waiting.pauses[0] <= 5.0


@pytest.mark.parametrize("told", ["soon", "-5", "1.5", "Thu, 99 Foo 2023"])
def test_a_retry_after_that_says_nothing_is_nothing(connect: Connect, told: str) -> None:
    waiting = Time()
    with Scripted([refused(errors.NotReadyError, Retry_After=told), Play()]) as server:
        connect(server.url, time=waiting, retry=always(0.0)).model()
    assert waiting.pauses == [0.0]


def test_pauses_double_up_to_the_longest(connect: Connect) -> None:
    waiting = Time()
    with Scripted([refused(errors.UnavailableError)] * 6 + [Play()]) as server:
        retry = always(1.0, attempts=7, base_s=0.1, max_s=1.0)
        connect(server.url, time=waiting, retry=retry).model()
    assert waiting.pauses == [pytest.approx(s) for s in (0.1, 0.2, 0.4, 0.8, 1.0, 1.0)]


def test_jitter_is_drawn_anew_from_the_whole_pause(connect: Connect) -> None:
    waiting, drawn = Time(), iter([0.0, 0.25, 0.5])
    with Scripted([refused(errors.UnavailableError)] * 3 + [Play()]) as server:
        retry = Retry(draw=lambda: next(drawn), base_s=1.0)
        connect(server.url, time=waiting, retry=retry).model()
    assert waiting.pauses == [0.0, 0.5, 2.0]


def test_after_the_last_attempt_it_is_the_error_of_the_service(connect: Connect) -> None:
    waiting = Time()
    full = Play(
        status=429, body=problem(errors.QueueFullError, retry_after_s=1, reason="full"), headers={}
    )
    with Scripted([full]) as server:
        client = connect(server.url, time=waiting)
        with pytest.raises(errors.QueueFullError, match="so it is") as caught:
            client.model()
    assert len(server.asked) == 5
    assert len(waiting.pauses) == 4
    assert caught.value.members == {"retry_after_s": 1, "reason": "full"}
    assert caught.value.request_id == "r-1"


@pytest.mark.parametrize(
    ("options", "retry_after"),
    [
        ({"timeout_s": 3.0}, "4"),
        ({"timeout_s": 3.0}, "9" * 400),
        ({"timeout_s": 3.0}, "Fri, 31 Dec 2100 23:59:59 GMT"),
        ({"retry": None}, "1"),
    ],
)
def test_it_gives_up_at_once_where_waiting_is_too_long_or_unwanted(
    connect: Connect, options: dict[str, Any], retry_after: str
) -> None:
    waiting = Time()
    with Scripted([refused(errors.QueueFullError, Retry_After=retry_after), Play()]) as server:
        client = connect(server.url, time=waiting, **options)
        with pytest.raises(errors.QueueFullError):
            client.model()
    assert len(server.asked) == 1
    assert waiting.pauses == []


def test_all_attempts_share_one_timeout(connect: Connect) -> None:
    waiting = Time()
    with Scripted([refused(errors.NotReadyError, Retry_After="4")]) as server:
        client = connect(server.url, time=waiting, timeout_s=10.0, retry=always(0.0))
        for _ in range(2):  # each call has a timeout of its own
            with pytest.raises(errors.NotReadyError):
                client.model()
    assert waiting.pauses == [4.0, 4.0] * 2
    assert len(server.asked) == 6


@pytest.mark.parametrize(
    "kind",
    [kind for kind in errors.error_classes() if kind.status not in (429, 503)],
    ids=lambda kind: kind.code,
)
def test_no_other_error_is_tried_again(connect: Connect, kind: type[ServiceError]) -> None:
    with Scripted([refused(kind, Retry_After="1")]) as server:
        client = connect(server.url)
        with pytest.raises(ServiceError) as caught:
            client.model()
    assert type(caught.value) is kind
    assert len(server.asked) == 1


def test_a_probe_is_answered_at_once(connect: Connect) -> None:
    with Scripted([refused(errors.NotReadyError), Play(body=ALIVE)]) as server:
        client = connect(server.url)
        with pytest.raises(errors.NotReadyError):
            client.ready()
        assert client.live() == ALIVE
    assert [asked.path for asked in server.asked] == ["/readyz", "/livez"]


@pytest.mark.parametrize("how", ["silent", "half", "reset"])
@pytest.mark.parametrize(
    ("operation", "arguments", "answer"),
    [
        ("upsert", (CHUNKS,), STORED),
        ("delete", (["a:0"],), {"deleted": 1, "version": 3, "status": "searchable"}),
        ("delete_document", ("a",), {"deleted": 1, "version": 3, "status": "searchable"}),
        ("rank", ([[1.0, 0.0]],), {"mode": "p8", "results": []}),
    ],
)
def test_a_lost_answer_is_asked_for_again_under_the_same_key(
    connect: Connect, how: str, operation: str, arguments: tuple[Any, ...], answer: Any
) -> None:
    waiting = Time()
    with Scripted([Play(body=answer, break_off=how), Play(body=answer)]) as server:
        client = connect(server.url, time=waiting)
        assert getattr(client, operation)(*arguments) == answer
        getattr(client, operation)(*arguments)
    first, second, other = server.asked
    assert first.body == second.body == other.body
    assert first.headers == second.headers
    keys = [asked.headers.get("idempotency-key") for asked in server.asked]
    assert (None in keys) is (operation == "rank")
    assert len(set(keys)) == (1 if operation == "rank" else 2)
    assert len(waiting.pauses) == 1


def test_a_lost_answer_is_unreachable_in_the_end(connect: Connect) -> None:
    waiting = Time()
    with Scripted([Play(break_off="half", body=STORED)]) as server:
        client = connect(server.url, time=waiting, retry=Retry(attempts=3))
        with pytest.raises(errors.UnreachableError, match=rf"at {server.url} \(RemoteProtocol"):
            client.upsert(CHUNKS)
    assert len(server.asked) == 3


def test_it_waits_for_a_service_that_is_not_up_yet(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    started: list[Scripted] = []

    def start() -> None:
        if len(waiting.pauses) == 2:
            started.append(Scripted([Play(body={"mode": "p8"})], port=port).__enter__())

    waiting = Time(before_waking=start)
    client = connect(f"http://127.0.0.1:{port}", time=waiting, retry=always(1.0))
    try:
        assert client.model() == {"mode": "p8"}
        assert waiting.pauses == [pytest.approx(0.1), pytest.approx(0.2)]
    finally:
        for server in started:
            server.__exit__()


def test_a_timeout_is_the_end(connect: Connect) -> None:
    late = threading.Event()
    with Scripted([Play(until=late)]) as server:
        client = connect(server.url, timeout_s=0.3, time=Time())
        began = time.monotonic()
        with pytest.raises(errors.UnreachableError, match="ReadTimeout"):
            client.model()
        assert 0.3 <= time.monotonic() - began < 5.0
        late.set()
    assert len(server.asked) == 1


def test_a_call_that_may_take_longer_is_waited_for(connect: Connect) -> None:
    late = threading.Event()
    threading.Timer(0.6, late.set).start()
    with Scripted([Play(body={"p_b_after_a": 0.5}, until=late)]) as server:
        client = connect(server.url, timeout_s=0.1)
        assert client.order(a_id="a", b_id="b", timeout_s=0.5) == 0.5
    assert server.asked[0].headers["x-request-timeout"] == "0.5"


@pytest.mark.parametrize(
    "play",
    [
        Play(status=502, body=b"<html>"),
        Play(body=b"<html>"),
        Play(body=[1]),
        Play(body={"p": 0.5}),
        Play(body={"p_b_after_a": "high"}),
        Play(body=b"\xc1", headers={"Content-Type": "application/msgpack"}),
    ],
)
def test_what_answers_strangely_is_no_service(connect: Connect, play: Play) -> None:
    with Scripted([play]) as server:
        client = connect(server.url)
        with pytest.raises(errors.UnreachableError, match=rf"status {play.status} is not"):
            client.order(a_id="a", b_id="b")
    assert len(server.asked) == 1


def test_connections_are_kept_and_no_more_than_allowed() -> None:
    limits = httpx.Limits(max_connections=2)

    async def gathered(url: str) -> None:
        async with AsyncClient(url, limits=limits) as client:
            await asyncio.gather(*(client.live() for _ in range(20)))

    with Scripted([Play(body=ALIVE)]) as server:
        with Client(server.url, limits=limits) as client, ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: client.live(), range(20)))
        assert len(server.asked) == 20
        assert 1 <= len({asked.port for asked in server.asked}) <= 2
        server.asked.clear()
        asyncio.run(gathered(server.url))
        assert len(server.asked) == 20
        assert 1 <= len({asked.port for asked in server.asked}) <= 2


def test_waiting_for_a_connection_ends_with_the_timeout() -> None:
    late = threading.Event()
    with (
        Scripted([Play(body={"p_b_after_a": 0.5}, until=late)]) as server,
        Client(server.url, timeout_s=0.3, limits=httpx.Limits(max_connections=1)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        first = pool.submit(client.order, a_id="a", b_id="b", timeout_s=20.0)
        while not server.asked:
            time.sleep(0.01)
        with pytest.raises(errors.UnreachableError, match="PoolTimeout"):
            client.live()
        late.set()
        assert first.result() == 0.5
        assert len(server.asked) == 1


def test_certificates_are_checked(connect: Connect) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Scripted([Play(body=ALIVE)], tls=tls) as server:
        with pytest.raises(errors.UnreachableError):
            connect(server.url, retry=None).live()
        assert connect(server.url, verify=trusting).live() == ALIVE


def test_numbers_out_of_range_are_refused() -> None:
    for options in ({"attempts": 0}, {"base_s": -1}, {"base_s": 20}, {"base_s": float("nan")}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Retry(**options)
