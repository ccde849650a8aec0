"""The front of several objectives: the acquisition against BoTorch and Monte Carlo, and how far the sampler gets."""

import time
from statistics import median

import conditional_function
import numpy
import optuna
import pytest
import torch
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.acquisition.multi_objective.objective import IdentityMCMultiOutputObjective
from botorch.models import ModelListGP
from botorch.sampling.normal import SobolQMCNormalSampler
from botorch.utils.multi_objective.hypervolume import Hypervolume
from botorch.utils.multi_objective.pareto import is_non_dominated
from optuna.distributions import FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import create_trial

from optsearch.search.gp_sampler import ConditionalGPSampler
from optsearch.search.rows import trial_suggest
from optsearch.search.surrogate import front
from optsearch.search.surrogate.encoding import Encoding
from optsearch.search.surrogate.front import Costs, contenders, independent, reference_point, with_costs
from optsearch.search.surrogate.posterior import Posterior
from optsearch.search.surrogate.process import Observations, fit
from optsearch.search.surrogate.tree import TreeSpace

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SQUARE = TreeSpace.flat({name: FloatDistribution(0, 1) for name in ("x", "y")})
ENCODING = Encoding(SQUARE)


def bowls(point):
    """Two bowls whose bottoms lie apart: the front is between them."""
    return ((point["x"] - 0.2) ** 2 + (point["y"] - 0.5) ** 2, (point["x"] - 0.8) ** 2 + (point["y"] - 0.5) ** 2)


def processes(count, objectives=2):
    points = SQUARE.sample(seed=0, count=count)
    rows, zeros = ENCODING.encode(points), torch.zeros(count).double()
    values = torch.tensor([bowls(point) for point in points]).double().T[:objectives]
    return [fit(ENCODING, Observations(rows, column, zeros)) for column in values]


def volume(points, reference):
    """The area that points `[n, 2]` dominate, by a sweep from left to right."""
    total, ceiling = 0.0, reference[1]
    for left, low in sorted(map(tuple, points)):
        if left < reference[0] and low < ceiling:
            total += (reference[0] - left) * (ceiling - low)
            ceiling = low
    return total


@pytest.mark.slow
def test_it_is_what_botorch_estimates(monkeypatch):
    monkeypatch.setattr(front, "NUM_DRAWS", 64)
    models, pending = processes(11), ENCODING.encode([{"x": 0.5, "y": 0.4}])
    ours = independent(models, pending, seed=0)
    means = torch.stack([model.posterior(model.train_inputs[0]).mean.squeeze(-1) for model in models], -1).detach()
    reference = -reference_point(means)
    theirs = qLogNoisyExpectedHypervolumeImprovement(
        ModelListGP(*models), reference, models[0].train_inputs[0], SobolQMCNormalSampler(torch.Size([1024]), seed=0),
        X_pending=pending, objective=_Lower(), prune_baseline=False, tau_max=1e-5, tau_relu=1e-7)
    rows = ENCODING.encode(SQUARE.sample(seed=9, count=8))
    with torch.no_grad():
        found, expected = ours(rows).exp(), theirs(rows.unsqueeze(1)).exp()
    assert expected.max() > 1e-3
    assert torch.corrcoef(torch.stack([found, expected]))[0, 1] > 0.98
    torch.testing.assert_close(found, expected, rtol=0.25, atol=0.02 * float(expected.max()))
    units = rows[:3, ENCODING.units].clone().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda units: ours(torch.cat([units, rows[:3, ENCODING.active.start:]], -1)), units, atol=1e-4)


class _Lower(IdentityMCMultiOutputObjective):
    def forward(self, samples, X=None):
        return -samples


def test_with_a_cost_that_is_known_it_is_the_mean_of_the_volumes_gained():
    (model,), count = processes(10, objectives=1), 4000
    posterior = Posterior(model)
    observed = torch.rand(10, 1, generator=torch.Generator().manual_seed(0)).double()
    ours = with_costs(model, Costs([posterior], observed, torch.zeros(0, 1).double()),
                      torch.zeros(0, ENCODING.source.stop).double(), seed=0)
    row, cost = ENCODING.encode([{"x": 0.35, "y": 0.3}]), 0.2
    rows = torch.cat([posterior.rows, row])
    draws = model.posterior(rows).rsample(torch.Size([count])).squeeze(-1).detach().numpy()
    means = posterior.at(posterior.rows)[0].detach().unsqueeze(-1)
    reference = reference_point(torch.cat([means, observed], -1)).numpy()
    gains = []
    for values in draws:
        old = numpy.stack([values[:-1], observed[:, 0].numpy()], -1)
        gains.append(volume([*old, (values[-1], cost)], reference) - volume(old, reference))
    found = float(ours.counted(row, torch.tensor([[cost]]).double()).detach().exp())
    assert found == pytest.approx(numpy.mean(gains), abs=4 * numpy.std(gains) / count ** 0.5 + 0.02 * numpy.mean(gains))


