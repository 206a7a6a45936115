"""The README's Python runs as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[2] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("index", range(len(BLOCKS)))
def test_readme_python_runs(index, run_python, tmp_path):
    if "stable_baselines3" in BLOCKS[index]:
        pytest.importorskip("stable_baselines3")
    done = run_python("-c", BLOCKS[index], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]


def test_there_are_blocks_to_run():
    assert len(BLOCKS) >= 2
