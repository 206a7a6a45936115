"""LearnedOptimizer: a learned update rule where a torch.optim optimizer stood."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, overload

import torch
from torch import Tensor

from learned_opt.layout import ParameterLayout
from learned_opt.optimizer.entries import EMPTY, begun, key
from learned_opt.optimizer.layouts import Layouts
from learned_opt.optimizer.options import NUMBERS, check, number, scalar
from learned_opt.optimizer.rule_copies import Rule, RuleCopies
from learned_opt.optimizer.sharded import Given, check_after_backward, check_local, check_maker, check_whole
from learned_opt.optimizer.state_dicts import KeptStates
from learned_opt.optimizer.telemetry import Stepped, Telemetry, Watch
from learned_opt.optimizer.tensors import batches, pieces, real
from learned_opt.rules.base import TensorsInput, is_usable


class LearnedOptimizer(KeptStates):
    """A torch.optim optimizer whose step is an update rule: θ ← θ + rule(∇θ, θ, state, lr) − lr · λ · θ.

    The trajectory is that of the rule's pure core. The rule computes in float32, whatever the
    parameters are; its state lies in `optimizer.state` as float32 tensors and stays float32 when
    loaded. Coordinates whose gradient or value is not finite, or beyond 1e15, neither move nor change
    their state. Nothing waits for the device, whether or not `capturable` is set.

    What a rule knows of a tensor is its shape, statistics over it, and its place among all parameters
    that the optimizer has, frozen ones too: give it the network's parameters, whole and in order. Shards
    are refused. In `optimizer.state` the rule's entries are "step" and those that begin with
    `learned_opt_`; those of others are left alone, and saved and loaded as they are.

    Args:
        params: as for every torch.optim optimizer: tensors, named tensors, or groups, which may have
            their own lr, rule and any other option.
        lr: learning rate, absolute, in Adam's units; a number, of numpy's too, or a tensor of one
            element. None takes the learning rate that the rule was trained for.
        rule: a shipped rule's name, a rule file, an `UpdateRule`, or an address on the Hugging Face Hub,
            hf:owner/name@revision; nothing else is ever downloaded.
        weight_decay: λ, decoupled as in AdamW.
        maximize: ascend instead.
        total_steps: how many steps training will take, if you know: rules can use it to finish well. Where
            rollouts begin, `begin_rollout` says.
        foreach: False steps one tensor after another, which takes less memory; True and None step
            all of a group at once.
        capturable: for torch's sake: captured or not, the step is the same.
        differentiable: let autograd record the step, so that parameters after it depend on the gradients.

    Raises:
        ArtifactError: no such rule.
        ValueError: an option out of its range, or a loaded state that another rule or optimizer made,
            or that was made for other shapes.
        RuntimeError: a sparse gradient, parameters that are parts of tensors or were dealt out to several
            optimizers (FSDP, ZeRO, DTensor), or a step within backward().
    """

    _watch: Watch | None = None
    """What measures steps, if anybody asked."""

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | None = None,
        *,
        rule: Rule = "default",
        weight_decay: float = 0.0,
        maximize: bool = False,
        total_steps: int | None = None,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
    ) -> None:
        check_maker()
        self._rules, self._layouts, self._given = RuleCopies(), Layouts(), Given()
        self._lr = lr
        identity = self._rules.adopt(rule)
        defaults: dict[str, Any] = {
            "lr": self._rules.learning_rate(identity) if lr is None else lr,
            "rule": identity,
            "weight_decay": weight_decay,
            "maximize": maximize,
            "total_steps": total_steps,
            "foreach": foreach,
            "capturable": capturable,
            "differentiable": differentiable,
            "new_rollout": None,
        }
        check(defaults)
        self._lr = None if lr is None else defaults["lr"]
        super().__init__(params, defaults)

    def begin_rollout(self) -> None:
        """Say that the next step's gradients are the first from a new rollout.

        Rules may use it; the others step as ever. Whoever says it once should say it at every rollout: see
        `learned_opt.integrations` for callbacks that do. A saved state remembers what was said.
        """
        for group in self.param_groups:
            group["new_rollout"] = True

    @property
    def decays(self) -> bool:
        """Whether a rule of its groups lowers the learning rate itself over `total_steps`."""
        return any(self._rules.decays(group["rule"]) for group in self.param_groups)

    def watch(self, every: int = 1) -> None:
        """Measure the next step and each `every`-th from there, for `telemetry`; 0 ends it.

        A step that is measured copies the parameters; the others cost nothing. No step waits for the device,
        and no state dict or copy of the optimizer remembers that it was watched.

        Raises:
            ValueError: a number below 0.
        """
        if every < 0:
            raise ValueError(f"every must be at least 0 steps, got {every}")
        self._watch = Watch(every) if every else None

    def telemetry(self) -> Telemetry | None:
        """What the last step that was measured did to each parameter; None before there was one."""
        return None if self._watch is None else self._watch.last

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, at any time; `rule` and `lr` may differ from the other groups'.

        Positions are places among all parameters: those of the former ones move closer to the first.
        """
        group = dict(param_group)
        group["rule"] = self._rules.adopt(group.get("rule") or self.defaults["rule"])
        if group.get("lr") is None:
            group["lr"] = self._rules.learning_rate(group["rule"]) if self._lr is None else self._lr
        for option in NUMBERS:
            if option in group:
                group[option] = number(option, group[option])
        super().add_param_group(group)
        added = self.param_groups[-1]["params"]
        try:
            check_whole(added)
        except RuntimeError:
            self.param_groups.pop()
            raise
        self._given.add(added)
        self._layouts = Layouts()

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One update of every parameter that has a gradient; others keep their state as it is.

        Args:
            closure: computes the loss again and its gradients; its value is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.set_grad_enabled(self.defaults["differentiable"]):
            work = []
            for group in self.param_groups:
                indices: list[int] = []
                parameters: list[Tensor] = []
                gradients: list[Tensor] = []
                entries: list[Tensor] = []
                self._init_group(group, indices, parameters, gradients, entries)
                work.append((group, indices, parameters, gradients, entries))
            measured = self._about_to_step(work)
            for group, indices, parameters, gradients, entries in work:
                for together in batches(parameters, one_by_one=group["foreach"] is False):
                    self._update(group, together, indices, parameters, gradients, entries)
                if group["new_rollout"]:
                    group["new_rollout"] = False
            if measured is not None:
                self._measure(work, measured)
        return loss

    def _about_to_step(self, work: list[Any]) -> list[Stepped] | None:
        """Copies of the parameters that are about to step, if this step is to be measured."""
        if self._watch is None or not self._watch.due():
            return None
        about = []
        for group, indices, parameters, gradients, _ in work:
            first, names = self._first_index(group), group.get("param_names")
            called = [str(i) if names is None else names[i - first] for i in indices]
            about.append(Stepped.of(called, parameters, gradients))
        return about

    @torch.no_grad()
    def _measure(self, work: list[Any], about: list[Stepped]) -> None:
        """Take down what the step did."""
        assert self._watch is not None
        names, rows = [], []
        for (group, _, parameters, _, entries), stepped in zip(work, about, strict=True):
            if not parameters:
                continue
            kept = list(self._rules.rows(group["rule"]))
            together = list(range(len(parameters)))
            adam = self._rules.keeps_adams_moments(group["rule"])
            states = _states(kept, entries, together, {}) if adam else None
            names += stepped.names
            rows.append(stepped.measured(scalar(group["lr"]), states))
        self._watch.take(names, rows)

    def _init_group(
        self,
        group: dict[str, Any],
        indices: list[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        entries: list[Tensor],
    ) -> None:
        """Fill the lists with what is to be stepped: places in the layout, tensors, state; make new state.

        torch.compile calls this method, by its name, once and outside of its graph.
        """
        for option in NUMBERS:  # schedulers and callbacks write to groups as they like
            number(option, group[option], running=True)
        index = self._first_index(group)
        rows = self._rules.rows(group["rule"])
        keys = dict.fromkeys(map(key, rows)).keys()
        met: set[int] = set()
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is not None and id(parameter) not in met:
                met.add(id(parameter))  # one that is listed twice has one state, and takes one step
                _check_support(parameter, gradient)
                state, whole = self.state[parameter], parameter.numel() > 0
                if not (keys if whole else EMPTY.keys()) <= state.keys():
                    begun(state, rows)
                    state.update(self._rules.initial_entries(group["rule"], parameter, index))
                if whole:
                    indices.append(index)
                    parameters.append(parameter)
                    gradients.append(gradient)
                    entries.extend(map(state.__getitem__, keys))
            index += 1
        check_after_backward(parameters)
        for together in batches(parameters, one_by_one=group["foreach"] is False):
            self._layout_of([(indices[i], parameters[i]) for i in together])
            self._rules.on(group["rule"], parameters[together[0]].device)

    def _update(
        self,
        group: dict[str, Any],
        together: list[int],
        indices: list[int],
        parameters: list[Tensor],
        gradients: list[Tensor],
        entries: list[Tensor],
    ) -> None:
        """Step the parameters at the places `together` of the lists."""
        lr, decay = scalar(group["lr"]), scalar(group["weight_decay"])
        targets = [parameters[i] for i in together]
        seen, slopes = real(targets), real([gradients[i] for i in together])
        if group["maximize"]:
            slopes = [-slope for slope in slopes]
        total = group["total_steps"]
        layout, scratch = self._layout_of([(indices[i], parameters[i]) for i in together])
        names = list(self._rules.rows(group["rule"]))
        states = _states(names, entries, together, scratch)
        with _without_autocast(seen[0].device.type):
            total = None if total is None else seen[0].new_full((1, 1), float(total))
            in_place = not (decay or group["differentiable"]) and all(map(operator.is_, seen, targets))
            x = TensorsInput(slopes, seen, lr, layout, total, in_place, group["new_rollout"])
            update = self._rules.on(group["rule"], seen[0].device).step_tensors(x, states, scratch)
        if update is None:
            return
        updates = pieces(update, seen, scratch)
        if decay:
            kept = [
                torch.where(is_usable(slope, value), value, 0.0)
                for slope, value in zip(slopes, seen, strict=True)
            ]
            updates = [change - lr * decay * value for change, value in zip(updates, kept, strict=True)]
        if group["differentiable"]:
            for parameter, state in zip(targets, states, strict=True):
                self.state[parameter].update({key(name): entry for name, entry in state.items()})
        changes = [
            torch.complex(change[..., 0], change[..., 1]) if parameter.is_complex() else change
            for change, parameter in zip(updates, targets, strict=True)
        ]
        torch._foreach_add_(targets, changes)

    def _layout_of(self, members: list[tuple[int, Tensor]]) -> tuple[ParameterLayout, dict[str, Any]]:
        """The layout of some of all parameters, given with their places among all, which they keep.

        With it comes what the rule may keep from step to step.
        """
        found = self._layouts.find(members)
        if found is not None:
            return found
        everything = [parameter for group in self.param_groups for parameter in group["params"]]
        check_whole(parameter for _, parameter in members)
        self._given.check(everything)
        groups = self.param_groups
        wanted = sum(len(group["params"]) if group["foreach"] is False else 1 for group in groups)
        return self._layouts.make(members, len(everything), wanted)

    def _first_index(self, group: dict[str, Any]) -> int:
        count = 0
        for other in self.param_groups:
            if other is group:
                break
            count += len(other["params"])
        return count


def _states(
    names: list[str], entries: list[Tensor], together: list[int], scratch: dict[str, Any]
) -> list[dict[str, Tensor]]:
    """The rule's states of the parameters at the places `together`; kept while their entries are."""
    count = len(names)
    own = [entry for i in together for entry in entries[i * count : (i + 1) * count]]
    kept, states = scratch.get("states", ((), []))
    if len(kept) != len(own) or not all(map(operator.is_, kept, own)):
        states = [dict(zip(names, own[i : i + count], strict=True)) for i in range(0, len(own), count)]
        scratch["states"] = own, states
    made: list[dict[str, Tensor]] = states
    return made


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """Entering torch.autocast takes as long as the step of a small network."""
    if not torch.compiler.is_compiling() and not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)


def _check_support(parameter: Tensor, gradient: Tensor) -> None:
    if gradient.layout != torch.strided:
        raise RuntimeError(
            "LearnedOptimizer does not support sparse gradients: make embeddings with sparse=False"
        )
    check_local(parameter)