def test_what_cannot_grow_the_front_is_still_ordered():
    ours = independent(processes(14), ENCODING.encode([]), seed=0)
    score = ours.counted(ENCODING.encode([{"x": 0.2, "y": 0.5}] * 2), torch.tensor([[3.0], [9.0]]).double())
    assert score.isfinite().all()
    assert score[0] > score[1]


def test_contenders_are_those_that_fewest_dominate():
    values = torch.rand(60, 3, generator=torch.Generator().manual_seed(0)).double()
    found = contenders(values)
    assert set(is_non_dominated(-values).nonzero().squeeze(-1).tolist()) <= set(found.tolist())


@pytest.mark.usefixtures("nothing_at_random")
@pytest.mark.parametrize(("costs", "direction"), [
    (None, "minimize"), (None, "maximize"), (lambda point: [bowls(point)[1]], "minimize")])
def test_it_suggests_points_of_the_front(costs, direction):
    sign = -1.0 if direction == "maximize" else 1.0
    study = optuna.create_study(directions=["minimize", direction],
                                sampler=ConditionalGPSampler(SQUARE, seed=0, costs=costs))
    for point in SQUARE.sample(seed=1, count=12):
        value, other = bowls(point)
        study.add_trial(create_trial(params=point, distributions=dict(SQUARE.distributions),
                                     values=[value, sign * other]))
    for _ in range(4):
        trial = study.ask(dict(SQUARE.distributions))
        assert study.trials[-1].user_attrs["sampler"] == "gp"
        value, other = bowls(trial.params)
        study.tell(trial, [value, sign * other])
    # Between the two bottoms and near the line that joins them, apart from each other.
    found = numpy.array([[*trial.params.values()] for trial in study.trials[12:]])
    assert numpy.abs(found[:, 1] - 0.5).max() < 0.15
    assert found[:, 0].min() > 0.1
    assert found[:, 0].max() < 0.9
    assert numpy.ptp(found[:, 0]) > 0.2


@pytest.mark.usefixtures("nothing_at_random")
def test_forbidden_points_are_not_suggested_and_few_are_checked():
    checked = []

    def is_allowed(point):
        checked.append(point)
        return point["x"] > 0.5

    study = optuna.create_study(sampler=ConditionalGPSampler(SQUARE, num_startup_trials=6, seed=0,
                                                             is_allowed=is_allowed))
    study.optimize(lambda trial: bowls({name: trial._suggest(name, each) for name, each
                                        in SQUARE.distributions.items()})[0], n_trials=10)
    assert [trial.user_attrs["sampler"] for trial in study.trials] == ["startup"] * 6 + ["gp"] * 4
    assert all(trial.params["x"] > 0.5 for trial in study.trials)
    assert len(checked) <= 6 * 10 + 4 * 100


SIZES = {"mlp": 1.0, "lstm": 4.0, "transformer": 8.0, "gnn": 2.0}


def cost_of(point):
    return SIZES[point["kind"]] * point[f"{point['kind']}.size"]


def hypervolume_after(sampler, num_trials):
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    study.optimize(lambda trial: (conditional_function.walk(trial_suggest(trial)), cost_of(trial.params)),
                   n_trials=num_trials)
    assert not [trial for trial in study.trials if "fallback" in trial.user_attrs.get("sampler", "")]
    values = torch.tensor([[trial.values[0], numpy.log(trial.values[1])] for trial in study.trials]).double()
    return Hypervolume(torch.tensor([-1.5, -5.0]).double()).compute(-values[is_non_dominated(-values)])


@pytest.mark.slow
def test_its_front_is_ahead():
    tree = conditional_function.tree()
    found = {name: median(hypervolume_after(make(seed), 40) for seed in range(3)) for name, make in {
        "costs": lambda seed: ConditionalGPSampler(tree, seed=seed, costs=lambda point: [cost_of(point)]),
        "models": lambda seed: ConditionalGPSampler(tree, seed=seed),
        "tpe": lambda seed: TPESampler(seed=seed),
        "random": lambda seed: RandomSampler(seed=seed)}.items()}
    assert found["costs"] > max(found["tpe"], found["random"])
    assert found["models"] > max(found["tpe"], found["random"])


@pytest.mark.slow
@pytest.mark.parametrize("costs", [None, lambda point: [cost_of(point), len(point)]])
def test_a_suggestion_takes_seconds_with_a_hundred_trials(costs):
    tree, seconds = conditional_function.tree(), []
    study = optuna.create_study(directions=["minimize"] * 3, sampler=ConditionalGPSampler(tree, seed=0, costs=costs))
    for point in tree.sample(seed=0, count=100):
        study.add_trial(create_trial(params=point, distributions={name: tree.distributions[name] for name in point},
                                     values=[conditional_function.true_value(point), cost_of(point), len(point)]))
    for _ in range(4):
        start = time.process_time()
        trial = study.ask()
        tree.walk(trial._suggest)
        seconds.append(time.process_time() - start)
        study.tell(trial, [conditional_function.true_value(trial.params), cost_of(trial.params), len(trial.params)])
    assert median(seconds[1:]) < 5
