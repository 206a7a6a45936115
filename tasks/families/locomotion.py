"""The locomotion families of the meta-learning literature, on gymnasium's bodies (extra `mujoco`)."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from numpy import float64
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import Tasks
from learned_opt.tasks.families.mujoco import Motion, MujocoFamily
from learned_opt.tasks.random import Noise
from learned_opt.tasks.ranges import Range


class _TwoWays(MujocoFamily):
    """Tasks are directions d ∈ {−1, +1} with even odds; there are but two, so none is ood."""

    finite = True
    defaults: ClassVar[dict[str, float]] = {"direction": 1.0}

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """B directions."""
        if ood:
            raise ValueError(f"{self.name} has two tasks, both for training: it has no ood ones")
        return {"direction": torch.where(noise.uniform(batch, 1) < 0.5, -1.0, 1.0).to(noise.dtype)}


class _HalfCheetah(MujocoFamily):
    """Observations (20) as in pytorch-maml-rl: positions but the first, velocities, the torso's place."""

    model_file = "half_cheetah.xml"
    frame_skip = 5
    start_noise = 0.1
    normal_velocity = True
    horizon = 200

    def seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
        """See the class."""
        root = self.standard.body("torso").pos
        x, z = position[..., :1] + float(root[0]), position[..., 1:2] + float(root[2])
        return [position[..., 1:], velocity, x, torch.zeros_like(x), z]


class HalfCheetahDir(_TwoWays, _HalfCheetah):
    """Run forwards or backwards: reward d · v − 0.05 ‖a‖², d ∈ {−1, +1} with even odds.

    v is the speed in m/s over a control step of 0.05 s; 200 steps, never terminates. Finn et al. 2017
    (arXiv 1703.03400), as in pytorch-maml-rl on the present MuJoCo model; the paper's own numbers were
    taken in another simulation (steps of 0.01 s) and do not compare.
    """

    name = "halfcheetah_dir"

    def reward(self, constants: Tasks, motion: Motion) -> Tensor:
        """Progress in the direction asked for, less the effort."""
        return constants["direction"] * motion.speed - 0.05 * motion.action.square().sum(1)


class HalfCheetahVel(_HalfCheetah):
    """Run at a given speed: reward −|v − v*| − 0.05 ‖a‖², v* uniform in [0, 2] m/s (ood: up to 3).

    200 steps, never terminates. Finn et al. 2017; ProMP and PEARL draw v* from [0, 3].
    """

    name = "halfcheetah_vel"
    defaults: ClassVar[dict[str, float]] = {"velocity": 1.0}
    train_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 2.0)}
    ood_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 3.0)}

    def reward(self, constants: Tasks, motion: Motion) -> Tensor:
        """−|v − v*| − 0.05 ‖a‖²."""
        miss = (motion.speed - constants["velocity"]).abs()
        return -miss - 0.05 * motion.action.square().sum(1)


class _Ant(MujocoFamily):
    """Observations (123) as in pytorch-maml-rl.

    Positions but x and y, velocities, contact forces within ±1, the torso's rotation matrix and place.
    """

    model_file = "ant.xml"
    frame_skip = 5
    start_noise = 0.1
    normal_velocity = True
    horizon = 200
    contacts = True
    hidden_positions = 2

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """As every body's; the start is uniform in position and normal in velocity."""
        state = super().initial_state(constants, environments, noise)
        quaternion = state[..., 3:7]
        state[..., 3:7] = quaternion / quaternion.norm(dim=-1, keepdim=True)
        return state

    def reward(self, constants: Tasks, motion: Motion) -> Tensor:
        """Progress − 0.005 ‖a‖² (a in units of its limits) − 0.0005 ‖contact forces‖² + 0.05."""
        half = torch.from_numpy((self.action_space.high - self.action_space.low) / 2)
        effort = 0.005 * (motion.action / half).square().sum(1)
        return self.progress(constants, motion) - effort - 5e-4 * motion.contact.square().sum(1) + 0.05

    @abstractmethod
    def progress(self, constants: Tasks, motion: Motion) -> Tensor:
        """What the task rewards, (n,)."""

    def fallen(self, motion: Motion) -> Tensor:
        """Unless the torso's height is within 0.2 to 1 m."""
        height = motion.position[:, 2]
        return (height < 0.2) | (height > 1.0)

    def seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
        """See the class."""
        seen = super().seen(position, velocity, contact)
        return [*seen, _rotation(position[..., 3:7]), position[..., :3]]


