"""Numbers, files and folders that commands are given: sensible, or refused in a sentence before any work."""

import dataclasses
import re
from itertools import pairwise
from typing import Annotated, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from learned_opt import Adam
from learned_opt.analysis import CompareConfig, Method, compare
from learned_opt.analysis.results import FamilyResults, LearningCurves, Results, Setting
from learned_opt.cli import COMMANDS, main
from learned_opt.runs.config_file import written
from learned_opt.settings import Count, Within, check_settings

NEEDED = {
    "metaworld": ["--benchmark", "ml1-reach-v3"],
    "ablate": ["--config", "variants.toml"],
    "trial": ["--policy", "p.safetensors"],
    **{name: ["r"] for name in ("plot", "report")},
    "check": ["cartpole"],
}
WITHOUT_OUT = ("list", "check")


def numbers():
    """Every command's options that are numbers: their types and ranges, `Within` or None."""
    for command, kind in COMMANDS.items():
        hints = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            told = next((each for each in get_args(hints[field.name]) if get_args(each)), hints[field.name])
            numeric, *ranges = get_args(told) if get_origin(told) is Annotated else (told,)
            if numeric in (int, float):
                yield command, field.name, numeric is int, next(iter(ranges), None)


NUMBERS = list(numbers())


def refusal(capsys, *arguments):
    """The one line on standard error that a command is refused with."""
    capsys.readouterr()
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("learned-opt: ")
    assert error.count("\n") == 1
    return error.strip()


def given(name, out):
    return [name, *NEEDED.get(name, []), *([] if name in WITHOUT_OUT else ["--out", str(out)])]


@pytest.mark.parametrize(("name", "field", "whole", "within"), NUMBERS)
def test_a_number_that_an_option_cannot_mean_is_refused_before_any_work(
    name, field, whole, within, tmp_path, capsys, monkeypatch
):
    ran = []
    monkeypatch.setattr(COMMANDS[name], "run", lambda self: ran.append(getattr(self, field)) or 0)
    option = f"--{field.replace('_', '-')}"
    low, high, above = within.low, within.high, within.above
    wrong = ["nan", "inf", "-inf", "1e400", "", "x"]
    wrong += [value for value in ("-1", "-0.5", "0") if float(value) < low or (above and float(value) <= low)]
    wrong += [str(10**30)] if high < 10**30 else []
    for value in wrong:
        said = refusal(capsys, *given(name, tmp_path / "out"), f"{option}={value}")
        assert field in said.replace("-", "_")
    assert not ran
    assert not (tmp_path / "out").exists()
    for value in (high, 0.5 if above else low):
        value = int(value) if whole else value
        assert main([*given(name, tmp_path / "out"), option, str(value)]) == 0
        assert ran.pop() == value


def test_every_number_has_a_range_and_switches_have_none():
    @dataclasses.dataclass
    class Given:
        resume: bool = False
        count: Count = 0

    with pytest.raises(ValueError, match=r"count must be positive \(at least 1\), got 0"):
        check_settings(Given())
    check_settings(Given(count=1))
    assert all(isinstance(within, Within) for *_, within in NUMBERS)
    assert len(NUMBERS) > 30


def test_a_comparison_takes_at_least_one_process():
    with pytest.raises(ValueError, match="processes must be at least 1, got 0"):
        compare(CompareConfig(("bandit",)), {"mine": Method(Adam())}, processes=0)


