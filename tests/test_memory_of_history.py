"""The key-value memory, against one made of plain lists."""

import math

import pytest
import torch
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx

from optsearch.errors import DesignError
from optsearch.optimizers import KeyValueMemory
from optsearch.seeds import generator

NUM_INPUTS, NUM_TENSORS, NUM_STEPS = 3, 2, 50
SMALL = KeyValueMemory(size=4, key_size=2, value_size=3)


def normal(*shape, purpose="normal"):
    return torch.randn(shape, generator=generator(0, purpose), dtype=torch.float64)


def random_weights(memory, batch=()):
    fresh = memory.init_weights(generator(0, "weights"), NUM_INPUTS)
    return {name: normal(*batch, *leaf.shape, purpose=name) for name, leaf in fresh.items()}


def empty(memory, batch=(), num_tensors=NUM_TENSORS):
    return memory.init(torch.zeros(*batch, 7).double(), num_tensors)


def run(memory, weights, sequence):
    """What is read at each step `[steps, ..., value_size, tensors]`, and the state after all of them."""
    state, reads = empty(memory, sequence.shape[1:-2], sequence.shape[-1]), []
    for values in sequence:
        read, state = memory.update(weights, values, state)
        reads.append(read)
    return torch.stack(reads), state


def dot(first, second):
    return sum(one * other for one, other in zip(first, second, strict=True))


class Lists:
    """A memory of one tensor: slots (key, value, strength) in the order in which they were first written."""

    def __init__(self, memory, weights):
        self.memory, self.weights, self.slots, self.last_key = memory, weights, [], None

    def mapped(self, name, values):
        return [dot(row, values) + shift for row, shift in
                zip(self.weights[f"{name}.weight"].tolist(), self.weights[f"{name}.bias"].tolist(), strict=True)]

    def update(self, values):
        query, key = self.mapped("query", values), self.mapped("key", values)
        value = [math.tanh(number) for number in self.mapped("value", values)]
        scores = [math.exp(dot(query, slot[0]) / math.sqrt(self.memory.key_size)) for slot in self.slots]
        attention = [score / sum(scores) for score in scores]
        read = [sum(part * slot[1][index] for part, slot in zip(attention, self.slots, strict=True))
                for index in range(self.memory.value_size)]
        for part, slot in zip(attention, self.slots, strict=True):
            slot[2] = slot[2] * math.exp(-2 / self.memory.size) + part
        written = [self.last_key or key, value, 1.0]
        if len(self.slots) < self.memory.size:
            self.slots.append(written)
        else:
            self.slots[min(range(len(self.slots)), key=lambda index: self.slots[index][2])] = written
        self.last_key = key
        return read


def test_it_is_a_memory_of_lists():
    weights, sequence = random_weights(SMALL), normal(NUM_STEPS, NUM_INPUTS, NUM_TENSORS)
    reads, state = run(SMALL, weights, sequence)
    for tensor in range(NUM_TENSORS):
        lists = Lists(SMALL, weights)
        expected = [lists.update(values.tolist()) for values in sequence[..., tensor]]
        torch.testing.assert_close(reads[..., tensor], torch.tensor(expected).double())
        keys, values, strengths = (torch.tensor(part).double() for part in zip(*lists.slots, strict=True))
        torch.testing.assert_close(state["keys"][..., tensor], keys.T)
        torch.testing.assert_close(state["values"][..., tensor], values.T)
        torch.testing.assert_close(state["strengths"][..., tensor], strengths)


def one_hot_weights(num_patterns, sharpness):
    """Queries and keys are the input itself, and so are values, up to their tanh."""
    eye, zeros = torch.eye(num_patterns).double(), torch.zeros(num_patterns).double()
    return {"query.weight": sharpness * eye, "query.bias": zeros, "key.weight": eye, "key.bias": zeros,
            "value.weight": eye, "value.bias": zeros}


def shown(*patterns, num_patterns):
    """One step a pattern, for one tensor: `[steps, num_patterns, 1]`."""
    return torch.eye(num_patterns).double()[list(patterns)][..., None]


