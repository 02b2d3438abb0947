from pathlib import Path

from training.chunking import ChunkingConfig
from training.readers.markdown import read_markdown

CONTENT = """---
layout: page
---
# The *title*

First with `code`, a [link](http://example.org)
and a second line.

- one
- two

```py
x = 1
```

## Part

| a | b |
|---|---|
| 1 | 2 |

<div>raw</div>

Last ![picture](p.png) words.
"""


def test_markdown(tmp_path: Path):
    (tmp_path / "a.md").write_text(CONTENT)
    (document,) = read_markdown(tmp_path / "a.md", "name", ChunkingConfig(min_words=0))
    assert (document.doc_id, document.title) == ("name", "The title")
    assert [(chunk.section, chunk.text) for chunk in document.chunks] == [
        ("The title", "First with code, a link and a second line."),
        ("The title", "one"),
        ("The title", "two\nx = 1"),
        ("Part", "a | b\n1 | 2"),
        ("Part", "Last words."),
    ]


def test_title_falls_back_to_the_file_name(tmp_path: Path):
    (tmp_path / "a.md").write_text("Only text.")
    (document,) = read_markdown(tmp_path / "a.md", "name", ChunkingConfig())
    assert document.title == "a"


def test_unfinished_front_matter_is_text(tmp_path: Path):
    (tmp_path / "a.md").write_text("---\nOnly text.")
    (document,) = read_markdown(tmp_path / "a.md", "name", ChunkingConfig())
    assert document.chunks[0].text == "Only text."
