"""TorchRL, Accelerate, skrl and rsl_rl."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from experiments.libraries.cells import (
    RULE,
    SAY_IT,
    Found,
    alike,
    found,
    measured,
    must,
    planned_right,
    steps_of,
    trained,
)
from learned_opt import LearnedOptimizer


def rows() -> Iterator[Found]:
    """One for each way to train."""
    yield torchrl()
    yield accelerate()
    yield from (skrl(name) for name in ("PPO", "A2C"))
    yield rsl_rl()


def torchrl() -> Found:
    """Its trainer, its loss, and its learning rate from the divergence."""
    from tensordict.nn import TensorDictModule
    from torchrl.collectors import Collector
    from torchrl.envs import GymEnv
    from torchrl.modules import ProbabilisticActor, ValueOperator
    from torchrl.objectives import ClipPPOLoss, KLAdaptiveLR
    from torchrl.objectives.value import GAE
    from torchrl.trainers import Trainer

    from learned_opt.integrations.torchrl import LearnedOptimizerHook

    def make(seed: int) -> tuple[Trainer, LearnedOptimizer, nn.Module]:
        torch.manual_seed(seed)
        environment = GymEnv("CartPole-v1", categorical_action_encoding=True)
        environment.set_seed(seed)
        policy = ProbabilisticActor(
            TensorDictModule(nn.Linear(4, 2), in_keys=["observation"], out_keys=["logits"]),
            in_keys=["logits"],
            distribution_class=torch.distributions.Categorical,
            return_log_prob=True,
        )
        critic = ValueOperator(nn.Linear(4, 1), in_keys=["observation"])
        loss = ClipPPOLoss(policy, critic)
        optimizer = LearnedOptimizer(loss.parameters(), rule=RULE)
        collector = Collector(environment, policy, frames_per_batch=32, total_frames=96)
        trainer = Trainer(
            collector=collector,
            total_frames=96,
            frame_skip=1,
            optim_steps_per_batch=2,
            loss_module=loss,
            optimizer=optimizer,
            progress_bar=False,
            num_epochs=2,
        )
        trainer.register_op("batch_process", GAE(gamma=0.99, lmbda=0.95, value_network=critic))
        LearnedOptimizerHook(optimizer).register(trainer)
        return trainer, optimizer, loss

    trainer, optimizer, loss = make(0)

    def runs() -> None:
        optimizer.watch(2)
        trainer.train()
        trained([optimizer])

    def continues() -> None:
        _, theirs, network = make(1)
        network.load_state_dict(loss.state_dict())
        theirs.load_state_dict(optimizer.state_dict())
        for each in (loss, network):
            _step_alike(each, optimizer if each is loss else theirs)
        alike(loss.state_dict(), network.state_dict())

    def adapted() -> None:
        before = optimizer.param_groups[0]["lr"]
        KLAdaptiveLR(optimizer, target_kl=0.01).step(kl=1.0)
        must(optimizer.param_groups[0]["lr"] < before, "KLAdaptiveLR did not change the learning rate")
        planned_right([optimizer])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        checks = {"runs": runs, "total_steps": adapted, "telemetry": lambda: measured([optimizer])}
        return found("torchrl", "Trainer, ClipPPOLoss, KLAdaptiveLR", {**checks, "continues": continues})


def _step_alike(network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A step along gradients that are the same for equal networks."""
    optimizer.zero_grad()
    loss: Tensor = torch.stack([parameter.square().mean() for parameter in network.parameters()]).sum()
    torch.autograd.backward(loss)
    optimizer.step()


def accelerate() -> Found:
    """Every second batch steps."""
    from accelerate import Accelerator

    from learned_opt.integrations.optimizers import unwrapped

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    torch.manual_seed(0)
    network = nn.Linear(3, 1)
    model, wrapped = accelerator.prepare(
        network, LearnedOptimizer(network.parameters(), rule=RULE, total_steps=5)
    )
    optimizer = unwrapped(wrapped, "the row")
    batches = torch.randn(10, 8, 3, generator=torch.Generator().manual_seed(0))

    def train() -> None:
        for batch in batches:
            with accelerator.accumulate(model):
                accelerator.backward((model(batch) - batch.sum(1, keepdim=True)).square().mean())
                wrapped.step()
                wrapped.zero_grad()

    def runs() -> None:
        optimizer.watch(2)
        train()
        trained([optimizer])
        must(steps_of(optimizer) == 5, f"{steps_of(optimizer)} steps of 5")

    def continues() -> None:
        with tempfile.TemporaryDirectory() as folder:
            accelerator.save_state(folder)
            train()
            straight = deepcopy(model.state_dict())
            accelerator.load_state(folder)
        train()
        alike(straight, model.state_dict())

    checks: dict[str, Callable[[], None] | str] = {"runs": runs, "total_steps": SAY_IT}
    checks |= {"telemetry": lambda: measured([optimizer]), "continues": continues}
    return found("accelerate", "gradient accumulation", checks)


