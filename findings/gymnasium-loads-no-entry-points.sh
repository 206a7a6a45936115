#!/usr/bin/env bash
# gymnasium 1.4.0 with MinAtar 1.0.15, which declares an entry point of the group "gymnasium.envs" so that gymnasium finds its ids.
# Expected: importing gymnasium registers MinAtar/Breakout-v1, as it did before 1.0 and as the docstring of gymnasium.envs says
# of third-party environments. Seen: nothing reads the entry point, and importing minatar does not register them either:
# its register_envs() has to be called.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q gymnasium==1.4.0 numpy==2.4.6 && "$folder/venv/bin/pip" install -q --no-deps minatar==1.0.15
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import entry_points

import gymnasium

declared = [point.value for point in entry_points(group="gymnasium.envs")]
before = "MinAtar/Breakout-v1" in gymnasium.registry
import minatar.gym

imported = "MinAtar/Breakout-v1" in gymnasium.registry
minatar.gym.register_envs()
called = "MinAtar/Breakout-v1" in gymnasium.registry
print(f"gymnasium {gymnasium.__version__}: declared {declared}; registered after importing gymnasium: {before}, minatar: {imported}, "
      f"after register_envs(): {called}")
assert declared and (before, imported, called) == (False, False, True)
PYTHON
