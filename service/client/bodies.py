"""How the arguments of a call become members of its body, its path and its headers."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from service.client.types import Filter, Mode, Place, Vectors
from service.client.wire import PackedVector

Body = dict[str, Any]


def given(**members: Any) -> Body:
    """Keep the members that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def window(
    context: Vectors | None,
    context_ids: Sequence[str] | None,
    context_texts: Sequence[str] | None,
    context_at: Place | None,
    mode: Mode,
    rerank: bool,
    contents: bool,
    model: str | None,
) -> Body:
    """Write what ``rank`` and ``score`` have in common."""
    return given(
        context=packed(context),
        context_ids=listed(context_ids),
        context_texts=listed(context_texts),
        context_at=context_at,
        mode=mode,
        rerank=rerank,
        contents=None if contents else False,
        model=model,
    )


def selection(
    document_ids: Sequence[str] | None,
    filter: Filter | None,
    exclude_ids: Sequence[str],
    only_unseen: bool,
    max_per_document: int | None,
) -> Body:
    """Write which chunks may be answered.

    Raises:
        ValueError: If documents are named beside the filter and in it.
    """
    if document_ids is not None:
        if filter is not None and "document_ids" in filter:
            raise ValueError("document_ids: expected beside the filter or in it, got both")
        filter = {**(filter or {}), "document_ids": list(document_ids)}
    return given(
        filter=filter,
        exclude_ids=list(exclude_ids) or None,
        only_unseen=only_unseen or None,
        max_per_document=max_per_document,
    )


def listed(values: Iterable[str] | None) -> list[str] | None:
    """Make a list of values, where there are any."""
    return None if values is None else list(values)


def packed(vectors: Vectors | None) -> list[PackedVector] | None:
    """Pack vectors, where there are any."""
    return None if vectors is None else [PackedVector(vector_D) for vector_D in vectors]


def with_packed(members: Mapping[str, Any], *names: str) -> Body:
    """Copy members, and pack the vectors under the given names, where they are there."""
    vectors = {name: PackedVector(members[name]) for name in names if members.get(name) is not None}
    return {**members, **vectors}


def candidates_of(given: Iterable[Mapping[str, Any]] | None) -> list[Body] | None:
    """Write candidates, where there are any."""
    return None if given is None else [with_packed(candidate, "vector") for candidate in given]


def flag(value: bool) -> str:
    """Write a parameter of the query string."""
    return "true" if value else "false"


def segment(name: str) -> str:
    """Quote a name as one segment of a path, even ``..``, which would lead elsewhere."""
    return quote(name, safe="") if name.strip(".") else name.replace(".", "%2E")


def visible_ascii(name: str, value: str) -> str:
    """Return what is to stand in a header, if it can.

    Raises:
        ValueError: If it is empty or has other than visible ASCII characters; it is not shown.
    """
    if not value or not all("!" <= character <= "~" for character in value):
        raise ValueError(f"{name}: expected visible ASCII characters, got others or none")
    return value
