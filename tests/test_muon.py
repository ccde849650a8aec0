"""Muon: against torch's, which computes in bfloat16, and by singular values."""

import pytest
import torch
from torch import nn

from optsearch.errors import DesignError
from optsearch.optimizers import Muon
from optsearch.optimizers.layout import Layout
from optsearch.optimizers.moment import Moment
from optsearch.optimizers.muon import orthogonal
from optsearch.seeds import generator

SHAPES = {"tall": (9, 4), "wide": (4, 9), "wide again": (4, 9), "square": (5, 5), "kernel": (6, 2, 3, 3), "row": (1, 7)}


def normal(*shape, purpose="normal"):
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


def steps(base, shapes, num_steps=3, batch=()):
    """Directions by name, one tree a step, for random gradients and params that stay where they are."""
    params = {name: normal(*batch, *shape, purpose=name) for name, shape in shapes.items()}
    layout, vector = Layout.of(params, len(batch)), Layout.flatten(params, len(batch))
    state, one = base.init(layout, vector), torch.ones(*batch, 1).double()
    for step in range(num_steps):
        gradients = {name: normal(*batch, *shape, purpose=(name, step)) for name, shape in shapes.items()}
        direction, state = base.direction(
            Moment(layout, Layout.flatten(gradients, len(batch)), vector, (step + 1) * one, one), state)
        yield layout.unflatten(direction)


def test_steps_are_those_of_torch_but_for_its_bfloat16():
    shapes = {name: shape for name, shape in SHAPES.items() if len(shape) == 2}
    base = Muon(weight_decay=0.3)
    for step, found in enumerate(steps(base, shapes)):
        for name, shape in shapes.items():
            param = nn.Parameter(normal(*shape, purpose=name))
            optimizer = torch.optim.Muon([param], 1.0, 0.3, base.momentum, adjust_lr_fn="match_rms_adamw")
            for past in range(step + 1):
                with torch.no_grad():
                    before = param.copy_(normal(*shape, purpose=name)).clone()
                param.grad = normal(*shape, purpose=(name, past))
                optimizer.step()
            expected = before - param.detach()
            assert (found[name] - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("batch", [(), (2, 3)])
@pytest.mark.parametrize(("adjust_lr", "size"), [
    ("match_rms_adamw", lambda rows, columns: 0.2 * max(rows, columns)**0.5),
    ("spectral", lambda rows, columns: 1.6 * (rows / columns)**0.5),
    ("mup", lambda rows, columns: 0.2 * max(rows, columns)**0.5)])
def test_all_singular_values_of_a_matrix_end_near_its_size(adjust_lr, size, batch):
    for found in steps(Muon(weight_decay=0.0, adjust_lr=adjust_lr), SHAPES, batch=batch):
        for name, shape in SHAPES.items():
            matrices = found[name].flatten(len(batch) + 1)
            values = torch.linalg.svdvals(matrices) / size(*matrices.shape[-2:])
            assert values.shape[-1] == min(shape[0], matrices.shape[-1])
            assert values.min() > 0.68
            assert values.max() < 1.21


def test_a_step_is_about_as_large_as_adamws_whatever_the_shape():
    # Adam's steps on noise have a root mean square of 0.2 to 0.4.
    for shape in ((64, 64), (16, 128), (128, 16)):
        *_, last = steps(Muon(weight_decay=0.0), {"matrix": shape})
        torch.testing.assert_close(last["matrix"].square().mean().sqrt(), torch.tensor(0.2).double(), rtol=0.2, atol=0)


def change_of_outputs(adjust_lr, rows, columns):
    """By one step, the root mean square over outputs and over such inputs of 1 as it sees."""
    *_, last = steps(Muon(weight_decay=0.0, adjust_lr=adjust_lr), {"matrix": (rows, columns)})
    seen = torch.linalg.svd(last["matrix"], full_matrices=False)[2]
    return float((last["matrix"] @ seen.T * columns**0.5).square().mean().sqrt())


@pytest.mark.parametrize("adjust_lr", ["spectral", "mup"])
@pytest.mark.parametrize(("base", "wide"), [((64, 16), (1024, 16)), ((64, 64), (512, 512)), ((10, 64), (10, 1024))])
def test_a_wider_layers_step_changes_its_outputs_as_much(adjust_lr, base, wide):
    # Singular values are only about 1: they come out in 0.68..1.21.
    assert 0.68 / 1.21 < change_of_outputs(adjust_lr, *wide) / change_of_outputs(adjust_lr, *base) < 1.21 / 0.68


def test_as_large_as_adamws_steps_change_more_the_more_inputs_there_are():
    many, few = (change_of_outputs("match_rms_adamw", 10, columns) for columns in (1024, 64))
    assert many > 8 * few


def test_up_to_64_rows_and_columns_mup_is_as_adamws():
    for shape in SHAPES.values():
        one, other = (list(steps(Muon(adjust_lr=each), {"tensor": shape})) for each in ("mup", "match_rms_adamw"))
        torch.testing.assert_close(one, other)


def test_unknown_sizes_of_steps_are_refused():
    with pytest.raises(DesignError, match="match_rms_adamw, spectral, mup"):
        Muon(adjust_lr="original")


def test_tensors_are_orthogonalised_each_by_itself():
    together = list(steps(Muon(), SHAPES))
    for name, shape in SHAPES.items():
        for found, alone in zip(together, steps(Muon(), {name: shape}), strict=True):
            torch.testing.assert_close(found[name], alone[name])


def test_a_matrix_of_zeros_stays_one_and_scale_does_not_matter():
    matrices = normal(2, 4, 6)
    assert torch.equal(orthogonal(torch.zeros(4, 6), 5), torch.zeros(4, 6))
    for scale in (1e-4, 1e4):
        torch.testing.assert_close(orthogonal(scale * matrices, 5), orthogonal(matrices, 5))
