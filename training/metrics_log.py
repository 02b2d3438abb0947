"""metrics.jsonl: one line an epoch, written as the epoch ends."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class MetricsLog:
    """Appends an epoch's metrics to a file and tells them to a person.

    Args:
        path: The file.
        say: Called with a line of text an epoch.
    """

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        self.path = path
        self.say = say

    def write(self, line: dict[str, Any]) -> None:
        """Append one epoch."""
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.say(
            f"epoch {line['epoch']}: loss {line['train_loss']:.3f}, validation "
            f"R@5 {line['validation_r@5']:.3f} "
            f"({line['validation_r@5_minus_direct']:+.3f} against DIRECT), "
            f"MRR@10 {line['validation_mrr@10']:.3f}, margin {line['validation_margin']:+.3f}, "
            f"{line['seconds']:.1f} s"
        )

    def rewrite(self, history: Sequence[dict[str, Any]]) -> None:
        """Replace the file by a finished run's history."""
        self.path.write_text("".join(json.dumps(line) + "\n" for line in history))
