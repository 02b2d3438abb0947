"""Readers of documents, one kind of file each; the registry chooses by suffix."""

from training.readers.registry import READERS, Reader, read_inputs, supported_suffixes

__all__ = ["READERS", "Reader", "read_inputs", "supported_suffixes"]
