"""Tells which engine the tests run with, and holds it to LEARNED_OPT_EXPECT: compiled or torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

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


@pytest.fixture(autouse=True)
def modules_of_temporary_folders_are_forgotten(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A module that a test wrote and imported is not what the next test of that name finds."""
    before = set(sys.modules)
    yield
    temporary = str(tmp_path_factory.getbasetemp())
    for name in sys.modules.keys() - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(temporary):
            del sys.modules[name]
