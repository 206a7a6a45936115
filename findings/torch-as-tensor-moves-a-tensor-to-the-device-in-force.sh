#!/usr/bin/env bash
# torch 2.13.0: inside `with torch.device("meta")`, in which large modules are built, torch.as_tensor(x) of a tensor x that is there
# already. Expected: x itself, as torch.as_tensor says of tensors of the right type, and as it is outside.
# Seen: a tensor on meta, without its numbers. Code that reads a learning rate or a saved moment by as_tensor loses it there,
# without an error.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

there = torch.ones(2)
with torch.device("meta"):
    told = torch.as_tensor(there)
print(f"torch {torch.__version__}: as_tensor of a tensor on cpu is on {told.device} under torch.device('meta'), the same outside: "
      f"{torch.as_tensor(there) is there}")
assert told.device.type == "meta" and torch.as_tensor(there) is there
PYTHON
