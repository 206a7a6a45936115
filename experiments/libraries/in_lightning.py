"""Lightning, by the precision and by who steps."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from experiments.libraries.cells import RULE, SAY_IT, Found, found, measured, must, planned_right, trained
from learned_opt import LearnedOptimizer


def rows() -> Iterator[Found]:
    """One for each way to train."""
    for automatic, precision in (
        (True, "32-true"),
        (True, "bf16-mixed"),
        (True, "64-true"),
        (False, "32-true"),
    ):
        yield lightning(automatic=automatic, precision=precision)


def lightning(*, automatic: bool, precision: str) -> Found:
    """Its trainer, on a regression."""
    import logging

    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import Logger
    from torch.utils.data import DataLoader, TensorDataset

    from learned_opt.integrations.lightning import LearnedOptimizerCallback

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    class Kept(Logger):
        """What was logged."""

        name, version = "kept", 0

        def __init__(self) -> None:
            super().__init__()
            self.names: set[str] = set()

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            self.names |= metrics.keys()

        def log_hyperparams(self, *given: Any, **named: Any) -> None:
            pass

    class Regression(LightningModule):
        """Two layers."""

        def __init__(self, kind: Callable[..., torch.optim.Optimizer]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers, self.kind = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)), kind
            self.automatic_optimization = automatic

        def training_step(self, batch: list[Tensor], index: int) -> Tensor | None:
            loss: Tensor = (self.layers(batch[0]) - batch[0].sum(1, keepdim=True)).square().mean()
            if automatic:
                return loss
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            return None

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return self.kind(self.parameters())

    kind = torch.float64 if precision == "64-true" else torch.float32
    data = TensorDataset(torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=kind))

    ours = partial(LearnedOptimizer, rule=RULE)

    def fit(
        epochs: int, checkpoint: str | None = None, *, planned: bool = False, kind: Any = ours
    ) -> tuple[Trainer, Regression, Kept]:
        kept, module = Kept(), Regression(kind)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            precision=cast(Any, precision),
            logger=kept,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[LearnedOptimizerCallback(log_every=2, total_steps=planned)] if kind is ours else [],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(module, DataLoader(data, batch_size=16), ckpt_path=checkpoint)
        return trainer, module, kept

    made: list[tuple[Trainer, Regression, Kept]] = []

    def learned(trainer: Trainer) -> list[LearnedOptimizer]:
        return [optimizer for optimizer in trainer.optimizers if isinstance(optimizer, LearnedOptimizer)]

    def runs() -> None:
        made.append(fit(2, planned=True))
        trained(learned(made[0][0]))

    def told() -> None:
        planned_right(learned(made[0][0]))

    def logged() -> None:
        measured(learned(made[0][0]))
        must(
            any(name.startswith("optimizer/effective_lr") for name in made[0][2].names), "nothing was logged"
        )

    def continues() -> None:
        def resumed(kind: Any) -> float:
            """How far a run that was resumed is from one that was not."""
            with tempfile.TemporaryDirectory() as folder:
                fit(2, kind=kind)[0].save_checkpoint(f"{folder}/checkpoint.ckpt")
                ends = [fit(4, path, kind=kind)[1] for path in (None, f"{folder}/checkpoint.ckpt")]
            pairs = zip(*(end.parameters() for end in ends), strict=True)
            return max(float((one - other).abs().max()) for one, other in pairs)

        far = resumed(ours)
        must(far == 0 or resumed(torch.optim.Adam) == 0, f"to {far:.0e} only, with Adam too")
        must(far == 0, "other parameters")

    checks: dict[str, Callable[[], None] | str] = {"runs": runs, "telemetry": logged, "continues": continues}
    checks["total_steps"] = told if automatic else SAY_IT
    return found("lightning", f"{'automatic' if automatic else 'manual'} optimization, {precision}", checks)
