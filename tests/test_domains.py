"""Learned optimizers with adapters: their files, and the domain that they are told or recognise."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from command_line import call
from torch import Tensor, nn

from optsearch import trees
from optsearch.adaptation import OnlineOptimizer, learned_adapters, recognising
from optsearch.adaptation.example_networks import MAKERS
from optsearch.adaptation.examples import Example, of_domain, of_family
from optsearch.errors import FileError, UsageError
from optsearch.export import Artifact, LearnedTorchOptimizer, OptimizerModule
from optsearch.export.adapters import Adapters
from optsearch.export.recogniser import NUM_FEATURES, features
from optsearch.optimizers import named_design
from optsearch.seeds import generator
from optsearch.tasks import DOMAINS, families, families_of
from optsearch.trees import Tree

DESIGN = named_design("adamw_mlp")
WEIGHTS = DESIGN.init_weights(generator(0, "weights"))
TWO = ("speech", "tabular")


def offsets(seed: int) -> Tree:
    stream = generator(seed, "offsets")
    return {name: 0.1 * torch.randn(leaf.shape, generator=stream) for name, leaf in WEIGHTS.items()
            if name.startswith(("rule.output.", "schedule."))}


@pytest.fixture(scope="module")
def artifact() -> Artifact:
    examples = [each for domain in TWO for each in of_domain(domain, 20, 0)]
    return Artifact(DESIGN, WEIGHTS, {"study": "two"}, Adapters({domain: offsets(index) for index, domain in
                                                                 enumerate(TWO)}, recognising.fit(TWO, examples, 0)))


def table_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(9, 12), nn.ReLU(), nn.Linear(12, 3))


def stepped(make: object, num_steps: int = 3, model: nn.Module | None = None) -> tuple[Tensor, LearnedTorchOptimizer]:
    """Where steps on one batch of a table lead to, and what made them."""
    model = model or table_model()
    optimizer = make(model.parameters(), num_steps=10)  # type: ignore[operator]
    stream = generator(0, "batch")
    inputs, labels = torch.randn(32, 9, generator=stream), torch.randint(3, (32,), generator=stream)
    for _ in range(num_steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    return torch.cat([param.detach().flatten() for param in model.parameters()]), optimizer


def in_domain(domain: str) -> Artifact:
    """What an optimizer with adapters should do in a domain, without adapters."""
    added = offsets(TWO.index(domain))
    return Artifact(DESIGN, {name: leaf + added.get(name, 0.0) for name, leaf in WEIGHTS.items()}, {})


def test_a_file_keeps_its_adapters(artifact: Artifact, tmp_path: Path) -> None:
    path = tmp_path / "many.safetensors"
    artifact.save(path)
    found = Artifact.load(path)
    assert found.adapters is not None
    assert found.adapters.domains == TWO
    assert found.tree.keys() == artifact.tree.keys()
    assert all(torch.equal(leaf, found.tree[name]) for name, leaf in artifact.tree.items())
    for domain in TWO:
        assert torch.equal(trees.ravel(found.weights_in(domain)), trees.ravel(in_domain(domain).weights))
    assert torch.equal(trees.ravel(found.weights_in("vision")), trees.ravel(WEIGHTS))


@pytest.mark.parametrize("change", ["lacks the recogniser", "has a strange offset", "has one domain more"])
def test_adapters_that_do_not_fit_are_refused(artifact: Artifact, tmp_path: Path, change: str) -> None:
    path = tmp_path / "many.safetensors"
    artifact.save(path)
    tree, metadata = trees.load(path)
    if change == "lacks the recogniser":
        tree = {name: leaf for name, leaf in tree.items() if not name.startswith("recogniser.")}
    elif change == "has a strange offset":
        tree["adapters.tabular.rule.output.weight"] = torch.zeros(2, 2)
    else:
        tree["adapters.vision.rule.output.bias"] = torch.zeros(1)
    trees.save(path, tree, metadata)
    with pytest.raises(FileError, match="don't fit its design"):
        Artifact.load(path)


@pytest.mark.parametrize("domain", TWO)
def test_a_named_domain_makes_the_steps_of_its_weights(artifact: Artifact, domain: str) -> None:
    module = OptimizerModule(artifact)
    found, optimizer = stepped(lambda params, **options: module(params, domain=domain, **options))
    expected, _ = stepped(OptimizerModule(in_domain(domain)))
    assert torch.equal(found, expected)
    assert optimizer.domain == domain


@pytest.mark.parametrize("kind", [OptimizerModule.forward, OnlineOptimizer])
def test_a_domain_is_recognised_at_the_first_step(artifact: Artifact, kind: object) -> None:
    module, plain = OptimizerModule(artifact), OptimizerModule(in_domain("tabular"))
    found, optimizer = stepped(lambda params, **options: kind(module, params, **options))  # type: ignore[operator]
    expected, _ = stepped(lambda params, **options: kind(plain, params, **options))  # type: ignore[operator]
    assert optimizer.domain == "tabular"
    assert torch.equal(found, expected)


def test_what_was_recognised_is_kept_in_the_state(artifact: Artifact) -> None:
    """A run that is resumed with another first batch, or told otherwise, goes on as it began."""
    module, model = OptimizerModule(artifact), table_model()
    _, optimizer = stepped(module, 2, model)
    state = pickle.loads(pickle.dumps(optimizer.state_dict()))
    again = module(model.parameters(), num_steps=10, domain="speech")
    again.load_state_dict(state)
    assert again.domain == "tabular"
    copied = copy.deepcopy(model)
    expected, _ = stepped(lambda params, **options: optimizer, 2, model)
    other = module(copied.parameters(), num_steps=10)
    other.load_state_dict(state)
    found, _ = stepped(lambda params, **options: other, 2, copied)
    assert torch.equal(found, expected)
    with pytest.raises(UsageError, match="no adapters, and so no domain 'tabular'"):
        OptimizerModule(in_domain("tabular"))(model.parameters()).load_state_dict(state)


def test_a_domain_must_be_one_that_there_is(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match=r"no adapter for the domain 'music'\. Domains: speech, tabular"):
        OptimizerModule(artifact)(table_model().parameters(), domain="music")
    with pytest.raises(UsageError, match="has no adapters, and so no domain 'speech'"):
        OptimizerModule(in_domain("speech"))(table_model().parameters(), domain="speech")


def test_a_step_without_gradients_recognises_nothing(artifact: Artifact) -> None:
    optimizer = OptimizerModule(artifact)(table_model().parameters())
    optimizer.step()
    assert optimizer.domain is None
    assert optimizer.state_dict()["domain"] is None


def test_a_module_of_another_type_keeps_its_adapters(artifact: Artifact) -> None:
    module = OptimizerModule(artifact).to(torch.bfloat16)
    other = OptimizerModule(Artifact(DESIGN, WEIGHTS, {}, artifact.adapters))
    other.load_state_dict(OptimizerModule(artifact).state_dict())
    assert other.adapters is not None
    assert artifact.adapters is not None
    assert torch.equal(trees.ravel(other.adapters.to_tree()), trees.ravel(artifact.adapters.to_tree()))
    found, optimizer = stepped(module)
    assert found.isfinite().all()
    assert optimizer.domain == "tabular"


def network(name: str) -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = {"mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.ReLU(), nn.Linear(6, 4)),
                 "cnn": lambda: nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 4)),
                 "vector": lambda: nn.Linear(48, 1)}[name]()
        inputs = torch.randn(8, 48) if name == "vector" else torch.randn(8, 3, 4, 4)
        return model, model(inputs).logsumexp(1).mean() if name != "vector" else model(inputs).square().mean()


@pytest.mark.parametrize("name", ["mlp", "cnn", "vector"])
def test_features_know_no_units(name: str) -> None:
    model, loss = network(name)
    params = list(model.parameters())
    gradients = torch.autograd.grad(loss, params)
    expected = features(params, gradients)
    assert expected.shape == (NUM_FEATURES,)
    assert expected.isfinite().all()
    for unit in (1e-20, 1e3, 1e25):
        scaled = [gradient * unit for gradient in gradients]
        torch.testing.assert_close(features([param * 7 for param in params], scaled), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("shapes", [[()], [(1,)], [(1, 1)], [(3, 2), (3,)], [(2, 1, 1, 1)], [(0,), (4,)][1:]])
def test_features_of_anything_are_finite(shapes: list[tuple[int, ...]]) -> None:
    for value in (0.0, 1.0, torch.inf, torch.nan):
        params = [torch.ones(shape) for shape in shapes]
        assert features(params, [torch.full(shape, value) for shape in shapes]).isfinite().all()


def test_features_see_what_data_leave_in_a_gradient() -> None:
    """Columns without a gradient, neighbours that are alike, and outputs whose gradients sum to 0."""
    smooth = torch.linspace(0, 3.14, 24).sin()[None] * torch.randn(6, 1, generator=generator(0, "rows"))
    rough = torch.randn(6, 24, generator=generator(1, "rows"))
    bias = torch.tensor([1.0, -1.0])
    params = [torch.ones(6, 24), torch.ones(2, 6), torch.ones(2)]

    def of(first: Tensor) -> dict[str, float]:
        found = features(params, [first, torch.ones(2, 6), bias]).tolist()
        return {"dead": found[23], "alike": found[29], "sum": found[35]}

    dead = rough.clone()
    dead[:, :6] = 0
    assert of(dead)["dead"] == pytest.approx(0.25)
    assert of(rough)["dead"] == 0
    assert of(smooth)["sum"] == pytest.approx(0.0, abs=1e-6)
    wave = torch.stack([(torch.arange(24.0) / 4 + phase).sin() for phase in torch.arange(6.0)])
    assert of(wave)["alike"] > 0.8
    assert abs(of(rough)["alike"]) < 0.3


@pytest.mark.parametrize("domain", DOMAINS)
def test_examples_follow_from_their_seed(domain: str) -> None:
    def drawn(seed: int) -> list[Example]:
        return list(of_domain(domain, len(MAKERS[domain]), seed))

    before = torch.random.get_rng_state()
    one, same, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for example, again, different in zip(one, same, other, strict=True):
        assert all(torch.equal(*pair) for pair in zip(example.gradients, again.gradients, strict=True))
        assert [leaf.shape for leaf in example.params] != [leaf.shape for leaf in different.params]
        assert all(leaf.isfinite().all() for leaf in example.gradients)
        assert [leaf.shape for leaf in example.params] == [leaf.shape for leaf in example.gradients]


def test_a_recogniser_follows_from_its_examples_and_tells_new_tasks_apart(artifact: Artifact) -> None:
    examples = [each for domain in TWO for each in of_domain(domain, 20, 0)]
    again = recognising.fit(TWO, examples, 0)
    assert artifact.adapters is not None
    assert torch.equal(trees.ravel(again.to_tree()), trees.ravel(artifact.adapters.recogniser.to_tree()))
    new = [of_family(family, seed) for family in families_of(["keywords_cnn", "keywords_mlp", "tabular_resnet"])
           for seed in range(3)]
    right = [TWO[again.recognise(each.params, each.gradients)] == each.domain for each in new]
    assert sum(right) >= 0.9 * len(right)


def test_meta_trained_offsets_become_adapters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognising, "NUM_NETWORKS", 4)
    monkeypatch.setattr(recognising, "NUM_TRAININGS", 2)
    known = families("quadratics")
    assert learned_adapters(WEIGHTS, known, 0) is None
    found = learned_adapters(WEIGHTS | trees.prefixed("adapters.synthetic", offsets(0)), known, 0)
    assert found is not None
    assert found.domains == ("synthetic",)
    assert found.fit(trees.shapes_of(WEIGHTS))
    assert not found.fit({"rule.output.bias": (1,)})


@pytest.mark.slow
def test_the_command_adapts_to_several_domains_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    provenance = {"meta_training": {"horizon": 20, "num_tasks": 1}, "tasks": ["quadratics"]}
    Artifact(DESIGN, WEIGHTS, provenance).save(Path("old.safetensors"))
    ran = call("adapt", "old.safetensors", "--task", "quadratics", "--task", "tabular_linear", "--adapters",
               "--budget", "1600", "-o", "many.safetensors", "--json")
    assert ran.returncode == 0, ran.stderr
    found = Artifact.load(Path("many.safetensors"))
    assert found.adapters is not None
    assert found.adapters.domains == ("synthetic", "tabular")
    assert all(leaf.any() for each in found.adapters.offsets.values() for leaf in each.values())
    again = call("adapt", "many.safetensors", "--task", "tabular_linear", "--budget", "800", "-o", "one.safetensors")
    assert again.returncode == 0, again.stderr
    assert Artifact.load(Path("one.safetensors")).adapters is None
    wrong = call("adapt", "many.safetensors", "--task", "quadratics", "--adapters", "--keep", "replay")
    assert wrong.returncode == 2
    assert "don't go together" in wrong.stderr
