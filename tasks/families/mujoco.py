"""Families whose dynamics are MuJoCo's (extra `mujoco`).

Positions and velocities are the state, and a step is a function of them, as in every batched family:
MuJoCo's own thread pool advances all B × E of them in one call.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from learned_opt.tasks.base import Tasks, Transition, batch_of
from learned_opt.tasks.batched import BatchedFamily
from learned_opt.tasks.random import Noise

MODELS_KEPT = 4096
"""Compiled variants of a model that a family keeps."""


class Motion(NamedTuple):
    """What a step did to n bodies.

    position, velocity: after it, (n, nq) and (n, nv).
    speed: of the first coordinate, metres a second, (n,).
    action: as applied, (n, A).
    contact: clipped contact forces (n, bodies · 6), (n, 0) unless a family asks for them.
    """

    position: Tensor
    velocity: Tensor
    speed: Tensor
    action: Tensor
    contact: Tensor


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
        self.standard: Any = self._mujoco.MjModel.from_xml_path(self._path)
        self._models: dict[bytes, Any] = {}
        self._pool: Any = None
        self._scratch: list[Any] = []
        limits = self.standard.actuator_ctrlrange.astype(np.float32)
        self.action_space = spaces.Box(limits[:, 0], limits[:, 1], dtype=np.float32)
        nq, nv = int(self.standard.nq), int(self.standard.nv)
        self.contact_size = 6 * int(self.standard.nbody) if self.contacts else 0
        self._parts = [nq, nv, self.contact_size]
        seen = self.seen(*torch.split(torch.ones(sum(self._parts)), self._parts))
        self.observation_space = spaces.Box(-np.inf, np.inf, (len(torch.cat(seen)),), np.float32)
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
        batch, (nq, nv, contacts) = batch_of(constants), self._parts
        position = 2 * noise.uniform(batch, environments, nq) - 1
        if self.normal_velocity:
            velocity = noise.normal(batch, environments, nv)
        else:
            velocity = 2 * noise.uniform(batch, environments, nv) - 1
        pose = torch.as_tensor(self.standard.qpos0, device=noise.device)
        position = pose + self.start_noise * position.double()
        contact = pose.new_zeros(batch, environments, contacts)
        return torch.cat((position, self.start_noise * velocity.double(), contact), -1)

    def observe(self, constants: Tasks, state: Tensor) -> Tensor:
        """What a family sees of positions, velocities and contact forces: (B, E, O)."""
        seen = torch.cat(self.seen(*torch.split(state, self._parts, -1)), -1)
        return seen.to(next(iter(constants.values())).dtype)

    def seen(self, position: Tensor, velocity: Tensor, contact: Tensor) -> list[Tensor]:
        """Parts of an observation: positions without the first ones, velocities, contact forces."""
        return [position[..., self.hidden_positions :], velocity, contact]

    def transition(self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise) -> Transition:
        """`frame_skip` steps of the simulator."""
        batch, environments, size = state.shape
        nq, nv, _ = self._parts
        here = state.reshape(-1, size).cpu()
        limits = torch.from_numpy(self.action_space.low), torch.from_numpy(self.action_space.high)
        applied = action.reshape(len(here), -1).cpu().clamp(*limits)
        models = [model for model in self.models(constants) for _ in range(environments)]
        before, moved = self._simulate(models, here[:, : nq + nv].numpy(), applied.double().numpy())
        contact = self._contact_forces(models, before, applied)
        position, velocity = torch.from_numpy(moved).tensor_split((nq,), dim=1)
        speed = (position[:, 0] - here[:, 0]) / self.timestep
        motion = Motion(position, velocity, speed, applied, contact)
        repeated = {
            key: value.cpu().repeat_interleave(environments, 0).squeeze(-1)
            for key, value in constants.items()
            if value.dim() == 2 and value.shape[1] == 1
        }
        reward = self.reward(repeated, motion).to(noise.dtype)
        following = torch.cat((position, velocity, contact), 1)
        broken = ~following.isfinite().all(1)
        made = following, torch.where(broken, 0.0, reward), self.fallen(motion) | broken
        return Transition(*(x.view(batch, environments, *x.shape[1:]).to(state.device) for x in made))

    def models(self, tasks: Tasks) -> list[Any]:
        """The compiled model of each of B tasks, derived quantities refreshed."""
        return [self._model(tasks, row) for row in range(batch_of(tasks))]

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
        forces = np.empty((len(state), self.contact_size))
        for row, model in enumerate(models if self.contacts else ()):
            data.qpos[:], data.qvel[:], data.ctrl[:] = state[row, :nq], state[row, nq:], action[row]
            data.qacc_warmstart[:] = 0.0
            self._mujoco.mj_step(model, data)
            self._mujoco.mj_rnePostConstraint(model, data)
            forces[row] = data.cfrc_ext.ravel()
        return torch.from_numpy(forces.clip(-1.0, 1.0))


def _simulator(name: str) -> tuple[Any, Any]:
    try:
        import mujoco
        from mujoco import rollout
    except ImportError as error:
        raise ValueError(f"{name} needs MuJoCo, which is not installed: install the extra mujoco") from error
    return mujoco, rollout
