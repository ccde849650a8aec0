"""What a study learns from earlier ones: of other spaces, of other values, and of none that have to do with it."""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import conditional_function
import numpy
import optuna
import pytest
import torch
from conditional_function import KINDS, objective, true_value
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from optsearch.errors import StudyError
from optsearch.optimizers.optimizer import LearnedOptimizer
from optsearch.search.definition import StudyDefinition, define
from optsearch.search.gp_sampler import ConditionalGPSampler
from optsearch.search.objectives import design_of
from optsearch.search.rows import Suggest
from optsearch.search.spaces import load_space, parse_space
from optsearch.search.study import Store
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.graphs import graph_features
from optsearch.search.surrogate.kernels import TransferKernel
from optsearch.search.surrogate.process import Observations, fit
from optsearch.search.surrogate.tree import Params, TreeSpace
from optsearch.search.transfer import MAX_ROWS, NUM_POINTS, Inheritance, Source, source_of

TREE = conditional_function.tree()
OLD_KINDS = KINDS[:3]
SHIFT = 0.1
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def old_walk(suggest: Suggest) -> float:
    """The same shape with its best moved, one kind less, one parameter more, and values of another scale."""
    def moved(name: str, distribution: BaseDistribution) -> Any:
        if name == "kind":
            return suggest(name, CategoricalDistribution(OLD_KINDS))
        value = suggest(name, distribution)
        is_moved = name in ("momentum", "decay") or name.endswith(("width", "depth"))
        return value - SHIFT if is_moved else value

    warmup = suggest("warmup", FloatDistribution(0, 1))
    return 3 * (conditional_function.walk(moved) + (warmup - 0.3) ** 2) - 1


OLD_TREE = TreeSpace.of(old_walk)


def old_value(point: Params) -> float:
    return old_walk(lambda name, _: point[name])


def study_of(tree: TreeSpace, points: Sequence[Params], values: Sequence[float]) -> optuna.Study:
    study = optuna.create_study()
    for point, value in zip(points, values, strict=True):
        study.add_trial(trial_of(tree, point, value=value))
    return study


def trial_of(tree: TreeSpace, point: Params, **kwargs: Any) -> optuna.trial.FrozenTrial:
    return create_trial(params=point, distributions={name: tree.distributions[name] for name in point}, **kwargs)


def related(seed: int, count: int = 40) -> Source:
    points = OLD_TREE.sample(seed, count)
    return source_of(study_of(OLD_TREE, points, [old_value(point) for point in points]), TREE)


def unrelated(seed: int, count: int = 40) -> Source:
    values = numpy.random.default_rng(seed).standard_normal(count).tolist()
    return source_of(study_of(OLD_TREE, OLD_TREE.sample(seed, count), values), TREE)


def test_parameters_are_taken_as_far_as_they_fit() -> None:
    tree = TreeSpace.flat({"kind": CategoricalDistribution(["a", "b"]), "rate": FloatDistribution(1e-3, 1e-1, log=True),
                           "size": IntDistribution(2, 8, step=2), "new": FloatDistribution(0, 1)})
    old = TreeSpace.flat({"kind": CategoricalDistribution(["a", "c"]), "rate": FloatDistribution(1e-6, 1.0, log=True),
                          "size": IntDistribution(1, 100), "gone": FloatDistribution(0, 1)})
    study = study_of(old, [{"kind": "a", "rate": 1e-5, "size": 70, "gone": 0.5},
                           {"kind": "c", "rate": 1e-2, "size": 5, "gone": 0.5}], [2.0, 1.0])
    source = source_of(study, tree)
    assert source.points[0] == {"kind": "a", "rate": pytest.approx(1e-3), "size": 8}
    assert {name: source.points[1][name] for name in ("kind", "rate")} == {"kind": "c", "rate": 1e-2}
    assert source.points[1]["size"] in (4, 6)
    encoding = Encoding(tree, num_sources=1)
    rows = Inheritance(encoding, [source]).rows
    assert rows[:, encoding.choices].tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert rows[:, encoding.source].tolist() == [[1.0], [1.0]]
    assert rows[0, encoding.active].tolist() == [1.0, 1.0, 0.0]
    assert torch.equal(rows[:, :encoding.source.start], Encoding(tree).encode(source.points))
    # The best one has a choice that the new tree lacks: it is no point of it.
    (point,) = Inheritance(encoding, [source]).points
    assert tree.complete(point, pytest.fail) == point
    assert (point["kind"], point["size"]) == ("a", 8)