class AntDir(_TwoWays, _Ant):
    """Walk forwards or backwards: d · v_x, d ∈ {−1, +1} with even odds; see `_Ant` for what it costs.

    200 steps; ends when the torso leaves 0.2 to 1 m. Finn et al. 2017, as in pytorch-maml-rl.
    """

    name = "ant_dir"

    def progress(self, constants: Tasks, motion: Motion) -> Tensor:
        """Speed in the direction asked for."""
        return constants["direction"] * motion.speed


class AntVel(_Ant):
    """Walk at a given speed: 1 − |v_x − v*|, v* uniform in [0, 3] m/s (ood: up to 4).

    200 steps; ends when the torso leaves 0.2 to 1 m. Finn et al. 2017, as in pytorch-maml-rl.
    """

    name = "ant_vel"
    defaults: ClassVar[dict[str, float]] = {"velocity": 1.5}
    train_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 3.0)}
    ood_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 4.0)}

    def progress(self, constants: Tasks, motion: Motion) -> Tensor:
        """1 − |v_x − v*|."""
        return 1.0 - (motion.speed - constants["velocity"]).abs()


class _RandomBody(MujocoFamily):
    """A body whose masses, inertias, frictions and dampings are drawn: factors b^u with u uniform in ±3.

    b is 1.5, and 1.3 for damping; one draw for every entry of the model. Rothfuss et al. 2019
    (arXiv 1810.06784) and Zintgraf et al. 2020 (VariBAD). Out of distribution: 3 < |u| < 4.
    Task entries are the factors, (B, entries), by the model's own names.
    """

    horizon = 200
    start_noise = 5e-3
    normal_velocity = False
    bases: ClassVar[dict[str, float]] = {
        "body_mass": 1.5,
        "body_inertia": 1.5,
        "dof_damping": 1.3,
        "geom_friction": 1.5,
    }
    lowest: ClassVar[float]
    tilt: ClassVar[float]
    highest: ClassVar[float] = float("inf")

    def default_tasks(self, batch: int, noise: Noise) -> Tasks:
        """The model as it is."""
        return {
            name: torch.ones(batch, getattr(self.standard, name).size, device=noise.device, dtype=noise.dtype)
            for name in self.bases
        }

    def sample_tasks(self, batch: int, noise: Noise, *, ood: bool = False) -> Tasks:
        """Factors of B bodies."""
        tasks = {}
        for name, base in self.bases.items():
            draw = 2 * noise.uniform(batch, getattr(self.standard, name).size) - 1
            power = draw.sign() * (3 + draw.abs()) if ood else 3 * draw
            # In double precision: equal draws must give equal factors wherever in the batch they stand.
            tasks[name] = (base ** power.double()).to(draw.dtype)
        return tasks

    def variation(self, tasks: Tasks, row: int) -> dict[str, NDArray[float64]]:
        """The factors in the shapes of the model's entries."""
        return {
            name: tasks[name][row].double().cpu().numpy().reshape(getattr(self.standard, name).shape)
            for name in self.bases
        }

    def reward(self, constants: Tasks, motion: Motion) -> Tensor:
        """Speed, 1 for being upright, less the effort."""
        return motion.speed + 1.0 - 1e-3 * motion.action.square().sum(1)

    def fallen(self, motion: Motion) -> Tensor:
        """Outside the healthy heights and tilts."""
        height, tilt = motion.position[:, 1], motion.position[:, 2].abs()
        return (height <= self.lowest) | (height >= self.highest) | (tilt >= self.tilt)

    def seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
        """See the class."""
        return [position[..., 1:], velocity.clamp(-10.0, 10.0)]


class HopperRandom(_RandomBody):
    """One leg with drawn masses, inertias, frictions and dampings; falls below 0.7 m or beyond 0.2 rad."""

    name = "hopper_random"
    model_file = "hopper.xml"
    frame_skip = 4
    lowest, tilt = 0.7, 0.2


class Walker2dRandom(_RandomBody):
    """Two legs with drawn masses, inertias, frictions and dampings; upright within 0.8 to 2 m and 1 rad."""

    name = "walker2d_random"
    model_file = "walker2d_v5.xml"
    frame_skip = 4
    lowest, highest, tilt = 0.8, 2.0, 1.0


def _rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrices (..., 9), row by row, of quaternions (..., 4), real part first."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1)
