"""Search spaces: TOML rows become Optuna distributions, and every mistake is named before a trial runs."""

from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optsearch.errors import SpaceError, StudyError
from optsearch.meta_training import MetaTraining
from optsearch.optimizers import LSTM, MLP, LearnedOptimizer
from optsearch.search import resources
from optsearch.search.definition import StudyDefinition, define, preset
from optsearch.search.spaces import load_space, parse_space, trial_suggest

SPACE = """
description = "a small one"
[rule]
kind = ["mlp", "lstm"]
[rule.mlp]
hidden_size = { low = 4, high = 32, log = true }
activation = ["relu", "silu"]
[rule.lstm]
hidden_size = { low = 2, high = 6, step = 2 }
[mixing]
kind = ["none", "residual"]
[base]
kind = ["adamw", "sgdm"]
[base.adamw]
beta1 = { low = 0.8, high = 0.95 }
[meta_training]
meta_lr = { low = 1e-4, high = 1e-2, log = true }
num_tasks = 2
"""


def sampled(name: str, num_trials: int = 60) -> list[tuple[optuna.Trial, LearnedOptimizer, MetaTraining]]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    space = parse_space("small", SPACE) if name == "small" else load_space(name)
    trials = [study.ask() for _ in range(num_trials)]
    return [(trial, *space.suggest(trial_suggest(trial))) for trial in trials]


def test_rows_become_distributions() -> None:
    rows = dict(parse_space("small", SPACE).rows())
    assert rows["rule.kind"] == CategoricalDistribution(["mlp", "lstm"])
    assert rows["rule.mlp.hidden_size"] == IntDistribution(4, 32, log=True)
    assert rows["rule.lstm.hidden_size"] == IntDistribution(2, 6, step=2)
    assert rows["base.adamw.beta1"] == FloatDistribution(0.8, 0.95)
    assert rows["meta_training.num_tasks"] == 2


def test_rows_of_a_part_are_asked_only_where_it_is_chosen() -> None:
    for trial, design, settings in sampled("small"):
        asked = {name.rpartition(".")[0] for name in trial.params}
        assert ("rule.mlp" in asked) == isinstance(design.rule, MLP)
        assert ("rule.lstm" in asked) == isinstance(design.rule, LSTM)
        assert ("base" in asked) == (design.base is not None) == (trial.params["mixing.kind"] != "none")
        assert ("base.adamw" in asked) == (trial.params.get("base.kind") == "adamw")
        assert settings.meta_lr == trial.params["meta_training.meta_lr"]
        assert settings.num_tasks == 2


@pytest.mark.parametrize("name", resources.names(resources.SPACES))
def test_every_shipped_space_gives_designs(name: str) -> None:
    space = load_space(name)
    assert space.description
    designs = {design for _, design, _ in sampled(name)}
    assert len(designs) > 20
    for design in designs:
        assert LearnedOptimizer.from_config(design.to_config()) == design


@pytest.mark.parametrize("name", resources.names(resources.STUDIES))
def test_every_shipped_study_is_one(name: str) -> None:
    definition, num_trials = preset(name)
    assert num_trials >= 12
    assert definition.parsed_space().name == definition.space


@pytest.mark.parametrize(("change", "words"), [
    (("[rule]", "[roule]"), ("`roule`", "Parts:", "rule")),
    (("hidden_size = { low = 4", "hiden_size = { low = 4"), ("rule.mlp.hiden_size", "hidden_size")),
    (('"lstm"]', '"gru"]'), ("rule.kind", "`gru`", "lstm")),
    (('kind = ["mlp", "lstm"]', 'kind = "mlp"'), ("rule.lstm", "never be used")),
    (("low = 4, high = 32", "low = 40, high = 32"), ("rule.mlp.hidden_size", "40", "empty")),
    (("low = 4, high = 32", "low = 0, high = 32"), ("rule.mlp.hidden_size",)),
    (("low = 4, high", "lo = 4, high"), ("rule.mlp.hidden_size", "low and high")),
    (('["relu", "silu"]', "[]"), ("rule.mlp.activation", "empty")),
    (('["relu", "silu"]', '["relu", "relu"]'), ("rule.mlp.activation", "repeats")),
    (('["relu", "silu"]', '["relu", "cosine"]'), ("cosine", "tanh")),
    (("beta1 = { low = 0.8, high = 0.95 }", "beta1 = { low = 0.8, high = 1.5 }"), ("base", "beta1")),
    (("num_tasks = 2", "num_task = 2"), ("meta_training.num_task", "num_tasks")),
    (("[mixing]\nkind", "[mixing]\nkinds"), ("mixing", "no row `kind`")),
    (("[rule]", "[rule"), ("not valid TOML",)),
])
def test_a_mistake_names_file_row_and_what_exists(change: tuple[str, str], words: tuple[str, ...]) -> None:
    assert change[0] in SPACE
    with pytest.raises(SpaceError) as caught:
        parse_space("mine.toml", SPACE.replace(*change, 1))
    assert "mine.toml" in str(caught.value)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_space_comes_from_the_users_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SPACE)
    assert load_space(str(path)).description == "a small one"
    with pytest.raises(SpaceError, match=r"quickstart.*\.toml file"):
        load_space("nothing")


def test_a_study_notices_that_its_space_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SPACE)
    definition = define(space=str(path), tasks=["quadratics"])
    definition.check_unchanged()
    path.write_text(SPACE.replace("high = 6", "high = 8"))
    with pytest.raises(StudyError, match="has changed"):
        definition.check_unchanged()


@pytest.mark.parametrize("change", [{"horizon": 0}, {"budget": 0}, {"num_points": 0}, {"nonsense": 1}])
def test_a_definition_that_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=next(iter(change))):
        define(space="quickstart", tasks=["quadratics"], **change)


def test_a_domain_stands_for_its_tasks() -> None:
    assert define(space="quickstart", tasks=["quadratics", "digits_mlp"], domain="vision").tasks == (
        "quadratics", "digits_mlp", "digits_cnn")


def test_a_study_that_is_not_ours_is_refused() -> None:
    with pytest.raises(StudyError, match="not made by optsearch"):
        StudyDefinition.of(optuna.create_study())
