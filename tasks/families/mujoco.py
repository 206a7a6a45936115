"""MuJoCo's locomotion families of the meta-learning literature (extra `mujoco`).

Positions and velocities are the state, and a step is a function of them, as in every batched family:
MuJoCo's own thread pool advances all B × E of them in one call.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import Range, Tasks, Transition
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise

if TYPE_CHECKING:
    import mujoco

MODELS_KEPT = 4096
"""Compiled variants of a model that a family keeps."""


class Motion(NamedTuple):
    """What a step did to n bodies.

    position, velocity: after it, (n, nq) and (n, nv).
    speed: of the first coordinate, metres a second, (n,).
    action: as applied, (n, A).
    contact: clipped contact forces (n, bodies · 6), where a family asks for them.
    """

    position: Tensor
    velocity: Tensor
    speed: Tensor
    action: Tensor
    contact: Tensor | None


class MujocoFamily(BatchedFamily):
    """A body from gymnasium's models, and what its tasks vary.

    Attributes:
        model_file: among gymnasium's MuJoCo assets.
        frame_skip: simulator steps of a control step.
        start_noise: positions start uniform within this of the model's own, velocities too
            (`normal_velocity` false) or normal with this deviation.
        contacts: whether observation or reward need contact forces, which cost another pass.
        hidden_positions: how many of the first positions are not observed.
    """

    model_file: ClassVar[str]
    frame_skip: ClassVar[int]
    start_noise: ClassVar[float]
    normal_velocity: ClassVar[bool]
    contacts: ClassVar[bool] = False
    hidden_positions: ClassVar[int] = 1
    action_space: spaces.Box

    def __init__(self) -> None:
        self._mujoco, self._rollout = _simulator(self.name)
        assets = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
        self._path = str(assets / self.model_file)
        self.standard: mujoco.MjModel = self._mujoco.MjModel.from_xml_path(self._path)
        self._models: dict[bytes, Any] = {}
        self._pool: Any = None
        self._scratch: list[Any] = []
        limits = self.standard.actuator_ctrlrange.astype(np.float32)
        self.action_space = spaces.Box(limits[:, 0], limits[:, 1], dtype=np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (self._observation_size(),), np.float32)
        self.timestep = self.frame_skip * float(self.standard.opt.timestep)

    def __getstate__(self) -> dict[str, Any]:
        """Without what another process has to make for itself."""
        own = {**self.__dict__, "_models": {}, "_pool": None, "_scratch": []}
        del own["_mujoco"], own["_rollout"]
        return own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._mujoco, self._rollout = _simulator(self.name)

    def identity(self) -> dict[str, object]:
        """The family, and the simulator's version."""
        return {**super().identity(), "mujoco": self._mujoco.__version__}

    @abstractmethod
    def reward(self, constants: Tasks, motion: Motion) -> Tensor:
        """Reward of a step, (n,) for n = B · E rows; entries of `constants` come repeated to n rows."""

    def fallen(self, motion: Motion) -> Tensor:
        """Which rows end their episode, (n, bool); none by default."""
        return torch.zeros(len(motion.position), dtype=torch.bool)

    def variation(self, tasks: Tasks, row: int) -> dict[str, NDArray[np.float64]]:
        """Factors for entries of the compiled model in task `row`, by the entry's name; none by default."""
        return {}

    def initial_state(self, constants: Tasks, environments: int, noise: Noise) -> Tensor:
        """Near the model's own pose: (B, E, nq + nv + 6 · bodies, if contacts count), in float64."""
        model, batch = self.standard, _rows(constants)
        position = 2 * noise.uniform(batch, environments, model.nq) - 1
        if self.normal_velocity:
            velocity = noise.normal(batch, environments, model.nv)
        else:
            velocity = 2 * noise.uniform(batch, environments, model.nv) - 1
        pose = torch.as_tensor(model.qpos0, device=noise.device)
        state = [pose + self.start_noise * position.double(), self.start_noise * velocity.double()]
        if self.contacts:
            state.append(pose.new_zeros(batch, environments, self._contact_size()))
        return torch.cat(state, -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """Positions without the first ones, velocities, and what a family adds: (B, E, O)."""
        nq, nv = self.standard.nq, self.standard.nv
        position, velocity, contact = state.tensor_split((nq, nq + nv), dim=-1)
        seen = self._seen(position, velocity, contact)
        return torch.cat(seen, -1).to(next(iter(constants.values())).dtype)

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """`frame_skip` steps of the simulator."""
        batch, environments, size = state.shape
        nq, nv = self.standard.nq, self.standard.nv
        rows = state.reshape(-1, size).cpu()
        limits = torch.from_numpy(self.action_space.low), torch.from_numpy(self.action_space.high)
        applied = action.reshape(len(rows), -1).cpu().clamp(*limits)
        models = [model for model in self.models(constants) for _ in range(environments)]
        before, moved = self._simulate(models, rows[:, : nq + nv].numpy(), applied.double().numpy())
        position, velocity = torch.from_numpy(moved).tensor_split((nq,), dim=1)
        parts = [position, velocity]
        contact = self._contact_forces(models, before, applied) if self.contacts else None
        if contact is not None:
            parts.append(contact)
        speed = (position[:, 0] - rows[:, 0]) / self.timestep
        motion = Motion(position, velocity, speed, applied, contact)
        repeated = {
            key: value.cpu().repeat_interleave(environments, 0).squeeze(-1)
            for key, value in constants.items()
            if value.dim() == 2 and value.shape[1] == 1
        }
        reward = self.reward(repeated, motion).to(noise.dtype)
        broken = ~torch.cat(parts, 1).isfinite().all(1)
        ended = self.fallen(motion) | broken
        shape = batch, environments
        return Transition(
            torch.cat(parts, 1).view(*shape, size).to(state.device),
            torch.where(broken, 0.0, reward).view(shape).to(state.device),
            ended.view(shape).to(state.device),
        )

    def models(self, tasks: Tasks) -> list[Any]:
        """The compiled model of each of B tasks, derived quantities refreshed."""
        return [self._model(tasks, row) for row in range(_rows(tasks))]

    def _model(self, tasks: Tasks, row: int) -> Any:
        variation = self.variation(tasks, row)
        if not variation:
            return self.standard
        key = b"".join(variation[name].tobytes() for name in sorted(variation))
        if key not in self._models:
            while len(self._models) >= MODELS_KEPT:
                del self._models[next(iter(self._models))]
            model = self._mujoco.MjModel.from_xml_path(self._path)
            for name, factor in variation.items():
                entry = getattr(model, name)
                entry[:] = entry * factor
            # Masses and inertias stand in other entries too, which the compiler derived from them.
            self._mujoco.mj_setConst(model, self._mujoco.MjData(model))
            self._models[key] = model
        return self._models[key]

    def _simulate(
        self, models: list[Any], state: NDArray[np.float64], action: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Positions and velocities (n, nq + nv) before the last simulator step and after."""
        if self._pool is None:
            threads = torch.get_num_threads()
            self._pool = self._rollout.Rollout(nthread=threads if threads > 1 else 0)
            self._scratch = [self._mujoco.MjData(self.standard) for _ in range(max(threads, 1))]
        timed = np.concatenate((np.zeros((len(state), 1)), state), axis=1)
        control = np.repeat(action[:, None], self.frame_skip, axis=1)
        states, _ = self._pool.rollout(models, self._scratch, timed, control)
        before = timed if self.frame_skip == 1 else states[:, -2]
        return before[:, 1:].copy(), states[:, -1, 1:].copy()

    def _contact_forces(self, models: list[Any], state: NDArray[np.float64], action: Tensor) -> Tensor:
        """External forces on the bodies in the last simulator step, clipped to ±1: (n, 6 · bodies)."""
        nq, data = self.standard.nq, self._scratch[0]
        forces = np.empty((len(state), self._contact_size()))
        for row, model in enumerate(models):
            data.qpos[:], data.qvel[:], data.ctrl[:] = state[row, :nq], state[row, nq:], action[row]
            data.qacc_warmstart[:] = 0.0
            self._mujoco.mj_step(model, data)
            self._mujoco.mj_rnePostConstraint(model, data)
            forces[row] = data.cfrc_ext.ravel()
        return torch.from_numpy(forces.clip(-1.0, 1.0))

    def _contact_size(self) -> int:
        return int(self.standard.nbody) * 6

    def _observation_size(self) -> int:
        size = int(self.standard.nq + self.standard.nv) - self.hidden_positions
        return size + (self._contact_size() if self.contacts else 0)

    def _seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
        return [position[..., self.hidden_positions :], velocity, contact]


class _HalfCheetah(MujocoFamily):
    """Observations (20) as in pytorch-maml-rl: positions but the first, velocities, the torso's place."""

    model_file = "half_cheetah.xml"
    frame_skip = 5
    start_noise = 0.1
    normal_velocity = True
    horizon = 200

    def _observation_size(self) -> int:
        return super()._observation_size() + 3

    def _seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
        root = self.standard.body("torso").pos
        x, z = position[..., :1] + float(root[0]), position[..., 1:2] + float(root[2])
        return [position[..., 1:], velocity, x, torch.zeros_like(x), z]


class HalfCheetahDir(_HalfCheetah):
    """Run forwards or backwards: reward d · v − 0.05 ‖a‖², d ∈ {−1, +1} with even odds.

    v is the speed in m/s over a control step of 0.05 s; 200 steps, never terminates. Finn et al. 2017
    (arXiv 1703.03400), as in pytorch-maml-rl on the present MuJoCo model; the paper's own numbers were
    taken in another simulation (steps of 0.01 s) and do not compare.
    """

    name = "halfcheetah_dir"
    finite = True
    defaults: ClassVar[dict[str, float]] = {"direction": 1.0}

    def sample_tasks(self, batch: int, noise: Noise, *, shifted: bool = False) -> Tasks:
        """Directions; there are but two, so none is outside the training range."""
        _refuse_shift(self, shifted)
        return {"direction": _coin(batch, noise)}

    def reward(self, constants: Tasks, motion: Motion) -> Tensor:
        """Progress in the direction asked for, less the effort."""
        return constants["direction"] * motion.speed - 0.05 * motion.action.square().sum(1)


class HalfCheetahVel(_HalfCheetah):
    """Run at a given speed: reward −|v − v*| − 0.05 ‖a‖², v* uniform in [0, 2] m/s (shifted: up to 3).

    200 steps, never terminates. Finn et al. 2017; ProMP and PEARL draw v* from [0, 3].
    """

    name = "halfcheetah_vel"
    defaults: ClassVar[dict[str, float]] = {"velocity": 1.0}
    train_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 2.0)}
    shifted_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 3.0)}

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
        assert motion.contact is not None
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

    def _observation_size(self) -> int:
        return super()._observation_size() + 9 + 3

    def _seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
        seen = super()._seen(position, velocity, contact)
        return [*seen, _rotation(position[..., 3:7]), position[..., :3]]


