"""What a checkpoint is: networks, the mathematics of scoring, and the file format.

This package knows nothing of ``training`` and ``service``; both build on it.
"""
