"""Comparisons as tidy tables, one row an evaluation: for pandas, spreadsheets and plots of one's own."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from learned_opt.analysis.results import Results
from learned_opt.analysis.statistics.scores import family_scores

if TYPE_CHECKING:
    from pandas import DataFrame

COLUMNS = (
    "family",
    "split",
    "method",
    "lr",
    "lr_decay",
    "options",
    "task",
    "updates",
    "environment_steps",
    "return",
    "deterministic_return",
    "score",
    "random_return",
    "reference_return",
    "diverged",
)
"""`score` is the normalized return, 0 the random policy's and 1 the reference's, diverged runs as the worst;
`split` is the method's own where rules differ in it; `options` are further hyper-parameters, a=1;b=2."""


def rows(results: Results) -> Iterator[dict[str, Any]]:
    """A comparison's evaluations of single runs, by the names of COLUMNS; missing numbers are None."""
    for name, family in results.families.items():
        scores = family_scores(family)
        for label, run in family.methods.items():
            setting, seen = run.setting, run.deterministic_returns
            same = {
                "family": name,
                "split": family.split_of(label) or family.split,
                "method": label,
                "lr": setting.lr,
                "lr_decay": setting.decay,
                "options": ";".join(f"{key}={value:g}" for key, value in setting.options.items()),
            }
            for place, updates in enumerate(family.updates.tolist()):
                for task in range(len(family.random)):
                    yield {
                        **same,
                        "task": task,
                        "updates": updates,
                        "environment_steps": updates * family.steps_per_update,
                        "return": float(run.returns[place, task]),
                        "deterministic_return": None if seen is None else float(seen[place, task]),
                        "score": float(scores[label].curves[place, task]),
                        "random_return": float(family.random[task]),
                        "reference_return": float(family.reference[task]),
                        "diverged": bool(run.diverged[task]),
                    }


def to_csv(results: Results) -> str:
    """The table as CSV, in which missing numbers are empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(results))
    return text.getvalue()


def to_pandas(results: Results) -> DataFrame:
    """The table as a data frame.

    Raises:
        ValueError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ValueError("data frames need pandas: pip install 'learned-opt[pandas]'") from None
    return pandas.DataFrame(rows(results), columns=list(COLUMNS))
