"""Callbacks that tell an optimizer what only the library around it knows."""

import pytest
import torch

from learned_opt import LearnedOptimizer
from learned_opt.integrations.optimizers import exchanged, unwrapped
from learned_opt.integrations.versions import check_version
from learned_opt.rules.role_adam import RoleAdam


@pytest.fixture
def told(monkeypatch):
    """What the optimizers' steps are told: (new_rollout, total_steps) each."""
    seen, step = [], LearnedOptimizer.step

    def watched(self, *given):
        group = self.param_groups[0]
        seen.append((group["new_rollout"], group["total_steps"]))
        return step(self, *given)

    monkeypatch.setattr(LearnedOptimizer, "step", watched)
    return seen


@pytest.mark.parametrize(
    ("name", "settings", "a_rollout", "total"),
    [
        ("PPO", {"n_steps": 40, "batch_size": 16, "n_epochs": 2}, 6, 18),  # minibatches of 16, 16 and 8
        ("A2C", {"n_steps": 10}, 1, 12),
    ],
)
def test_stable_baselines3s_callback_marks_rollouts_and_plans_steps(name, settings, a_rollout, total, told):
    sb3 = pytest.importorskip("stable_baselines3")
    from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback

    def learn(callback, **options):
        network = {"optimizer_class": LearnedOptimizer, "optimizer_kwargs": {"rule": RoleAdam()}}
        model = getattr(sb3, name)(
            "MlpPolicy", "CartPole-v1", policy_kwargs=network, device="cpu", **settings
        )
        return model.learn(120, callback=callback, **options)

    model = learn(LearnedOptimizerCallback())
    assert told == [(k % a_rollout == 0, total) for k in range(total)]
    told.clear()
    model.learn(120, callback=LearnedOptimizerCallback(), reset_num_timesteps=False)
    assert told == [(k % a_rollout == 0, 2 * total) for k in range(total)]
    told.clear()
    learn(LearnedOptimizerCallback(total_steps=False))
    assert {planned for _, planned in told} == {None}
    told.clear()
    learn(None)
    assert set(told) == {(None, None)}


def test_stable_baselines3s_callback_tells_off_policy_training_nothing_and_wants_an_optimizer(told):
    sb3 = pytest.importorskip("stable_baselines3")
    from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback

    network = {"optimizer_class": LearnedOptimizer, "optimizer_kwargs": {"rule": RoleAdam()}}
    arguments = {"learning_starts": 10, "device": "cpu", "buffer_size": 100}
    model = sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs=network, **arguments)
    model.learn(40, callback=LearnedOptimizerCallback())
    assert told
    assert set(told) == {(None, None)}
    with pytest.raises(ValueError, match="no optimizer of this model is a LearnedOptimizer"):
        sb3.PPO("MlpPolicy", "CartPole-v1", device="cpu").learn(10, callback=LearnedOptimizerCallback())


def test_torchrls_hook_marks_batches_and_plans_steps(told):
    pytest.importorskip("torchrl")
    from tensordict import TensorDict
    from torchrl.trainers import Trainer

    from learned_opt.integrations.torchrl import LearnedOptimizerHook

    class Collector:
        """Three batches of ten frames."""

        frames_per_batch, init_random_frames = 10, 0

        def __iter__(self):
            return iter([TensorDict({"x": torch.ones(10, 2)}, [10]) for _ in range(3)])

        def shutdown(self):
            pass

        update_policy_weights_ = set_seed = lambda self, *given: None

    weights = torch.nn.Linear(2, 1)
    optimizer = LearnedOptimizer(weights.parameters(), rule=RoleAdam())

    def trainer():
        return Trainer(
            collector=Collector(),
            total_frames=30,
            frame_skip=1,
            optim_steps_per_batch=2,
            loss_module=lambda data: TensorDict({"loss": weights(data["x"]).square().mean()}, []),
            optimizer=optimizer,
            progress_bar=False,
            num_epochs=2,
        )

    whole = trainer()
    LearnedOptimizerHook(optimizer).register(whole)
    whole.train()
    assert told == [(k % 4 == 0, 12) for k in range(12)]
    with pytest.raises(TypeError, match="LearnedOptimizerHook is for a LearnedOptimizer, got Adam"):
        LearnedOptimizerHook(torch.optim.Adam(weights.parameters()))


