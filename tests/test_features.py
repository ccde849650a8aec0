import math

import pytest
import torch

from optsearch.optimizers import FEATURE_GROUPS, GROUP_SETS, Features
from optsearch.optimizers.feature_groups import PROGRESS_CENTRES, TIME_SCALES, Moment
from optsearch.optimizers.inputs import SHARED
from optsearch.optimizers.layout import Layout
from optsearch.seeds import generator

SHAPES = {"scalar": (), "vector": (3,), "matrix": (4, 5), "kernel": (2, 3, 3, 3)}
NUM_STEPS = 4
NUM_OUTPUTS = 6


def random_tree(*purpose):
    tree = {name: torch.randn(shape, generator=generator(0, *purpose, name), dtype=torch.float64)
            for name, shape in SHAPES.items()}
    if purpose in (("gradient", 2), ("gradient", 3)):
        tree["vector"][0] = tree["matrix"][1] = tree["kernel"][:, 1] = 0
    return tree


def moments(scale=1.0):
    layout = Layout.of(random_tree("params"))
    for step in range(1, NUM_STEPS + 1):
        yield Moment(layout, Layout.flatten(random_tree("gradient", step), 0) * scale,
                     Layout.flatten(random_tree("params", step), 0), torch.full((1,), float(step)).double(),
                     torch.full((1,), step / NUM_STEPS).double())


def inputs_over_time(features, weights=None, scale=1.0):
    state = None
    for moment in moments(scale):
        state = state or features.init(moment.layout, moment.gradient)
        inputs, state = features.observe(weights or {}, moment, state)
        yield moment, inputs


def values_of(inputs):
    (block,) = inputs.blocks()
    return torch.cat(block.values, -2)


def projected(features, scale=1.0, weights=None):
    weight = torch.randn(NUM_OUTPUTS, features.num_inputs, generator=generator(0, "weight"), dtype=torch.float64)
    bias = torch.randn(NUM_OUTPUTS, generator=generator(0, "bias"), dtype=torch.float64)
    return torch.stack([inputs.project(weight, bias) for _, inputs in inputs_over_time(features, weights, scale)])


class NaiveFeatures:
    """Every feature of one tensor, written out."""

    def __init__(self, features):
        self.features = features
        self.momenta = [0.0] * len(features.momentum_decays)
        self.second = 0.0
        self.rows = [0.0] * len(features.factored_decays)
        self.columns = [0.0] * len(features.factored_decays)
        self.seen = []

    def observe(self, gradient, params, step, progress):
        """`[num_inputs, *shape]`."""
        features = self.features
        self.momenta = [decay * average + (1 - decay) * gradient
                        for decay, average in zip(features.momentum_decays, self.momenta, strict=True)]
        self.second = (features.second_moment_decay * self.second
                       + (1 - features.second_moment_decay) * gradient**2)
        self._average_lines(gradient**2 + 1e-30)
        rsqrt = 1 / torch.sqrt(self.second + 1e-8)
        root = torch.sqrt(self.second / (1 - features.second_moment_decay**step)) + 1e-8
        corrected = [average / (1 - decay**step)
                     for decay, average in zip(features.momentum_decays, self.momenta, strict=True)]
        groups = {
            "gradient": [gradient],
            "clipped_gradient": [gradient.clip(-0.1, 0.1)],
            "parameter": [params],
            "momentum": self.momenta,
            "second_moment": [self.second],
            "normalised_momentum": [average * rsqrt for average in self.momenta],
            "normalised_gradient": [gradient * rsqrt],
            "rsqrt_second_moment": [rsqrt],
            "factored_gradient": [gradient * factor for factor in self._factors()],
            "factored_momentum": [average * factor
                                  for average, factor in zip(self.momenta, self._factors(), strict=True)],
            "log_sign": [((gradient.abs() + 1e-8).log() / 5).clip(min=-1), (gradient * math.exp(5)).clip(-1, 1)],
            "corrected_momentum": [average / root for average in corrected],
            "corrected_gradient": [gradient / root],
        }
        lines = {"rows_and_columns": lambda line: line, "rsqrt_rows_and_columns": lambda line: (line + 1e-8)**-0.5}
        chosen = [change for name, change in lines.items() if name in features.names]
        values = [value for name in features.names for value in groups.get(name, [])]
        of_rows = [change(row) for change in chosen for row in self.rows]
        of_columns = [change(column) for change in chosen for column in self.columns]
        values, of_rows, of_columns = ([self._normalised(value.expand(gradient.shape)) for value in each]
                                       for each in (values, of_rows, of_columns))
        self.seen.append(gradient != 0)
        use_of_rows, use_of_columns = self._line_use() if "line_use" in features.names else ([], [])
        values += of_rows + use_of_rows + of_columns + use_of_columns
        shared = {"time": [math.tanh(step / scale - 1) for scale in TIME_SCALES],
                  "progress": [math.tanh(10 * (progress - centre)) for centre in PROGRESS_CENTRES]}
        values += [torch.full_like(gradient, value) for name in features.names for value in shared.get(name, [])]
        return torch.stack(values)

    def _normalised(self, value):
        if not self.features.normalize:
            return value
        return value / torch.sqrt((value**2).mean() + self.features.normalize_eps)

    def _line_use(self):
        """From all gradients since the beginning, line by line."""
        shape = self.seen[0].shape
        matrices = [seen.reshape(len(seen), -1) if len(shape) > 1 else seen.reshape(-1, 1) for seen in self.seen]
        found = []
        for dim in (1, 0 if len(shape) > 1 else 1):
            used = torch.stack([matrix.any(dim) for matrix in matrices]).tolist()
            shares, recent = [], []
            for line in zip(*used, strict=True):
                weights = [0.99**age for age in range(len(line))]
                share = sum(weight for weight, was in zip(weights, line[::-1], strict=True) if was) / sum(weights)
                shares.append(1 + math.log(share + 1e-3) / math.log(1e3))
                since = [age for age, was in enumerate(line[::-1]) if was]
                recent.append(1 / (1 + (since[0] if since else len(line))))
            found.append([torch.tensor(each, dtype=torch.float64).unsqueeze(dim).expand(matrices[0].shape)
                          .reshape(shape) for each in (shares, recent)])
        return found

    def _average_lines(self, squared):
        if squared.dim() > 1:
            over_columns, over_rows = tuple(range(1, squared.dim())), 0
            row_means = squared.mean(over_columns, keepdim=True)
            column_means = squared.mean(over_rows, keepdim=True)
        else:
            row_means = column_means = squared
        decays = self.features.factored_decays
        self.rows = [decay * old + (1 - decay) * row_means for decay, old in zip(decays, self.rows, strict=True)]
        self.columns = [decay * old + (1 - decay) * column_means
                        for decay, old in zip(decays, self.columns, strict=True)]

    def _factors(self):
        if self.rows[0].dim() < 2:
            return [1 / torch.sqrt(row + 1e-9) for row in self.rows]
        return [1 / torch.sqrt(row / (row.mean() + 1e-9)).clip(min=1e-9) / torch.sqrt(column.clip(min=1e-9))
                for row, column in zip(self.rows, self.columns, strict=True)]


