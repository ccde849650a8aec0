"""Celo's file against its formulas, written down once more in NumPy (Moudgil et al. 2025, arxiv.org/abs/2501.12670)."""

from pathlib import Path

import msgpack
import numpy
import pytest
import torch
from command_line import call

from optsearch import load
from optsearch.errors import FileError
from optsearch.export import read_celo

WIDTHS = (1, 1, 1, 3, 1, 3, 1, 3, 1, 3, 3, 3, 3, 3)
SHAPES = {"ff_mod_stack": {"~": {
    **{f"w0__{index}": (1, width, 4) for index, width in enumerate(WIDTHS)},
    "w1": (1, 4, 4), "w2": (1, 4, 3), "b0": (1, 4), "b1": (1, 4), "b2": (1, 3)}},
    "lstm_init_state": {"hidden": (1, 64), "cell": (1, 64)},
    "rnn_params": {**{name: {"w": (18, 64), "b": (64,)} for name in ("linear", "linear_1", "linear_2")},
                   "rnn/linear": {"w": (128, 256), "b": (256,)}, "rnn_to_controls": {"w": (64, 1), "b": (1,)},
                   "step_size": {"w": (64, 1), "b": (1,)}}}
DECAYS = numpy.array([0.9, 0.99, 0.999])
NUM_STEPS = 40


def packed(tree):
    """As `flax.serialization.to_bytes` writes it."""
    if isinstance(tree, dict):
        return {name: packed(part) for name, part in tree.items()}
    return msgpack.ExtType(1, msgpack.packb((tree.shape, "float32", tree.tobytes())))


def drawn(shapes, draws):
    if isinstance(shapes, dict):
        return {name: drawn(part, draws) for name, part in shapes.items()}
    return (draws.standard_normal(shapes) / 3).astype("float32")


@pytest.fixture
def theta():
    return drawn(SHAPES, numpy.random.default_rng(0))


@pytest.fixture
def file(theta, tmp_path):
    path = tmp_path / "theta.state"
    path.write_bytes(msgpack.packb(packed(theta)))
    return path


def sigmoid(values):
    return 1 / (1 + numpy.exp(-values))


class Celo:
    """The published optimizer of matrices `[in, out]` and vectors, one at a time, with all that it keeps."""

    def __init__(self, theta, params):
        self.theta, self.params = theta, {name: value.astype(float) for name, value in params.items()}
        self.m = {name: numpy.zeros((*value.shape, 3)) for name, value in params.items()}
        self.r = {name: numpy.zeros(value.shape) for name, value in params.items()}
        self.fac = {name: [numpy.zeros((*(numpy.delete(value.shape, axis) if value.ndim > 1 else value.shape), 3))
                           for axis in self.axes(value)] for name, value in params.items()}
        start = theta["lstm_init_state"]
        self.hidden, self.cell = (numpy.repeat(start[name].astype(float), len(params), 0)
                                  for name in ("hidden", "cell"))
        self.decays = numpy.exp(-1 / numpy.logspace(1, numpy.log10(NUM_STEPS), 10))
        self.sums, self.lowest, self.t = numpy.zeros(10), numpy.full(10, 1e12), 0

    @staticmethod
    def axes(value):
        """The axes over which the row and the column average: the longer one first."""
        return numpy.argsort(value.shape)[::-1] if value.ndim > 1 else [None, None]

    def step(self, gradients, loss):
        seen = numpy.concatenate([numpy.tanh(10 * (self.t / NUM_STEPS - numpy.array(
            [0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1]))), self.loss_features(loss)])
        rates = self.rates(numpy.tile(seen, (len(self.params), 1)))
        for rate, name in zip(rates, self.params, strict=True):
            self.params[name] = self.params[name] - rate * self.direction(name, gradients[name].astype(float))
        self.t += 1

    def loss_features(self, loss):
        if self.t:
            loss = min(2 * abs((self.sums / (1 - self.decays ** (self.t + 1))).max()), loss)
        self.sums = self.sums * self.decays + loss * (1 - self.decays)
        means = self.sums / (1 - self.decays ** (self.t + 1))
        self.lowest = numpy.minimum(self.lowest, means)
        far = numpy.maximum(1e-8, means[1:] - self.lowest[:-1])
        return numpy.clip((means[:-1] - self.lowest[:-1]) / far - 1, -1, 1) * (self.t >= 2)

    def rates(self, seen):
        parts = self.theta["rnn_params"]
        mixed = numpy.maximum(seen @ parts["linear_1"]["w"] + parts["linear_1"]["b"], 0).max(0)
        seen = seen @ parts["linear_2"]["w"] + parts["linear_2"]["b"] + mixed
        gates = numpy.concatenate([seen, self.hidden], 1) @ parts["rnn/linear"]["w"] + parts["rnn/linear"]["b"]
        take, write, keep, show = numpy.split(gates, 4, 1)
        self.cell = sigmoid(keep + 1) * self.cell + sigmoid(take) * numpy.tanh(write)
        self.hidden = sigmoid(show) * numpy.tanh(self.cell)
        return 0.1 * numpy.exp(self.hidden @ parts["step_size"]["w"] + parts["step_size"]["b"])[:, 0]

    def direction(self, name, g):
        m = self.m[name] = DECAYS * self.m[name] + (1 - DECAYS) * g[..., None]
        r = self.r[name] = 0.999 * self.r[name] + 0.001 * g ** 2
        squares = g[..., None] ** 2 + 1e-30
        for place, axis in enumerate(self.axes(g)):
            new = squares if axis is None else squares.mean(axis)
            self.fac[name][place] = DECAYS * self.fac[name][place] + (1 - DECAYS) * new
        rows, columns = self.fac[name]
        if g.ndim > 1:
            along, across = self.axes(g)
            factor = (numpy.expand_dims(numpy.maximum(rows / (rows.mean(0) + 1e-9), 1e-9) ** -0.5, along)
                      * numpy.expand_dims(numpy.maximum(columns, 1e-9) ** -0.5, across))
            rows, columns = numpy.expand_dims(rows, along) + 0 * m, numpy.expand_dims(columns, across) + 0 * m
        else:
            factor = (rows + 1e-9) ** -0.5
        root, p = (r + 1e-6) ** -0.5, self.params[name]
        inputs = [g, numpy.clip(g, -0.1, 0.1), p, m, r, m * root[..., None], root, g[..., None] * factor, g * root,
                  rows, columns, (rows + 1e-8) ** -0.5, (columns + 1e-8) ** -0.5, m * factor]
        inputs = [each if each.ndim > g.ndim else each[..., None] for each in inputs]
        over = tuple(range(g.ndim))
        layers = self.theta["ff_mod_stack"]["~"]
        out = sum(each / numpy.sqrt(1e-5 + (each ** 2).mean(over)) @ layers[f"w0__{index}"][0]
                  for index, each in enumerate(inputs)) + layers["b0"][0]
        out = numpy.maximum(out, 0) @ layers["w1"][0] + layers["b1"][0]
        out = numpy.maximum(out, 0) @ layers["w2"][0] + layers["b2"][0]
        return 0.001 * out[..., 0] * numpy.exp(0.001 * out[..., 1]) * numpy.sqrt((p ** 2).mean() + 1e-9)


