"""Compiles the C code of learned_opt for the instruction sets of this processor's family.

Optional: without a C compiler the package installs all the same and runs the same equations in torch.
"""

import os
import platform
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
THREADS = ["-fopenmp"] if sys.platform == "linux" else []
SANITIZERS = ["-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all"]
# For .ci/sanitizers: code that ends its process at the first access outside of what it was given.
SANITIZED = [*SANITIZERS, "-O1", "-g"] if os.environ.get("LEARNED_OPT_SANITIZE") else []
VARIANTS = {"generic": []}
CODE = {"fused": "rules", "actor_critic": "learner", "perceptron": "learner", "rollout": "learner"}
checksum = runpy.run_path("learned_opt/sources.py")["checksum"]
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS["avx2"] = ["-mavx2", "-mfma"]
    VARIANTS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]


setup(
    ext_modules=[
        Extension(
            f"learned_opt.{folder}._{source}_{name}",
            [f"learned_opt/{folder}/{source}.c"],
            depends=["learned_opt/vectors.h", "learned_opt/learner/perceptron.h"],
            extra_compile_args=[
                *(*FLAGS, *THREADS, *flags, *SANITIZED),
                f"-DSOURCE={checksum(Path('learned_opt', folder, source + '.c'))}",
            ],
            extra_link_args=[*THREADS, *SANITIZED],
            libraries=["m"],
            optional=True,
        )
        for source, folder in CODE.items()
        for name, flags in VARIANTS.items()
        if sys.platform != "win32"
    ]
)
