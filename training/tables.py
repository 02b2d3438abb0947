"""Evaluation reports for people: a page of Markdown, every figure of it out of saved JSON.

``python -m training.tables PAGE`` renders each section of a page again that stands between
``<!-- tables:NAME:begin FILE ... -->`` and ``<!-- tables:NAME:end -->``; files are named from the
page's folder.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

Report = Mapping[str, Any]

SECTION = re.compile(
    r"(?P<begin><!-- tables:(?P<name>\S+):begin (?P<files>[^\n]+) -->\n)"
    r"(?P<text>.*?)"
    r"(?P<end><!-- tables:(?P=name):end -->)",
    re.DOTALL,
)
"""A rendered section of a page, with its markers."""

METRICS = {
    "r@1": "R@1",
    "r@5": "R@5",
    "r@50": "R@50",
    "mrr@10": "MRR@10",
    "margin": "margin",
    "margin_last": "margin_last",
    "all": "all pairs",
    "adjacent": "adjacent",
    "distant": "distant (more than 20 apart)",
    "ece": "ECE",
    "kendall_tau": "Kendall's tau",
    "perfect_match": "perfect match",
}
METHODS = {
    "direct": "DIRECT, cosine to the last chunk",
    "mean": "uniform mean of the window",
    "p8_mixture": "P8, mixture alone",
    "p8": "P8 as served",
    "tower": "query tower",
}
CEILING = "ceiling of mixing in this space, answer known"


class Table(NamedTuple):
    """A table to draw: its title, what its rows are, and where a report holds each row."""

    title: str
    head: str
    rows: dict[str, str]
    """Path of keys in the report, and what the row is called."""
    sign: str = ""


def _protocol(name: str, more: Mapping[str, str]) -> Table:
    rows = {f"protocols/{name}/{method}": label for method, label in METHODS.items()}
    return Table(f"`{name}`", "method", rows | dict(more))


TABLES = (
    _protocol("in_document", {"ceiling": CEILING}),
    _protocol("classic8", {}),
    _protocol("corpus", {}),
    Table(
        "P8 minus DIRECT",
        "protocol",
        {f"difference/{name}": f"`{name}`" for name in ("in_document", "classic8", "corpus")},
        "+",
    ),
    Table(
        "Order of two chunks",
        "seen",
        {"order": "two chunks alone", "order_in_bag": "in their bag"},
    ),
    Table(
        "Whole documents restored",
        "from",
        {"ordering": "pairwise evidence", "ordering_by_place": "one score a chunk"},
    ),
)


def render_reports(reports: Sequence[Report]) -> str:
    """The whole page; what no report holds is left out.

    Args:
        reports: What ``evaluate --json`` wrote, a report each kind of text.

    Raises:
        ValueError: If there is no report, or two of the same data, split and checkpoint.
    """
    if not reports:
        raise ValueError("reports: expected at least one, got none")
    kinds = dict(zip(_kinds(reports), reports, strict=True))
    drawn = [_draw(table, kinds) for table in TABLES]
    return "\n\n".join("\n".join(lines) for lines in (_judged(reports), *drawn) if lines) + "\n"


def render_files(files: Sequence[Path]) -> str:
    """``render_reports`` of reports on disk."""
    return render_reports([json.loads(file.read_bytes()) for file in files])


def refresh(page: Path) -> None:
    """Render every section of a page again from the files that its marker names.

    Raises:
        ValueError: If a marker has no partner.
        OSError: If a file can't be read, or the page can't be written.
    """

    def rendered(section: re.Match[str]) -> str:
        files = [page.parent / name for name in section["files"].split()]
        return f"{section['begin']}{render_files(files)}{section['end']}"

    text, sections = SECTION.subn(rendered, page.read_text())
    markers = text.count("<!-- tables:")
    if markers != 2 * sections:
        raise ValueError(f"{page}: expected {2 * sections} markers of tables, got {markers}")
    page.write_text(text)


def cell(estimate: Mapping[str, float], sign: str = "") -> str:
    """A value and its interval; ``sign`` "+" shows the sign of positive ones too."""
    low, high = f"{estimate['low']:{sign}.3f}", f"{estimate['high']:{sign}.3f}"
    return f"{estimate['value']:{sign}.3f} ({low} to {high})"


def table_line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def table_head(columns: Sequence[str]) -> list[str]:
    """The two lines that begin a Markdown table."""
    return [table_line(columns), "|" + "---|" * len(columns)]


def _judged(reports: Sequence[Report]) -> list[str]:
    columns = (
        "documents of", "split", "documents", "windows", "candidates a window, in document",
        "checkpoint", "space", "cos_anchor of P8",
    )  # fmt: skip
    lines = table_head(columns)
    for report in reports:
        cells = [
            _at(report, "data/name"),
            _at(report, "split"),
            _at(report, "documents", ","),
            _at(report, "windows", ","),
            _at(report, "candidates", ".1f"),
            _at(report, "checkpoint"),
            _at(report, "space"),
            _at(report, "cos_anchor/p8", ".3f"),
        ]
        lines.append(table_line(cells))
    return lines


def _draw(table: Table, kinds: Mapping[str, Report]) -> list[str]:
    rows = []
    for kind, report in kinds.items():
        first = [kind] if len(kinds) > 1 else []
        for path, label in table.rows.items():
            if estimates := _find(report, path):
                rows.append(([*first, label], estimates))
    if not rows:
        return []
    shown = [metric for metric in METRICS if any(metric in estimates for _, estimates in rows)]
    first = ["kind"] if len(kinds) > 1 else []
    columns = [*first, table.head, *(METRICS[metric] for metric in shown)]
    lines = [f"#### {table.title}", "", *table_head(columns)]
    for labels, estimates in rows:
        cells = [cell(estimates[m], table.sign) if m in estimates else "" for m in shown]
        lines.append(table_line([*labels, *cells]))
    return lines


def _kinds(reports: Sequence[Report]) -> list[str]:
    """A label each: the name of the data, with split and checkpoint only where names repeat."""
    paths = ("data/name", "split", "checkpoint")
    labels: list[str] = []
    for count in range(1, len(paths) + 1):
        labels = [", ".join(_at(report, path) for path in paths[:count]) for report in reports]
        if len(set(labels)) == len(labels):
            return labels
    raise ValueError(f"reports: expected different data, splits or checkpoints, got {labels}")


def _find(report: Report, path: str) -> Any:
    """What stands in a report at a path of keys; None if nothing does."""
    found: Any = report
    for key in path.split("/"):
        found = (found or {}).get(key)
    return found


def _at(report: Report, path: str, form: str = "") -> str:
    found = _find(report, path)
    return "" if found is None else format(found, form)


def main() -> None:
    """Refresh the pages that the command line names."""
    for page in sys.argv[1:]:
        refresh(Path(page))


if __name__ == "__main__":
    main()