def test_pruned_trials_count_with_a_deviation_and_failed_ones_not() -> None:
    points = OLD_TREE.sample(0, 6)
    study = optuna.create_study(direction="maximize")
    for point, value in zip(points[:3], (1.0, 2.0, 6.0), strict=True):
        study.add_trial(trial_of(OLD_TREE, point, value=value))
    study.add_trial(trial_of(OLD_TREE, points[3], state=TrialState.PRUNED, intermediate_values={5: 1.5}))
    study.add_trial(trial_of(OLD_TREE, points[4], state=TrialState.FAIL, intermediate_values={5: 9.0}))
    source = source_of(study, TREE)
    assert source.values == (-1.0, -2.0, -6.0, -1.5)
    assert source.deviations == (0.0, 0.0, 0.0, pytest.approx((4.0 - 1.5) / 3))
    assert source.best_first == [2, 1, 3, 0]


def test_of_many_trials_the_best_and_a_spread_of_others_are_kept() -> None:
    source = Source(tuple({"x": index} for index in range(500)), (None,) * 500,
                    tuple(float(value) for value in numpy.random.default_rng(0).permutation(500)), (0.0,) * 500)
    kept = source.capped(40).values
    assert sorted(kept)[:20] == list(range(20))
    assert numpy.diff(sorted(kept)[20:]).max() <= 26
    assert max(kept) == 499
    assert len(Inheritance(Encoding(TREE, num_sources=2), [source, related(0)]).values) == MAX_ROWS // 2 + 40


def test_the_kernel_is_the_design_kernel_times_a_covariance_of_sources() -> None:
    encoding = Encoding(TREE, num_sources=2)
    kernel = TransferKernel(encoding).double()
    rows = encoding.encode(TREE.sample(0, 30))
    rows[:, encoding.source.start] = torch.tensor([0, 1, 2] * 10)
    with torch.no_grad():
        kernel.raw_relations.copy_(torch.tensor([2.0, -1.0]))
        kernel.raw_amplitudes.copy_(torch.tensor([0.3, -0.2]))
        found = kernel(rows).to_dense()
        plain = kernel.design(rows).to_dense()
        (first, second), (big, small) = kernel.relations, kernel.learned("amplitudes")
        assert torch.allclose(kernel(rows, diag=True), found.diag())
    own = found[0, 0] - plain[0, 0]
    assert torch.allclose(found[0::3, 0::3], plain[0::3, 0::3] + own)
    assert torch.allclose(found[0::3, 1::3], first * big * plain[0::3, 1::3])
    assert torch.allclose(found[1::3, 2::3], first * second * big * small * plain[1::3, 2::3])
    assert torch.allclose(found[2::3, 2::3], small**2 * plain[2::3, 2::3] + own)
    assert torch.linalg.eigvalsh(found).min() > 0


def relation(source: Source, num_trials: int = 25) -> float:
    """How much the source is found to tell about random points of the new study."""
    encoding, points = Encoding(TREE, num_sources=1), TREE.sample(99, num_trials)
    before, values = Inheritance(encoding, [source]), [true_value(point) for point in points]
    everything = torch.tensor([*before.values, *values], dtype=torch.float64)
    process = fit(encoding, Observations(torch.cat([before.rows, encoding.encode(points)]), everything,
                                         torch.zeros_like(everything)))
    return float(process.covar_module.relations.detach())


def test_how_much_a_study_tells_is_learned() -> None:
    assert relation(related(1)) > 0.6
    assert relation(unrelated(1)) < 0.4


@pytest.mark.usefixtures("nothing_at_random")
def test_the_best_old_points_come_first_then_fewer_random_ones_than_without() -> None:
    source = related(0)
    sampler = ConditionalGPSampler(TREE, seed=0, num_startup_trials=8, previous=[source])
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=1)
    # One that fails is not tried again.
    trial = study.ask()
    TREE.walk(trial._suggest)
    study.tell(trial, state=TrialState.FAIL)
    study.optimize(objective, n_trials=NUM_POINTS + 1)
    hows = [trial.user_attrs["sampler"] for trial in study.trials]
    # Six that did not fail, where there would be eight.
    assert hows == ["transfer"] * NUM_POINTS + ["startup"] * 3
    best = [source.points[index] for index in source.best_first[:NUM_POINTS]]
    assert [{name: trial.params[name] for name in point}
            for trial, point in zip(study.trials[:NUM_POINTS], best, strict=True)] == best
    study.optimize(objective, n_trials=1)
    assert study.trials[-1].user_attrs["sampler"] == "gp"
    for trial in study.trials:
        assert TREE.complete(trial.params, pytest.fail) == trial.params


def best_of_15(previous: Callable[[int], list[Source]]) -> float:
    def best(seed: int) -> float:
        study = optuna.create_study(sampler=ConditionalGPSampler(TREE, seed=seed, previous=previous(seed)))
        study.optimize(objective, n_trials=15)
        assert not [trial for trial in study.trials if "fallback" in trial.user_attrs["sampler"]]
        return min(true_value(trial.params) for trial in study.trials)

    return median(best(seed) for seed in range(5))


@pytest.mark.slow
def test_a_related_study_helps_and_an_unrelated_one_does_little_harm() -> None:
    alone = best_of_15(lambda seed: [])
    assert best_of_15(lambda seed: [related(seed)]) < 0.5 * alone
    assert best_of_15(lambda seed: [unrelated(seed)]) < 1.5 * alone


