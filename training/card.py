"""The model card: what the checkpoint is, what it scored, what it is not for."""

from collections.abc import Sequence
from typing import Any

from training.gate import gate_lines

ROWS = (("r@1", "R@1"), ("r@5", "R@5"), ("mrr@10", "MRR@10"), ("margin", "margin"))


def model_card(
    gate: dict[str, Any],
    metrics: dict[str, Any],
    provenance: dict[str, Any],
    order_weight: float,
) -> str:
    """Write README.md of a checkpoint from what was measured, and nothing else."""
    shape, data = provenance["model"], provenance["data"]
    made_by = {entry["vectors"]["model"] for entry in data} - {None}
    lines = [
        f"# P8 checkpoint ({shape['arch']}, {shape['space']} space)",
        "",
        "Ranks which chunk of a document comes next, and tells which of two comes first.",
        "",
        f"- Vectors: {', '.join(sorted(made_by)) or 'unknown'}, {shape['dimension']} dimensions",
        f"- Window: 1 to {shape['window']} chunks",
        f"- Seed {provenance['training']['seed']}, best epoch {metrics['best_epoch']}, "
        f"{metrics['train_seconds']:.0f} s of training",
        f"- Order weight {order_weight}, chosen on validation documents",
        f"- Command: `{provenance['command'] or 'not recorded'}`",
        "",
        *_data(data),
        "",
        "## Verdict",
        "",
        "```",
        *gate_lines(gate),
        "```",
        "",
        f"## Validation documents, in_document, about {metrics['candidates']:.0f} candidates",
        "",
        "| method | " + " | ".join(label for _, label in ROWS) + " |",
        "|---|" + "---|" * len(ROWS),
    ]
    lines += [
        f"| {method} | " + " | ".join(_cell(values[key]) for key, _ in ROWS) + " |"
        for method, values in metrics["protocols"]["in_document"].items()
        if all(key in values for key, _ in ROWS)
    ]
    ceiling = metrics["ceiling"]
    lines += [
        f"| ceiling of mixing in this space, answer known | {_cell(ceiling['r@1'])} | "
        f"{_cell(ceiling['r@5'])} | {_cell(ceiling['mrr@10'])} | |",
        "",
        "Order of two chunks: "
        + ", ".join(f"{name} {_cell(value)}" for name, value in metrics["order"].items())
        + ".",
        "",
        "## Limits",
        "",
        "- Only for vectors of the model named above; the service refuses another dimension, and",
        "  another model where the index names its own.",
        "- Validated on documents of the same kinds as those it learned from. For another kind,",
        "  run `python -m training gate` on some of them first.",
        "",
    ]
    return "\n".join(lines)


def with_verdict(card: str, gate: dict[str, Any]) -> str:
    """The card with another verdict in place of its own."""
    head, title, rest = card.partition("## Verdict\n\n```\n")
    if not title:
        return card
    _, fence, tail = rest.partition("\n```\n")
    return head + title + "\n".join(gate_lines(gate)) + fence + tail


def _data(data: Sequence[dict[str, Any]]) -> list[str]:
    lines = [
        "## Data",
        "",
        "| name | documents | chunks | used to train | to validate | vectors by | licences | "
        "fingerprint |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for entry in data:
        licences = ", ".join(f"{name} ({count:,})" for name, count in entry["licences"].items())
        cells = [
            entry["name"],
            f"{entry['documents']:,}",
            f"{entry['chunks']:,}",
            f"{entry['used']['train']:,}",
            f"{entry['used']['validation']:,}",
            entry["vectors"]["model"] or "unknown",
            licences,
            entry["fingerprint"][:12],
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines


def _cell(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
