"""Runs Python programs as `python` would, each forked from a process that has imported torch already.

Run as a program. Each line that it reads is a JSON object: `command` (a script's path, -c and code, or -m and
a module, and their arguments), `folder` to run in, `environment`, and the files `out` and `err`. It answers
the number of the program's process and, when that has ended, its exit code, a line each. What is imported
here is what learned_opt itself imports first: a program that forgets an import fails as it would alone.
"""

import json
import os
import runpy
import sys
import types


def run(command):
    """As the interpreter's own command line does."""
    first, *arguments = command
    if first == "-c":
        code, *arguments = arguments
        sys.argv, sys.path[0] = ["-c", *arguments], ""
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(code, "<string>", "exec"), vars(main))
    elif first == "-m":
        module, *arguments = arguments
        sys.argv, sys.path[0] = ["-m", *arguments], os.getcwd()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [first, *arguments], os.path.dirname(os.path.abspath(first))
        runpy.run_path(first, run_name="__main__")


def become(job):
    """The process that a job asks for."""
    for name, stream in (("out", 1), ("err", 2)):
        with open(job[name], "wb") as file:
            os.dup2(file.fileno(), stream)
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    os.environ.clear()
    os.environ.update(job["environment"])
    own = [path for path in sys.path[1:] if path not in before]
    sys.path[1:] = [*filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)), *own]
    os.chdir(job["folder"])


def serve():
    import gymnasium  # noqa: F401
    import torch  # noqa: F401

    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            become(job)
            return job["command"]
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


if __name__ == "__main__":
    asked = serve()
    if asked is not None:
        run(asked)
