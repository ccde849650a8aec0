"""Mixings: closed forms, and the base's direction where nothing is learned."""

import math
from dataclasses import replace
from statistics import median

import pytest
import torch

from optsearch.errors import DesignError
from optsearch.optimizers import MIXINGS, Adaptive, Fixed, Gated, LearnedOptimizer, NoMixing, Residual, Trust
from optsearch.optimizers.candidates import Candidates
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.seeds import generator

LAYOUT = Layout.of({"a": torch.zeros(2, 3), "b": torch.zeros(4)})
PARTS = (slice(0, 6), slice(6, 10))
# Of a quadratic in ten directions, whose lowest loss is 1.
CURVATURES = torch.linspace(0.5, 2, 10).double()
LOSSES = [3.0, 2.9, 2.95, float("nan"), 2.0, 1.9, 30.0, float("inf"), 50.0, 40.0, -1.0, -7.0, 3.0, 2.0]
with_base = pytest.mark.parametrize("mixing", [kind() for kind in MIXINGS.values() if kind().has_base], ids=str)


def normal(*shape, purpose):
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


def moment(step=1, loss=1.0):
    """One step with random gradients and params."""
    one = torch.ones(1).double()
    return Moment(LAYOUT, normal(10, purpose=("gradient", step)), normal(10, purpose="params"), step * one, 0.5 * one,
                  loss=None if loss is None else loss * one)


def candidates(step=1, rate=0.1):
    return Candidates(normal(10, purpose=("learned", step)), normal(10, purpose=("base", step)),
                      torch.full((2,), rate).double(), normal(10, purpose=("gate", step)))


def start(mixing, batch=()):
    return mixing.init(torch.zeros(*batch, 10).double(), 2)


def shares(mixing, losses=LOSSES, of=candidates):
    """Of each tensor at each step, found from the direction."""
    state, found = start(mixing), []
    for step, loss in enumerate(losses, 1):
        both = of(step)
        direction, state = mixing.mix(both, moment(step, loss), state)
        assert all(leaf.isfinite().all() for leaf in (direction, *state.values()))
        extra = direction - both.base
        found.append([float(extra[part].dot(both.learned[part]) / both.learned[part].square().sum())
                      for part in PARTS])
    return found


def descend(mixing, learned, num_steps, rate=0.1):
    """Losses of gradient descent on the quadratic, with learned directions `learned(gradient, step)` beside it."""
    params, state, losses, one = torch.linspace(1, 2, 10).double(), start(mixing), [], torch.ones(1).double()
    for step in range(1, num_steps + 1):
        gradient, loss = CURVATURES * params, 1 + (CURVATURES * params.square()).sum() / 2
        direction, state = mixing.mix(Candidates(learned(gradient, step), gradient, rate * one),
                                      Moment(LAYOUT, gradient, params, step * one, one, loss=loss * one), state)
        params = params - rate * direction
        losses.append(float(loss))
    return losses, state


def last_share(learned, rate=0.1):
    _, state = descend(Adaptive(), learned, 30, rate)
    assert torch.equal(state["log_odds"][..., 0], state["log_odds"][..., 1])
    return 2 * float(state["log_odds"][0, 0].sigmoid())


def test_mixings_without_memory_have_their_closed_forms():
    both = candidates()
    expected = {NoMixing(): both.learned, Residual(): both.base + both.learned, Fixed(): both.base + both.learned / 2,
                Fixed(share=0.1): both.base + 0.1 * both.learned,
                Gated(): 2 / (1 + torch.exp(-both.gate)) * both.base + both.learned}
    for mixing, direction in expected.items():
        torch.testing.assert_close(mixing.mix(both, moment(), {})[0], direction)


@with_base
def test_with_nothing_learned_every_mixing_gives_the_bases_direction(mixing):
    state = start(mixing)
    for step, loss in enumerate([*LOSSES, None], 1):
        both = candidates(step)
        nothing = replace(both, learned=torch.zeros(10).double(), gate=torch.zeros(10).double())
        direction, state = mixing.mix(nothing, moment(step, loss), state)
        assert torch.equal(direction, both.base)


def adaptive_shares(mixing):
    """The same over plain numbers."""
    log_odds, before, found = 0.0, None, []
    for step, loss in enumerate(LOSSES, 1):
        log_odds *= mixing.memory
        if before is not None and math.isfinite(loss) and math.isfinite(before[0]):
            last, base, both = before
            scale = abs(last - loss) + abs(base) + abs(both)
            of_base, of_both = (((last - loss - predicted) / scale) ** 2 for predicted in (base, both))
            evidence = (of_base - of_both) / (of_base + of_both)
            log_odds += mixing.rate * (evidence if both > base else -evidence)
        share = 2 / (1 + math.exp(-log_odds))
        gradient, given = moment(step).gradient, candidates(step)
        base, learned = (0.1 * float(gradient.dot(of)) for of in (given.base, given.learned))
        before = (loss, base, base + share * learned)
        found.append([share, share])
    return found


