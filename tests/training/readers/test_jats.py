from pathlib import Path

import pytest

from training.chunking import ChunkingConfig
from training.raw import EmptyInputError, InputError, RawDocument
from training.readers.jats import read_jats

ARTICLE = """<?xml version="1.0"?>
<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "http://192.0.2.1/never-fetched.dtd">
<article xmlns:xlink="http://www.w3.org/1999/xlink" xmlns:mml="http://www.w3.org/1998/Math/MathML">
 <front><article-meta>
  <article-id pub-id-type="pmc">9</article-id><article-id pub-id-type="doi">10.1/x</article-id>
  <title-group><article-title>On <italic>E. coli</italic></article-title></title-group>
  <permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"/></permissions>
  <abstract><p>Abstract only.</p></abstract>
 </article-meta></front>
 <body>
  <p>Before any section, as <bold>shown</bold> in<xref>1</xref>.</p>
  <sec><title>Results</title>
   <p>Take <inline-formula><mml:math><mml:mi>q</mml:mi></mml:math></inline-formula> and go.</p>
   <fig><label>Fig 1</label><caption><p>Caption.</p></caption></fig>
   <table-wrap><table><tr><td><p>Cell.</p></td></tr></table></table-wrap>
   <sec><title>Deep</title><list><list-item><p>Item one.</p></list-item></list>
    <p>With a list: <list><list-item><p>x</p></list-item><list-item><p>y</p></list-item></list></p>
   </sec>
  </sec>
  <sec sec-type="supplementary-material"><title>S</title><p>Supplement.</p></sec>
 </body>
 <back><ref-list><ref><p>Reference.</p></ref></ref-list></back>
 <sub-article><body><p>Decision letter.</p></body></sub-article>
</article>"""


def read(path: Path, content: str, min_words: int = 0) -> list[RawDocument]:
    path.write_text(content)
    return list(read_jats(path, "name", ChunkingConfig(min_words=min_words)))


def test_article(tmp_path: Path):
    (document,) = read(tmp_path / "a.xml", ARTICLE)
    assert (document.doc_id, document.title) == ("name", "On E. coli")
    assert (document.licence, document.group) == ("CC-BY-4.0", "10.1/x")
    assert [(chunk.section, chunk.text) for chunk in document.chunks] == [
        ("", "Before any section, as shown in1."),
        ("Results", "Take and go."),
        ("Results > Deep", "Item one."),
        ("Results > Deep", "With a list: x y"),
    ]


def test_abstract_stands_in_for_the_body(tmp_path: Path):
    start, end = ARTICLE.index("<body>"), ARTICLE.index("<back>")
    (document,) = read(tmp_path / "a.xml", ARTICLE[:start] + ARTICLE[end:])
    assert [chunk.text for chunk in document.chunks] == ["Abstract only."]


def test_public_domain(tmp_path: Path):
    content = ARTICLE.replace("licenses/by/4.0", "publicdomain/zero/1.0")
    assert read(tmp_path / "a.xml", content)[0].licence == "CC0-1.0"


def test_set_of_articles_in_a_namespace(tmp_path: Path):
    article = "<article><body><p>Text {}.</p></body></article>"
    content = f'<set xmlns="urn:x">{article.format(1)}{article.format(2)}</set>'
    documents = read(tmp_path / "a.xml", content)
    assert [(d.doc_id, d.chunks[0].text) for d in documents] == [
        ("name#1", "Text 1."),
        ("name#2", "Text 2."),
    ]


@pytest.mark.parametrize(
    "declaration",
    [
        '<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;">',
        '<!ENTITY b SYSTEM "file:///etc/hostname">',
    ],
)
def test_entities_are_refused(tmp_path: Path, declaration: str):
    content = f"<!DOCTYPE article [{declaration}]><article><body><p>&b;</p></body></article>"
    with pytest.raises(InputError, match="no entity declarations"):
        read(tmp_path / "a.xml", content)


def test_unresolved_entity_is_a_space(tmp_path: Path):
    content = ARTICLE.replace("Before any", "Before&nbsp;any")
    assert read(tmp_path / "a.xml", content)[0].chunks[0].text.startswith("Before any section")


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ("<article><body>", InputError, r"a\.xml line 1: not XML"),
        ("", InputError, r"a\.xml .*not XML"),
        ("<html/>", InputError, "expected a JATS <article>, got <html>"),
        ("<article><body/></article>", EmptyInputError, "at least one paragraph"),
    ],
)
def test_broken(tmp_path: Path, content: str, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        read(tmp_path / "a.xml", content)
