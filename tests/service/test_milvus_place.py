"""Where a Milvus is: what ``index_url`` may be, and what is told of it."""

from pathlib import Path

import pytest

from service.app import create_app
from service.milvus.place import place_of
from service.settings import Settings, SettingsError

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("url", "uri", "database", "shown"),
    [
        ("milvus://h", "http://h:19530", "", "milvus://h:19530/default"),
        ("milvus://h/", "http://h:19530", "", "milvus://h:19530/default"),
        ("milvus://h:1/", "http://h:1", "", "milvus://h:1/default"),
        ("milvus://10.0.0.1:65535/a_b", "http://10.0.0.1:65535", "a_b", None),
        ("milvus+tls://milvus.example.org:443/db", "https://milvus.example.org:443", "db", None),
        ("milvus://[::1]:19530/db", "http://[::1]:19530", "db", None),
        ("milvus-lite:some/where.db", "some/where.db", "", None),
    ],
)
def test_places(url: str, uri: str, database: str, shown: str | None) -> None:
    place = place_of(url)
    assert (place.uri, place.database) == (uri, database)
    assert place.shown == (shown or url)


@pytest.mark.parametrize(
    "url",
    [
        "localhost:19530",
        "http://localhost:19530",
        "https://localhost/db",
        "milvus:localhost",
        "milvus://",
        "milvus://:19530",
        "milvus://h:port",
        "milvus://h:0",
        "milvus://h:65536",
        "milvus://h:99999/db",
        "milvus://h/a/b",
        "milvus://h/a-b",
        "milvus://h/db?timeout=3",
        "milvus://h x/db",
        "milvus-lite:",
        "milvus-lite:folder",
        "milvus-lite:.db",
        "MILVUS://h",
        " milvus://h",
        "milvus://h\n",
    ],
)
def test_what_is_no_place_names_the_setting(url: str) -> None:
    with pytest.raises(SettingsError, match=r"--index-url \(NEXTCHUNK_INDEX_URL\)"):
        place_of(url)


@pytest.mark.parametrize(
    "url",
    [
        f"milvus://root:{SECRET}@h:19530/db",
        f"milvus+tls://root:{SECRET}@h/db",
        f"milvus://root:a/{SECRET}@h:19530/db",
        f"milvus://root:a@{SECRET}@h:19530/db",
        f"milvus://root:{SECRET}",
        f"milvus:root:{SECRET}@h",
        f"http://root:{SECRET}@h:19530",
        f"milvus://{SECRET}@h/db",
        f"milvus://h/db?token={SECRET}",
        f"milvus://h/db?password={SECRET}&x=1",
    ],
)
def test_a_password_is_never_shown(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        place_of(url)
    assert SECRET not in str(caught.value)
    assert "--index-url" in str(caught.value)


def test_no_service_is_made_with_one(tmp_path: Path) -> None:
    settings = Settings(data=tmp_path, index_url=f"milvus://root:{SECRET}@h/db")
    with pytest.raises(SettingsError, match="NEXTCHUNK_INDEX_URL"):
        create_app(settings)