def naive_projected(features):
    weight = torch.randn(NUM_OUTPUTS, features.num_inputs, generator=generator(0, "weight"), dtype=torch.float64)
    bias = torch.randn(NUM_OUTPUTS, generator=generator(0, "bias"), dtype=torch.float64)
    naive = {name: NaiveFeatures(features) for name in SHAPES}
    steps = []
    for step in range(1, NUM_STEPS + 1):
        outputs = []
        for name in SHAPES:
            values = naive[name].observe(random_tree("gradient", step)[name], random_tree("params", step)[name],
                                         step, step / NUM_STEPS)
            assert len(values) == features.num_inputs
            outputs.append(torch.einsum("oi,in->on", weight, values.reshape(len(values), -1)) + bias[:, None])
        steps.append(torch.cat(outputs, -1))
    return torch.stack(steps)


FEATURES = {
    **{name: Features(groups=(name,)) for name in GROUP_SETS},
    **{f"{name} alone": Features(groups=("gradient", name)) for name in FEATURE_GROUPS},
    "everything": Features(groups=FEATURE_GROUPS),
    "everything, not normalised": Features(groups=FEATURE_GROUPS, normalize=False),
    "other decays": Features(groups=FEATURE_GROUPS, momentum_decays=(0.1, 0.5), factored_decays=(0.3, 0.8),
                             second_moment_decay=0.6, normalize_eps=1e-9),
}


@pytest.mark.parametrize("features", FEATURES.values(), ids=FEATURES)
def test_the_projection_equals_a_weight_matrix_times_features_written_out(features):
    torch.testing.assert_close(projected(features), naive_projected(features), rtol=1e-9, atol=1e-9)


def test_learned_decays_without_offset_are_the_fixed_ones():
    fixed, learned = (Features(groups=FEATURE_GROUPS, learn_decays=flag) for flag in (False, True))
    offsets = {name: leaf.double() for name, leaf in learned.init_weights().items()}
    assert sum(leaf.numel() for leaf in offsets.values()) == 7
    torch.testing.assert_close(projected(learned, weights=offsets), projected(fixed), rtol=1e-9, atol=1e-9)


