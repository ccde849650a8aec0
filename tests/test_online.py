"""An optimizer that adapts while it trains: multipliers against their recurrence, choices, resuming."""

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import optsearch
from optsearch.adaptation import OnlineOptimizer
from optsearch.adaptation.behaviours import SPELL, Behaviours
from optsearch.adaptation.online import HIGHEST, KEPT, LOWEST
from optsearch.errors import UsageError
from optsearch.export import Artifact, OptimizerModule
from optsearch.optimizers import DESIGNS


def module(name: str = "adamw_mlp", **_: object) -> OptimizerModule:
    design = DESIGNS[name][0]
    stream = torch.Generator().manual_seed(0)
    weights = {key: leaf + 0.02 * torch.randn(leaf.shape, generator=stream)
               for key, leaf in design.init_weights(stream).items()}
    return OptimizerModule(Artifact(design, weights, {}))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int = 0) -> list[float]:
    stream, losses = torch.Generator().manual_seed(seed), []
    for _ in range(count):
        inputs = torch.randn(16, 4, generator=stream)
        loss = (model(inputs) - inputs.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(loss=loss)  # type: ignore[call-arg]
        losses.append(loss.item())
    return losses


def params_of(model: nn.Module) -> Tensor:
    return torch.cat([param.detach().flatten() for param in model.parameters()])


@pytest.mark.parametrize("name", ["adamw_mlp", "adamw_lstm"])
def test_without_a_rate_it_is_the_frozen_optimizer(name: str) -> None:
    one, other = network(), network()
    frozen = module(name)(one.parameters(), num_steps=30)
    online = OnlineOptimizer(module(name), other.parameters(), num_steps=30, adaptation_rate=0.0)
    assert trained(one, frozen, 30) == trained(other, online, 30)
    assert online.multipliers == [1.0]


def followed(gradient: Callable[[int, Tensor], Tensor], count: int, **options: float) -> OnlineOptimizer:
    param = nn.Parameter(torch.zeros(3))
    optimizer = OnlineOptimizer(module(), [param], exploration_rate=0.0, **options)  # type: ignore[arg-type]
    for index in range(count):
        param.grad = gradient(index, param)
        optimizer.step()
    return optimizer


def test_multipliers_follow_the_cosine_of_gradient_and_last_step() -> None:
    """Held against the same recurrence made from the params' movements."""
    param, online = nn.Parameter(torch.zeros(5)), module()
    optimizer = OnlineOptimizer(online, [param], exploration_rate=0.0, adaptation_rate=0.3)
    stream, expected, last = torch.Generator().manual_seed(1), 0.0, None
    for _ in range(40):
        param.grad = torch.randn(5, generator=stream) + 0.5
        if last is not None:
            cosine = float(nn.functional.cosine_similarity(param.grad, -last, dim=0))
            expected = min(HIGHEST, max(LOWEST, KEPT * expected + 0.3 * cosine))
        before = param.detach().clone()
        optimizer.step()
        last = param.detach() - before
        assert math.log(optimizer.multipliers[0]) == pytest.approx(expected, abs=1e-4)


def test_steps_grow_while_gradients_agree_and_shrink_while_they_turn() -> None:
    agreeing = followed(lambda index, param: torch.ones(3), 60)
    assert agreeing.multipliers == [pytest.approx(math.exp(HIGHEST))]
    places: list[Tensor] = []

    def uphill(index: int, param: Tensor) -> Tensor:
        """As if every step had gone too far."""
        places.append(param.detach().clone())
        return places[-1] - places[-2] if index else torch.ones(3)

    assert followed(uphill, 60).multipliers == [pytest.approx(math.exp(LOWEST))]


def test_steps_are_as_long_as_the_multiplier_says_and_lr_stays_the_users() -> None:
    found = []
    for factor in (1.0, 2.0):
        param = nn.Parameter(torch.zeros(3))
        optimizer = OnlineOptimizer(module(), [param], lr=0.5, adaptation_rate=0.0)
        optimizer.param_groups[0]["log_multiplier"] = math.log(factor)
        param.grad = torch.ones(3)
        optimizer._factor(optimizer.param_groups[0])
        assert optimizer.multipliers == [pytest.approx(factor)]
        optimizer.param_groups[0]["log_multiplier"] = math.log(factor) / KEPT
        optimizer.step()
        found.append(param.detach().clone())
        assert optimizer.param_groups[0]["lr"] == 0.5
    torch.testing.assert_close(2 * found[0], found[1])


def test_groups_have_multipliers_of_their_own() -> None:
    one, other = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    optimizer = OnlineOptimizer(module(), [{"params": [one]}, {"params": [other]}], exploration_rate=0.0)
    stream = torch.Generator().manual_seed(0)
    for _ in range(30):
        one.grad, other.grad = torch.ones(2), torch.randn(2, generator=stream)
        optimizer.step()
    assert optimizer.multipliers[0] > optimizer.multipliers[1]


@pytest.mark.parametrize("through", ["state_dict", "pickle", "copy", "file"])
def test_a_resumed_run_goes_on_as_if_nothing_had_happened(through: str, tmp_path: Path) -> None:
    model = network()
    optimizer = OnlineOptimizer(module(), model.parameters(), num_steps=90, exploration_rate=0.5, memory_size=20)
    trained(model, optimizer, 45)
    if through in ("pickle", "copy"):
        model, optimizer = (pickle.loads(pickle.dumps((model, optimizer))) if through == "pickle"
                            else copy.deepcopy((model, optimizer)))
        # What the last step was is not copied, but all else is.
        assert optimizer.behaviours.memory
        trained(model, optimizer, 45, seed=1)
        return
    state = optimizer.state_dict()
    if through == "file":
        torch.save(state, tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
    fresh = network()
    fresh.load_state_dict(copy.deepcopy(model.state_dict()))
    resumed = OnlineOptimizer(module(), fresh.parameters(), num_steps=90, exploration_rate=0.5, memory_size=20)
    resumed.load_state_dict(copy.deepcopy(state))
    assert trained(model, optimizer, 45, seed=1) == trained(fresh, resumed, 45, seed=1)
    assert torch.equal(params_of(model), params_of(fresh))
    assert optimizer.behaviours.to_state() == resumed.behaviours.to_state()


def test_a_frozen_optimizers_state_can_be_gone_on_with() -> None:
    model = network()
    frozen = module()(model.parameters(), num_steps=40)
    trained(model, frozen, 20)
    online = OnlineOptimizer(module(), model.parameters(), num_steps=40)
    online.load_state_dict(frozen.state_dict())
    assert online.multipliers == [1.0]
    assert all(math.isfinite(loss) for loss in trained(model, online, 20))


def spells(bandit: Behaviours, falls: dict[int, float], count: int) -> list[int]:
    """The choices of a run in which the log loss falls by what each choice brings."""
    level, chosen = 0.0, []
    for _ in range(count):
        level -= falls[bandit.choice]
        chosen.append(bandit.choice)
        for _ in range(SPELL):
            bandit.tell(math.exp(level))
    return chosen


def test_the_choice_that_brings_more_is_found_and_the_usual_one_kept_else() -> None:
    better = spells(Behaviours(3, 1, 100, 0.3), {0: 0.0, 1: 0.02, 2: 0.05}, 200)
    assert better[100:].count(2) > 60
    alike = spells(Behaviours(3, 1, 100, 0.1), {0: 0.02, 1: 0.02, 2: 0.02}, 200)
    assert alike.count(1) > 160
    never = spells(Behaviours(3, 1, 100, 0.0), {0: 0.0, 1: 0.02, 2: 0.05}, 50)
    assert set(never) == {1}


def test_memory_is_bounded_and_losses_that_are_not_finite_say_nothing() -> None:
    bandit = Behaviours(3, 1, 7, 0.5)
    spells(bandit, {0: 0.1, 1: 0.1, 2: 0.1}, 30)
    assert len(bandit.memory) == 7
    before = bandit.to_state()
    bandit.tell(float("nan"))
    bandit.tell(float("inf"))
    assert bandit.to_state() == before


def test_feedback_takes_the_place_of_the_training_loss() -> None:
    model = network()
    optimizer = OnlineOptimizer(module(), model.parameters())
    trained(model, optimizer, 3)
    assert len(optimizer.behaviours.spell) == 3
    optimizer.feedback(torch.tensor(0.5))
    assert optimizer.behaviours.spell == [math.log(0.5)]
    trained(model, optimizer, 3)
    assert len(optimizer.behaviours.spell) == 1


def test_closures_losses_and_embeddings_come_back_as_from_the_frozen_one() -> None:
    model = network()
    optimizer = OnlineOptimizer(module("adamw_lstm"), model.parameters())
    inputs = torch.randn(8, 4)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    assert loss.dim() == 0
    assert optimizer.step(loss=loss).shape[0] == len(list(model.parameters()))
    assert optsearch.OnlineOptimizer is OnlineOptimizer


@pytest.mark.parametrize("options", [{"adaptation_rate": -1.0}, {"memory_size": 0}, {"exploration_rate": 1.5},
                                     {"num_steps": 0}])
def test_what_makes_no_sense_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        OnlineOptimizer(module(), network().parameters(), **options)  # type: ignore[arg-type]