class AntDir(_Ant):
    """Walk forwards or backwards: d · v_x, d ∈ {−1, +1} with even odds; see `_Ant` for what it costs.

    200 steps; ends when the torso leaves 0.2 to 1 m. Finn et al. 2017, as in pytorch-maml-rl.
    """

    name = "ant_dir"
    finite = True
    defaults: ClassVar[dict[str, float]] = {"direction": 1.0}

    def sample_tasks(self, batch: int, noise: Noise, *, shifted: bool = False) -> Tasks:
        """Directions; there are but two, so none is outside the training range."""
        _refuse_shift(self, shifted)
        return {"direction": _coin(batch, noise)}

    def progress(self, constants: Tasks, motion: Motion) -> Tensor:
        """Speed in the direction asked for."""
        return constants["direction"] * motion.speed


class AntVel(_Ant):
    """Walk at a given speed: 1 − |v_x − v*|, v* uniform in [0, 3] m/s (shifted: up to 4).

    200 steps; ends when the torso leaves 0.2 to 1 m. Finn et al. 2017, as in pytorch-maml-rl.
    """

    name = "ant_vel"
    defaults: ClassVar[dict[str, float]] = {"velocity": 1.5}
    train_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 3.0)}
    shifted_range: ClassVar[dict[str, Range]] = {"velocity": (0.0, 4.0)}

    def progress(self, constants: Tasks, motion: Motion) -> Tensor:
        """1 − |v_x − v*|."""
        return 1.0 - (motion.speed - constants["velocity"]).abs()


