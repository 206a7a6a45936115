"""A batched family's functions, each held to what it promises before anything relies on what it returns."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from learned_opt.tasks.base import TaskFamily, Tasks, Transition
from learned_opt.tasks.promises import (
    MISTAKES,
    OF_TASKS,
    Finite,
    about,
    about_tasks,
    blamed,
    kinds,
    refuse,
)
from learned_opt.tasks.random import Noise
from learned_opt.tasks.references import random_action


class Contract:
    """The functions of a family, for B tasks × E environments.

    What a function returns first is looked at in full, and so is the first of another shape, type or
    device; all others are only compared with that. Asked for are the shapes that `BatchedFamily` names, the
    noise's device, plain strided tensors of real numbers, and states of one size and type. Observations and
    rewards of any type in `NUMBERS`, booleans among them, become floats of the noise's type; endings, which
    are 0 or 1, become booleans. Views are as good as any.

    Numbers are to be finite at the start, the first time that a family is rehearsed: it is refused if those
    of every task are not. A task that goes wrong while others do well, or later, is its learner's misfortune.

    Args:
        family: whose functions they are.
        batch: B.
        environments: E.
        noise: whose device and type count; its numbers are left alone.
        finite: which numbers have to be; by default those of some task, until the family is proven.
    """

    def __init__(
        self,
        family: TaskFamily,
        batch: int,
        environments: int,
        noise: Noise,
        finite: Finite | None = None,
    ) -> None:
        self.family, self.batch, self.environments, self.noise = family, batch, environments, noise
        self._finite: Finite = finite or ("none" if id(family) in _proven else "some")
        self._accepted: dict[str, list[Any] | None] = {}
        self._state: tuple[int, torch.dtype] | None = None
        """Size and type of states, once there is one."""

    @classmethod
    def of(cls, family: TaskFamily, tasks: Tasks, environments: int, noise: Noise) -> Contract:
        """For as many tasks as there are in `tasks`.

        Raises:
            ValueError: they are no tasks that anything could be computed from.
        """
        sizes = [x.shape[0] for x in tasks.values() if isinstance(x, Tensor) and x.dim()] if tasks else []
        made = cls(family, sizes[0] if sizes else 1, environments, noise)
        made.check_tasks(tasks)
        return made

    def check_tasks(self, tasks: Tasks) -> None:
        """Refuse tasks that nothing can be computed from.

        Raises:
            ValueError: they are not B tasks, or a horizon is no number of steps.
        """
        refuse(self.family, about_tasks(OF_TASKS, tasks, self.batch, self.noise))

    def constants(self, tasks: Tasks) -> Tasks:
        """The family's, contiguous.

        Raises:
            BrokenPromiseError: they are not what is promised.
        """
        made = self._answer("constants", (tasks,), lambda made: self._about_constants(made, tasks))
        return {key: value.contiguous() for key, value in made.items()}

    def initial_state(self, constants: Tasks, copies: int, noise: Noise) -> Tensor:
        """The family's start states (B, copies, S).

        Raises:
            BrokenPromiseError: they are not what is promised.
        """

        def complaints(state: object) -> Iterator[str]:
            yield from self._about_state("initial_state returned states", state, copies)

        state: Tensor = self._answer(
            "initial_state", (constants, copies, noise), complaints, key=f"initial_state of {copies}"
        )
        self._state = state.shape[2], state.dtype
        return state

    def observe(self, constants: Tasks, state: Tensor, *, closely: bool = False) -> Tensor:
        """The family's observations (B, E, *O), as floats of their own: it may fill the same tensor again.

        Args:
            constants: what `constants` returned.
            state: (B, E, S).
            closely: whether all is looked at again, and whether the arguments were modified.

        Raises:
            BrokenPromiseError: they are not what is promised.
        """
        seen: Tensor = self._answer("observe", (constants, state), self._about_observation, closely=closely)
        return seen.to(self.noise.dtype, copy=True)

    def transition(
        self, constants: Tasks, state: Tensor, action: Tensor, noise: Noise, *, closely: bool = False
    ) -> Transition:
        """The family's transition, rewards as floats and endings as booleans, both of their own.

        Raises:
            BrokenPromiseError: it is not what is promised.
        """
        given = (constants, state, action, noise)
        made: Transition = self._answer("transition", given, self._about_transition, closely=closely)
        if made.terminated.dtype is not torch.bool:  # any step may bring a number that is no truth
            refuse(self.family, self._about_terminated(made.terminated))
        reward = made.reward.to(self.noise.dtype, copy=True)
        return Transition(made.state, reward, made.terminated.to(torch.bool, copy=True))

    def rehearse(self, constants: Tasks, state: Tensor) -> None:
        """Take one transition by random actions and forget it, so that what is wrong shows before it counts.

        Raises:
            BrokenPromiseError: it, or what is seen, is not what is promised; or a function modified its
                arguments.
        """
        here = self.noise
        noise = Noise(0, replicas=here.replicas, dtype=here.dtype, shard=here.shard, device=here.device)
        action = random_action(self.family.action_space, (self.batch, self.environments), noise)
        self.observe(constants, state, closely=True)
        made = self.transition(constants, state, action, noise, closely=True)
        self.observe(constants, made.state, closely=True)
        if id(self.family) not in _proven:
            _proven.add(id(self.family))
            weakref.finalize(self.family, _proven.discard, id(self.family))

    def _about_constants(self, made: object, tasks: Tasks) -> Iterator[str]:
        if not isinstance(made, Mapping) or not made:
            what = "an empty dict" if isinstance(made, Mapping) else f"{type(made).__name__}"
            yield f"constants returned {what}, and a dict of tensors, the tasks' own among them, is asked for"
            return
        for key, value in made.items():
            told, own = f"constants returned an entry {key!r}", key in tasks
            shape = (self.batch,) if own else ()
            yield from about(told, value, "(B, ...)", shape, self.noise, rest=True, finite="none")

    def _about_observation(self, seen: object) -> Iterator[str]:
        shape = (self.batch, self.environments, *self.family.observation_space.shape)
        axes = "(B, E, *observation_space.shape)"
        yield from about("observe returned observations", seen, axes, shape, self.noise, finite=self._finite)

    def _about_transition(self, made: object) -> Iterator[str]:
        if not isinstance(made, Transition):
            what = "None" if made is None else f"a {type(made).__name__}"
            yield f"transition returned {what}, and tasks.Transition(state, reward, terminated) is asked for"
            return
        both = (self.batch, self.environments)
        yield from self._about_state("transition returned states", made.state, self.environments)
        told = "transition returned rewards"
        yield from about(told, made.reward, "(B, E)", both, self.noise, finite=self._finite)
        yield from self._about_terminated(made.terminated)

    def _about_terminated(self, terminated: object) -> Iterator[str]:
        both, told = (self.batch, self.environments), "transition returned terminated"
        yield from about(told, terminated, "(B, E)", both, self.noise, truth=True)

    def _about_state(self, told: str, state: object, copies: int) -> Iterator[str]:
        size, dtype = self._state or (None, None)
        shape = (self.batch, copies, size)
        yield from about(told, state, "(B, E, S)", shape, self.noise, finite=self._finite)
        if dtype is not None and isinstance(state, Tensor) and state.dtype != dtype:
            yield f"{told} of type {state.dtype}, and {dtype} is asked for, of which the first ones were"

    def _answer(
        self,
        method: str,
        given: tuple[Any, ...],
        complaints: Callable[[Any], Iterator[str]],
        *,
        key: str = "",
        closely: bool = False,
    ) -> Any:
        """What a method of the family returns, of the kind that was accepted, or looked at in full."""
        function, accepted = getattr(self.family, method), self._accepted.get(key or method)
        if accepted is not None and not closely:
            made = function(*given)
            if kinds(made) == accepted:
                return made
            refuse(self.family, complaints(made))
        else:
            # Of observe and transition: constants by name, and the state under none.
            theirs: Tasks = {**given[0], "": given[1]} if closely else {}
            before = {name: value.clone() for name, value in theirs.items()}
            with blamed(self.family, method, (ValueError, *MISTAKES)):
                made = function(*given)
            refuse(self.family, (*complaints(made), *_changes(method, theirs, before)))
        self._accepted[key or method] = kinds(made)
        return made


_proven: set[int] = set()
"""Identities of families that were rehearsed; they need not be hashable."""


def _changes(method: str, given: Tasks, before: Tasks) -> Iterator[str]:
    """Complaints about a method that modified what it was given; `before` are copies from before the call."""
    for key, copy in before.items():
        same = (given[key] == copy) | (given[key].isnan() & copy.isnan())
        if not bool(same.all()):
            what = f"the entry {key!r} of constants" if key else "the state"
            yield f"{method} modified {what} that it was given, and another tensor is asked for"
