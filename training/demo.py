"""The demo corpus: the documentation that lies inside every Python installation.

Language-reference topics become documents as they are; every module of the standard library becomes
one from its docstrings, which are parsed out of the source and never imported.
"""

import ast
import importlib.metadata
import importlib.util
import re
import sysconfig
import tokenize
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from training.chunking import ChunkingConfig, chunk_paragraphs
from training.raw import Chunk, RawDocument

MIN_CHUNKS = 8
"""Documents of fewer chunks are left out: they hold hardly a window."""

_SKIPPED_FOLDERS = frozenset(
    {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "_bundled"}
)
_RULE = re.compile(r"^\s*([=\-~*^\"'`#+.])\1{2,}\s*$")
_Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class DemoError(ValueError):
    """A part of the demo corpus is not there."""


def demo_documents(
    packages: Sequence[str] = (),
    chunking: ChunkingConfig | None = None,
    *,
    topics_alone: bool = False,
) -> Iterator[RawDocument]:
    """Read the demo corpus; the same installation always gives the same documents.

    Args:
        packages: Installed packages whose docstrings to add, such as ``numpy``.
        chunking: Sizes of chunks; the defaults if None.
        topics_alone: Read the language reference, and no docstrings of the standard library.

    Raises:
        DemoError: If a package is not installed as Python files.
    """
    added = [package_documents(package, chunking) for package in packages]
    yield from _long_enough(_topics(chunking))
    if not topics_alone:
        stdlib = Path(sysconfig.get_paths()["stdlib"])
        yield from _long_enough(_modules(stdlib, "stdlib", "PSF-2.0", "", chunking))
    for documents in added:
        yield from documents


def package_documents(
    package: str, chunking: ChunkingConfig | None = None
) -> Iterator[RawDocument]:
    """Read the docstrings of an installed package, without importing it.

    Raises:
        DemoError: At once, if the package is not installed as Python files.
    """
    root, licence = _package_root(package)
    return _long_enough(_modules(root, package, licence, package, chunking))


def docstring_paragraphs(tree: ast.Module) -> Iterator[Chunk]:
    """Paragraphs of a module's docstrings: its own, then classes and functions in source order.

    The first paragraph of each class and function starts with its name, and the section is the
    class that a method belongs to.
    """
    for text in split_paragraphs(ast.get_docstring(tree) or ""):
        yield Chunk(text=text)
    yield from _nested_paragraphs(tree, "")


def split_paragraphs(text: str) -> list[str]:
    """Cut documentation at blank lines; example code stays with the paragraph before it.

    Args:
        text: Text whose own indentation is gone, as ``inspect.cleandoc`` leaves it.

    Returns:
        Paragraphs without the rules that underline headings.
    """
    paragraphs: list[str] = []
    in_code = False
    for block in re.split(r"\n[ \t]*\n", text.expandtabs()):
        lines = [line.rstrip() for line in block.splitlines() if not _RULE.match(line)]
        body = "\n".join(lines).strip("\n")
        if not body.strip():
            continue
        indented = body.startswith("  ")
        in_code = _is_code(body) or (
            indented and bool(paragraphs) and (in_code or paragraphs[-1].endswith(":"))
        )
        if in_code and paragraphs:
            paragraphs[-1] += "\n" + body
        else:
            paragraphs.append(body.strip())
    return paragraphs


def _is_code(block: str) -> bool:
    return block.lstrip().startswith((">>>", "...")) or "::=" in block


def _long_enough(documents: Iterable[RawDocument]) -> Iterator[RawDocument]:
    return (document for document in documents if len(document.chunks) >= MIN_CHUNKS)


def _topics(chunking: ChunkingConfig | None) -> Iterator[RawDocument]:
    from pydoc_data.topics import topics

    for name, text in topics.items():
        title = text.lstrip().partition("\n")[0].strip()
        paragraphs = (Chunk(text=paragraph) for paragraph in split_paragraphs(text))
        yield RawDocument(
            doc_id=f"topics/{name}",
            chunks=chunk_paragraphs(paragraphs, chunking),
            origin=f"topic {name}",
            title=title,
            source="python-topics",
            licence="PSF-2.0",
        )


def _modules(
    root: Path, source: str, licence: str, prefix: str, chunking: ChunkingConfig | None
) -> Iterator[RawDocument]:
    """Read every module under a folder, sorted by its path."""
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if _SKIPPED_FOLDERS.intersection(relative.parts[:-1]):
            continue
        parts = [prefix, *relative.with_suffix("").parts]
        name = ".".join(part for part in parts if part and part != "__init__")
        tree = _parse(path)
        if tree is None:
            continue
        yield RawDocument(
            doc_id=f"{source}/{name}",
            chunks=chunk_paragraphs(docstring_paragraphs(tree), chunking),
            origin=f"module {name}",
            title=name,
            source=f"python-{source}" if source == "stdlib" else source,
            licence=licence,
        )


def _parse(path: Path) -> ast.Module | None:
    try:
        with tokenize.open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Odd escapes in other people's sources.
            return ast.parse(file.read())
    except (SyntaxError, ValueError):  # Packages ship templates that are not quite Python.
        return None


def _nested_paragraphs(node: ast.AST, owner: str) -> Iterator[Chunk]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _Named):
            yield from _named_paragraphs(child, owner)
        elif isinstance(child, ast.If | ast.Try | ast.With):
            yield from _nested_paragraphs(child, owner)


def _named_paragraphs(node: _Named, owner: str) -> Iterator[Chunk]:
    name = f"{owner}.{node.name}" if owner else node.name
    is_class = isinstance(node, ast.ClassDef)
    section = name if is_class else owner
    paragraphs = split_paragraphs(ast.get_docstring(node) or "")
    for place, text in enumerate(paragraphs):
        yield Chunk(text=text if place else f"{name}: {text}", section=section)
    if is_class:
        yield from _nested_paragraphs(node, name)


def _package_root(package: str) -> tuple[Path, str]:
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not places:
        raise DemoError(f"packages: expected an installed package, got {package!r}")
    try:
        licence = importlib.metadata.metadata(package).json.get("license_expression", "")
    except importlib.metadata.PackageNotFoundError:
        licence = ""
    return Path(places[0]), str(licence)
