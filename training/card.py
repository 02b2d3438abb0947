"""The model card: what the checkpoint is, what it scored, what it is not for."""

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
    vectors = data["vectors"] or {}
    lines = [
        f"# P8 checkpoint ({shape['arch']}, {shape['space']} space)",
        "",
        "Ranks which chunk of a document comes next, and tells which of two comes first.",
        "",
        f"- Vectors: {vectors.get('model', 'unknown')}, {shape['dimension']} dimensions",
        f"- Window: 1 to {shape['window']} chunks",
        f"- Trained on: {data['name']}, {data['documents']} documents "
        f"(fingerprint {data['fingerprint'][:12]})",
        f"- Seed {provenance['training']['seed']}, best epoch {metrics['best_epoch']}, "
        f"{metrics['train_seconds']:.0f} s of training",
        f"- Order weight {order_weight}, chosen on validation documents",
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
        "  cannot notice another model of the same dimension.",
        "- Validated on documents of the same kind as those it learned from. For another kind, run",
        "  `python -m training evaluate` on some of them first.",
        "",
    ]
    return "\n".join(lines)


def _cell(estimate: dict[str, float]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