def test_its_steps_are_those_of_the_formulas(theta, file):
    draws = numpy.random.default_rng(1)
    shapes = {"wide": (3, 7), "tall": (7, 3), "square": (4, 4), "vector": (5,)}
    params = {name: draws.standard_normal(shape) for name, shape in shapes.items()}
    theirs = Celo(theta, params)
    # torch keeps matrices `[out, in]`.
    ours = {name: torch.nn.Parameter(torch.tensor(value.T.copy(), dtype=torch.float32))
            for name, value in params.items()}
    read_celo(file).save(file.with_suffix(".safetensors"))
    optimizer = load(file.with_suffix(".safetensors"))(ours.values(), num_steps=NUM_STEPS)
    for step in range(12):
        gradients = {name: draws.standard_normal(shape) for name, shape in shapes.items()}
        loss = 5.0 if step in (1, 6) else 1 / (1 + step)
        for name, param in ours.items():
            param.grad = torch.tensor(gradients[name].T.copy(), dtype=torch.float32)
        optimizer.step(loss=loss)
        theirs.step(gradients, loss)
    for name, param in ours.items():
        moved = abs(theirs.params[name] - params[name]).max()
        assert moved > 1e-4
        assert abs(param.detach().numpy().T - theirs.params[name]).max() < 2e-3 * moved


def test_the_command_writes_what_load_reads(file):
    result = call("import", "celo", str(file), "-o", str(file.with_name("celo.safetensors")))
    assert result.returncode == 0, result.stderr
    assert "Celo (Moudgil et al. 2025" in result.stdout
    assert sum(leaf.numel() for leaf in load(file.with_name("celo.safetensors")).weights.values()) == 35_808


@pytest.mark.parametrize(("spoil", "words"), [
    (lambda theta: None, "there is no file"),
    (lambda theta: b"\xc1", "can't be read as msgpack"),
    (lambda theta: msgpack.packb(msgpack.ExtType(5, b"")), "extension 5 is no array"),
    (lambda theta: msgpack.packb(packed({"mlp": theta["lstm_init_state"]})), "it has 128 numbers in 2 arrays"),
    (lambda theta: msgpack.packb(packed(theta | {"more": numpy.zeros(3, "float32")})), "has 37,092 numbers"),
], ids=["missing", "no msgpack", "no array", "another tree", "more than Celo"])
def test_other_files_are_refused(theta, tmp_path, spoil, words):
    path, content = tmp_path / "theta.state", spoil(theta)
    if content is not None:
        Path(path).write_bytes(content)
    with pytest.raises(FileError, match=words):
        read_celo(path)
