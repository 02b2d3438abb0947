"""Who may call, what, and how often: the dependency that guards routes.

A route says which scope it needs; everything else hangs on the application's ``Guard``:

    router = APIRouter(dependencies=[requires("read")])

    @router.put("/chunks", dependencies=[requires("write")])
"""

import base64
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Request, Security
from fastapi.params import Security as SecurityParam
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi.security.utils import get_authorization_scheme_param

from service.errors import ForbiddenError, RateLimitedError, ServiceError, UnauthenticatedError
from service.keys import INCLUDED, Key, KeyFile, KeyFileError, Scope
from service.settings import Settings, SettingsError, flag_of, variable_of

REALM = 'realm="nextchunk"'
# Of callers beyond this many, those longest silent are forgotten, which lets them begin anew.
CALLERS_LIMIT = 10_000
# A caller who waited exactly as long as told must not fail by a rounding.
ROUNDING = 1e-6

_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="bearer",
    description="An API key. Only needed where the service was started with keys.",
)
_header = APIKeyHeader(
    name="X-API-Key",
    auto_error=False,
    scheme_name="header",
    description="The same key, where Authorization is taken.",
)


@dataclass
class _Bucket:
    tokens: float
    at_s: float


class RateLimiter:
    """A token bucket for each caller. Not for use by several threads at once.

    Args:
        rate: Tokens that come back in a second.
        burst: Tokens that a bucket holds.
        clock: Seconds.
        callers_limit: Most buckets that are kept.
    """

    def __init__(
        self,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        callers_limit: int = CALLERS_LIMIT,
    ) -> None:
        self._rate, self._burst = rate, burst
        self._clock = clock
        self._limit = callers_limit
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._buckets)

    def take(self, caller: str) -> float:
        """Take a token, and return 0, or else the seconds until there is one."""
        now_s = self._clock()
        bucket = self._buckets.get(caller) or _Bucket(self._burst, now_s)
        bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.at_s) * self._rate)
        bucket.at_s = now_s
        self._buckets[caller] = bucket
        self._buckets.move_to_end(caller)
        self._forget(now_s)
        if bucket.tokens < 1 - ROUNDING:
            return (1 - bucket.tokens) / self._rate
        bucket.tokens -= 1
        return 0.0

    def _forget(self, now_s: float) -> None:
        """Drop buckets that are full again by now: a new one is no different."""
        until_full_s = self._burst / self._rate
        while self._buckets:
            oldest = next(iter(self._buckets))
            full = now_s - self._buckets[oldest].at_s >= until_full_s
            if not full and len(self._buckets) <= self._limit:
                return
            del self._buckets[oldest]


