import numpy as np
import pytest

from learned_opt.analysis.results import FamilyResults, LearningCurves, Results, Setting

UPDATES = np.array([0, 10, 20, 30])


def made_up(panels, labels=("learned", "adam")):
    source = np.random.default_rng(0)

    def run():
        returns = UPDATES[:, None] / 3 + source.normal(size=(4, 6))
        return LearningCurves(Setting(0.01), "given", returns, returns, np.zeros(6, dtype=bool))

    families = {
        f"family_{i}": FamilyResults(
            ("held-out tasks", "held-out families")[i % 2],
            np.zeros(6),
            np.full(6, 10.0 if i else 1000.0),
            512,
            UPDATES,
            {label: run() for label in labels},
        )
        for i in range(panels)
    }
    return Results("", 0, 30, {}, families)


@pytest.fixture
def results():
    """(panels, labels) -> made-up results of that many families."""
    return made_up
