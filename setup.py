"""Compiles the C code of learned_opt for the instruction sets of this processor's family.

Optional: without a C compiler the package installs all the same and runs the same equations in torch.
"""

import platform
import sys
import zlib
from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-O3", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]
THREADS = ["-fopenmp"] if sys.platform == "linux" else []
VARIANTS = {"generic": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    VARIANTS["avx2"] = ["-mavx2", "-mfma"]
    VARIANTS["avx512"] = ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma"]


def checksum(folder: str, source: str) -> int:
    """As in learned_opt/compiled.py, which compares."""
    texts = (Path(f"learned_opt/{folder}/{source}.c"), Path("learned_opt/vectors.h"))
    return zlib.crc32(b"".join(path.read_bytes() for path in texts)) & 0x7FFFFFFF


setup(
    ext_modules=[
        Extension(
            f"learned_opt.{folder}._{source}_{name}",
            [f"learned_opt/{folder}/{source}.c"],
            depends=["learned_opt/vectors.h"],
            extra_compile_args=[*FLAGS, *THREADS, *flags, f"-DSOURCE={checksum(folder, source)}"],
            extra_link_args=THREADS,
            libraries=["m"],
            optional=True,
        )
        for folder, source in (("rules", "fused"), ("learner", "perceptron"))
        for name, flags in VARIANTS.items()
        if sys.platform != "win32"
    ]
)
