"""What a rule is told of a network's tensors, which differs from group to group."""

from __future__ import annotations

from typing import NamedTuple

from learned_opt.layout import ParameterLayout


class Presentation(NamedTuple):
    """What a rule is told of a learner's tensors; it must not rely on what users' code does otherwise.

    roles: which belong to actor and critic.
    critic_first: in which of the two orders they stand.
    """

    roles: bool
    critic_first: bool

    def of(self, layout: ParameterLayout) -> ParameterLayout:
        """The layout as the rule sees it."""
        if self.critic_first:
            order = sorted(range(len(layout.specs)), key=lambda i: layout.specs[i].role != "critic")
            layout = layout.as_if_ordered(order)
        return layout if self.roles else layout.without_roles()
