"""Keys, scopes and limits over real sockets."""

import base64
import re
import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from service import errors
from service.keys import Scope, create_key, revoke_key
from service.security import Guard, RateLimiter, requires

from .conftest import Live, live
from .test_error_shapes import check_problem

SCOPES: tuple[Scope, ...] = ("read", "write", "admin")
# What each key may reach; the fourth key has expired.
ALLOWED = {"read": {"read"}, "write": {"read", "write"}, "admin": set(SCOPES)}
UNKNOWN = "nck_" + "A" * 43


class Keys:
    """A key file with one key a scope, and one that has expired."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "keys.json"
        self.of = {name: create_key(self.file, f"{name}-key", [name]) for name in SCOPES}
        last_year = datetime.now(UTC) - timedelta(days=365)
        self.expired = create_key(
            self.file, "old-key", ["admin"], lifetime=timedelta(days=1), now=last_year
        )
        self.secrets = [*self.of.values(), self.expired]


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


def basic(secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"me:{secret}".encode()).decode()}


def add_probes(app: FastAPI) -> None:
    """Add one route a scope; those for more hang on a router for reading."""
    router = APIRouter(include_in_schema=False, dependencies=[requires("read")])

    async def name(request: Request) -> str | None:
        await request.body()
        caller: str | None = getattr(request.state, "key_name", None)
        return caller

    for scope, (method, path) in PROBES.items():
        own = [requires(scope)] if scope != "read" else []
        router.add_api_route(path, name, methods=[method], dependencies=own)
    app.include_router(router)


PROBES: dict[Scope, tuple[str, str]] = {
    "read": ("GET", "/probe/read"),
    "write": ("PUT", "/probe/write"),
    "admin": ("POST", "/probe/admin"),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def guarded(
    data: Path, checkpoint: Path, keys: Keys, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """A service with keys, on its own copy of the data, since admins may change it."""
    own = tmp_path_factory.mktemp("own") / "data"
    shutil.copytree(data, own)
    with live(own, checkpoint, prepare=add_probes, api_keys=keys.file, docs=True) as running:
        yield running


@pytest.mark.parametrize("needed", SCOPES)
@pytest.mark.parametrize("own", SCOPES)
def test_a_key_opens_what_its_scope_includes(
    guarded: Live, keys: Keys, own: Scope, needed: Scope
) -> None:
    for headers in (bearer(keys.of[own]), {"X-API-Key": keys.of[own]}):
        response = guarded.http.request(*PROBES[needed], headers=headers)
        if needed in ALLOWED[own]:
            assert (response.status_code, response.json()) == (200, f"{own}-key")
            continue
        problem = check_problem(response, errors.ForbiddenError)
        assert (problem["field"], problem["actual"]) == ("scope", own)
        assert problem["expected"] == {"write": "write or admin", "admin": "admin"}[needed]
        assert (
            f'error="insufficient_scope", scope="{needed}"' in response.headers["WWW-Authenticate"]
        )


@pytest.mark.parametrize("needed", SCOPES)
def test_without_a_valid_key_nothing_opens(guarded: Live, keys: Keys, needed: Scope) -> None:
    for headers, reason in (
        ({}, "no_key"),
        ({"Authorization": keys.of["admin"]}, "no_key"),
        ({"Authorization": "Bearer"}, "no_key"),
        (basic(keys.of["admin"]), "no_key"),
        (bearer(UNKNOWN), "unknown_key"),
        (bearer(keys.of["admin"][:-1]), "unknown_key"),
        (bearer(keys.of["admin"] + "=\xff"), "unknown_key"),
        ({"X-API-Key": UNKNOWN}, "unknown_key"),
        # The first of two headers counts, rather than whichever fits.
        ({**bearer(UNKNOWN), "X-API-Key": keys.of["admin"]}, "unknown_key"),
        (bearer(keys.expired), "expired_key"),
    ):
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        response = guarded.http.request(*PROBES[needed], headers=raw)
        assert check_problem(response, errors.UnauthenticatedError)["reason"] == reason
        challenge = 'Bearer realm="nextchunk"'
        if reason != "no_key":
            challenge += ', error="invalid_token"'
        assert response.headers["WWW-Authenticate"] == challenge
        assert not [secret for secret in [*keys.secrets, UNKNOWN] if secret in response.text]


def _scope_of(method: str, path: str) -> str:
    if path == "/v1/model/reload":
        return "admin"
    return "write" if method in ("put", "delete", "patch") else "read"


def test_every_operation_needs_its_scope(guarded: Live, keys: Keys) -> None:
    document = guarded.http.get("/openapi.json", headers=bearer(keys.of["read"])).json()
    schemes = document["components"]["securitySchemes"]
    assert {**schemes["bearer"], "description": ""} == {
        "type": "http",
        "scheme": "bearer",
        "description": "",
    }
    assert {**schemes["header"], "description": ""} == {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "",
    }
    seen = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            ask = method.upper(), re.sub(r"\{.*?\}", "none", path)
            if path in ("/livez", "/readyz"):
                assert "security" not in operation
                assert guarded.http.request(*ask).status_code == 200
                continue
            needed = _scope_of(method, path)
            seen.add(needed)
            assert {tuple(way) for way in operation["security"]} == {("bearer",), ("header",)}
            assert all(needed in way[kind] for way in operation["security"] for kind in way)
            check_problem(guarded.http.request(*ask), errors.UnauthenticatedError)
            for own, secret in keys.of.items():
                status = guarded.http.request(*ask, headers=bearer(secret)).status_code
                assert (status == 403) == (needed not in ALLOWED[own]), (ask, own, status)
                assert status not in (401, 429, 500), (ask, own, status)
    assert seen == set(SCOPES)


def test_a_refusal_reaches_one_who_sends_much_first(guarded: Live) -> None:
    body = b"x" * 8_000_000
    response = guarded.http.put("/probe/write", content=body)
    check_problem(response, errors.UnauthenticatedError)


def test_keys_are_changed_without_a_restart(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    old = create_key(file, "old", ["read"])
    with live(data, prepare=add_probes, api_keys=file) as running:

        def status(secret: str) -> int:
            return running.http.get("/probe/read", headers=bearer(secret)).status_code

        assert status(old) == 200
        new = create_key(file, "new", ["read"])
        revoke_key(file, "old")
        until = time.monotonic() + 2
        while (status(new), status(old)) != (200, 401):
            assert time.monotonic() < until, "the change is not seen"
            time.sleep(0.05)
        file.write_text("{")
        time.sleep(1.1)
        assert (status(new), status(old)) == (200, 401)


def test_without_keys_everything_opens(data: Path) -> None:
    with live(data, prepare=add_probes) as running:
        for ask in (*PROBES.values(), ("GET", "/openapi.json")):
            assert running.http.request(*ask).status_code == 200
        assert running.http.get("/docs").status_code == 404
        assert running.http.request(*PROBES["admin"], headers=bearer(UNKNOWN)).json() is None


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1234.567

    def __call__(self) -> float:
        return self.now_s


def test_tokens_come_back_at_the_rate_and_up_to_the_burst() -> None:
    clock = Clock()
    limiter = RateLimiter(0.1, 3, clock)
    assert [limiter.take("a") for _ in range(3)] == [0, 0, 0]
    assert limiter.take("a") == pytest.approx(10)
    assert limiter.take("b") == 0
    clock.now_s += 4
    assert limiter.take("a") == pytest.approx(6)
    clock.now_s += 6
    assert limiter.take("a") == 0
    assert limiter.take("a") == pytest.approx(10)
    clock.now_s += 1e6
    assert [limiter.take("a") > 0 for _ in range(4)] == [False, False, False, True]


@pytest.mark.parametrize("rate", [0.1, 0.3, 7.0, 1000.0])
def test_to_wait_as_long_as_told_is_enough(rate: float) -> None:
    clock = Clock()
    limiter = RateLimiter(rate, 1, clock)
    assert limiter.take("a") == 0
    for _ in range(100):
        wait_s = limiter.take("a")
        assert wait_s == pytest.approx(1 / rate)
        clock.now_s += wait_s
        assert limiter.take("a") == 0


def test_full_buckets_are_forgotten_and_their_number_is_bounded() -> None:
    clock = Clock()
    limiter = RateLimiter(2, 10, clock, callers_limit=50)
    for caller in range(40):
        limiter.take(f"early-{caller}")
    clock.now_s += 4.9
    limiter.take("late")
    assert len(limiter) == 41
    clock.now_s += 0.1
    limiter.take("late")
    assert len(limiter) == 1
    for caller in range(1000):
        limiter.take(f"many-{caller}")
    assert len(limiter) == 50


def test_each_key_has_its_own_limit(data: Path, keys: Keys) -> None:
    with live(
        data, prepare=add_probes, api_keys=keys.file, rate_limit=0.01, rate_burst=3
    ) as running:

        def ask(secret: str, scope: Scope = "write") -> httpx.Response:
            return running.http.request(*PROBES[scope], headers=bearer(secret))

        # A route that asks for two scopes counts once, and a request that is forbidden counts.
        statuses = [ask(keys.of["write"]).status_code for _ in range(2)]
        assert [*statuses, ask(keys.of["write"], "admin").status_code] == [200, 200, 403]
        response = ask(keys.of["write"])
        problem = check_problem(response, errors.RateLimitedError)
        assert 90 < problem["retry_after_s"] <= 100
        assert response.headers["Retry-After"] == str(problem["retry_after_s"])
        assert ask(keys.of["admin"]).status_code == 200
        assert ask(UNKNOWN).status_code == 401
        assert running.http.get("/livez").status_code == 200


def test_without_keys_each_address_has_its_own_limit(data: Path) -> None:
    clock = Clock()

    def prepare(app: FastAPI) -> None:
        add_probes(app)
        app.state.guard = Guard(limiter=RateLimiter(0.5, 1, clock))

    def status(address: str) -> int:
        # From loopback, uvicorn believes who the proxy says is calling.
        headers = {"X-Forwarded-For": address}
        return running.http.get("/probe/read", headers=headers).status_code

    with live(data, prepare=prepare) as running:
        assert [status("192.0.2.1"), status("192.0.2.1"), status("192.0.2.2")] == [200, 429, 200]
        assert [status("2001:db8::1"), status("2001:db8::ffff")] == [200, 429]
        assert [status("2001:db8:0:1::1"), status("::ffff:192.0.2.2")] == [200, 429]
        clock.now_s += 1.9
        response = running.http.get("/probe/read", headers={"X-Forwarded-For": "192.0.2.1"})
        assert response.headers["Retry-After"] == "1"
        clock.now_s += 0.1
        assert status("192.0.2.1") == 200
