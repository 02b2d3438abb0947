import time

import pytest

from service.accept import MediaType, parse_media_type, preference
from service.errors import NotAcceptableError, UnsupportedMediaTypeError
from service.media import Media, accepted_media, content_media

BOTH = (Media.JSON, Media.MSGPACK)
ALL = (Media.JSON, Media.MSGPACK, Media.OCTETS)


# --- which media type a body comes in


@pytest.mark.parametrize(
    ("header", "media"),
    [
        (None, Media.JSON),
        ("application/json", Media.JSON),
        ("Application/JSON ; Charset=UTF-8", Media.JSON),
        ('application/json;charset="utf-8";;', Media.JSON),
        ("application/msgpack", Media.MSGPACK),
        ("application/x-msgpack", Media.MSGPACK),
        ("application/vnd.msgpack; charset=binary", Media.MSGPACK),
        ("application/octet-stream", Media.OCTETS),
    ],
)
def test_content_types(header: str | None, media: Media) -> None:
    assert content_media(header) is media


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("application/x-www-form-urlencoded", "send the header content-type: application/json"),
        ("text/json", "got 'text/json'"),
        ("application/json; charset=iso-8859-1", "UTF-8, got charset 'iso-8859-1'"),
        ("application/*", "got 'application/\\*'"),
        ("application/json, text/plain", "got 'application/json, text/plain'"),
        ("application/json; charset", "got 'application/json; charset'"),
        ("", "got ''"),
        ("x" * 10_000, "got 10000 characters"),
    ],
)
def test_other_content_types_are_refused(header: str, message: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match=message) as caught:
        content_media(header)
    assert caught.value.members["field"] == "header.content-type"


def test_an_operation_may_read_fewer() -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="application/json or application/msgpack"):
        content_media("application/octet-stream", BOTH)


# --- which media type an answer goes out in


@pytest.mark.parametrize(
    ("accept", "qualities"),
    [
        # From RFC 9110, section 12.5.1, and its forerunner RFC 7231, section 5.3.2.
        (
            "text/*, text/plain, text/plain;format=flowed, */*",
            {"text/plain;format=flowed": 1.0, "text/html": 1.0, "image/jpeg": 1.0},
        ),
        (
            "text/*;q=0.3, text/plain;q=0.7, text/plain;format=flowed, "
            "text/plain;format=fixed;q=0.4, */*;q=0.5",
            {
                "text/plain;format=flowed": 1.0,
                "text/plain": 0.7,
                "text/html": 0.3,
                "image/jpeg": 0.5,
                "text/plain;format=fixed": 0.4,
            },
        ),
        (
            "text/*;q=0.3, text/html;q=0.7, text/html;level=1, text/html;level=2;q=0.4, */*;q=0.5",
            {
                "text/html;level=1": 1.0,
                "text/html": 0.7,
                "text/plain": 0.3,
                "image/jpeg": 0.5,
                "text/html;level=2": 0.4,
                "text/html;level=3": 0.7,
            },
        ),
        ("audio/*; q=0.2, audio/basic", {"audio/basic": 1.0, "audio/mp3": 0.2, "text/plain": 0.0}),
        ('text/plain;a="x,y;q=0.1";q=0.6', {'text/plain;a="x,y;q=0.1"': 0.6, "text/plain": 0.0}),
    ],
)
def test_quality_values_follow_the_rfc(accept: str, qualities: dict[str, float]) -> None:
    for name, quality in qualities.items():
        media = parse_media_type(name)
        assert media is not None
        assert preference(accept, media, frozenset())[0] == quality, name


def test_the_most_exact_range_decides() -> None:
    flowed = MediaType(name="text/plain", parameters={"format": "flowed"})
    ranges = ["*/*", "text/*", "text/plain", "text/plain;format=flowed"]
    levels = [preference(accept, flowed, frozenset())[1] for accept in ranges]
    assert levels == sorted(set(levels))


@pytest.mark.parametrize(
    ("accept", "offered", "media"),
    [
        (None, ALL, Media.JSON),
        ("", ALL, Media.JSON),
        (" \t", ALL, Media.JSON),
        ("*/*", ALL, Media.JSON),
        ("application/*", ALL, Media.JSON),
        ("application/msgpack", BOTH, Media.MSGPACK),
        ("APPLICATION/X-MSGPACK", BOTH, Media.MSGPACK),
        ("application/vnd.msgpack;q=0.9, application/json;q=0.8", BOTH, Media.MSGPACK),
        ("application/json;q=0.8, application/msgpack", BOTH, Media.MSGPACK),
        ("application/msgpack, application/json", BOTH, Media.JSON),
        ("application/msgpack, */*", BOTH, Media.MSGPACK),
        ("*/*, application/json;q=0", BOTH, Media.MSGPACK),
        ("application/json;q=0, application/*;q=0.1", ALL, Media.MSGPACK),
        ("application/octet-stream, */*;q=0.1", ALL, Media.OCTETS),
        ("application/octet-stream, */*;q=0.1", BOTH, Media.JSON),
        ("application/json; charset=utf-8", BOTH, Media.JSON),
        ("application/json;version=2, application/msgpack;q=0.1", BOTH, Media.MSGPACK),
        ("application/msgpack;q=0.001", BOTH, Media.MSGPACK),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", ALL, Media.JSON),
        ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", BOTH, Media.JSON),
        ("nonsense, ;;, application/msgpack", BOTH, Media.MSGPACK),
        ("application/json;q=high, application/msgpack;q=0.1", BOTH, Media.MSGPACK),
        ("application/json;q=2, application/msgpack;q=0.1", BOTH, Media.MSGPACK),
        ("application/msgpack;q=1;ext=1, application/json;q=0.5", BOTH, Media.MSGPACK),
    ],
)
def test_accepted_types(accept: str | None, offered: tuple[Media, ...], media: Media) -> None:
    assert accepted_media(accept, offered) is media


@pytest.mark.parametrize(
    "accept",
    ["text/html", "*/*;q=0", "application/json;q=0.000", "text/*", "application/json;version=2"],
)
def test_what_cannot_be_written_is_refused(accept: str) -> None:
    with pytest.raises(NotAcceptableError, match="expected application/json, got '") as caught:
        accepted_media(accept, (Media.JSON,))
    assert caught.value.members["field"] == "header.accept"


def test_hostile_headers_cost_little_time() -> None:
    started = time.process_time()
    for piece in ('"', '\\"', ";", "; ", ",;", 'a/b;c="\\', " ;" * 3 + "!", "*/*;q=0,"):
        header = piece * (60_000 // len(piece))
        with pytest.raises(NotAcceptableError):
            accepted_media(f"text/x;{header}", BOTH)
        with pytest.raises(UnsupportedMediaTypeError):
            content_media(f"text/x;{header}")
    assert time.process_time() - started < 10.0