FOLDERS = ("meta-train", "compare", "demo", "probe", "trial", "metaworld", "ablate")


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize(
    "mark",
    [
        *("config.toml", "rule.safetensors", "metrics.csv", "checkpoint-1.ckpt", "stage-1", "seed-1"),
        *("results.json.gz", "probe.json.gz", "trials.json.gz", "metaworld.json.gz", "thesis.txt"),
    ],
)
def test_no_command_writes_into_the_folder_of_another(name, mark, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants.toml").write_text(written({"variants": {"full": {}}}).decode())
    saved(tmp_path / "r", 0)
    out = tmp_path / "out"
    (out / mark).mkdir(parents=True)
    (out / mark / "precious").write_text("precious")
    assert "choose another --out" in refusal(capsys, *given(name, out))
    assert [path.name for path in out.iterdir()] == [mark]
    assert [path.name for path in (out / mark).iterdir()] == ["precious"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_file_is_no_folder(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "variants.toml").write_text(written({"variants": {"full": {}}}).decode())
    saved(tmp_path / "r", 0)
    out = tmp_path / "out"
    out.write_text("precious")
    assert str(out) in refusal(capsys, *given(name, out))
    assert out.read_text() == "precious"


def test_an_ablation_is_refused_before_it_trains(tmp_path, capsys):
    path, out = tmp_path / "variants.toml", tmp_path / "out"

    def reason(variants):
        path.write_text(written({"variants": variants}).decode())
        return refusal(capsys, "ablate", "--config", path, "--out", out)

    assert "adam names both a variant and a baseline" in reason({"adam": {}})
    assert not out.exists()
    (out / "variants").mkdir(parents=True)
    (out / "results.json.gz").write_text("precious")
    assert "already holds results" in reason({"full": {}})
    assert list((out / "variants").iterdir()) == []


def saved(folder, seed):
    """Results of two methods in a folder."""
    returns = np.arange(8.0).reshape(4, 2)
    run = LearningCurves(Setting(0.01), "given", returns, returns, np.zeros(2, bool))
    family = FamilyResults(
        "held-out families", np.zeros(2), np.ones(2), 8, np.arange(4), {"mine": run, "adam": run}
    )
    folder.mkdir()
    Results("", seed, 3, {}, {"bandit": family}).save(folder / "results.json.gz")
    return folder


def test_a_plot_is_the_file_that_is_told_or_none(tmp_path, monkeypatch, capsys):
    folder = saved(tmp_path / "versus", 0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fig.png").write_text("precious")
    for kind in ("curves", "profiles", "heatmap", "times"):
        plot = ("plot", folder, "--kind", kind, "--out")
        for name in ("fig", "fig.gif", "fig.", "versus"):
            assert "choose .png, .pdf or .svg" in refusal(capsys, *plot, name)
        assert "fig.png exists" in refusal(capsys, *plot, "fig.png")
        assert "there is no folder nowhere" in refusal(capsys, "plot", folder, "--out", "nowhere/a.png")
        assert main(["plot", str(folder), "--kind", kind, "--out", f"{kind}.SVG"]) == 0
        assert capsys.readouterr().out == f"{kind}: {kind}.SVG\n"
        assert "<svg" in (tmp_path / f"{kind}.SVG").read_text()
    assert (tmp_path / "fig.png").read_text() == "precious"
    assert {path.suffix for path in tmp_path.iterdir()} == {"", ".png", ".SVG"}


@pytest.mark.parametrize("name", ["report", "card"])
def test_a_page_without_a_folder_is_refused_before_anything_is_read(name, tmp_path, capsys):
    said = refusal(capsys, *given(name, tmp_path / "nowhere" / "page"))
    assert "there is no folder" in said


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["fly", "--rule", "x"], "there is no command 'fly'; choose from demo, "),
        ([], "Missing subcommand: Expected one of {demo, "),
        (
            ["meta-train"],
            "Required options: Missing from learned-opt meta-train: --out PATH Folder of the run",
        ),
        (
            ["plot", "r", "--sed", "3"],
            "Unrecognized options: --sed, 3; Perhaps you meant: --seed INT Seed of the bootstrap",
        ),
        (
            ["compare", "--out", "x", "--colour", "3"],
            "Unrecognized options: --colour, 3; see learned-opt compare --help",  # --colors is of plot
        ),
        (
            ["meta-train", "--out", "x", "--meta-batch-size", "abc"],
            "Error parsing --meta-batch-size: expected a whole number, got 'abc'; see learned-opt meta",
        ),
        (
            ["compare", "--out", "x", "--tuning", "foo"],
            "invalid choice 'foo' for argument '--tuning'. ",
        ),
        (
            ["meta-train", "--out", "x", "--config", "nowhere"],
            "cannot read the configuration nowhere: No such",
        ),
        (["plot", "/dev/null/x"], "there is no file /dev/null/x"),
    ],
)
def test_nothing_is_said_twice(arguments, told, capsys):
    said = refusal(capsys, *arguments)
    assert said.startswith(f"learned-opt: {told}")
    words = re.findall(r"[\w'-]+", said.partition("; see")[0].casefold())
    pairs = list(pairwise(words))
    assert len(set(pairs)) == len(pairs), said


def test_too_little_memory_is_a_sentence(capsys, monkeypatch):
    errors = [
        RuntimeError("a fault of ours"),
        MemoryError(),
        RuntimeError("can't allocate memory: you tried to allocate 64 bytes. Error code 12"),
    ]

    def run(self):
        raise errors.pop()

    monkeypatch.setattr(COMMANDS["list"], "run", run)
    assert "not enough memory: ask for less" in refusal(capsys, "list")
    assert "not enough memory: ask for less" in refusal(capsys, "list")
    with pytest.raises(RuntimeError, match="a fault of ours"):
        main(["list"])
