#!/bin/sh
# Remove from a venv what is never opened: test suites, C++ headers, development programs, and,
# where nothing but serving is wanted, what torch imports only to compile and to trace.
# docker/check.sh then queries what is left.
#
#   prune.sh serve|full VENV
set -eu

site=$(echo "$2"/lib/python3.*/site-packages)
torch=$site/torch

# torch looks for torch_shm_manager when it is imported; its other programs are its own tests.
find "$torch/bin" -mindepth 1 ! -name torch_shm_manager -delete
rm -rf "$torch/include" "$torch/test" "$torch/share"
find "$site" -type d -name tests -prune -exec rm -rf {} +
find "$site" -type d -name __pycache__ -path '*/torch/testing/*' -prune -exec rm -rf {} +
if [ "$1" = serve ]; then
    rm -rf "$site"/sympy "$site"/sympy-*.dist-info "$site"/mpmath "$site"/mpmath-*.dist-info \
        "$site"/networkx "$site"/networkx-*.dist-info "$2/bin/isympy" "$2/share/man" \
        "$site"/triton "$site"/triton-*.dist-info "$2"/bin/proton*
fi