@pytest.mark.parametrize("mixing", [Adaptive(), Adaptive(memory=0.5, rate=2.0)], ids=str)
def test_the_adaptive_share_has_its_closed_form(mixing):
    expected = adaptive_shares(mixing)
    assert expected[0] == [1.0, 1.0]
    assert len({row[0] for row in expected}) > 8
    # What counts as no error at all makes the difference.
    torch.testing.assert_close(torch.tensor(shares(mixing)), torch.tensor(expected), rtol=1e-3, atol=0)


def test_the_adaptive_share_follows_what_the_learned_step_is_worth():
    assert last_share(lambda gradient, step: gradient) > 1.8
    assert last_share(lambda gradient, step: -gradient) < 0.3
    assert last_share(lambda gradient, step: 40 * gradient) < 0.5
    assert last_share(lambda gradient, step: normal(10, purpose=("noise", step))) < 0.7
    assert last_share(lambda gradient, step: torch.zeros_like(gradient)) == 1


def test_the_adaptive_share_settles_where_the_loss_is_lowest_along_the_learned_direction():
    # With one curvature only, gradient / (rate · curvature) leads there in one step.
    mixing, rate, curvature, params = Adaptive(memory=0.999, rate=0.1), 0.1, 2.0, torch.linspace(1, 2, 10).double()
    one, found = torch.ones(1).double(), []
    for best in (0.3, 1.0, 1.7):
        state = start(mixing)
        for step in range(1, 200):
            # Params stay where they are, so that all steps are one; the loss is told as it would be after the step.
            gradient = curvature * params
            given = Candidates(gradient / (best * rate * curvature), torch.zeros(10).double(), rate * one)
            direction, state = mixing.mix(given, Moment(LAYOUT, gradient, params, step * one, one, loss=0 * one), state)
            after = params - rate * direction
            decrease = (curvature * (params.square() - after.square())).sum() / 2
            state["loss"] = torch.full_like(state["loss"], float(decrease))
        found.append(2 * float(state["log_odds"][0, 0].sigmoid()))
    torch.testing.assert_close(torch.tensor(found), torch.tensor([0.3, 1.0, 1.7]), rtol=0.05, atol=0)


def trust_shares(mixing):
    """The same over plain numbers, for steps that stay within the radius."""
    trust, average, size, weight, found = 1.0, 0.0, 0.0, 0.0, []
    for loss in LOSSES:
        threshold = (average + (mixing.blow_up - 1) * size) / weight if weight else math.inf
        is_fine = math.isfinite(loss) and loss <= threshold
        trust = 1 - (1 - trust) / 2**(1 / mixing.recovery) if is_fine else 0.0
        if math.isfinite(loss):
            average, size = (0.9 * old + 0.1 * new for old, new in ((average, min(loss, threshold)),
                                                                    (size, abs(min(loss, threshold)))))
            weight = 0.9 * weight + 0.1
        found.append([trust, trust])
    return found


@pytest.mark.parametrize("mixing", [Trust(radius=1e3), Trust(radius=1e3, blow_up=1.3, recovery=3.0)], ids=str)
def test_trust_has_its_closed_form(mixing):
    expected = trust_shares(mixing)
    assert [row[0] for row in expected[:4]] == [1, 1, 1, 0]
    torch.testing.assert_close(torch.tensor(shares(mixing)), torch.tensor(expected))


def test_trust_is_halfway_back_after_its_recovery_and_a_lasting_higher_loss_is_no_alarm_for_ever():
    back = shares(Trust(radius=1e3, recovery=8.0), [1.0] * 20 + [9.0] + [1.0] * 16)
    torch.testing.assert_close(torch.tensor(back)[[19, 20, 28, 36], 0], torch.tensor([1, 0, 0.5, 0.75]))
    lasting = [row[0] for row in shares(Trust(radius=1e3), [1.0] * 20 + [9.0] * 60)]
    assert lasting[20:30] == [0] * 10
    assert lasting[-1] > 0.5


@pytest.mark.parametrize("loss", [1.0, None])
def test_no_tensors_learned_step_leaves_the_radius_of_the_bases(loss):
    both = candidates()
    scales = LAYOUT.spread(torch.tensor([100.0, 0.01]).double())
    far = replace(both, learned=scales * both.learned)
    extra = Trust(radius=2.0).mix(far, moment(loss=loss), start(Trust()))[0] - both.base
    torch.testing.assert_close(extra[PARTS[0]].norm(), 2 * both.base[PARTS[0]].norm())
    torch.testing.assert_close(extra[PARTS[1]], far.learned[PARTS[1]])
    lost = replace(both, learned=torch.full((10,), float("inf")).double())
    assert torch.equal(Trust().mix(lost, moment(loss=loss), start(Trust()))[0], both.base)


