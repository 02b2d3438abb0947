"""Paragraphs to chunks: tiny ones join a neighbour, huge ones are cut at sentence ends."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from semantic_text_splitter import TextSplitter

from training.raw import Chunk


@dataclass(frozen=True, kw_only=True)
class ChunkingConfig:
    """Sizes of chunks made from unchunked inputs.

    Raises:
        ValueError: If a field is out of range; the message names field, expected and actual.
    """

    min_words: int = 15
    """A paragraph of fewer words joins a neighbour of its section; 0 never joins any."""
    max_words: int = 300
    """A paragraph of more words is cut at sentence ends, and inside a sentence only if it must."""

    def __post_init__(self) -> None:
        """Check both fields."""
        if self.min_words < 0:
            raise ValueError(f"min_words: expected at least 0, got {self.min_words}")
        if self.max_words < max(1, 2 * self.min_words):
            raise ValueError(
                f"max_words: expected at least 1 and twice min_words ({2 * self.min_words}), "
                f"got {self.max_words}"
            )


def chunk_paragraphs(
    paragraphs: Iterable[Chunk], config: ChunkingConfig | None = None
) -> tuple[Chunk, ...]:
    """Make chunks of usable size; no word is lost, and sections never mix.

    Args:
        paragraphs: Paragraphs in document order, each with its section.
        config: Sizes; the defaults if None.

    Returns:
        Chunks in document order. One may still have fewer than ``min_words`` words if its whole
        section has.
    """
    config = config or ChunkingConfig()
    chunks: list[Chunk] = []
    filled = (paragraph for paragraph in paragraphs if paragraph.text.strip())
    for section, members in groupby(filled, key=lambda chunk: chunk.section):
        texts = _merge((member.text.strip() for member in members), config)
        chunks += [
            Chunk(text=piece, section=section) for text in texts for piece in _split(text, config)
        ]
    return tuple(chunks)


def count_words(text: str) -> int:
    """Number of words, as separated by white space."""
    return len(text.split())


def _merge(texts: Iterable[str], config: ChunkingConfig) -> Iterator[str]:
    """Join each tiny paragraph to the one that follows it, or at the end to the one before."""
    done: list[str] = []
    waiting = ""
    for text in texts:
        joined = f"{waiting}\n\n{text}" if waiting else text
        if count_words(joined) < config.min_words:
            waiting = joined
        else:
            done.append(joined)
            waiting = ""
    if waiting and done:
        done[-1] = f"{done[-1]}\n\n{waiting}"
    elif waiting:
        done.append(waiting)
    return iter(done)


def _split(text: str, config: ChunkingConfig) -> list[str]:
    """Cut a text that is too long into pieces of about the same size."""
    words = count_words(text)
    if words <= config.max_words:
        return [text]
    # Equal shares: cutting off max_words at a time would often leave a stub at the end.
    pieces = -(-words // config.max_words)
    share = min(config.max_words, -(-words // pieces) + config.max_words // 10)
    cut: list[str] = _splitter(share).chunks(text)
    if len(cut) > 1 and count_words(cut[-1]) < config.min_words:
        tail = cut.pop()
        if count_words(cut[-1]) + count_words(tail) <= config.max_words:
            cut[-1] = f"{cut[-1]} {tail}"
        else:
            cut.append(tail)
    return cut


@lru_cache(maxsize=256)
def _splitter(words: int) -> TextSplitter:
    return TextSplitter.from_callback(count_words, words)
