"""Families of one's own by `module:attribute`: where they are looked for, and what is said if that fails."""

import sys

import pytest

from learned_opt.tasks import make_family


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory that is not on Python's path; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def reason(name):
    with pytest.raises(ValueError, match=r".") as info:
        make_family(name)
    return str(info.value)


def test_the_working_directory_is_searched_last(here):
    (here / "mine_alone.py").write_text("from learned_opt.tasks.families.lqr import LQR\nfamily = LQR()\n")
    assert make_family("mine_alone:family").name == "mine_alone:family"
    assert sys.path[-1] == str(here)
    assert sys.path.count(str(here)) == 1
    make_family("mine_alone:family")
    assert sys.path.count(str(here)) == 1


def test_names_that_need_no_module_leave_the_path_alone(here):
    before = list(sys.path)
    make_family("cartpole")
    assert sys.path == before


def test_the_folders_that_were_searched_are_named(here):
    said = reason("nowhere_at_all:family")
    assert "no module 'nowhere_at_all'" in said
    for folder in (str(here), "site-packages"):
        assert folder in said


@pytest.mark.parametrize("name", ["tasks:mine", "analysis:mine", "random:mine", "tasks.sub:mine"])
def test_a_hidden_module_is_told_with_what_to_do(name, here):
    top = name.partition(":")[0].partition(".")[0]
    (here / f"{top}.py").write_text("mine = None\n")
    __import__(top)
    said = reason(name)
    assert f"hides {here / top}.py" in said
    assert f"my_{top}.py" in said


def test_a_hidden_package_is_told_too(here):
    (here / "tasks").mkdir()
    (here / "tasks" / "mine.py").write_text("family = None\n")
    assert f"hides {here / 'tasks'}" in reason("tasks.mine:family")


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_package\n", "ModuleNotFoundError at {file}:1: No module named 'no_such_package'"),
        ("\nx = 1 / 0\n", "ZeroDivisionError at {file}:2"),
        ("def f(:\n", "SyntaxError"),
        ("raise SystemExit(3)\n", "SystemExit at {file}:1"),
        ("from learned_opt.tasks import nothing\n", "ImportError at {file}:1"),
    ],
)
def test_a_module_that_fails_is_told_with_its_line(source, told, here):
    file = here / "failing.py"
    file.write_text(source)
    said = reason("failing:family")
    assert told.format(file=file) in said
    assert "searched" not in said


@pytest.mark.parametrize("name", [":a", "a:", "a-b:c", "./my_tasks.py:c", "..a:b", "a..b:c", "a b:c", ":"])
def test_what_names_no_module_and_attribute_is_refused(name):
    assert "module:attribute" in reason(name)


def test_what_is_no_family_is_refused(here):
    (here / "others.py").write_text(
        "from learned_opt.tasks.families.lqr import LQR\nnumber = 3\n"
        "class Broken(LQR):\n    def __init__(self):\n        raise KeyError('mass')\n"
    )
    assert "no TaskFamily but int" in reason("others:number")
    assert "others has no 'absent'" in reason("others:absent")
    assert "others:Broken cannot be made: KeyError: 'mass'" in reason("others:Broken")
