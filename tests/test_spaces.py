"""Search spaces: TOML rows become Optuna distributions, and every mistake is named before a trial runs."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from optsearch.errors import SpaceError, StudyError
from optsearch.meta_training import MetaTraining
from optsearch.optimizers import DESIGNS, LSTM, MLP, AdamW, History, LearnedOptimizer, Observation, named_design
from optsearch.optimizers.kinds import PARTS
from optsearch.optimizers.mixings import Residual
from optsearch.optimizers.muon import Muon
from optsearch.search import resources
from optsearch.search.definition import StudyDefinition, define, preset
from optsearch.search.rows import Suggest, extremes, random_suggest, trial_suggest
from optsearch.search.spaces import load_space, parse_space
from optsearch.tasks import families, suites

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


SWITCHED = """
[features.groups]
rows_and_columns = [true, false]
momentum = true
time = false
[controller]
kind = ["none", "gru"]
[tensors.groups]
gradient = true
loss = [false, true]
[controls]
context_size = [0, 4]
film = [true, false]
"""
DRAW = random_suggest(seed=0)
_TRANSFORMER = '[controller]\nkind = "transformer"\n[controller.transformer]\nattends = ["tensors", "both"]\n'


def _switches(rows: str) -> str:
    return f"[features.groups]\n{rows}\n[rule]"


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


def test_groups_are_switched_one_by_one_and_keep_their_order() -> None:
    space = parse_space("switched", SWITCHED)
    rows = dict(space.rows())
    assert rows["features.groups.rows_and_columns"] == CategoricalDistribution([True, False])
    assert (rows["features.groups.momentum"], rows["features.groups.time"]) == (True, False)
    seen: set[Any] = set()
    for _ in range(60):
        asked: dict[str, Any] = {}
        design, _ = space.suggest(recorded(asked))
        lines = ("rows_and_columns",) if asked["features.groups.rows_and_columns"] else ()
        assert design.features.groups == (*lines, "momentum")
        if design.has_controller:
            assert design.tensors.groups == ("gradient", *(("loss",) if asked["tensors.groups.loss"] else ()))
        seen.add((design.features.groups, design.tensors.groups))
    assert len(seen) == 6


def test_what_would_change_nothing_is_not_asked() -> None:
    text = SWITCHED + '[rule]\nkind = ["mlp", "none"]\n[head]\nkind = ["raw", "output_rms"]\n' + (
        '[mixing]\nkind = ["none", "residual", "gated"]\n[base]\nkind = ["adamw", "sgdm"]\n'
        '[schedule]\nkind = ["constant", "progress"]\n')
    space = parse_space("switched", text)
    for _ in range(100):
        asked: dict[str, Any] = {}
        design, _ = space.suggest(recorded(asked))
        slots = {name.partition(".")[0] for name in asked}
        assert ({"features", "head", "mixing"} & slots == {"features", "head", "mixing"}) == design.has_rule
        assert ("tensors" in slots) == design.has_controller
        assert ("controls" in slots) == (design.has_controller and design.has_rule)
        assert ("controls.film" in asked) == bool(asked.get("controls.context_size"))
        assert ("base" in slots) == (design.base is not None)
        assert ("schedule" in slots) == (design.has_rule or design.has_controller)
        if not design.has_rule:
            assert isinstance(design.mixing, Residual)


def recorded(asked: dict[str, Any]) -> Suggest:
    """Random suggestions that are written down."""
    def suggest(name: str, distribution: BaseDistribution) -> Any:
        return asked.setdefault(name, DRAW(name, distribution))

    return suggest


def _answered(point: dict[str, Any], name: str, _: BaseDistribution) -> Any:
    return point[name]


@pytest.mark.parametrize("name", resources.names(resources.SPACES))
def test_every_shipped_space_gives_designs(name: str) -> None:
    space, draw = load_space(name), random_suggest(seed=1)
    assert space.description
    points = [space.suggest(draw) for _ in range(200)]
    configs = [design.to_config() for design, _ in points]
    assert len({design for design, _ in points}) > 50 or 'design = "' in space.text
    for slot, part in space.parts.items():
        if slot in PARTS:
            assert {config[slot]["kind"] for config in configs if slot in config} >= set(extremes(part.kind))
    for design, settings in points:
        assert LearnedOptimizer.from_config(design.to_config()) == design
        assert replace(settings, horizon=space.longest_truncation)
        assert design.init_weights(torch.Generator().manual_seed(0))
        known = space.point_of(design, settings)
        assert known is not None
        assert space.suggest(partial(_answered, known)) == (design, settings)


def test_a_design_that_a_space_does_not_have_is_no_point_of_it() -> None:
    space = load_space("adamw_mlp")
    design, settings = space.suggest(DRAW)
    assert space.point_of(replace(design, controller=History()), settings) is None
    point = space.point_of(design, replace(settings, meta_lr=1e9))
    assert point is not None
    assert point["meta_training.meta_lr"] == max(extremes(space.row("meta_training.meta_lr")))


@pytest.mark.parametrize("name", resources.names(resources.SPACES))
def test_designs_of_every_shipped_space_take_finite_steps(name: str) -> None:
    space, draw = load_space(name), random_suggest(seed=2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        design, _ = space.suggest(draw)
        params = {"0.weight": torch.randn(3, 4, generator=generator), "0.bias": torch.zeros(3)}
        weights, state = design.init_weights(generator), design.init(params)
        for _ in range(3):
            gradients = {key: torch.randn(leaf.shape, generator=generator) for key, leaf in params.items()}
            seen = Observation(gradients, params, torch.tensor([0.5]), loss=torch.ones(1), num_steps=torch.ones(1))
            updates, state = design.update(weights, seen, state)
            params = {key: params[key] + update for key, update in updates.items()}
        assert all(leaf.isfinite().all() for leaf in params.values())


def test_thirty_trials_of_all_meet_every_family() -> None:
    """All but two in a hundred times, for each family."""
    space, draw = load_space("all"), random_suggest(seed=3)
    families = [{f"{slot} {part['kind']}" for slot, part in space.suggest(draw)[0].to_config().items()}
                for _ in range(2000)]
    for members in ({"rule mlp"}, {"rule lstm", "rule gru"}, {"controller transformer"}, {"controller gnn"},
                    {"controller history"}, {"mixing fixed", "mixing gated", "mixing adaptive", "mixing trust"}):
        share = sum(bool(members & family) for family in families) / len(families)
        assert (1 - share) ** 30 < 0.02, members


@pytest.mark.parametrize("name", resources.names(resources.STUDIES))
def test_every_shipped_study_is_one(name: str) -> None:
    definition, num_trials = preset(name)
    assert num_trials >= (1 if name == "general" else 6)
    assert definition.parsed_space().name == definition.space


@pytest.mark.parametrize(("change", "words"), [
    (("[rule]", "[roule]"), ("`roule`", "Parts:", "rule")),
    (("hidden_size = { low = 4", "hiden_size = { low = 4"), ("rule.mlp.hiden_size", "hidden_size")),
    (('"lstm"]', '"rnn"]'), ("rule.kind", "`rnn`", "lstm")),
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
    (("[base]", "[controls]\ngain = 2.0\n[base]"), ("controls", "controller", "never be used")),
    (('kind = ["none", "residual"]', 'kind = "none"'), ("base", "mixing", "never be used")),
    (("num_tasks = 2", "horizon = 40"), ("meta_training.horizon", "never be used")),
    (("num_tasks = 2", "truncation = [20, 30, 40]"), ("num_meta_losses (4)", "truncation = 30")),
    (('["mlp", "lstm"]', '["mlp", "lstm", "none"]\n[schedule]\nkind = "constant"'), ("schedule.kind", "progress")),
    (("[rule]", _switches("momentum = [true, false]")), ("features.groups", "momentum", "no group is true")),
    (("[rule]", _switches("momentum = 1")), ("features.groups.momentum", "true, false or [true, false]")),
    (("[rule]", _switches("momentum = true\nmomentun = [true, false]")), ("features", "`momentun`", "second_moment")),
    (("[rule]", _switches("momentum = true\nmomentun = false")), ("features", "`momentun`", "second_moment")),
    (("[rule]", _switches("momentum = [true, false]\ntime = true")), ("features", "must differ between parameters")),
    (("[rule]", _TRANSFORMER + "num_layers = [1, 2]\n[rule]"), ("num_layers", "attends = both")),
    (("[rule]", _TRANSFORMER + "num_heads = [1, 3]\n[rule]"), ("num_heads", "num_heads = 3")),
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
    path.write_text('description = "cut short"')
    with pytest.raises(SpaceError, match=r"mine.toml: it is empty, .* `design = \"NAME\"`"):
        load_space(str(path))


@pytest.mark.parametrize("name", DESIGNS)
def test_a_space_may_be_one_named_design(name: str) -> None:
    space = parse_space("one.toml", f'design = "{name}"\n[meta_training]\nmeta_lr = {{ low = 1e-3, high = 1e-2 }}\n')
    assert [row for row, leaf in space.rows() if isinstance(leaf, BaseDistribution)] == ["meta_training.meta_lr"]
    design, settings = space.suggest(random_suggest(seed=0))
    assert design == named_design(name)
    assert 1e-3 <= settings.meta_lr <= 1e-2


def test_tables_take_the_place_of_a_named_designs_parts() -> None:
    space = parse_space("one.toml", 'design = "adamw_gru"\n[base]\nkind = ["adamw", "muon"]\n')
    found = {space.suggest(random_suggest(seed=seed))[0].base for seed in range(8)}
    assert found == {AdamW(), Muon()}
    with pytest.raises(SpaceError, match=r"one.toml: design: there is no design `magic`. Designs: adamw_gnn"):
        parse_space("one.toml", 'design = "magic"')


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


def test_a_domain_stands_for_its_tasks_some_of_them_held_out() -> None:
    roles = suites.roles("vision")
    learned = roles.meta_training + roles.validation
    definition = define(space="quickstart", tasks=["quadratics"], domains={"vision": 3.0}, held_out=["spectra"])
    assert definition.tasks == ("quadratics", *learned)
    assert definition.weights == (1.0, *[3.0 / len(learned)] * len(learned))
    assert definition.held_out == ("spectra", *roles.held_out)
    assert {family.name for family in definition.selected_on} == {
        family.name for name in definition.tasks for family in families(name)}
    weights = dict(zip([family.name for family in definition.distribution().families],
                       definition.distribution().weights, strict=True))
    assert weights["quadratics"] == 1.0
    assert weights["digits_mlp/32"] == pytest.approx(3.0 / len(learned) / 3)


def test_a_family_with_two_roles_is_refused() -> None:
    with pytest.raises(StudyError, match="digits_mlp/64 is both for meta-training and validation"):
        define(space="quickstart", tasks=["digits_mlp"], validation=["digits_mlp/64"])
    definition = define(space="quickstart", tasks=["digits_mlp/32"], validation=["digits_mlp/64"])
    assert [family.name for family in definition.selected_on] == ["digits_mlp/64"]


def test_a_study_that_is_not_ours_is_refused() -> None:
    with pytest.raises(StudyError, match="not made by optsearch"):
        StudyDefinition.of(optuna.create_study())
