import pytest

from experiments.sb3.benchmarks import Benchmark
from experiments.sb3.runs import MOMENTS, FinishedRun
from experiments.sb3.settings import LEARNED, TUNED
from learned_opt.artifacts import load_artifact

DIGEST = "ab" * 32
BENCHMARK = Benchmark("ppo", "defaults", "CartPole-v1", 1000)


@pytest.fixture
def finished_run():
    """(benchmark, method, seed, level, lr, diverged) -> a made-up finished run with a flat curve."""

    def make(method=LEARNED, seed=0, level=1.0, *, benchmark=BENCHMARK, lr=None, diverged=False):
        given = load_artifact().rule.learning_rate if method.lr is None else method.lr
        rate = given if lr is None else lr
        run = benchmark.run(method, rate, seed, DIGEST)
        versions = {"torch": "2.0"}
        return FinishedRun(run, (level,) * MOMENTS, diverged, 1.0, run.hyperparameters(), versions)

    return make


@pytest.fixture
def tuning_run():
    """(candidate, level, method) -> a made-up run on a selection seed."""

    def make(candidate, level, method=TUNED):
        run = BENCHMARK.tried(method, candidate, 1000)
        return FinishedRun(run, (level,) * MOMENTS, False, 1.0, run.hyperparameters(), {"torch": "2.0"})

    return make


@pytest.fixture
def grid(finished_run):
    """(levels by lr, benchmark) -> Adam's grid on one selection seed."""

    def make(levels, seed=1000, **options):
        return [finished_run(TUNED, seed, level, lr=lr, **options) for lr, level in levels.items()]

    return make