def test_a_schedule_of_the_model_and_one_of_the_rule_are_refused_together():
    sb3 = pytest.importorskip("stable_baselines3")
    from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback

    def model(rule):
        network = {"optimizer_class": LearnedOptimizer, "optimizer_kwargs": {"rule": rule}}
        settings = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "device": "cpu"}
        return sb3.PPO(
            "MlpPolicy",
            "CartPole-v1",
            learning_rate=lambda left: 1e-3 * left,
            policy_kwargs=network,
            **settings,
        )

    with pytest.raises(ValueError, match=r"would fall twice, by the model's schedule from 0.001 to 0 and by"):
        model("long").learn(32, callback=LearnedOptimizerCallback())
    model("long").learn(32, callback=LearnedOptimizerCallback(total_steps=False))
    model("default").learn(32, callback=LearnedOptimizerCallback())  # it lowers nothing itself


def test_trpo_is_told_that_the_rule_trains_its_critic_alone(told):
    contrib = pytest.importorskip("sb3_contrib")
    from learned_opt.integrations.stable_baselines3 import LearnedOptimizerCallback

    network = {"optimizer_class": LearnedOptimizer, "optimizer_kwargs": {"rule": RoleAdam()}}
    settings = {"n_steps": 32, "batch_size": 16, "n_critic_updates": 3, "device": "cpu"}
    model = contrib.TRPO("MlpPolicy", "CartPole-v1", policy_kwargs=network, **settings)
    with pytest.warns(UserWarning, match="TRPO moves its policy along natural gradients"):
        model.learn(64, callback=LearnedOptimizerCallback())
    assert told == [(k % 6 == 0, 12) for k in range(12)]


@pytest.mark.parametrize("installed", ["2.3.9", "3.0"])
def test_a_version_that_is_not_supported_is_named(installed):
    with pytest.warns(UserWarning, match=rf"from 2\.4 to below 3, and this is {installed}"):
        check_version("stable-baselines3", installed)


def test_a_version_that_is_supported_is_not(recwarn):
    check_version("stable-baselines3", "2.9.2")
    assert not recwarn.list


def test_wrapped_optimizers_are_unwrapped_and_others_refused():
    parameters = [torch.ones(2, requires_grad=True)]
    optimizer = LearnedOptimizer(parameters)

    class Wrapper:
        def __init__(self, inner):
            self.optimizer = inner

    assert unwrapped(Wrapper(Wrapper(optimizer)), "it") is optimizer
    with pytest.raises(TypeError, match="it is for a LearnedOptimizer, got Wrapper"):
        unwrapped(Wrapper(torch.optim.Adam(parameters)), "it")


