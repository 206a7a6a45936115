"""What does LearnedOptimizer cost? Its step beside Adam's, beside the arithmetic floor, and inside PPO.

    python benchmarks/optimizer_step.py [--threads 1] [--rule default] [--no-ppo]

Networks are pairs of two-layer perceptrons, as actor-critics have them. The floor is the rule's
multiply-adds for each coordinate at the measured speed of matrix products. "torch" is the step where
no C compiler was at hand; "plain LSTM" an eager nn.LSTMCell stack of 2 × 20 units on the gradient.
PPO is Stable-Baselines3's on CartPole with its own settings, Adam and the rule in turn.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro
from torch import Tensor, nn

from learned_opt import CoordinatewiseLSTM, LearnedOptimizer, engine, load_rule

WIDTHS = {"5k": 44, "70k": 180, "1M": 715}
OWN_FEATURES = 7
"""Features that differ between the coordinates of a tensor; the others enter as a bias."""


@dataclass
class Options:
    """Options of the benchmark."""

    threads: int = 1
    """CPU threads."""
    rule: str = "default"
    """A shipped rule or a rule file."""
    repeats: int = 100
    """Timed steps of small networks; large ones take fewer. The median counts."""
    ppo: bool = True
    """Whether to time Stable-Baselines3's PPO."""
    ppo_steps: int = 8192
    """Environment steps of a timed PPO run."""
    ppo_runs: int = 5
    """Pairs of PPO runs; the median of the ratios counts."""


class PlainLSTM:
    """A step of an eager two-layer LSTM of 20 units on every coordinate."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        self.parameters = parameters
        self.cells = nn.ModuleList([nn.LSTMCell(1, 20), nn.LSTMCell(20, 20)])
        self.head = nn.Linear(20, 1)
        size = sum(parameter.numel() for parameter in parameters)
        self.state = [(torch.zeros(size, 20), torch.zeros(size, 20)) for _ in self.cells]

    @torch.no_grad()
    def step(self) -> None:
        """One step."""
        gradients = [p.grad.reshape(-1) for p in self.parameters if p.grad is not None]
        signal = torch.cat(gradients).unsqueeze(1)
        for index, cell in enumerate(self.cells):
            self.state[index] = cell(signal, self.state[index])
            signal = self.state[index][0]
        update = self.head(signal).squeeze(1) * 1e-3
        pieces = update.split([p.numel() for p in self.parameters])
        torch._foreach_add_(
            self.parameters, [u.view_as(p) for u, p in zip(pieces, self.parameters, strict=True)]
        )


def actor_critic(width: int) -> list[nn.Parameter]:
    """Parameters of actor and critic with two hidden layers of the given width, with gradients."""
    parameters = []
    for _ in range(2):
        network = nn.Sequential(
            nn.Linear(8, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4)
        )
        parameters += list(network.parameters())
    for parameter in parameters:
        parameter.grad = 0.01 * torch.randn_like(parameter)
    return parameters


def median_ms(step: Callable[[], object], repeats: int) -> float:
    """Milliseconds of a call, after some to warm up."""
    for _ in range(max(repeats // 10, 2)):
        step()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    return 1e3 * statistics.median(seconds)


def matrix_speed() -> float:
    """FLOP/s of float32 matrix products."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return 2 * 1024**3 / (median_ms(lambda: a @ b, 20) / 1e3)


def step_table(options: Options) -> None:
    """Print the cost of a step for each network size."""
    rule = load_rule(options.rule)
    assert isinstance(rule, CoordinatewiseLSTM)
    hidden = rule.hidden_size
    multiply_adds = 4 * hidden * (OWN_FEATURES + hidden) + 3 * (hidden + OWN_FEATURES)
    speed = matrix_speed()
    print(f"one step, {options.threads} thread(s); {options.rule}: {hidden} hidden units")
    print(f"matrix speed {speed / 1e9:.0f} GFLOP/s; {multiply_adds} multiply-adds a coordinate")
    print(
        f"{'parameters':>12}{'Adam ms':>9}{'ours ms':>9}{'× Adam':>8}{'× floor':>9}"
        f"{'torch × Adam':>14}{'plain LSTM × Adam':>19}{'bytes a parameter':>19}"
    )
    for width in WIDTHS.values():
        parameters = actor_critic(width)
        size = sum(parameter.numel() for parameter in parameters)
        repeats = max(options.repeats * 5_000 // size, 10) if size > 100_000 else options.repeats
        adam = median_ms(torch.optim.Adam(parameters, lr=1e-5, foreach=True).step, repeats)
        optimizer = LearnedOptimizer(parameters, lr=1e-5, rule=rule)
        ours = median_ms(optimizer.step, repeats)
        state: list[Tensor] = [entry for state in optimizer.state.values() for entry in state.values()]
        memory = sum(entry.numel() * entry.element_size() for entry in state) / size
        with engine("torch"):
            slow = median_ms(LearnedOptimizer(parameters, lr=1e-5, rule=rule).step, max(repeats // 4, 3))
        plain = median_ms(PlainLSTM(parameters).step, max(repeats // 10, 3))
        floor = 1e3 * 2 * size * multiply_adds / speed
        print(
            f"{size:>12,}{adam:>9.3f}{ours:>9.3f}{ours / adam:>8.1f}{ours / floor:>9.1f}"
            f"{slow / adam:>14.1f}{plain / adam:>19.0f}{memory:>19.0f}"
        )


def ppo_table(options: Options) -> None:
    """Print what the rule adds to Stable-Baselines3's PPO on CartPole."""
    from stable_baselines3 import PPO

    def run(optimizer: type[torch.optim.Optimizer]) -> tuple[float, float]:
        settings = {"optimizer_class": optimizer}
        if optimizer is LearnedOptimizer:
            settings["optimizer_kwargs"] = {"rule": options.rule}  # type: ignore[assignment]
        model = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=settings, seed=0, device="cpu")
        torch.set_num_threads(options.threads)
        spent, inner = 0.0, model.policy.optimizer.step

        def timed(*arguments: object) -> object:
            nonlocal spent
            start = time.perf_counter()
            result = inner(*arguments)
            spent += time.perf_counter() - start
            return result

        model.policy.optimizer.step = timed  # type: ignore[method-assign]
        start = time.perf_counter()
        model.learn(options.ppo_steps)
        total = time.perf_counter() - start
        return total, spent / total

    run(torch.optim.Adam)
    pairs = [(run(torch.optim.Adam), run(LearnedOptimizer)) for _ in range(options.ppo_runs)]
    ratio = statistics.median(ours[0] / adam[0] for adam, ours in pairs)
    shares = [statistics.median(pair[which][1] for pair in pairs) for which in (0, 1)]
    print(
        f"\nStable-Baselines3 PPO on CartPole, {options.ppo_steps} steps, 9,155 parameters: "
        f"{ratio:.2f} times the wall clock with Adam\n"
        f"share of the optimizer in an iteration: Adam {shares[0]:.0%}, learned {shares[1]:.0%}"
    )


def main(options: Options) -> None:
    """Print both tables."""
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    step_table(options)
    if options.ppo:
        ppo_table(options)


if __name__ == "__main__":
    main(tyro.cli(Options))
