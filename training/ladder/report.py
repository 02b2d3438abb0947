"""The ladder for people: one page of Markdown, every figure of it out of ladder.json."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from training.tables import cell, table_head, table_line

Report = Mapping[str, Any]

GROUPS = {
    "baseline": "baselines",
    "free": "free output, raw space",
    "p8": "P8, old and right prev",
    "rival": "rivals, same vectors",
    "ablation": "P8 learned, right prev, changed in one thing",
    "window": "window length; the 8 chunks before the target are candidates of none",
}
ORDER = (("all", "all pairs"), ("adjacent", "adjacent"), ("distant", "distant"), ("ece", "ECE"))
NOTES = (
    "Documents of the test split, `in_document` candidates; mixture alone unless it says "
    "otherwise. Nothing was chosen on them: the epoch (best MRR@10) and the order part's weight "
    "come from validation documents.",
    "All rows see the same windows, in the same batches, for the same epochs, with the same "
    "optimizer and seed. Negatives are the document's chunks, and those of the batch's other "
    "documents at a tenth.",
    "`margin` is next against the chunk before the window, `margin_last` next against the last "
    "chunk of the window (c_L); in cosines, except SASRec's, which are dot products times 0.07.",
    "Old prev: c_L is what the hinge repels, and a candidate in training. It is no candidate in "
    "judgement, where all rows rank the same ones.",
    "P8 rows train their own order verifier; all other rows share one, trained on the same "
    "documents for as many epochs.",
    "Seconds are those of one run; DIRECT's hold the training of the shared verifier.",
    "P7's lambda of 0.8 is read both ways: as the teacher's share of the query, and as the "
    "student's.",
    "Window length: all four rows, in training and judgement, hide the 8 chunks before the target, "
    "so that they rank the same candidates; their DIRECT does too. `margin` is against each row's "
    "own prev.",
)


def render(report: Report) -> str:
    """The whole page.

    Args:
        report: What ``run.climb`` answered.
    """
    sections = [
        [_account(report)],
        ["### Ranking", "", *_ranking(report)],
        ["### Query and verifier", "", *_query(report)],
    ]
    if any(row["group"] == "free" for row in report["rows"]):
        sections.append(["### Free output, by epoch", "", *_by_epoch(report)])
    if report["comparisons"]:
        sections.append(["### Row against row", "", *_against(report)])
    sections += [
        ["### Order of two chunks, shared verifier", "", *_order(report)],
        ["### What it shows", "", *(f"- {line}" for line in finding_lines(report))],
        ["### How to read it", "", *(f"- {note}" for note in NOTES)],
    ]
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def finding_lines(report: Report) -> list[str]:
    """A line a finding: whether it holds, the claim, and its values."""
    lines = []
    for finding in report["findings"]:
        values = "; ".join(f"{name} {value:+.3f}" for name, value in finding["values"].items())
        mark = "holds" if finding["holds"] else "DOES NOT HOLD"
        lines.append(f"{mark}: {finding['claim']} ({values})")
    return lines


def _account(report: Report) -> str:
    data, budget = report["data"], report["budget"]
    return (
        f"Data: {data['name']}, {data['dimension']} dimensions; {data['train_documents']:,} "
        f"documents to train on ({data['train_windows']:,} windows), "
        f"{data['validation_documents']:,} to validate, {data['test_documents']:,} to test "
        f"({data['test_windows']:,} windows). {len(report['rows'])} rows of {budget['epochs']} "
        f"epochs, seed {budget['seed']}; {report['seconds'] / 60:.0f} min in all."
    )


def _ranking(report: Report) -> list[str]:
    columns = ("row", "R@1", "R@5", "MRR@10", "R@5 minus DIRECT", "MRR@10 minus DIRECT")

    def cells(row: Report) -> list[str]:
        gains = row["difference"]["without"]
        base = row["kind"] == "direct"
        return [
            *(cell(row["without"][metric]) for metric in ("r@1", "r@5", "mrr@10")),
            *("" if base else cell(gains[metric], "+") for metric in ("r@5", "mrr@10")),
        ]

    ceiling = [cell(report["ceiling"][metric]) for metric in ("r@1", "r@5", "mrr@10")]
    last = ["ceiling of mixing in the raw space, answer known", *ceiling, "", ""]
    return [*table_head(columns), *_grouped(report, cells, len(columns)), table_line(last)]


def _query(report: Report) -> list[str]:
    columns = (
        "row", "margin", "margin_last", "cos_anchor", "ceiling of its space, R@5", "R@5 with order",
        "MRR@10 with order", "order weight", "best epoch", "seconds",
    )  # fmt: skip

    def cells(row: Report) -> list[str]:
        alone, both = row["without"], row["with"]
        return [
            cell(alone["margin"]),
            cell(alone["margin_last"]),
            f"{alone['cos_anchor']['value']:.3f}",
            "" if row["ceiling"] is None else cell(row["ceiling"]["r@5"]),
            cell(both["r@5"]),
            cell(both["mrr@10"]),
            f"{row['order_weight']}",
            f"{row['best_epoch'] or ''}",
            f"{sum(row['seconds'].values()):.0f}",
        ]

    return [*table_head(columns), *_grouped(report, cells, len(columns))]


def _by_epoch(report: Report) -> list[str]:
    columns = (
        "row", "margin_last, training", "margin_last, validation", "margin, training",
        "margin, validation", "validation R@5", "cos_anchor",
    )  # fmt: skip
    lines = table_head(columns)
    for row in report["rows"]:
        if row["group"] != "free":
            continue
        courses = [
            " ".join(f"{line[name]:.3f}" for line in row["epochs"])
            for name in (
                "train_margin_last", "validation_margin_last", "train_margin", "validation_margin",
                "validation_r@5", "cos_anchor",
            )
        ]  # fmt: skip
        lines.append(table_line([row["label"], *courses]))
    return lines


def _against(report: Report) -> list[str]:
    labels = {row["name"]: row["label"] for row in report["rows"]}
    lines = table_head(("row", "minus", "R@5", "MRR@10"))
    for one in report["comparisons"]:
        names = [labels[one["row"]], labels[one["minus"]]]
        lines.append(
            table_line([*names, *(cell(one[metric], "+") for metric in ("r@5", "mrr@10"))])
        )
    return lines


def _order(report: Report) -> list[str]:
    cells = [cell(report["order"][metric]) for metric, _ in ORDER]
    return [*table_head(tuple(label for _, label in ORDER)), table_line(cells)]


def _grouped(report: Report, cells: Any, columns: int) -> Iterable[str]:
    for group, rows in groupby(report["rows"], key=lambda row: str(row["group"])):
        yield table_line([f"**{GROUPS[group]}**", *[""] * (columns - 1)])
        for row in rows:
            yield table_line([row["label"], *cells(row)])
