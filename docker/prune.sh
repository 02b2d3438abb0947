#!/bin/sh
# Remove from a venv what serving never opens: test suites, C++ headers, development programs.
# docker/check.sh then queries what is left.
set -eu

site=$(echo "$1"/lib/python3.*/site-packages)
torch=$site/torch

# torch looks for torch_shm_manager when it is imported; its other programs are its own tests.
find "$torch/bin" -mindepth 1 ! -name torch_shm_manager -delete
rm -rf "$torch/include" "$torch/test" "$torch/share"
find "$site" -type d -name tests -prune -exec rm -rf {} +
