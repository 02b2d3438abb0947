"""Where a Milvus is; read at once, before anything heavy is loaded."""

import importlib.util
import re
from dataclasses import dataclass

from service.settings import Settings, SettingsError, flag_of, variable_of

SCHEMES = {"milvus": "http", "milvus+tls": "https"}
DEFAULT_PORT, HIGHEST_PORT = 19530, 65_535
SHOWN_CHARACTERS = 20
LITE = "milvus-lite:"
SETTING = f"{flag_of('index_url')} ({variable_of('index_url')})"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a Milvus is."""

    uri: str
    """As pymilvus wants it."""
    database: str
    shown: str
    """As people may read it: without secrets."""


def place_of(url: str) -> Place:
    """Read ``index_url``.

    Raises:
        SettingsError: If it is not one.
    """
    if re.fullmatch(f"{LITE}.*[^/]\\.db", url):
        return Place(uri=url.removeprefix(LITE), database="", shown=url)
    pattern = (
        r"(milvus(?:\+tls)?)://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:]+\])(?::(\d{1,5}))?(?:/(\w*))?/?"
    )
    found = re.fullmatch(pattern, url)
    if found is None or not 1 <= int(found[3] or DEFAULT_PORT) <= HIGHEST_PORT:
        # No more of it is shown: it may hold a password, where none should be.
        shown = url.partition(":")[0][:SHOWN_CHARACTERS]
        raise SettingsError(
            f"{SETTING}: expected milvus://HOST:PORT/DATABASE, "
            f"milvus+tls://... or {LITE}FILE.db, with user:password in {flag_of('index_token')} "
            f"alone; got something else that begins with {shown!r}"
        )
    scheme, host, port, database = found.groups()
    address = f"{host}:{port or DEFAULT_PORT}"
    return Place(
        uri=f"{SCHEMES[scheme]}://{address}",
        database=database or "",
        shown=f"{scheme}://{address}/{database or 'default'}",
    )


def check_place(settings: Settings) -> None:
    """Check that an index URL can be used.

    Raises:
        SettingsError: If it is none, or what it needs is not installed.
    """
    if not settings.index_url:
        return
    place_of(settings.index_url)
    if importlib.util.find_spec("pymilvus") is None:
        raise SettingsError(f"{SETTING}: needs pip install 'nextchunk[milvus]'")
    if settings.index_url.startswith(LITE) and importlib.util.find_spec("milvus_lite") is None:
        raise SettingsError(f"{SETTING}: needs pip install milvus-lite")
