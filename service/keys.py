"""API keys: what they may do, the file they are kept in, and the ring a running service uses.

The file holds no key, only its SHA-256. A key is 256 random bits, so there is nothing to guess
that a slow hash would protect: a fast one is as safe, and costs a request microseconds.
"""

import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

log = logging.getLogger(__name__)

Scope = Literal["read", "write", "admin"]
Signature = tuple[int, int, int] | None

# Whoever may change what is there may also see it.
INCLUDED: dict[Scope, frozenset[Scope]] = {
    "read": frozenset({"read"}),
    "write": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
}
KEY_PREFIX = "nck_"
KEY_BYTES = 32
REREAD_EVERY_S = 1.0


class KeyFileError(ValueError):
    """The key file cannot be read or changed; the message is one line and quotes none of it."""


class Key(BaseModel):
    """What is known of one key."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    # Names go into logs and problems: no blanks, no control characters, nothing long.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", repr=False)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    created: AwareDatetime
    expires: AwareDatetime | None = None

    def allows(self, scope: Scope) -> bool:
        """Tell whether a scope is among the key's own or included in one of them."""
        return any(scope in INCLUDED[own] for own in self.scopes)

    def expired(self, now: datetime) -> bool:
        """Tell whether the key's time is over."""
        return self.expires is not None and self.expires <= now


class KeyRing(BaseModel):
    """All keys of a file, in its order."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    keys: tuple[Key, ...]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for member in ("name", "sha256"):
            if len({getattr(key, member) for key in self.keys}) < len(self.keys):
                raise ValueError(f"two keys have the same {member}")
        return self

    def find(self, secret: str) -> Key | None:
        """Find the key that a caller presents, in a time that does not tell which it is."""
        digest = _digest(secret)
        found = None
        for key in self.keys:
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found


class KeyFile:
    """The keys of a running service, read again when their file changes.

    A file that becomes unreadable or invalid is reported once, and the last good keys stay.

    Args:
        path: The file.
        clock: Seconds, for how often the file is looked at.

    Raises:
        KeyFileError: If the file cannot be read now.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._looked_s = clock()
        self._seen = _signature(path)
        self._ring = read_keys(path)
        self._trouble = ""

    def ring(self) -> KeyRing:
        """The keys as of a second ago at most."""
        now_s = self._clock()
        if now_s - self._looked_s >= REREAD_EVERY_S:
            self._looked_s = now_s
            # Taken before reading: what changes meanwhile is then seen at the next look.
            signature = _signature(self._path)
            if signature == self._seen:
                self._trouble = ""
            else:
                self._reread(signature)
        return self._ring

    def _reread(self, signature: Signature) -> None:
        try:
            self._ring = read_keys(self._path)
        except KeyFileError as error:
            # Read again at each look: a change of permissions does not show in the signature.
            if str(error) != self._trouble:
                log.warning("the API keys stay as they were: %s", error)
            self._trouble = str(error)
        else:
            self._seen, self._trouble = signature, ""
            log.info("read %d API keys", len(self._ring.keys))


def read_keys(path: Path) -> KeyRing:
    """Read a key file.

    Raises:
        KeyFileError: If it cannot be read or is not a key file.
    """
    try:
        return KeyRing.model_validate_json(path.read_bytes())
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}") from None
    except ValidationError as error:
        # Without the cause: it carries what the file holds, perhaps a key that does not belong.
        raise KeyFileError(f"{path}: {_first_mistake(error)}") from None


def create_key(
    path: Path,
    name: str,
    scopes: Sequence[Scope],
    *,
    lifetime: timedelta | None = None,
    now: datetime | None = None,
) -> str:
    """Add a key to a file, which is made if there is none, and return the key.

    It is returned this once and kept nowhere.

    Raises:
        KeyFileError: If the name is taken or unfit, or the file cannot be read or written.
    """
    now = (now or datetime.now(UTC)).replace(microsecond=0)
    secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    try:
        key = Key(
            name=name,
            sha256=_digest(secret),
            scopes=tuple(dict.fromkeys(scopes)),
            created=now,
            expires=None if lifetime is None else now + lifetime,
        )
    except ValidationError as error:
        raise KeyFileError(_first_mistake(error)) from None
    with _locked(path):
        ring = read_keys(path) if path.exists() else KeyRing(keys=())
        if any(other.name == name for other in ring.keys):
            raise KeyFileError(f"{path}: there is a key named {name} already")
        _write(path, KeyRing(keys=(*ring.keys, key)))
    return secret


def revoke_key(path: Path, name: str) -> None:
    """Take a key out of a file.

    Raises:
        KeyFileError: If there is no such key, or the file cannot be read or written.
    """
    with _locked(path):
        ring = read_keys(path)
        kept = tuple(key for key in ring.keys if key.name != name)
        if len(kept) == len(ring.keys):
            raise KeyFileError(f"{path}: there is no key named {name}")
        _write(path, KeyRing(keys=kept))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _signature(path: Path) -> Signature:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _first_mistake(error: ValidationError) -> str:
    """Say where the first mistake is and what was expected there, quoting nothing."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    # The name of a member that does not belong is itself part of what the file holds.
    place = first["loc"][:-1] if first["type"] == "extra_forbidden" else first["loc"]
    message = "not JSON" if first["type"] == "json_invalid" else first["msg"]
    return ": ".join(part for part in (".".join(map(str, place)), message) if part)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the file's lock. It is on a file beside it, since writing replaces the file itself."""
    import fcntl  # serving, which needs no lock, goes on where there is none

    try:
        lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KeyFileError(f"{path}.lock: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _write(path: Path, ring: KeyRing) -> None:
    """Replace a file as a whole, readable by its owner alone."""
    text = json.dumps(ring.model_dump(mode="json"), indent=2) + "\n"
    # A link is followed, so that it stays one.
    target = Path(os.path.realpath(path))
    temporary = ""
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        with os.fdopen(handle, "w") as file:
            if target.exists():
                owner = target.stat()
                os.fchown(file.fileno(), owner.st_uid, owner.st_gid)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        # Else a revoked key might be back after a power failure.
        folder = os.open(target.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as error:
        with suppress(OSError):
            os.unlink(temporary)
        raise KeyFileError(f"{path}: {error.strerror}") from None
