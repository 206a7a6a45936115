"""Nothing of the project collides with a user's own `tasks` and `analysis`, however it is installed.

A user's folder holds tasks.py (celery and invoke ask for one) and analysis.py, which nobody but that user
may import. Each claim is tried from a source checkout on the path, from an editable install and from the
wheel that is built of the source distribution. No C is compiled for it: without a compiler the package
installs all the same.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import learned_opt

ROOT = Path(learned_opt.__file__).parents[1]
SOURCES = (
    "learned_opt",
    "tasks",
    "analysis",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "MANIFEST.in",
)
THEIRS = """
import sys
asking = sys._getframe(1)
while asking.f_code.co_filename.startswith("<frozen importlib"):
    asking = asking.f_back
if "learned_opt" in asking.f_globals["__name__"]:
    raise RuntimeError("learned_opt imported a module of the user's")
WHOSE = "the user's"
"""
OWN = 'import tasks, analysis; assert tasks.WHOSE == analysis.WHOSE == "the user\'s"'


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy of the checkout, as git would hand it out."""
    copy = tmp_path_factory.mktemp("source")
    for name in filter(lambda name: (ROOT / name).exists(), SOURCES):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module", params=["checkout", "editable", "wheel"])
def python(request, source, tmp_path_factory):
    """A Python, with the environment it is to be run in, that finds the project in one of three ways."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    clean |= {"CC": "false", "OMP_NUM_THREADS": "1"}
    made = tmp_path_factory.mktemp(request.param)
    interpreter = made / ("Scripts" if os.name == "nt" else "bin") / "python"
    call([sys.executable, "-m", "venv", "--without-pip", str(made)], made, clean)
    told = call([interpreter, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], made, clean)
    # What the project depends on, without what this environment's own editable installs add to the path.
    Path(told.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if request.param == "checkout":
        return interpreter, {**clean, "PYTHONPATH": str(source)}
    given = ["--editable", str(source)]
    if request.param == "wheel":
        build = "import sys, setuptools.build_meta as made; print(made.build_sdist(sys.argv[1]))"
        archive = call([sys.executable, "-c", build, str(made)], source, clean).split()[-1]
        given = [str(made / archive)]
    pip = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--quiet", "--no-deps"]
    call([*pip, "--no-build-isolation", "--force-reinstall", *given], made, clean)
    return interpreter, clean


@pytest.fixture(scope="module")
def programs(python, programs_of, tmp_path_factory):
    """Runs programs with that Python."""
    found = programs_of(tmp_path_factory.mktemp("programs"), *python)
    yield found
    found.end()


@pytest.fixture
def run(programs, folder):
    """Runs one in the user's folder; what it printed."""

    def printed(*command):
        done = programs(*command, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return printed


@pytest.fixture
def folder(tmp_path):
    """A user's folder."""
    (tmp_path / "tasks.py").write_text(THEIRS)
    (tmp_path / "analysis.py").write_text(THEIRS)
    return tmp_path


def call(command, folder, environment):
    done = subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_wheel_holds_nothing_of_an_earlier_build(source, tmp_path):
    for folder in ("lib", f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"):
        stale = source / "build" / folder / "learned_opt" / "rules" / "stale.py"
        stale.parent.mkdir(parents=True)
        stale.write_text("raise RuntimeError")
    build = "import sys, setuptools.build_meta as made; print(made.build_wheel(sys.argv[1]))"
    wheel = call([sys.executable, "-c", build, str(tmp_path)], source, {**os.environ, "CC": "false"}).split()[
        -1
    ]
    names = zipfile.ZipFile(tmp_path / wheel).namelist()
    assert "learned_opt/rules/lstm.py" in names
    assert not [name for name in names if "stale" in name]


def held(folder, without=()):
    """Files of a package, but what is compiled."""
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    return {file for file in files if file.suffix not in (".so", ".pyc") and file.parts[0] not in without}


def test_an_installation_holds_all_files_of_the_packages(run):
    code = (
        "import learned_opt, learned_opt.tasks as t, learned_opt.analysis as a\n"
        "print(learned_opt.__file__, t.__file__, a.__file__)"
    )
    found = [Path(file).parent for file in run("-c", code).split()]
    package, *inside = found
    assert held(package, ("tasks", "analysis")) == held(ROOT / "learned_opt")
    for place, name in zip(inside, ("tasks", "analysis"), strict=True):
        assert ROOT not in place.parents, "the copy is tried, and not this checkout"
        beside = "site-packages" not in place.parts
        assert place == (package.parent if beside else package) / name
        assert held(place) == held(ROOT / name)


def test_a_program_or_notebook_of_the_folder_imports_both(run, folder):
    # A script's folder, and the working directory of a notebook's kernel, stand first on the path.
    code = f"import sys; sys.path.insert(0, ''); {OWN}; import learned_opt, learned_opt.analysis; {OWN}"
    run("-c", code)
    (folder / "program.py").write_text(
        "import learned_opt, gymnasium\n"
        "gymnasium.make('learned_opt/CartPole-v0').reset(seed=0)\n"
        "gymnasium.make_vec('learned_opt/Pendulum-v0', num_envs=2).reset(seed=0)\n"
        f"{OWN}\n"
    )
    run("program.py")


def test_the_command_runs_in_the_folder(python, run):
    interpreter, environment = python
    scripts = [["-m", "learned_opt"]]
    if "PYTHONPATH" not in environment:  # a checkout alone has no script
        scripts.append([str(Path(interpreter).with_name("learned-opt"))])
    for script in scripts:
        told = run(*script, "list")
        for name in ("mountain_car_continuous", "navigation2d_sparse", "halfcheetah_vel", "default"):
            assert name in told.split(), f"{script} lists {name}"


def test_a_family_of_the_folder_named_tasks_is_the_user_s(run, folder):
    family = "\nfrom learned_opt.tasks.families.lqr import LQR\n\nclass Mine(LQR):\n    pass\n"
    # The same name as ours, in a folder that comes last on the path: it is found all the same.
    (folder / "tasks.py").write_text(family)
    assert "usable" in run("-m", "learned_opt", "check", "tasks:Mine")


def test_gymnasium_imports_the_package_that_an_id_names(run):
    code = "import gymnasium; print(gymnasium.make('learned_opt:learned_opt/CartPole-v0').spec.id)"
    assert run("-c", code).strip() == "learned_opt/CartPole-v0"


def test_gymnasium_alone_imports_nothing_of_the_project(python, folder):
    interpreter, environment = python
    code = "import gymnasium, sys; print({'learned_opt', 'tasks', 'torch'} & set(sys.modules))"
    assert call([interpreter, "-c", code], folder, environment).strip() == "set()"
