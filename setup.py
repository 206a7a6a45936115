"""Compiles the C code of learned_opt for the instruction sets of this processor's family.

Optional: without a C compiler the package installs all the same and runs the same equations in torch.
"""

import copy
import os
import platform
import runpy
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
THREADS = ["-fopenmp"] if sys.platform == "linux" else []
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
# For .ci/sanitizers: code that ends its process at the first access outside of what it was given.
SANITIZED = [*SANITIZERS, "-O1", "-g"] if os.environ.get("LEARNED_OPT_SANITIZE") else []
VARIANTS = {"generic": []}
KERNELS = Path("learned_opt/kernels")
SOURCES = (
    "adam_step",
    "direction_step",
    "inner_step",
    "lstm_step",
    "policy_gradient",
    "mlp",
    "q_learning",
    "rollout",
    "philox",
)
# What is the same in torch, which rounds each operation.
ROUNDED = {name: ["-ffp-contract=off"] for name in ("philox", "adam_step")}
checksum = runpy.run_path("learned_opt/kernels/sources.py")["checksum"]
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS["avx2"] = ["-mavx2", "-mfma"]
    VARIANTS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]

# The folders tasks/ and analysis/ are installed inside learned_opt: users have modules of these names.
INSIDE = ("tasks", "analysis")


class FreshBuild(build_py):
    """Copies modules to an empty folder: kinds are found by their files, and an earlier one left its own."""

    def run(self) -> None:
        """Build."""
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


class SideBySide(build_ext):
    """Compiles several extensions at once, each in a folder of its own: variants share a name.

    They are libraries that ctypes loads and know nothing of Python, so that no version stands in their names.
    """

    def get_ext_filename(self, fullname: str) -> str:
        """Where one goes."""
        return str(Path(*fullname.split("."))) + ".so"

    def build_extension(self, ext: Extension) -> None:
        """Build one."""
        own = copy.copy(self)
        own.build_temp = str(Path(self.build_temp, ext.name))
        build_ext.build_extension(own, ext)


class OneForAllPythons(bdist_wheel):
    """One wheel a platform serves every Python."""

    def get_tag(self) -> tuple[str, str, str]:
        """Python, ABI and platform in the wheel's name."""
        return "py3", "none", super().get_tag()[2]


setup(
    cmdclass={"build_py": FreshBuild, "build_ext": SideBySide, "bdist_wheel": OneForAllPythons},
    packages=[
        *find_packages(include=["learned_opt", "learned_opt.*"]),
        *(
            f"learned_opt.{name}"
            for folder in INSIDE
            for name in find_packages(include=[folder, f"{folder}.*"])
        ),
    ],
    package_dir={f"learned_opt.{folder}": folder for folder in INSIDE},
    options={"build_ext": {"parallel": os.cpu_count()}},
    ext_modules=[
        Extension(
            f"learned_opt.kernels._{source}_{name}",
            [str(KERNELS / f"{source}.c")],
            depends=[str(KERNELS / name) for name in ("vectors.h", "mlp.h", "lstm.h")],
            extra_compile_args=[
                *(*FLAGS, *THREADS, *flags, *SANITIZED, *ROUNDED.get(source, [])),
                f"-DSOURCE={checksum(KERNELS / f'{source}.c')}",
            ],
            extra_link_args=[*THREADS, *SANITIZED],
            libraries=["m"],
            optional=True,
        )
        for source in SOURCES
        for name, flags in VARIANTS.items()
        if sys.platform != "win32"
    ],
)
