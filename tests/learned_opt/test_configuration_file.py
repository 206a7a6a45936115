"""Configuration files: what they say is what runs do, and what they cannot mean is refused in a sentence."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt.algorithms import A2C, DQN, PPO, InnerAlgorithm, Reinforce, inner
from learned_opt.meta.config import RunConfig, run_config
from learned_opt.meta.estimators.config import Estimator
from learned_opt.meta.presets import load_preset, presets
from learned_opt.meta.stages import load_recipe, load_variants, recipe_from
from learned_opt.registry import kinds
from learned_opt.rl2.config import InContextConfig
from learned_opt.rules.config import RuleConfig
from learned_opt.runs.config_file import changed, differing, merged, plain, read, structured, written


def again(config, tmp_path):
    """What is read of what was written."""
    path = tmp_path / "config.toml"
    path.write_bytes(written(plain(config)))
    return run_config(read(path), str(path))


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_written_and_read_as_it_is(name, tmp_path):
    data = load_preset(name)
    if "kind" in data:
        config = structured(InContextConfig, data, name)
        assert structured(InContextConfig, plain(config), name) == config
    else:
        for stage in recipe_from(data, name):
            assert again(stage, tmp_path) == stage


@pytest.mark.parametrize("base", [InnerAlgorithm, RuleConfig, Estimator])
def test_every_kind_is_found_by_its_name_and_read_as_it_is(base):
    for name, kind in kinds(base).items():
        assert structured(base, {"kind": name}, "here") == kind()
        assert structured(base, plain(kind()), "here") == kind()


def test_inner_algorithms_have_their_published_settings_by_default():
    assert [inner(name) for name in ("a2c", "ppo", "reinforce", "dqn")] == [A2C(), PPO(), Reinforce(), DQN()]


@given(gamma=st.floats(0, 1), envs=st.integers(1, 10**6), std=st.floats(1e-6, 1e6), met=st.booleans())
@settings(max_examples=30, deadline=None)
def test_changes_are_what_differs(gamma, envs, std, met):
    before = RunConfig()
    after = changed(
        before,
        inner={"gamma": gamma, "num_envs": envs, "normalize_observations": met},
        estimator={"kind": "es", "std": std},
    )
    assert changed(before, **differing(plain(before), plain(after))) == after
    assert (after.inner.gamma, after.inner.num_envs, after.estimator.std) == (gamma, envs, std)


def test_a_table_of_another_kind_takes_the_whole_place_of_the_old():
    old = {"inner": {"kind": "ppo", "clip_range": 0.3, "gamma": 0.9}}
    assert merged(old, {"inner": {"gamma": 0.8}})["inner"] == {"kind": "ppo", "clip_range": 0.3, "gamma": 0.8}
    assert merged(old, {"inner": {"kind": "a2c"}})["inner"] == {"kind": "a2c"}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("meta_stepz = 3", "unknown setting 'meta_stepz' of RunConfig; it has meta_steps,"),
        ("[inner]\ngama = 0.9", "unknown setting 'gama' of A2C; it has hidden_size,"),
        ('[inner]\nkind = "sarsa"', "unknown kind 'sarsa'; choose from a2c, dqn, ppo, reinforce"),
        ("[estimator]\nstd = 0.1", "unknown setting 'std' of TBPTT"),
        ("[rule]\nhidden_size = 0", "hidden_size must be positive"),
        ("[inner]\ngamma = 1.5", "gamma must be at most 1, got 1.5"),
        ('[inner]\ngamma = "high"', "gamma must be a number, got 'high'"),
        ("[inner]\nnum_envs = 2.5", "num_envs must be a whole number, got 2.5"),
        ("[inner]\nnum_envs = true", "num_envs must be a whole number, got True"),
        ("[inner]\ngamma = nan", "gamma must be finite"),
        ("inner = 3", "InnerAlgorithm must be a table that names its kind"),
        ("horizon = 3", "Horizon must be a table of settings, got 3"),
        ('families = "cartpole"', "families must be a list, got 'cartpole'"),
        ("families = []", "families is empty"),
        ('families = ["bandit", "bandit"]', "families repeats a name"),
        ("seed = 1\nseed = 2", "is not TOML"),
        ("[horizon]\nmin = 9\nmax = 3", "horizon.max must be at least horizon.min 9, got 3"),
        ("inner_mixture = [{}, {}, {}]", "3 algorithms in inner_mixture need as many batches_per_family"),
        ("learned_init = true\ninner_mixture = [{}]", "leave inner_mixture out"),
        ("[meta_optimizer]\ninit_meta_lr = 0.1", "init_meta_lr is of a learned initialization"),
        ('[rule]\nkind = "sgd"', "nothing to learn"),
        ("stages = []", "stages must be a list of tables"),
        ("stages = [{}, {rule = {hidden_size = 2}}]", "rule can only be said of the first stage"),
    ],
)
def test_what_a_file_cannot_mean_is_refused_in_a_sentence(text, complaint, tmp_path):
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=complaint) as refused:
        load_recipe(None, path)
    assert str(path) in str(refused.value)


def test_files_that_are_none_are_refused(tmp_path):
    path = tmp_path / "config.toml"
    with pytest.raises(ValueError, match="cannot read the configuration"):
        read(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not TOML"):
        read(path)
    path.write_bytes(b"#" * (2**16 + 1))
    with pytest.raises(ValueError, match="larger than any configuration"):
        read(path)
    path.write_text("x = " + "[" * 10_000)
    with pytest.raises(ValueError, match="not TOML"):
        read(path)
    path.write_text('variants = ["full"]')
    with pytest.raises(ValueError, match="variants must be a table"):
        load_variants(path)


def test_a_strangers_file_imports_no_code():
    for name, table in (("inner", "module_nobody_has:Kind"), ("rule", "module_nobody_has:Kind")):
        with pytest.raises(ValueError, match="files import no code"):
            run_config({name: {"kind": table}}, "a file", importing=False)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "configs").iterdir()), ids=lambda x: x.name
)
def test_every_variant_of_the_studies_is_a_recipe(path):
    recipes = load_variants(path)
    assert len(recipes) > 10
    assert len({str(recipe) for recipe in recipes.values()}) == len(
        recipes
    )  # and another one than the others
