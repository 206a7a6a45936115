#!/usr/bin/env bash
# torch 2.13.0: Optimizer.load_state_dict rewrites entries that a wrapper keeps in optimizer.state beside those of Adam.
# Expected: what was saved is what is there after loading, or an error.
# Seen: a text comes back as the name of a generator object, and an integer tensor (a count, say) as float32: beyond 2^24 it
# would count no further.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import torch

weight = torch.nn.Parameter(torch.ones(2))
weight.grad = torch.ones(2)
optimizer = torch.optim.Adam([weight], lr=1e-3)
optimizer.step()
optimizer.state[weight] |= {"layer": "encoder", "synchronised": torch.tensor(3)}
optimizer.load_state_dict(optimizer.state_dict())
text, count = optimizer.state[weight]["layer"], optimizer.state[weight]["synchronised"]
print(f"torch {torch.__version__}: the text 'encoder' is {str(text)[:60]!r} after loading, tensor(3) is {count!r}")
assert str(text).startswith("<generator object Optimizer.load_state_dict")
assert count.dtype is torch.float32
PYTHON
