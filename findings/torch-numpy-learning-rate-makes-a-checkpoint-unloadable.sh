#!/usr/bin/env bash
# torch 2.13.0 with numpy 2.4.6: Adam takes a learning rate from numpy, as sweeps and schedules hand it over, and trains with it.
# Expected: its checkpoint can be loaded as others can.
# Seen: torch.save writes it, torch.load, whose default is weights_only=True, refuses it: UnpicklingError. The same number from
# np.float64 inside torch.tensor(...) or float(...) loads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import io
import pickle

import numpy as np
import torch


def loads(lr):
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    optimizer = torch.optim.Adam([weight], lr=lr)
    optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    try:
        torch.load(file)
    except pickle.UnpicklingError:
        return False
    return True


rate = np.geomspace(1e-4, 1e-2, 3)[1]
seen = {type(lr).__name__: loads(lr) for lr in (rate, float(rate), torch.tensor(rate))}
print(f"torch {torch.__version__}, numpy {np.__version__}: a checkpoint can be loaded again, by the type of lr: {seen}")
assert seen == {"float64": False, "float": True, "Tensor": True}
PYTHON
