"""Tells which engine the tests run with, holds it to LEARNED_OPT_EXPECT, and runs programs for them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from learned_opt.kernels import native


def pytest_report_header() -> str:
    """What computes."""
    return f"learned_opt: engine {native.selected()}, compiled {native.serving() or 'nothing'}"


def pytest_sessionstart() -> None:
    """Refuse to test another engine than the one that is expected: skipped tests would hide it."""
    expected = os.environ.get("LEARNED_OPT_EXPECT")
    missing = [f"{name}: {reason}" for name in native.LIBRARIES if (reason := native.why_not(name))]
    if expected == "compiled" and missing:
        raise pytest.UsageError(f"compiled code is expected to serve. {'; '.join(missing)}")
    if expected == "torch" and native.selected() != "torch":
        raise pytest.UsageError(f"the engine torch is expected: set {native.VARIABLE}=torch")


LONGEST = (
    *("test_survival.py", "test_distributed.py", "test_oracles.py", "test_installations.py", "test_docs.py"),
    *("test_demo.py", "test_cli.py", "test_optimizer_contract.py", "test_metaworld.py", "test_examples.py"),
    *("test_kills.py", "test_divergence.py", "test_trainer.py", "test_options.py", "test_contract.py"),
)
"""Files that are to begin first: whichever began last would keep one process busy and the others waiting."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others in their order."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True)
def modules_of_temporary_folders_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that a test wrote and imported is not what the next test of that name finds."""
    before = set(sys.modules)
    yield
    temporary = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(temporary):
            del sys.modules[name]


class Programs:
    """Runs programs as `subprocess.run([sys.executable, *command])` does, without the seconds that importing
    torch takes: see forking.py. One at a time.
    """

    def __init__(
        self, folder: Path, interpreter: object = sys.executable, environment: Mapping[str, str] = os.environ
    ) -> None:
        self.out, self.err, self.environment = folder / "out", folder / "err", environment
        self.server = subprocess.Popen(
            [str(interpreter), str(Path(__file__).with_name("forking.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=dict(environment),
            start_new_session=True,
            bufsize=0,
        )

    def start(self, *command: object, cwd: Path, **environment: str) -> int:
        """The process that runs a program in a folder, with more in its environment."""
        self.command = [str(word) for word in command]
        files = {"out": str(self.out), "err": str(self.err)}
        surroundings = {"folder": str(cwd), "environment": {**self.environment, **environment}}
        job = json.dumps({"command": self.command, **surroundings, **files})
        self.server.stdin.write(f"{job}\n".encode())
        return int(self.server.stdout.readline())

    def running(self, timeout: float = 0.0) -> bool:
        """Whether the program has not ended after so many seconds."""
        return not select.select([self.server.stdout], [], [], timeout)[0]

    def completed(self, timeout: float = 300.0) -> subprocess.CompletedProcess[str]:
        """What became of it."""
        if self.running(timeout):
            raise subprocess.TimeoutExpired(self.command, timeout)
        code = int(self.server.stdout.readline())
        out, err = (file.read_text(errors="replace") for file in (self.out, self.err))
        return subprocess.CompletedProcess(self.command, code, out, err)

    def __call__(self, *command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Both."""
        self.start(*command, cwd=cwd, **environment)
        return self.completed()

    def end(self) -> None:
        """Whatever runs."""
        os.killpg(self.server.pid, signal.SIGKILL)
        self.server.communicate()


@pytest.fixture(scope="session")
def run_python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """`run_python(script, *arguments, cwd=folder)` -> what became of it."""
    programs = Programs(tmp_path_factory.mktemp("programs"))
    yield programs
    programs.end()


@pytest.fixture(scope="session")
def programs_of() -> type[Programs]:
    """Makes the same for another interpreter."""
    return Programs
