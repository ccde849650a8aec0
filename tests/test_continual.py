"""Learning on without forgetting: closed forms on a parabola, brute force, and weights that must not move by a bit."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from parabola import LinearOptimizer, parabola

from optsearch import trees
from optsearch.adaptation import Keeping, kept, replayed, tasks_behind
from optsearch.adaptation.consolidation import ConsolidatedEstimator, importance
from optsearch.adaptation.progressive import free_entries
from optsearch.errors import DesignError, UsageError
from optsearch.export import Artifact
from optsearch.meta_training import MetaTraining, Plan, meta_train
from optsearch.meta_training.estimators import ESTIMATORS
from optsearch.meta_training.steps import Steps
from optsearch.meta_training.windows import Problem
from optsearch.optimizers import GRU, LSTM, MLP, LearnedOptimizer, Observation
from optsearch.optimizers.rules import NoRule
from optsearch.search.adapting import Adapting, adapt
from optsearch.search.processes import Run
from optsearch.search.study import Store
from optsearch.seeds import generator
from optsearch.tasks import TaskDistribution, families, families_of
from optsearch.trees import Tree

LENGTH, RATE = 6, 0.1
CLOSED = MetaTraining(horizon=LENGTH, num_tasks=1, truncation=LENGTH, num_meta_losses=LENGTH, min_horizon_ratio=1.0)
SMALL = MetaTraining(horizon=20, num_tasks=1, truncation=10, num_meta_losses=2)
OLD = LearnedOptimizer(rule=MLP(hidden_size=4))


@dataclass(frozen=True)
class TwoRates(LinearOptimizer):
    """The second weight counts three times as much."""

    def init_weights(self, generator: torch.Generator) -> Tree:
        return {"rate": torch.tensor([RATE / 4, RATE / 4], dtype=torch.float64)}

    def update(self, weights: Tree, observation: Observation, state: Tree) -> tuple[Tree, Tree]:
        rate = (weights["rate"] * torch.tensor([1.0, 3.0])).sum(-1, keepdim=True)
        return super().update({"rate": rate}, observation, state)


def slope(rate: float) -> float:
    """Of the mean over t of 2 t/T (2 t log(1 - r) - log 2)."""
    return sum(-4 * t * t / LENGTH for t in range(1, LENGTH + 1)) / LENGTH / (1 - rate)


def measuring(name: str, budget: int) -> Plan:
    return Plan(TwoRates(), [parabola(torch.float64)], CLOSED, budget, 1, 0,  # type: ignore[arg-type]
                estimator=ESTIMATORS[name])


def test_consolidation_adds_its_pull_to_a_closed_form() -> None:
    problem = Problem(Steps(LinearOptimizer(), parabola(torch.float64)), CLOSED, {"rate": (1,)})
    one = torch.ones(1, dtype=torch.float64)
    estimator = ConsolidatedEstimator(ESTIMATORS["backprop"], 0.03 * one, 2.0 * one, 5.0)
    state = estimator.start(problem, 1, generator(0, "start"))
    found = estimator.meta_gradient(problem, state, RATE * one, generator(0, "step")).gradient
    expected = slope(RATE) + abs(slope(RATE)) * 5 * 2 * (RATE - 0.03)
    assert float(found) == pytest.approx(expected, rel=1e-9)
    assert estimator.inner_steps(CLOSED) == LENGTH
    # At the anchor nothing pulls.
    there = estimator.meta_gradient(problem, state, 0.03 * one, generator(0, "step")).gradient
    assert float(there) == pytest.approx(slope(0.03), rel=1e-9)


def test_importance_is_the_mean_square_of_meta_gradients() -> None:
    """They are as 1 to 3; what evolution strategies find has squares of |g|² + 2 g², which are as 12 to 28."""
    torch.testing.assert_close(importance(measuring("backprop", 12)), torch.tensor([0.2, 1.8]).double())
    found = importance(measuring("full_es", 6000))
    torch.testing.assert_close(found, torch.tensor([0.6, 1.4]).double(), atol=0.15, rtol=0)


def test_importance_equals_brute_force_over_families_and_windows() -> None:
    """Every training of a real design one by one, every squared gradient by hand."""
    initial = {name: leaf + 0.1 for name, leaf in OLD.init_weights(generator(0)).items()}
    plan = Plan(OLD, families("rosenbrock"), SMALL, 90, 1, 3, initial=initial, estimator=ESTIMATORS["backprop"])
    weights, squares = trees.ravel(initial), []
    for index, family in enumerate(plan.distribution.families):
        problem = Problem(Steps(OLD, family), SMALL, trees.shapes_of(initial))
        state = ESTIMATORS["backprop"].start(problem, len(weights), generator(3, "importance", index))
        for turn in range(index, 9, 3):
            found = ESTIMATORS["backprop"].meta_gradient(problem, state, weights,
                                                         generator(3, "importance of turn", turn))
            state = found.state
            squares.append(found.gradient.square())
    assert len(squares) == 9
    mean = torch.stack(squares).mean(0)
    torch.testing.assert_close(importance(plan), mean / mean.mean())


def test_what_is_measured_is_part_of_the_budget() -> None:
    plan = Plan(OLD, families("quadratics"), SMALL, 400, 1, 0)
    after = kept(plan, Keeping("ewc"), families("rosenbrock"))
    # A tenth: four windows of ten steps of single trainings.
    assert after.budget == 360
    (point,) = meta_train(after)
    assert point.inner_steps == 360


def test_the_stronger_the_pull_the_nearer_weights_stay() -> None:
    plan = kept(Plan(OLD, families("quadratics"), SMALL, 800, 1, 0), Keeping("ewc"), families("quadratics"))
    estimator, distances = plan.estimator, []
    assert isinstance(estimator, ConsolidatedEstimator)
    for strength in (1e-6, 1.0, 1000.0):
        (point,) = meta_train(replace(plan, estimator=replace(estimator, strength=strength)))
        moved = trees.ravel(point.weights) - estimator.anchor
        distances.append(float((estimator.importance * moved.square()).sum()))
    assert distances[0] > 2 * distances[1] > 4 * distances[2]


@pytest.mark.parametrize("rule", [MLP(hidden_size=4), GRU(hidden_size=4), LSTM(hidden_size=4, input_size=3)])
def test_a_column_of_new_units_leaves_the_old_one_as_it_was(rule: Any) -> None:
    old = replace(OLD, rule=rule)
    initial = {name: leaf + 0.1 * torch.randn(leaf.shape, generator=generator(1, name))
               for name, leaf in old.init_weights(generator(0)).items()}
    settings = replace(SMALL, meta_weight_decay=0.1)
    plan = kept(Plan(old, families("quadratics"), settings, 1200, 2, 0, initial=initial),
                Keeping("progressive", num_units=3), families("rosenbrock"))
    *_, point = meta_train(plan)
    free = free_entries(old, plan.optimizer)
    before, after = trees.ravel(plan.first_weights()), trees.ravel(point.weights)
    assert torch.equal(before[~free], after[~free])
    assert (before[free] != after[free]).float().mean() > 0.5
    assert not torch.equal(stepped(plan.optimizer, point.weights), stepped(old, initial))
    # Nothing of the old column hears of the new one, but for the readout.
    readout = point.weights["rule.output.weight"].clone()
    readout[:, rule.hidden_size:] = 0
    torch.testing.assert_close(stepped(plan.optimizer, point.weights | {"rule.output.weight": readout}),
                               stepped(old, initial))


def stepped(design: LearnedOptimizer, weights: Tree) -> torch.Tensor:
    params = {"x": torch.linspace(-1, 1, 12).reshape(3, 4)}
    state, found = design.init(params), []
    for index in range(3):
        gradients = {"x": torch.randn(3, 4, generator=generator(index, "gradients"))}
        updates, state = design.update(weights, Observation(gradients, params, torch.tensor([index / 3])), state)
        found.append(updates["x"])
    return torch.stack(found)


def test_old_tasks_have_their_share_of_the_turns() -> None:
    new, old = TaskDistribution.of(families("spectra"), "loss_balanced"), families_of(["quadratics", "rosenbrock"])
    found = replayed(new, [*old, *families("spectra")], 0.3)
    assert [family.name for family in found.families] == [family.name for family in (*new.families, *old)]
    assert found.sampling == "loss_balanced"
    plain = replace(found, sampling="uniform")
    state = plain.start()
    for _ in range(200):
        state = plain.after(state, plain.turn(state))
    torch.testing.assert_close(state["count"], torch.tensor([140 / 3] * 3 + [15.0] * 4).double(), atol=1, rtol=0)
    assert replayed(new, families("spectra"), 0.3) is new


def test_all_tasks_behind_an_artifact_are_known() -> None:
    first = {"study": "old", "tasks": ["digits_mlp", "quadratics"]}
    second = {"tasks": ["quadratics", "spectra"], "initial": first}
    assert tasks_behind({"tasks": ["rosenbrock"], "initial": second}) == [
        "rosenbrock", "quadratics", "spectra", "digits_mlp"]
    assert tasks_behind({}) == []


def test_what_cannot_be_kept_is_refused() -> None:
    with pytest.raises(UsageError, match="replay"):
        Keeping("dropout")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="between 0 and 1"):
        Keeping(share=1.0)
    with pytest.raises(DesignError, match="without a rule"):
        Keeping("progressive").design_from(LearnedOptimizer(rule=NoRule()))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    weights = {name: leaf + 0.1 for name, leaf in OLD.init_weights(generator(0)).items()}
    Artifact(OLD, weights, {"tasks": ["rosenbrock"], "meta_training": {"horizon": 40, "num_tasks": 2}}).save(
        Path("old.safetensors"))
    return tmp_path


@pytest.mark.parametrize("method", ["progressive", *(pytest.param(name, marks=pytest.mark.slow)
                                                    for name in ("ewc", "replay"))])
def test_the_command_keeps_what_an_artifact_has_learned(home: Path, method: str) -> None:
    ran = call("adapt", "old.safetensors", "--task", "quadratics", "--budget", "1600", "--keep", method, "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["inner_steps"] == 1600
    found = Artifact.load(Path("mine.safetensors"))
    assert found.provenance["keep"] == Keeping(method).to_config() | {"tasks": ["rosenbrock"]}  # type: ignore[arg-type]
    assert found.provenance["tasks"] == ["quadratics"]
    assert found.design == Keeping(method).design_from(OLD)  # type: ignore[arg-type]
    again = call("adapt", "mine.safetensors", "--task", "quadratics", "--budget", "800", "--keep", method,
                 "-o", "next.safetensors")
    assert again.returncode == 0, again.stderr
    source = Artifact.load(Path("next.safetensors")).provenance
    assert source["keep"]["tasks"] == ["quadratics", "rosenbrock"]
    assert tasks_behind(source) == ["quadratics", "rosenbrock"]


@pytest.mark.parametrize("method", ["ewc", *(pytest.param(name, marks=pytest.mark.slow)
                                            for name in ("replay", "progressive"))])
def test_an_interrupted_adaptation_keeps_the_same(home: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    asked = Adapting(path=Path("old.safetensors"), tasks=("quadratics",), budget=1600, changes={},
                     keep=Keeping(method))  # type: ignore[arg-type]
    store = Store.at("sqlite:///adapting.db")
    whole = adapt(store, asked, Path("whole.safetensors"), quiet=True)

    class Interrupted(Exception):
        pass

    def three(run: Run) -> Iterator[dict[str, Any]]:
        for message in messages(run):
            yield message
            if message["point"] == 3:
                raise Interrupted

    messages = Run.__iter__
    with monkeypatch.context() as patch:
        patch.setattr(Run, "__iter__", three)
        with suppress(Interrupted):
            adapt(store, asked, Path("resumed.safetensors"), quiet=True)
    assert not Path("resumed.safetensors").exists()
    resumed = adapt(store, asked, Path("resumed.safetensors"), quiet=True)
    assert resumed.to_config() == whole.to_config()
    assert torch.equal(trees.ravel(whole.artifact.weights), trees.ravel(resumed.artifact.weights))


def test_jobs_are_others_exactly_when_they_keep_otherwise(home: Path) -> None:
    artifact = Artifact.load(Path("old.safetensors"))
    plain = Adapting(path=Path("old.safetensors"), tasks=("quadratics",), budget=800, changes={})
    jobs = [replace(plain, keep=keep).job(artifact) for keep in (
        None, Keeping(), Keeping(strength=0.1), Keeping("replay"))]
    assert len({job.fingerprint for job in jobs}) == 4
    assert "keep" not in jobs[0].provenance


@pytest.mark.parametrize(("words", "said"), [(["--keep", "dropout"], "progressive"), (["--keep", "ewc"], "Leave out")])
def test_what_the_command_cannot_keep_is_said_in_one_line(home: Path, words: list[str], said: str) -> None:
    artifact = Artifact.load(Path("old.safetensors"))
    Artifact(artifact.design, artifact.weights, {}).save(Path("unknown.safetensors"))
    ran = call("adapt", "unknown.safetensors", "--task", "quadratics", *words)
    assert ran.returncode == 2
    assert said in ran.stderr
    assert ran.stderr.count("\n") == 1
