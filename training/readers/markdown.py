"""Reader of Markdown: blocks become paragraphs, headings become sections."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from training.chunking import ChunkingConfig
from training.raw import Chunk, RawDocument
from training.readers.text import decoded, one_document

_CODE = ("fence", "code_block")


def read_markdown(path: Path, doc_id: str, chunking: ChunkingConfig) -> Iterator[RawDocument]:
    """Read one document: paragraphs and list items as text, code with the paragraph before it.

    Raw HTML, images and front matter are left out. The first heading is the title.

    Args:
        path: A UTF-8 file of CommonMark with tables.
        doc_id: Name of the document.
        chunking: Sizes of chunks.

    Raises:
        InputError: If the file is not UTF-8, or holds no text.
    """
    tokens = MarkdownIt("commonmark").enable("table").parse(_without_front_matter(decoded(path)))
    headings = [
        _plain(tokens[place + 1])
        for place, token in enumerate(tokens)
        if token.type == "heading_open"
    ]
    title = headings[0] if headings else ""
    yield one_document(path, doc_id, _paragraphs(tokens), chunking, title=title)


def _paragraphs(tokens: Sequence[Token]) -> list[Chunk]:
    paragraphs: list[Chunk] = []
    section = ""
    row: list[str] | None = None
    for place, token in enumerate(tokens):
        if token.type == "tr_open":
            row = []
        elif token.type == "tr_close" and row is not None:
            _join(paragraphs, Chunk(text=" | ".join(row), section=section))
            row = None
        elif token.type in _CODE:
            _join(paragraphs, Chunk(text=token.content.rstrip(), section=section))
        elif token.type == "inline":
            text = _plain(token)
            if tokens[place - 1].type == "heading_open":
                section = text
            elif row is not None:
                row.append(text)
            else:
                paragraphs.append(Chunk(text=text, section=section))
    return paragraphs


def _join(paragraphs: list[Chunk], chunk: Chunk) -> None:
    """Append to the last paragraph of the same section, or begin one."""
    if paragraphs and paragraphs[-1].section == chunk.section:
        chunk = Chunk(text=f"{paragraphs.pop().text}\n{chunk.text}", section=chunk.section)
    paragraphs.append(chunk)


def _plain(inline: Token) -> str:
    breaks = ("softbreak", "hardbreak")
    parts = (
        " " if child.type in breaks else child.content
        for child in inline.children or ()
        if child.type in ("text", "code_inline", *breaks)
    )
    return " ".join("".join(parts).split())


def _without_front_matter(text: str) -> str:
    """Cut off a YAML header, which Markdown would take for a heading."""
    if not text.startswith("---\n"):
        return text
    end = text.find("\n---\n", 3)
    return text if end < 0 else text[end + 5 :]