def test_trust_stays_near_the_base_where_learned_steps_lead_uphill():
    def uphill(gradient, step):
        return -50 * gradient

    alone, _ = descend(Residual(), lambda gradient, step: torch.zeros_like(gradient), 400, rate=0.3)
    assert descend(Residual(), uphill, 100)[0][-1] > 1e100
    losses, _ = descend(Trust(), uphill, 400, rate=0.3)
    assert max(losses[100:]) < 6 * alone[-1]
    assert median(losses[100:]) < 1.6 * alone[-1]
    slower, _ = descend(Trust(recovery=100.0), uphill, 400, rate=0.3)
    assert median(slower[100:]) < 1.01 * alone[-1]


def test_what_was_harmful_for_a_while_helps_again_later():
    def turning(gradient, step):
        return -50 * gradient if step < 40 else gradient

    losses, state = descend(Trust(), turning, 200)
    assert state["trust"].min() > 0.9
    assert losses[-1] - 1 < 1e-6 < descend(Residual(), lambda gradient, step: 0 * gradient, 100)[0][-1] - 1


@with_base
def test_a_step_without_a_loss_moves_no_state(mixing):
    state = start(mixing)
    for step in range(1, 4):
        both = candidates(step)
        _, state = mixing.mix(both, moment(step, 1.0 / step), state)
    _, after = mixing.mix(both, moment(4, None), state)
    torch.testing.assert_close(after, state)


@with_base
def test_state_is_each_tensors_own_and_each_trainings(mixing):
    state = start(mixing, batch=(3,))
    one = torch.ones(3, 1).double()
    for step in range(1, 5):
        losses = torch.tensor([[1.0], [step], [1.0 / step]]).double()
        given = candidates(step)
        gradients, params = moment(step).gradient.expand(3, 10), torch.zeros(3, 10).double()
        batched = Moment(LAYOUT, gradients, params, step * one, one, losses)
        _, state = mixing.mix(replace(given, rates=given.rates[:1] * one), batched, state)
    assert all(leaf.shape == (3, 1, 2) and leaf.is_contiguous() for leaf in state.values())
    for index, loss in enumerate((lambda step: 1.0, float, lambda step: 1.0 / step)):
        alone = start(mixing)
        for step in range(1, 5):
            _, alone = mixing.mix(candidates(step), moment(step, loss(step)), alone)
        torch.testing.assert_close({name: leaf[index] for name, leaf in state.items()}, alone)


@with_base
@pytest.mark.parametrize("zeros", ["learned", "base", "both", "none"])
def test_first_and_second_slopes_are_finite(mixing, zeros):
    leaves = {name: torch.zeros(2, 10) if zeros in (name, "both") else normal(2, 10, purpose=name).float()
              for name in ("learned", "base")}
    leaves = {name: leaf.requires_grad_() for name, leaf in leaves.items()}
    one, state = torch.ones(1), mixing.init(torch.zeros(10), 2)
    total = torch.zeros(())
    for step in range(2):
        # The same loss twice, and no gradient: nothing was promised and nothing came.
        given = Candidates(leaves["learned"][step], leaves["base"][step], 0.1 * one, torch.zeros(10))
        direction, state = mixing.mix(given, Moment(LAYOUT, torch.zeros(10), torch.zeros(10), (step + 1) * one, one,
                                                    loss=one), state)
        total = total + (direction * normal(10, purpose=step).float()).sum()
    first = torch.autograd.grad(total, list(leaves.values()), create_graph=True)
    assert all(slope.isfinite().all() for slope in first)
    summed = sum((slope * normal(2, 10, purpose="first").float()).sum() for slope in first)
    if summed.requires_grad:
        second = torch.autograd.grad(summed, list(leaves.values()), materialize_grads=True)
        assert all(slope.isfinite().all() for slope in second)


@pytest.mark.parametrize(("part", "message"), [
    ({"kind": "fixed", "share": 0.0}, r"share must be in \(0, 1\], not 0.0"),
    ({"kind": "adaptive", "memory": 1.0}, r"memory must be in \[0, 1\), not 1.0"),
    ({"kind": "adaptive", "rate": 0.0}, "rate must be above 0, not 0.0"),
    ({"kind": "trust", "radius": 0.0}, "radius and recovery must be above 0, not 0.0 and 20.0"),
    ({"kind": "trust", "blow_up": 1.0}, "blow_up must be above 1, not 1.0"),
], ids=str)
def test_values_that_do_not_fit_are_refused(part, message):
    with pytest.raises(DesignError, match=message):
        LearnedOptimizer.from_config({"mixing": part})