def test_what_followed_a_pattern_is_read_when_it_is_seen_again():
    memory = KeyValueMemory(size=8, key_size=5, value_size=5)
    reads, _ = run(memory, one_hot_weights(5, sharpness=40.0), shown(0, 1, 2, 3, 4, 1, 3, num_patterns=5))
    assert (reads[0] == 0).all()
    for step, outcome in ((5, 2), (6, 4)):
        expected = math.tanh(1) * torch.eye(5).double()[outcome]
        torch.testing.assert_close(reads[step, :, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("asked", "kept"), [(0, [0, 1, 10, 11]), (None, [8, 9, 10, 11])])
def test_slots_in_use_survive_and_others_go_oldest_first(asked, kept):
    """0 is seen at the first two writes: with itself, since nothing was before it, and with 1."""
    memory, num_patterns = KeyValueMemory(size=4, key_size=12, value_size=12), 12
    asks_always = torch.zeros(num_patterns).double()
    if asked is not None:
        asks_always[asked] = 400
    weights = one_hot_weights(num_patterns, sharpness=0.0) | {"query.bias": asks_always}
    reads, state = run(memory, weights, shown(*range(num_patterns), num_patterns=num_patterns))
    assert sorted(state["values"][..., 0].argmax(0).tolist()) == kept
    if asked is not None:
        expected = math.tanh(1) * torch.tensor([0.5, 0.5]).double()
        torch.testing.assert_close(reads[-1, :2, 0], expected)


@pytest.mark.parametrize("batch", [(2,), (2, 2)])
def test_trainings_and_tensors_have_memories_of_their_own(batch):
    weights, sequence = random_weights(SMALL, batch), normal(9, *batch, NUM_INPUTS, NUM_TENSORS)
    reads, state = run(SMALL, weights, sequence)
    for index in torch.cartesian_prod(*map(torch.arange, batch)).reshape(-1, len(batch)).tolist():
        place = tuple(index)
        own = {name: leaf[place] for name, leaf in weights.items()}
        for tensor in range(NUM_TENSORS):
            alone, after = run(SMALL, own, sequence[(slice(None), *place)][..., [tensor]])
            torch.testing.assert_close(reads[(slice(None), *place)][..., [tensor]], alone)
            torch.testing.assert_close({name: leaf[place][..., [tensor]] for name, leaf in state.items()}, after)


def test_vmap_makes_the_same_of_it():
    weights, sequence = random_weights(SMALL, (2,)), normal(9, 2, NUM_INPUTS, NUM_TENSORS)
    mapped = vmap(lambda tree, values: run(SMALL, tree, values)[0], in_dims=(0, 1), out_dims=1)(weights, sequence)
    torch.testing.assert_close(mapped, run(SMALL, weights, sequence)[0])


def test_a_trace_of_the_first_step_is_right_for_later_ones():
    weights, sequence = random_weights(SMALL), normal(9, NUM_INPUTS, NUM_TENSORS)
    traced = make_fx(lambda values, state: SMALL.update(weights, values, state))(sequence[0], empty(SMALL))
    state = empty(SMALL)
    for values in sequence:
        _, state = traced(values, state)
    torch.testing.assert_close(state, run(SMALL, weights, sequence)[1])


@pytest.mark.parametrize("num_steps", [1, 2, 7])
def test_slopes_are_right_from_the_empty_memory_on(num_steps):
    weights, sequence = random_weights(SMALL), normal(num_steps, NUM_INPUTS, NUM_TENSORS)
    direction = {name: normal(*leaf.shape, purpose=("direction", name)) for name, leaf in weights.items()}
    target = normal(num_steps, SMALL.value_size, NUM_TENSORS, purpose="target")

    def summed(tree):
        return (run(SMALL, tree, sequence)[0] * target).sum()

    def slope_along(tree):
        slopes = grad(summed)(tree)
        return sum((slopes[name] * direction[name]).sum() for name in slopes)

    ahead, behind = ({name: leaf + size * direction[name] for name, leaf in weights.items()} for size in (1e-6, -1e-6))
    torch.testing.assert_close(slope_along(weights), (summed(ahead) - summed(behind)) / 2e-6, rtol=1e-6, atol=1e-8)
    assert all(leaf.isfinite().all() for leaf in grad(slope_along)(weights).values())


def test_a_memory_without_slots_is_refused():
    with pytest.raises(DesignError, match=r"memory.key_value: .* must be at least 1, not \(0, 8, 8\)"):
        KeyValueMemory(size=0)