def skrl(name: str) -> Found:
    """One of its agents."""
    import gymnasium
    from skrl.envs.wrappers.torch import wrap_env
    from skrl.memories.torch import RandomMemory
    from skrl.trainers.torch import SequentialTrainer
    from skrl.utils.model_instantiators.torch import categorical_model, deterministic_model

    from learned_opt.integrations.skrl import use_learned_optimizer

    module = __import__(f"skrl.agents.torch.{name.lower()}", fromlist=[name])
    environment = wrap_env(gymnasium.make("CartPole-v1"), verbose=False)
    layers = [{"name": "net", "input": "OBSERVATIONS", "layers": [16], "activations": "tanh"}]

    def agent(folder: str) -> Any:
        spaces = {
            "observation_space": environment.observation_space,
            "action_space": environment.action_space,
            "device": "cpu",
        }
        torch.manual_seed(0)
        models = {
            "policy": categorical_model(**spaces, network=layers, output="ACTIONS"),
            "value": deterministic_model(**spaces, network=layers, output="ONE"),
        }
        settings = getattr(module, f"{name}_CFG")()
        settings.rollouts = 16
        settings.experiment.directory, settings.experiment.write_interval = folder, 0
        settings.experiment.checkpoint_interval = 0
        made = getattr(module, name)(
            models=models,
            memory=RandomMemory(memory_size=16, num_envs=1, device="cpu"),
            cfg=settings,
            **spaces,
        )
        return made

    with tempfile.TemporaryDirectory() as folder:
        mine = agent(folder)
        optimizer: list[LearnedOptimizer] = []

        def runs() -> None:
            optimizer.extend(use_learned_optimizer(mine, rule=RULE))
            optimizer[0].watch(2)
            trainer = SequentialTrainer(
                cfg={"timesteps": 64, "headless": True, "disable_progressbar": True},
                env=environment,
                agents=mine,
            )
            trainer.train()
            trained(optimizer)

        def continues() -> None:
            mine.save(f"{folder}/agent.pt")
            other = agent(folder)
            theirs = use_learned_optimizer(other, rule=RULE)[0]
            other.load(f"{folder}/agent.pt")
            networks = [nn.ModuleList([each.policy, each.value]) for each in (mine, other)]
            for network, stepping in zip(networks, (optimizer[0], theirs), strict=True):
                _step_alike(network, stepping)
            alike(networks[0].state_dict(), networks[1].state_dict())

        checks: dict[str, Callable[[], None] | str] = {"runs": runs, "total_steps": SAY_IT}
        checks |= {"telemetry": lambda: measured(optimizer), "continues": continues}
        return found("skrl", name, checks)


def rsl_rl() -> Found:
    """Its runner, on a point that moves to the origin."""
    import contextlib
    import io

    from rsl_rl.env import VecEnv
    from rsl_rl.runners import OnPolicyRunner
    from tensordict import TensorDict

    from learned_opt.integrations.rsl_rl import use_learned_optimizer

    class Point(VecEnv):  # type: ignore[misc]
        """Move to the origin."""

        num_envs, num_actions, max_episode_length, device = 8, 2, 20, "cpu"
        cfg: ClassVar[dict[str, Any]] = {}

        def __init__(self) -> None:
            self.generator = torch.Generator().manual_seed(0)
            self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long)
            self.place = torch.randn(self.num_envs, 2, generator=self.generator)

        def get_observations(self) -> TensorDict:
            return TensorDict({"policy": self.place.clone()}, [self.num_envs])

        def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
            self.place = self.place + 0.1 * actions.clamp(-1, 1)
            self.episode_length_buf = self.episode_length_buf + 1
            over = self.episode_length_buf >= self.max_episode_length
            reward = -self.place.norm(dim=1)
            fresh = torch.randn(self.num_envs, 2, generator=self.generator)
            self.place = torch.where(over.unsqueeze(1), fresh, self.place)
            self.episode_length_buf = torch.where(over, 0, self.episode_length_buf)
            return self.get_observations(), reward, over.long(), {"time_outs": over.long()}

    def runner() -> Any:
        network = {"class_name": "MLPModel", "hidden_dims": [16], "activation": "tanh"}
        noise = {
            "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
        }
        settings = {
            "num_steps_per_env": 16,
            "save_interval": 100,
            "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
            "actor": {**network, **noise},
            "critic": dict(network),
            "algorithm": {
                "class_name": "PPO",
                "num_learning_epochs": 2,
                "num_mini_batches": 2,
                "rnd_cfg": None,
            },
        }
        torch.manual_seed(0)
        with contextlib.redirect_stdout(io.StringIO()):
            return OnPolicyRunner(Point(), settings, log_dir=None, device="cpu")

    mine = runner()
    optimizer: list[LearnedOptimizer] = []

    def runs() -> None:
        optimizer.append(use_learned_optimizer(mine, rule=RULE))
        optimizer[0].watch(2)
        with contextlib.redirect_stdout(io.StringIO()):
            mine.learn(3)
        trained(optimizer)

    def continues() -> None:
        other = runner()
        theirs = use_learned_optimizer(other, rule=RULE)
        with tempfile.TemporaryDirectory() as folder:
            mine.save(f"{folder}/model.pt")
            other.load(f"{folder}/model.pt")
        networks = [nn.ModuleList([each.alg.actor, each.alg.critic]) for each in (mine, other)]
        for network, stepping in zip(networks, (optimizer[0], theirs), strict=True):
            _step_alike(network, stepping)
        alike(networks[0].state_dict(), networks[1].state_dict())

    checks: dict[str, Callable[[], None] | str] = {"runs": runs, "total_steps": SAY_IT}
    checks |= {"telemetry": lambda: measured(optimizer), "continues": continues}
    return found("rsl-rl-lib", "PPO, adaptive schedule", checks)