def test_an_optimizer_is_exchanged_at_its_learning_rates_and_without_its_state():
    one, two = (torch.ones(3, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([{"params": [one], "lr": 0.1}, {"params": [two]}], lr=0.2)
    one.grad = two.grad = torch.ones(3)
    adam.step()
    ours = exchanged(adam, rule="long", total_steps=5)
    assert [group["lr"] for group in ours.param_groups] == [0.1, 0.2]
    assert [group["params"] for group in ours.param_groups] == [[one], [two]]
    assert {group["total_steps"] for group in ours.param_groups} == {5}
    assert not ours.state


def test_skrls_agents_keep_their_schedule_and_are_exchanged_before_they_step(tmp_path):
    pytest.importorskip("skrl")
    import gymnasium
    from skrl.agents.torch.ppo import PPO, PPO_CFG
    from skrl.resources.schedulers.torch import KLAdaptiveLR
    from skrl.utils.model_instantiators.torch import categorical_model, deterministic_model

    from learned_opt.integrations.skrl import use_learned_optimizer

    def agent(**settings):
        spaces = {
            "observation_space": gymnasium.spaces.Box(-1, 1, (4,)),
            "action_space": gymnasium.spaces.Discrete(2),
            "device": "cpu",
        }
        layers = [{"name": "net", "input": "OBSERVATIONS", "layers": [4], "activations": "tanh"}]
        models = {
            "policy": categorical_model(**spaces, network=layers, output="ACTIONS"),
            "value": deterministic_model(**spaces, network=layers, output="ONE"),
        }
        cfg = PPO_CFG(learning_rate=2e-3, **settings)
        cfg.experiment.directory = str(tmp_path)
        return PPO(models=models, memory=None, cfg=cfg, **spaces)

    scheduled = agent(
        learning_rate_scheduler=KLAdaptiveLR, learning_rate_scheduler_kwargs={"kl_threshold": 0.01}
    )
    (ours,) = use_learned_optimizer(scheduled, rule="long")
    assert scheduled.optimizer is scheduled.checkpoint_modules["optimizer"] is ours
    assert isinstance(scheduled.scheduler, KLAdaptiveLR)
    assert scheduled.scheduler.optimizer is ours
    assert ours.param_groups[0]["lr"] == 2e-3
    with pytest.raises(ValueError, match=r"cfg\.learning_rate, and leave lr out"):
        use_learned_optimizer(agent(), lr=0.1)
    stepped = agent()
    stepped.optimizer.state[next(stepped.policy.parameters())] = {"step": torch.ones(())}
    with pytest.raises(ValueError, match="has stepped already: exchange it before training"):
        use_learned_optimizer(stepped)


def test_skrls_agents_of_one_network_keep_their_schedule_too(tmp_path):
    pytest.importorskip("skrl")
    import gymnasium
    from skrl.agents.torch.dqn import DQN, DQN_CFG
    from skrl.utils.model_instantiators.torch import deterministic_model

    from learned_opt.integrations.skrl import use_learned_optimizer

    spaces = {
        "observation_space": gymnasium.spaces.Box(-1, 1, (4,)),
        "action_space": gymnasium.spaces.Discrete(2),
        "device": "cpu",
    }
    layers = [{"name": "net", "input": "OBSERVATIONS", "layers": [4], "activations": "tanh"}]
    models = {
        name: deterministic_model(**spaces, network=layers, output="ACTIONS")
        for name in ("q_network", "target_q_network")
    }
    schedule = torch.optim.lr_scheduler.StepLR
    cfg = DQN_CFG(learning_rate_scheduler=schedule, learning_rate_scheduler_kwargs={"step_size": 3})
    cfg.experiment.directory = str(tmp_path)
    agent = DQN(models=models, memory=None, cfg=cfg, **spaces)
    (ours,) = use_learned_optimizer(agent)
    assert isinstance(agent.scheduler, schedule)
    assert agent.scheduler.optimizer is agent.optimizer is ours


def test_lightnings_callback_wants_an_optimizer_and_one_schedule(tmp_path):
    pytest.importorskip("lightning")
    from lightning.pytorch import LightningModule, Trainer

    from learned_opt.integrations.lightning import LearnedOptimizerCallback

    class Module(LightningModule):
        def __init__(self, made):
            super().__init__()
            self.layer, self.made = torch.nn.Linear(2, 1), made

        def training_step(self, batch, index):
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            return self.made(self.parameters())

    def fit(made, **options):
        quiet = dict.fromkeys(
            ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
        )
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            default_root_dir=tmp_path,
            callbacks=[LearnedOptimizerCallback(**options)],
            **quiet,
        )
        trainer.fit(Module(made), torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2))
        return trainer.optimizers[0]

    def scheduled(parameters):
        optimizer = LearnedOptimizer(parameters, rule="long")
        return [optimizer], [torch.optim.lr_scheduler.LinearLR(optimizer)]

    with pytest.raises(ValueError, match="no optimizer of this module is a LearnedOptimizer"):
        fit(torch.optim.Adam)
    with pytest.raises(ValueError, match="would fall twice, by LinearLR and by the rule"):
        fit(scheduled)
    assert fit(scheduled, total_steps=False).param_groups[0]["total_steps"] is None
    with pytest.raises(ValueError, match="log_every must be at least 0 steps, got -1"):
        LearnedOptimizerCallback(log_every=-1)