def test_offsets_move_the_logarithm_of_one_minus_the_decay():
    learned = Features(groups=FEATURE_GROUPS, learn_decays=True)
    offsets = {"momentum_decays": torch.tensor([0.05, -0.03, 0.1]).double(),
               "second_moment_decay": torch.tensor([0.1]).double(),
               "factored_decays": torch.tensor([-0.1, 0.0, 0.2]).double()}

    def moved(decays, name):
        return tuple(1 - math.exp(10 * (math.log(1 - decay) / 10 + offset))
                     for decay, offset in zip(decays, offsets[name].tolist(), strict=True))

    fixed = Features(groups=FEATURE_GROUPS, momentum_decays=moved(learned.momentum_decays, "momentum_decays"),
                     second_moment_decay=moved((learned.second_moment_decay,), "second_moment_decay")[0],
                     factored_decays=moved(learned.factored_decays, "factored_decays"))
    torch.testing.assert_close(projected(learned, weights=offsets), projected(fixed), rtol=1e-9, atol=1e-9)


def test_offsets_cannot_push_a_decay_out_of_its_range():
    features = Features(groups=("momentum",), learn_decays=True)
    for offset, average in ((9.0, lambda seen: seen[-1]), (-99.0, lambda seen: 0 * seen[-1])):
        weights = {name: torch.full_like(leaf, offset).double() for name, leaf in features.init_weights().items()}
        seen = []
        for moment, inputs in inputs_over_time(features, weights):
            seen.append(moment.gradient)
            torch.testing.assert_close(values_of(inputs), average(seen).expand(3, -1))


@pytest.mark.parametrize("groups", [
    ("gradient",), ("momentum",), ("second_moment",), ("factored_gradient",), ("factored_momentum",),
    ("normalised_momentum", "normalised_gradient", "rsqrt_second_moment"), ("gradient", "rows_and_columns"),
    ("gradient", "rsqrt_rows_and_columns"), ("corrected_momentum", "corrected_gradient"),
], ids=str)
def test_normalised_features_do_not_see_the_scale_of_the_gradient(groups):
    features = Features(groups=groups, normalize_eps=1e-30)
    torch.testing.assert_close(projected(features, scale=1e4), projected(features, scale=1e6), rtol=1e-5, atol=1e-5)


def test_time_features_are_the_same_whatever_the_gradient():
    features = Features(groups=("gradient", "time", "progress"))
    for step, (_, inputs) in enumerate(inputs_over_time(features), start=1):
        expected = [math.tanh(step / scale - 1) for scale in (1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5)]
        expected += [math.tanh(10 * (step / NUM_STEPS - centre))
                     for centre in (0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1)]
        torch.testing.assert_close(inputs.common[SHARED], torch.tensor(expected).double())


def test_log_sign_splits_magnitude_and_sign():
    gradient = torch.tensor([0.0, 1e-12, -1e-3, 0.1, -1.0, 100.0]).double()
    layout = Layout.of({"p": gradient})
    features = Features(groups=("log_sign",), normalize=False)
    one = torch.ones(1).double()
    inputs, _ = features.observe({}, Moment(layout, gradient, gradient, one, one), features.init(layout, gradient))
    magnitude = [-1, -1, -1, math.log(0.1) / 5, 0, math.log(100) / 5]
    sign = [0, 1e-12 * math.exp(5), -1e-3 * math.exp(5), 1, -1, 1]
    torch.testing.assert_close(values_of(inputs), torch.tensor([magnitude, sign]).double(),
                               rtol=1e-7, atol=1e-7)


def test_a_zero_gradient_gives_finite_features():
    features = Features(groups=FEATURE_GROUPS)
    assert all(inputs.project(torch.ones(1, features.num_inputs).double(), torch.zeros(1).double()).isfinite().all()
               for _, inputs in inputs_over_time(features, scale=0.0))


def test_groups_and_sets_of_groups_can_be_mixed_and_count_once():
    features = Features(groups=("time", "lean", "momentum", "progress"))
    assert features.names == ("momentum", "normalised_momentum", "normalised_gradient", "time", "progress")
    assert features.num_inputs == 3 + 3 + 1 + 11 + 9


def test_the_use_of_lines_is_kept_only_where_it_is_read():
    """So that the state of designs without it stays what it was."""
    layout, like = Layout.of(random_tree("params")), torch.zeros(3, 99)
    without, having = (Features(groups=("gradient", *more)).init(layout, like) for more in ((), ("line_use",)))
    assert set(having) - set(without) == {"row_use", "column_use"}
    assert [tuple(having[name].shape) for name in ("row_use", "column_use")] == [(3, 2, 1 + 3 + 4 + 2), (3, 2, 5 + 27)]
