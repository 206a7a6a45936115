"""LearnedOptimizer inside libraries: the cells of the matrix, found anew, and what is refused."""

import json
from importlib import import_module

import pytest

from experiments.libraries.cells import YES, UnfulfilledError, found, must
from experiments.pages.sources import ROOT

pytestmark = pytest.mark.filterwarnings("ignore")


def stored(library, algorithm):
    """The matrix's row."""
    rows = json.loads((ROOT / "libraries.json").read_text())["rows"]
    return next(row["cells"] for row in rows if (row["library"], row["algorithm"]) == (library, algorithm))


def test_a_cell_is_yes_or_the_reason_why_not():
    row = found(
        "a library",
        "an algorithm",
        {
            "runs": lambda: None,
            "continues": lambda: must(False, "it began anew"),
            "total_steps": lambda: [][0],
            "telemetry": "nobody asks",
        },
    )
    assert row.cells == {
        "runs": YES,
        "continues": "it began anew",
        "total_steps": "IndexError: list index out of range",
        "telemetry": "nobody asks",
    }
    with pytest.raises(UnfulfilledError, match="why"):
        must([], "why")


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("stable_baselines3", "PPO"),
        ("stable_baselines3", "SAC"),
        ("sb3_contrib", "RecurrentPPO"),
        ("sb3_contrib", "TRPO"),
        ("sb3_contrib", "QRDQN"),
    ],
)
def test_stable_baselines3_and_contrib_do_what_the_matrix_says(package, name):
    pytest.importorskip(package)
    pytest.importorskip("sb3_contrib")
    from experiments.libraries import in_sb3

    row = in_sb3.row(package, name)
    assert row.cells == stored(row.library, row.algorithm)
    assert row.cells["runs"] == row.cells["continues"] == row.cells["telemetry"] == YES


@pytest.mark.parametrize(
    ("package", "which", "options"),
    [
        ("torchrl", "torchrl", {}),
        ("lightning", "lightning", {"automatic": True, "precision": "32-true"}),
        ("lightning", "lightning", {"automatic": True, "precision": "bf16-mixed"}),
        ("lightning", "lightning", {"automatic": False, "precision": "32-true"}),
        ("accelerate", "accelerate", {}),
        ("skrl", "skrl", {"name": "PPO"}),
        ("rsl_rl", "rsl_rl", {}),
    ],
)
def test_torchs_libraries_do_what_the_matrix_says(package, which, options):
    pytest.importorskip(package)
    module = import_module(f"experiments.libraries.{'in_lightning' if which == 'lightning' else 'in_torch'}")
    row = getattr(module, which)(**options)
    assert row.cells == stored(row.library, row.algorithm)
    assert row.cells["runs"] == row.cells["continues"] == row.cells["telemetry"] == YES
