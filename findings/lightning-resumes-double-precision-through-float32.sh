#!/usr/bin/env bash
# Lightning 2.6.6: a run with precision="64-true" and Adam that is resumed from its checkpoint, which holds weights in float64.
# Expected: it goes on with the weights that were saved, and ends where the run that was never interrupted ends, as it does
# with precision="32-true".
# Seen: the weights are loaded before the module is made double, so that they come back rounded to float32; the moments of
# Adam do not. The resumed run is another one.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q lightning==2.6.6 numpy==2.4.6 torch==2.13.0
cd "$folder"
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import logging

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Regression(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 1)

    def training_step(self, batch, index):
        return (self.layer(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


class First(Callback):
    def on_train_start(self, trainer, module):
        self.weight = module.layer.weight.detach().clone()


def fit(epochs, precision, checkpoint=None):
    kind = torch.float64 if precision == "64-true" else torch.float32
    data = TensorDataset(torch.linspace(-1, 1, 48, dtype=kind).view(16, 3))
    module, first = Regression(), First()
    options = {name: False for name in ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")}
    trainer = Trainer(accelerator="cpu", max_epochs=epochs, precision=precision, callbacks=[first], **options)
    trainer.fit(module, DataLoader(data, batch_size=4), ckpt_path=checkpoint)
    return trainer, module.layer.weight.detach().clone(), first.weight


seen = {}
for precision in ("32-true", "64-true"):
    trainer, saved, _ = fit(2, precision)
    trainer.save_checkpoint("run.ckpt")
    stored = torch.load("run.ckpt", weights_only=False)["state_dict"]["layer.weight"]
    assert torch.equal(stored, saved)
    _, resumed, begins = fit(4, precision, "run.ckpt")
    straight = fit(4, precision)[1]
    rounded = torch.equal(begins, saved.float().to(saved.dtype))
    seen[precision] = (str(begins.dtype), torch.equal(begins, saved), rounded, torch.equal(resumed, straight))
    print(f"lightning {lightning.__version__} {precision}: begins with what was saved {seen[precision][1]}, "
          f"with that rounded to float32 {rounded}, ends as if never interrupted {seen[precision][3]}")
assert seen == {"32-true": ("torch.float32", True, True, True), "64-true": ("torch.float64", False, True, False)}
PYTHON
