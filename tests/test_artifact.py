import json

import pytest
import torch

import optsearch
from optsearch import trees
from optsearch.errors import FileError
from optsearch.export import Artifact, OptimizerModule, artifact, load
from optsearch.optimizers import CONTRACT, DESIGNS, named_design
from optsearch.seeds import generator

PROVENANCE = {"study": "größer", "seeds": [1, 2], "relative loss": -0.22, "trial": None}


def artifact_of(name):
    design = named_design(name)
    return Artifact(design, design.init_weights(generator(0, "weights")), PROVENANCE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "best.safetensors"


def rewrite(path, weights=None, **changes):
    """The saved artifact with other weights or metadata, and a checksum that fits."""
    saved, metadata = trees.load(path)
    trees.save(path, saved if weights is None else weights, metadata | changes)


@pytest.mark.parametrize("name", DESIGNS)
def test_an_artifact_comes_back_as_it_was(path, name):
    saved = artifact_of(name)
    saved.save(path)
    loaded = Artifact.load(path)
    assert loaded.design == saved.design
    assert loaded.provenance == PROVENANCE
    assert loaded.weights.keys() == saved.weights.keys()
    assert all(torch.equal(loaded.weights[key], leaf) for key, leaf in saved.weights.items())


def test_a_path_may_be_a_string(path):
    artifact_of("celo2").save(str(path))
    assert load(str(path)).design == named_design("celo2")


def test_what_users_call_is_what_export_gives(path):
    artifact_of("adamw_mlp").save(path)
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = optsearch.load(path)([param], num_steps=10)
    param.grad = torch.ones(2)
    optimizer.step()
    assert param.lt(1).all()


@pytest.mark.parametrize(("change", "advice"), [(1, "Upgrade optsearch"), (-1, "Export it again from its study")])
def test_another_contract_number_is_refused_with_advice(path, monkeypatch, change, advice):
    with monkeypatch.context() as patch:
        patch.setattr(artifact, "CONTRACT", CONTRACT + change)
        artifact_of("celo2").save(path)
    with pytest.raises(FileError, match=f"contract number {CONTRACT + change}, this optsearch reads {CONTRACT}.*"
                                        f"{advice}"):
        load(path)


def test_weights_that_do_not_fit_the_design_are_refused(path):
    saved = artifact_of("adamw_mlp")
    saved.save(path)
    name = next(iter(saved.weights))
    for weights in (saved.weights | {name: torch.zeros(3, 3)}, saved.weights | {"more": torch.zeros(1)},
                    {key: leaf for key, leaf in saved.weights.items() if key != name}):
        rewrite(path, weights)
        with pytest.raises(FileError, match=r"weights that don't fit its design. Export it again"):
            load(path)


def test_a_file_of_another_kind_is_refused(path):
    trees.save(path, {"a": torch.ones(1)}, {"format": "optsearch checkpoint"})
    with pytest.raises(FileError, match="no learned optimizer but optsearch checkpoint; expected a file made by"):
        load(path)
    trees.save(path, {"a": torch.ones(1)}, {})
    with pytest.raises(FileError, match="no learned optimizer but something else"):
        load(path)


def test_a_part_that_this_version_does_not_know_is_named(path):
    artifact_of("celo2").save(path)
    config = named_design("celo2").to_config() | {"rule": {"kind": "mamba"}}
    rewrite(path, design=json.dumps(config))
    with pytest.raises(FileError, match=r"does not know: rule: there is no kind `mamba`. Kinds: gru, lstm, mlp, none"):
        load(path)


def test_a_pickle_is_refused(path):
    torch.save({"weights": torch.ones(1)}, path)
    with pytest.raises(FileError, match="could run code"):
        load(path)


def test_a_missing_or_damaged_file_is_refused(path):
    with pytest.raises(FileError, match="could not be read"):
        load(path)
    artifact_of("celo2").save(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(FileError, match="damaged"):
        load(path)


def test_a_module_keeps_its_weights_in_its_state_dict(tmp_path):
    first = OptimizerModule(artifact_of("small_fc"))
    other = Artifact(first.design, {name: leaf + 1 for name, leaf in first.weights.items()}, {})
    second = OptimizerModule(other)
    torch.save(first.state_dict(), tmp_path / "module.pt")
    second.load_state_dict(torch.load(tmp_path / "module.pt", weights_only=True))
    assert second.weights.keys() == first.weights.keys()
    assert all(torch.equal(second.weights[name], leaf) for name, leaf in first.weights.items())
    assert all(torch.equal(other.weights[name], leaf + 1) for name, leaf in first.weights.items())


def test_a_module_has_nothing_for_another_optimizer_to_train():
    assert list(OptimizerModule(artifact_of("small_fc")).parameters()) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_module_of_another_type_makes_optimizers_that_work(dtype):
    module = OptimizerModule(artifact_of("lstm_2016")).to(dtype)
    assert {leaf.dtype for leaf in module.weights.values()} == {dtype}
    param = torch.nn.Parameter(torch.ones(2))
    optimizer = module([param])
    param.grad = torch.ones(2)
    optimizer.step()
    assert param.isfinite().all()
    assert param.ne(1).all()


def test_a_module_says_what_it_is():
    assert "hidden_size=8" in repr(OptimizerModule(artifact_of("celo2")))
