"""What a run comes to does not depend on the batch that it is computed in."""

import numpy as np

from learned_opt import SGD
from learned_opt.algorithms import A2C
from learned_opt.analysis.comparison.runs import Budget, draw_problem, run_settings
from learned_opt.analysis.results import Setting


def test_a_tasks_run_is_the_same_among_few_and_among_many_and_whatever_the_grid():
    inner = A2C(hidden_size=4, num_envs=2, num_steps=4)
    budget = Budget(num_updates=3, num_evals=2, eval_episodes=2, seed=0, device="cpu", inner=inner)

    def returns(count, rates):
        problem = draw_problem("cartpole", "shown tasks", count, seed=0)
        made = run_settings(problem, lambda _: SGD(), [Setting(rate) for rate in rates], budget)
        return made.returns, problem.random

    (few, low), (many, also) = returns(2, (0.01,)), returns(5, (0.1, 0.01, 1.0))
    np.testing.assert_array_equal(many[1:2, :, :2], few)
    np.testing.assert_array_equal(also[:2], low)
    assert len(np.unique(many[1])) > 2
