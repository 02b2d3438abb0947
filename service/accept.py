"""The headers ``Content-Type`` and ``Accept``, as RFC 9110 writes and weighs them."""

import re
from dataclasses import dataclass

_WHITE = " \t"
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TYPE = re.compile(rf"{_TOKEN.pattern}/{_TOKEN.pattern}")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
# Pieces of a header between marks that stand outside quotes. No branch overlaps another, so that a
# hostile header costs linear time.
_BETWEEN = {
    mark: re.compile(rf'(?:[^"{mark}]|"(?:[^"\\]|\\.)*"?)+', re.DOTALL) for mark in (",", ";")
}
# RFC 9110 wants a digit before the point; Java's URL connections leave it out.
_WEIGHT = re.compile(r"0?\.[0-9]+|0(?:\.[0-9]*)?|1(?:\.0*)?")


@dataclass(frozen=True, kw_only=True)
class MediaType:
    """A media type or range as a header has it, in lower case."""

    name: str
    parameters: dict[str, str]


def parse_media_type(text: str) -> MediaType | None:
    """Parse a media type or range with its parameters, or give None if it is not one.

    What follows a parameter ``q`` is left out.
    """
    first, *pieces = _BETWEEN[";"].findall(text) or [""]
    name = first.strip(_WHITE).lower()
    name = "*/*" if name == "*" else name  # Java's URL connections again
    if not _TYPE.fullmatch(name):
        return None
    parameters: dict[str, str] = {}
    for piece in pieces:
        if "q" in parameters:
            break
        stripped = piece.strip(_WHITE)
        if not stripped:
            continue
        key, _, value = stripped.partition("=")
        if _QUOTED.fullmatch(value):
            value = re.sub(r"\\(.)", r"\1", value[1:-1])
        elif not _TOKEN.fullmatch(value):
            return None
        if not _TOKEN.fullmatch(key):
            return None
        parameters[key.lower()] = value.lower()
    return MediaType(name=name, parameters=parameters)


def preference(accept: str, media: MediaType, aliases: frozenset[str]) -> tuple[float, int]:
    """Tell how much an ``Accept`` header wants a media type (section 12.5.1).

    Of the ranges that cover the type, the one that names it most exactly decides. A range that
    cannot be read counts for nothing.

    Args:
        accept: The header; where there are several, joined by commas.
        media: The type that would be sent.
        aliases: Other names of the type.

    Returns:
        Its q-value, from 0 (unwanted) to 1, and how exactly it was named.
    """
    fits = []
    for element in _BETWEEN[","].findall(accept):
        wanted = parse_media_type(element)
        if wanted is None:
            continue
        q = wanted.parameters.pop("q", "1")
        exactness = _exactness(wanted, media, aliases)
        if _WEIGHT.fullmatch(q) and exactness is not None:
            fits.append((exactness, float(q)))
    exactness, weight = max(fits, default=(0, 0.0))
    return weight, exactness


def _exactness(wanted: MediaType, media: MediaType, aliases: frozenset[str]) -> int | None:
    """Tell how exactly a range names a type, or give None where it does not cover it."""
    if not wanted.parameters.items() <= media.parameters.items():
        return None
    kind, _, subtype = wanted.name.partition("/")
    level = 2
    if wanted.name == "*/*":
        level = 0
    elif subtype == "*":
        if not media.name.startswith(f"{kind}/"):
            return None
        level = 1
    elif wanted.name != media.name and wanted.name not in aliases:
        return None
    return 1000 * level + min(len(wanted.parameters), 999)
