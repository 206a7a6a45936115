"""Callbacks that tell an optimizer what only the library around it knows."""

import pytest
import torch

from learned_opt import LearnedOptimizer
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