class _RandomBody(MujocoFamily):
    """A body whose masses, inertias, frictions and dampings are drawn: factors b^u with u uniform in ±3.

    b is 1.5, and 1.3 for damping; one draw for every entry of the model. Rothfuss et al. 2019
    (arXiv 1810.06784) and Zintgraf et al. 2020 (VariBAD). Shifted: 3 < |u| < 4. Task entries are the
    factors, (B, entries), by the model's own names.
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

    def sample_tasks(self, batch: int, noise: Noise, *, shifted: bool = False) -> Tasks:
        """Factors of B bodies."""
        tasks = {}
        for name, base in self.bases.items():
            draw = 2 * noise.uniform(batch, getattr(self.standard, name).size) - 1
            power = draw.sign() * (3 + draw.abs()) if shifted else 3 * draw
            # In double precision: equal draws must give equal factors wherever in the batch they stand.
            tasks[name] = (base ** power.double()).to(draw.dtype)
        return tasks

    def variation(self, tasks: Tasks, row: int) -> dict[str, NDArray[np.float64]]:
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

    def _seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
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


def _simulator(name: str) -> tuple[Any, Any]:
    try:
        import mujoco
        from mujoco import rollout
    except ImportError as error:
        raise ValueError(f"{name} needs MuJoCo, which is not installed: install the extra mujoco") from error
    return mujoco, rollout


def _rows(tasks: Tasks) -> int:
    return next(iter(tasks.values())).shape[0]


def _coin(batch: int, noise: Noise) -> Tensor:
    """−1 or +1 with even odds, (B, 1)."""
    return torch.where(noise.uniform(batch, 1) < 0.5, -1.0, 1.0).to(noise.dtype)


def _refuse_shift(family: BatchedFamily, shifted: bool) -> None:
    if shifted:
        raise ValueError(f"{family.name} has two tasks, both for training: it has no shifted ones")


def _rotation(quaternion: Tensor) -> Tensor:
    """Rotation matrices (..., 9), row by row, of quaternions (..., 4), real part first."""
    w, x, y, z = (quaternion / quaternion.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, -1)
