"""Train, validation and test: documents are split, never windows.

The split hangs on a hash of the document's group alone, so that it is the same in every run, on
every machine, and however many other documents there are.
"""

import hashlib
from typing import Literal, get_args

from training.dataset import Document, PreparedDataset

Split = Literal["train", "validation", "test"]

TEST_BELOW = 0.1
VALIDATION_BELOW = 0.2


class SplitError(ValueError):
    """There is no split of that name."""


def split_of(group: str) -> Split:
    """The split of a group: 10% test, 10% validation, 80% train.

    Args:
        group: What keeps documents together, by default the document's id.
    """
    digest = hashlib.sha256(group.encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    if place < TEST_BELOW:
        return "test"
    if place < VALIDATION_BELOW:
        return "validation"
    return "train"


def documents_of(dataset: PreparedDataset, split: str) -> list[Document]:
    """Documents of one split, in the order of the data.

    Args:
        dataset: The prepared data.
        split: ``train``, ``validation``, ``test``, or ``all``.

    Raises:
        SplitError: If ``split`` is none of these.
    """
    if split == "all":
        return list(dataset.documents)
    names = get_args(Split)
    if split not in names:
        raise SplitError(f"split: expected one of {', '.join(names)} or all, got {split!r}")
    return [document for document in dataset.documents if split_of(document.group) == split]