class Guard:
    """Decides about each request; ``app.state.guard`` is the one of an application.

    Args:
        keys: The keys that open; without them every caller may do everything.
        limiter: How often one key, or without keys one address, may call; without it always.
        now: The time by which keys expire.
    """

    def __init__(
        self,
        keys: KeyFile | None = None,
        limiter: RateLimiter | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._keys = keys
        self._limiter = limiter
        self._now = now

    @classmethod
    def from_settings(cls, settings: Settings) -> "Guard":
        """Build the guard of a service.

        Raises:
            SettingsError: If there is to be a key file and it cannot be read.
        """
        try:
            keys = None if settings.api_keys is None else KeyFile(settings.api_keys)
        except KeyFileError as error:
            name = "api_keys"
            raise SettingsError(f"{flag_of(name)} ({variable_of(name)}): {error}") from None
        limited = settings.rate_limit > 0
        return cls(keys, RateLimiter(settings.rate_limit, settings.rate_burst) if limited else None)

    @property
    def open(self) -> bool:
        """Whether everybody may do everything, as often as they like."""
        return self._keys is None and self._limiter is None

    def identify(self, secret: str | None) -> Key | None:
        """Find out whose key it is; None if there are no keys at all.

        Raises:
            UnauthenticatedError: If there are keys and this is none of them.
        """
        if self._keys is None:
            return None
        if secret is None:
            raise UnauthenticatedError(
                "this needs an API key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'",
                reason="no_key",
            )
        key = self._keys.ring().find(secret)
        if key is None:
            raise UnauthenticatedError("the API key is not known", reason="unknown_key")
        if key.expired(self._now()):
            raise UnauthenticatedError(f"the API key {key.name} has expired", reason="expired_key")
        return key

    def throttle(self, caller: str) -> None:
        """Count one request of a caller.

        Raises:
            RateLimitedError: If it is one too many.
        """
        wait_s = 0.0 if self._limiter is None else self._limiter.take(caller)
        if wait_s > 0:
            raise RateLimitedError(
                "too many requests; come back later",
                retry_after_s=max(1, math.ceil(wait_s - ROUNDING)),
            )


def authorise(key: Key | None, scope: Scope) -> None:
    """Let a key do what its scopes include; without keys there is nothing to check.

    Raises:
        ForbiddenError: If they do not.
    """
    if key is None or key.allows(scope):
        return
    enough = " or ".join(other for other, included in INCLUDED.items() if scope in included)
    own = ", ".join(key.scopes)
    error = ForbiddenError(
        f"scope: expected {enough}, got {own}", field="scope", expected=enough, actual=own
    )
    error.headers["WWW-Authenticate"] = (
        f'Bearer {REALM}, error="insufficient_scope", scope="{scope}"'
    )
    raise error


def requires(scope: Scope, *, browser: bool = False) -> SecurityParam:
    """Make the dependency that lets only callers through who may do something.

    Args:
        scope: What the caller's key must allow.
        browser: Whether a browser may also send the key as the password of HTTP Basic, for which
            it asks by itself. Only for pages to read: what a browser adds by itself, it adds to
            requests of foreign pages too.
    """

    async def check(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> None:
        admit(request, scope, browser=browser)  # the parameters are there to be documented

    return SecurityParam(check, scopes=[scope])


def admit(request: Request, scope: Scope, *, browser: bool = False) -> None:
    """Let a request through whose caller may do something.

    Args:
        request: With the key in its headers, if it needs one.
        scope: What the key must allow.
        browser: As in ``requires``.

    Raises:
        ServiceError: If the caller is not known, comes too often, or may not.
    """
    guard: Guard = request.app.state.guard
    if guard.open:
        return
    own = _own_secret(request)
    secret = _basic_password(request) if own is None and browser else own
    try:
        key = _identify(request, secret)
    except UnauthenticatedError as error:
        error.headers["WWW-Authenticate"] = _challenge(error, browser and own is None)
        raise
    authorise(key, scope)


def _own_secret(request: Request) -> str | None:
    """The key that a program sends: as a bearer token, or else in the header of its own."""
    scheme, token = get_authorization_scheme_param(request.headers.get("authorization"))
    if token and scheme.lower() == "bearer":
        return token
    return request.headers.get("x-api-key")


def _identify(request: Request, secret: str | None) -> Key | None:
    """Identify and count the caller, once however many dependencies a route has."""
    state = request.state
    if not hasattr(state, "api_key"):
        guard: Guard = request.app.state.guard
        key = guard.identify(secret)
        state.key_name = None if key is None else key.name
        guard.throttle(_address(request) if key is None else key.name)
        state.api_key = key
    admitted: Key | None = state.api_key
    return admitted


def _address(request: Request) -> str:
    """Who calls, by address; one who has an IPv6 network has all addresses in it."""
    host = request.client.host if request.client else ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), 64), strict=False))


def _basic_password(request: Request) -> str | None:
    kind, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        return base64.b64decode(encoded, validate=True).decode().partition(":")[2]
    except ValueError:
        return None


def _challenge(error: ServiceError, browser: bool) -> str:
    if browser:
        return f'Basic {REALM}, charset="UTF-8"'
    invalid = error.members.get("reason") != "no_key"
    return f"Bearer {REALM}" + (', error="invalid_token"' if invalid else "")