SMALL = """
description = "small"
[features]
groups = ["lean", "compact"]
[rule]
kind = "mlp"
[rule.mlp]
hidden_size = {{ low = 4, high = 8 }}
[mixing]
kind = {mixing}
[base]
kind = ["adamw", "sgdm"]
[meta_training]
num_tasks = 2
meta_lr = {{ low = 1e-3, high = 1e-2, log = true }}
"""
OLD_SPACE = SMALL.format(mixing='"residual"')
NEW_SPACE = SMALL.format(mixing='["residual", "gated"]').replace('"mlp"', '["mlp", "lstm"]')


def test_graphs_and_what_the_old_space_did_not_ask_come_from_the_design() -> None:
    old, new = parse_space("old", OLD_SPACE), parse_space("new", NEW_SPACE)
    old_tree, tree = TreeSpace.of(old.suggest), TreeSpace.of(new.suggest)
    study, designs = optuna.create_study(), []
    for point in old_tree.sample(0, 5):
        designs.append(old.suggest(lambda name, _, point=point: point[name])[0].to_config())
        study.add_trial(trial_of(old_tree, point, value=0.0,
                                 user_attrs={"design": json.loads(json.dumps(designs[-1]))}))
    source = source_of(study, tree)
    for point, trial in zip(source.points, study.trials, strict=True):
        assert point == {**trial.params, "rule.kind": "mlp", "mixing.kind": "residual"}
        assert tree.complete(point, pytest.fail) == point
    encoding = Encoding(tree, lambda params: new.suggest(lambda name, _: params[name])[0].graph(), num_sources=1)
    rows = Inheritance(encoding, [source]).rows
    for row, design in zip(rows, designs, strict=True):
        assert torch.equal(row[encoding.graph], graph_features(LearnedOptimizer.from_config(design).graph()))
    # The same design of another study is the same to the model, but for its source.
    assert torch.equal(rows[:, :encoding.source.start],
                       encoding.encode(source.points)[:, :encoding.source.start])
    study.add_trial(trial_of(old_tree, study.trials[0].params, value=0.0,
                             user_attrs={"design": {"rule": {"kind": "abolished"}}}))
    assert source_of(study, tree).graphs[-1] is None


@pytest.mark.slow
def test_fields_of_designs_stand_under_the_names_that_the_largest_space_asks() -> None:
    space = load_space("all")
    tree = TreeSpace.of(space.suggest)
    for point in tree.sample(3, 20):
        design = space.suggest(lambda name, _, point=point: point[name])[0].to_config()
        study = optuna.create_study()
        study.add_trial(create_trial(value=0.0, user_attrs={"design": json.loads(json.dumps(design))}))
        (found,) = source_of(study, tree).points
        assert found == {name: value for name, value in point.items() if not name.startswith("meta_training")}


def definition(**kwargs: Any) -> StudyDefinition:
    return define(space="all", tasks=["quadratics"], **kwargs)


def test_a_study_must_exist_to_be_learned_from(tmp_path: Path) -> None:
    store = Store.at(f"sqlite:///{tmp_path}/studies.db")
    with pytest.raises(StudyError, match=r"no study `old`.*\Z"):
        store.create("new", definition(previous=["old"]))
    store.create("old", definition())
    store.create("new", definition(previous=["old", "old"]))
    assert StudyDefinition.of(store.load("new")).previous == ("old",)
    assert store.missing("new") == []
    store.delete("old")
    assert store.missing("new") == ["old"]
    with pytest.raises(StudyError, match="--from needs the sampler gp, not tpe"):
        definition(previous=["old"], sampler="tpe")


@pytest.mark.slow
def test_two_studies_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run([sys.executable, "-m", "optsearch", "study", *words], capture_output=True, text=True,
                                check=False)
        assert result.returncode == 0, result.stderr
        return result

    def created(name: str, text: str, horizon: str, *words: str) -> None:
        Path(f"{name}.toml").write_text(text)
        call("create", name, "--space", f"{name}.toml", "--task", "quadratics", "--horizon", horizon,
             "--budget", "1600", *words)

    created("old", OLD_SPACE, "40")
    call("run", "old", "--trials", "4", "--workers", "2", "--quiet")
    created("new", NEW_SPACE, "60", "--from", "old")
    assert json.loads(call("show", "new", "--json").stdout)["previous"] == ["old"]
    call("run", "new", "--trials", "1", "--quiet")
    old, new = (Store.at().load(name) for name in ("old", "new"))
    first = new.trials[0]
    assert first.user_attrs["sampler"] == "transfer"
    assert design_of(first) == design_of(old.best_trial) != {}
    call("delete", "old", "--yes")
    result = call("run", "new", "--trials", "2", "--quiet")
    assert "not there to learn from any more: old" in result.stderr
    assert Store.at().load("new").trials[1].user_attrs["sampler"] == "startup"
