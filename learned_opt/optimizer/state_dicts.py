"""An optimizer's state on its way to a file and back, held against the rule and the shapes it is for."""

from __future__ import annotations

from typing import Any

from torch.optim import Optimizer

from learned_opt.optimizer.entries import EMPTY, restored, with_shape
from learned_opt.optimizer.layouts import Layouts
from learned_opt.optimizer.options import NUMBERS, plain
from learned_opt.optimizer.rule_copies import RuleCopies
from learned_opt.optimizer.sharded import Given
from learned_opt.optimizer.tensors import real_shape


class KeptStates(Optimizer):
    """A torch.optim optimizer whose state dicts tell the rules and shapes that they were made for."""

    _rules: RuleCopies
    _layouts: Layouts
    _given: Given
    _lr: Any
    _loading: dict[str, Any]
    """The state dict that is being loaded; only there meanwhile."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_rules": self._rules, "_layouts": self._layouts, "_lr": self._lr}

    def state_dict(self) -> dict[str, Any]:
        """As in torch, and with the shape that each parameter's state was made for."""
        # ahead of other hooks, which may rename what they find
        handle = self.register_state_dict_post_hook(lambda _, saved: self._complete(saved), prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in torch, but that the state keeps its precision and is copied, not shared.

        Raises:
            ValueError: another rule or optimizer made the state, or it was made for other shapes;
                the optimizer then stays as it was.
        """
        # behind other hooks, which may change what is loaded
        handle = self.register_load_state_dict_pre_hook(lambda _, given: self._set_aside(given))
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()
            self.__dict__.pop("_loading", None)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a pickled optimizer, or what `load_state_dict` made of a state dict."""
        loading = self.__dict__.get("_loading")
        if loading is not None:
            self._check_groups(state["param_groups"])
            saved = loading["state"]
            for group, packed in zip(state["param_groups"], loading["param_groups"], strict=True):
                rows = self._rules.rows(group["rule"])
                for place, (parameter, name) in enumerate(
                    zip(group["params"], packed["params"], strict=True)
                ):
                    if name not in saved:
                        continue
                    size = real_shape(parameter).numel()
                    kept, called = rows if size else EMPTY, _called(group, place, name)
                    state["state"][parameter] = restored(saved[name], kept, parameter, size, called)
            super().__setstate__(state)
            return
        super().__setstate__(state)
        self._given = Given()
        for group in self.param_groups:
            self._given.add(group["params"])

    def _check_groups(self, loaded: list[dict[str, Any]]) -> None:
        """See that this optimizer's rules made a state; options that it does not have get their defaults."""
        for index, (own, group) in enumerate(zip(self.param_groups, loaded, strict=True)):
            if group["rule"] != own["rule"]:
                raise ValueError(
                    f"parameter group {index}: the state was made by {group['rule']}, this optimizer runs "
                    f"{own['rule']}; construct it with the rule that made the state"
                )
            for option, value in self.defaults.items():
                group.setdefault(option, value)

    def _set_aside(self, given: dict[str, Any]) -> dict[str, Any]:
        """Keep what is to be loaded, and hand on no entries: torch would cast them, text and others' too."""
        if not all("rule" in group for group in given["param_groups"]):
            made = [each for each in given["state"].values() if isinstance(each, dict)]
            kept = ", ".join(sorted({str(name) for each in made for name in each}))
            raise ValueError(
                "the state was made by no rule but by another optimizer, such as Adam (it holds "
                f"{kept or 'nothing'}), and is of no use to a rule: to go on from that run, load the model's "
                "weights alone and begin with a new LearnedOptimizer (docs/tutorials/drop-in.md, "
                "'Switching a running project from Adam')"
            )
        self._loading = given
        names = {name for group in given["param_groups"] for name in group["params"]}
        return {**given, "state": {name: {} if name in names else x for name, x in given["state"].items()}}

    def _complete(self, saved: dict[str, Any]) -> None:
        """Say in a state dict which shapes its states are for, and give options in Python's own numbers."""
        for group, packed in zip(self.param_groups, saved["param_groups"], strict=True):
            packed.update({option: plain(packed[option]) for option in NUMBERS})
            rows = self._rules.rows(group["rule"])
            for parameter, name in zip(group["params"], packed["params"], strict=True):
                if isinstance(saved["state"].get(name), dict):
                    saved["state"][name] = with_shape(
                        saved["state"][name], rows if parameter.numel() else EMPTY, parameter
                    )


def _called(group: dict[str, Any], place: int, name: Any) -> str:
    """A parameter in messages."""
    names = group.get("param_names")
    return f"parameter {name} ({names[place]})" if names else f"parameter {name}"
