from pathlib import Path

import pytest

from training.chunking import ChunkingConfig
from training.raw import EmptyInputError
from training.readers.html import read_html

PAGE = """<html><head><title>A page</title></head><body>
<nav><a href="/">Home</a><a href="/about">About</a></nav>
<article><h1>Head</h1>
<p>The first paragraph has enough words in it, so that nobody could take it for a menu.</p>
<h2>Part</h2>
<p>The second one has <b>bold</b> words, and enough of the others to be the text of a page.</p>
<pre><code>x = 1</code></pre>
<ul><li>an item of a list</li></ul>
</article><footer>Cookies and terms</footer></body></html>"""


def test_main_text(tmp_path: Path):
    (tmp_path / "a.html").write_text(PAGE)
    (document,) = read_html(tmp_path / "a.html", "name", ChunkingConfig(min_words=0))
    assert document.doc_id == "name"
    assert document.title == "Head"
    texts = [(chunk.section, chunk.text) for chunk in document.chunks]
    assert texts == [
        (
            "Head",
            "The first paragraph has enough words in it, so that nobody could take it for a menu.",
        ),
        (
            "Part",
            "The second one has bold words, and enough of the others to be the text of a page."
            "\nx = 1",
        ),
        ("Part", "an item of a list"),
    ]


@pytest.mark.parametrize("content", ["", "<html><body></body></html>"])
def test_no_text(tmp_path: Path, content: str):
    (tmp_path / "a.html").write_text(content)
    with pytest.raises(EmptyInputError, match=r"a\.html"):
        list(read_html(tmp_path / "a.html", "name", ChunkingConfig()))
