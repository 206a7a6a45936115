"""What users name as `module:attribute`: found where `python -m` would find it, refused in one sentence."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any


def find_attribute(name: str) -> tuple[Any, ModuleType]:
    """The attribute that `module:attribute` names, None if the module lacks it, and the module.

    The working directory is searched last, so that nothing installed is shadowed by what lies there, and
    stays on the path: processes started later find the module, too.

    Raises:
        ValueError: the module is not found, is shadowed, or fails while it is imported.
    """
    module, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(
            f"cannot import {name!r}: write module:attribute, such as my_tasks:windy, where my_tasks.py lies "
            "in the working directory or on Python's path"
        )
    here = os.getcwd()
    if here not in map(os.path.abspath, filter(None, sys.path)):
        sys.path.append(here)
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ValueError(_failed(name, module, error)) from error
        raise ValueError(_shadow(name, here) or _missing(name, error.name)) from error
    except (Exception, SystemExit) as error:  # whatever a user's own code raises
        raise ValueError(_failed(name, module, error)) from error
    found = getattr(imported, attribute, None)
    if found is None and (shadow := _shadow(name, here)):
        raise ValueError(shadow)
    return found, imported


def _missing(name: str, module: str) -> str:
    folders = [entry for entry in dict.fromkeys(map(os.path.abspath, sys.path)) if os.path.isdir(entry)]
    return (
        f"cannot import {name!r}: no module {module!r} in the folders searched ({', '.join(folders)}): "
        "run the command where the module lies, or add its folder to PYTHONPATH"
    )


def _failed(name: str, module: str, error: BaseException) -> str:
    """The error, and the last line of the user's code that led to it."""
    frames = [
        each
        for each in traceback.extract_tb(error.__traceback__)
        if each.filename != __file__ and not each.filename.startswith("<frozen")
    ]
    place = f" at {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"cannot import {name!r}: {module} raised {type(error).__name__}{place}: {error}"


def _shadow(name: str, here: str) -> str:
    """That a module of the working directory is hidden by another of its name; empty if it is not."""
    top = name.partition(":")[0].partition(".")[0]
    loaded = sys.modules.get(top)
    if loaded is None:
        return ""
    file = getattr(loaded, "__file__", None)
    for own in (Path(here, f"{top}.py"), Path(here, top)):
        package = own.is_dir() and any(own.glob("*.py"))
        if (own.is_file() or package) and not (file and Path(file).resolve().is_relative_to(own.resolve())):
            return (
                f"cannot import {name!r}: Python knows another module {top!r} ({file or 'built in'}), which "
                f"hides {own}: rename yours, to my_{own.name} for instance, and name my_{name} instead"
            )
    return ""
