"""A server of commands that are killed at a chosen moment among the changes they make to files.

Run as a program. Each line that it reads is a JSON object: `arguments` of the command line, `root`, the
folder whose files are watched, and `at`, the number of the moment to be killed at, or null to be left alone.
Each line that it answers is one too: `code` (−9: killed), `moments`, those that were passed, and what was
`said`.

Moments lie before each opening for writing, creation, renaming and removal below `root`, after each opening,
and around each fsync: with half of the new bytes on the disk, and with all of them. Everything is imported
once and each command forked from there, so that a kill costs the command's own work alone.
"""

import builtins
import io
import json
import os
import signal
import sys
import tempfile
import threading
import traceback

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Moments:
    """Counts the main thread's changes to files below `root`, and dies at number `at`."""

    def __init__(self, root, at):
        self.root, self.at, self.names = os.path.abspath(root), at, []
        self.synced = {}
        self.busy = False

    def install(self):
        self.open, self.fsync = builtins.open, os.fsync
        builtins.open = io.open = self.opened
        os.fsync = self.flushed
        sys.addaudithook(self.audited)

    def audited(self, event, arguments):
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, (str, bytes)) and flags & WRITING:
                self.passed(f"before open {self.named(path)}", path)
        elif event in CHANGES:
            self.passed(f"before {event} {self.named(arguments[0])}", arguments[0])

    def opened(self, file, mode="r", *args, **options):
        found = self.open(file, mode, *args, **options)
        if isinstance(file, (str, bytes, os.PathLike)) and set(mode) & set("wxa+"):
            self.passed(f"after open {self.named(file)}", file)
        return found

    def flushed(self, descriptor):
        path, status = os.readlink(f"/proc/self/fd/{descriptor}"), os.fstat(descriptor)
        key, size = (status.st_dev, status.st_ino), status.st_size
        if not os.path.isdir(path):
            known = min(self.synced.get(key, 0), size)
            cut = known + (size - known) // 2
            self.passed(f"half written {self.named(path)}", path, lambda: os.ftruncate(descriptor, cut))
        self.passed(f"before fsync {self.named(path)}", path)
        self.fsync(descriptor)
        self.synced[key] = size

    def passed(self, what, path, damage=None):
        if self.busy or threading.current_thread() is not threading.main_thread():
            return
        path = os.path.abspath(os.fsdecode(path)) if not isinstance(path, int) else ""
        if path != self.root and not path.startswith(self.root + os.sep):
            return
        self.names.append(what)
        if len(self.names) == self.at:
            self.busy = True
            if damage is not None:
                damage()
            self.report()
            os.kill(os.getpid(), signal.SIGKILL)

    def named(self, path):
        return os.path.relpath(os.fsdecode(path), self.root) if not isinstance(path, int) else str(path)

    def report(self):
        with os.fdopen(self.pipe, "w") as pipe:
            json.dump(self.names, pipe)


def forked(main, job):
    """Run one command in a child of this process."""
    moments = Moments(job["root"], job["at"])
    reader, moments.pipe = os.pipe()
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
                sys.argv = ["learned-opt", *job["arguments"]]
                moments.install()
                code = main(job["arguments"])
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                moments.busy = True
                moments.report()
                os._exit(code)
        os.close(moments.pipe)
        with os.fdopen(reader, "rb") as pipe:
            moments_passed = json.loads(pipe.read() or b"[]")
        _, status = os.waitpid(child, 0)
        said.seek(0)
        words = said.read().decode(errors="replace")
    return {"moments": moments_passed, "code": os.waitstatus_to_exitcode(status), "said": words}


def serve():
    import torch
    from torch.utils import tensorboard  # noqa: F401

    from learned_opt.cli import main

    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # the first optimizer imports torch._dynamo
    for line in sys.stdin:
        print(json.dumps(forked(main, json.loads(line))), flush=True)


if __name__ == "__main__":
    serve()
