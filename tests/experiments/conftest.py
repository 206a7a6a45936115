import pytest

from experiments.sb3.cells import QUERIES, Cell
from experiments.sb3.plan import Client
from experiments.sb3.settings import LEARNED, TUNED
from learned_opt.artifacts import load_artifact

DIGEST = "ab" * 32
CLIENT = Client("ppo", "defaults", "CartPole-v1", 1000)


@pytest.fixture
def cell():
    """(client, method, seed, level, lr, diverged) -> a made-up finished run with a flat curve."""

    def make(method=LEARNED, seed=0, level=1.0, *, client=CLIENT, lr=None, diverged=False):
        given = load_artifact().rule.nominal_lr if method.lr is None else method.lr
        rate = given if lr is None else lr
        run = client.run(method, rate, seed, DIGEST)
        versions = {"torch": "2.0"}
        return Cell(run, (level,) * QUERIES, diverged, 1.0, run.hyperparameters(), versions, "the command")

    return make


@pytest.fixture
def grid(cell):
    """(levels by lr, client) -> Adam's grid on one selection seed."""

    def make(levels, seed=1000, **options):
        return [cell(TUNED, seed, level, lr=lr, **options) for lr, level in levels.items()]

    return make
