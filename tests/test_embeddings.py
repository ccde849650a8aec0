"""What a controller makes of each param: given back by a step that is told the loss, kept over a run, saved."""

import json

import pytest
import torch
from torch import nn

from optsearch import trees
from optsearch.errors import UsageError
from optsearch.export import Artifact, EmbeddingLog, OptimizerModule
from optsearch.optimizers import named_design
from optsearch.seeds import generator


def module_of(name):
    design = named_design(name)
    weights = {key: leaf + 0.1 * torch.randn(leaf.shape, generator=generator(0, key))
               for key, leaf in design.init_weights(generator(0, "weights")).items()}
    return OptimizerModule(Artifact(design, weights, {}))


def trained(name, num_steps=4, named=False):
    """A model's losses and what each step gave back."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    optimizer = module_of(name)(model.named_parameters() if named else model.parameters(), num_steps=num_steps)
    inputs = torch.randn(8, 3)
    for _ in range(num_steps):
        optimizer.zero_grad()
        loss = model(inputs).square().mean()
        loss.backward()
        yield optimizer, loss


def test_a_step_told_the_loss_gives_the_embeddings_back():
    for optimizer, loss in trained("opt2vec"):
        embeddings = optimizer.step(loss)
        assert embeddings.shape == (4, 16)
        assert embeddings.abs().max() <= 1
        assert len(embeddings.unique(dim=0)) == 4
        assert torch.equal(embeddings, optimizer.embeddings())
    # The embedding is a function of what the params have been through alone.
    again = [optimizer.step(loss=loss) for optimizer, loss in trained("opt2vec")]
    assert torch.equal(again[-1], embeddings)


def test_a_closure_still_gives_its_loss_back_and_the_controller_hears_it():
    told = [optimizer.step(loss) for optimizer, loss in trained("opt2vec")]
    for (optimizer, loss), embeddings in zip(trained("opt2vec"), told, strict=True):
        assert optimizer.step(lambda loss=loss: loss) is loss
        assert torch.equal(optimizer.embeddings(), embeddings)


def test_params_without_gradients_have_zeros_and_designs_without_controllers_say_so():
    params = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(3))]
    params[1].grad = torch.ones(3)
    embeddings = module_of("opt2vec")(params).step(loss=0.5)
    assert embeddings[0].eq(0).all()
    assert embeddings[1].ne(0).any()
    plain = module_of("adamw_mlp")(params)
    assert plain.step(loss=0.5) == 0.5
    with pytest.raises(UsageError, match="no controller"):
        plain.embeddings()


def test_the_embeddings_of_a_run_are_kept_and_saved(tmp_path):
    kept, log = [], None
    for optimizer, loss in trained("opt2vec", num_steps=5, named=True):
        log = log or EmbeddingLog(optimizer, every=2)
        kept.append(optimizer.step(loss))
    assert torch.equal(log.embeddings, torch.stack(kept[1::2]))
    log.save(tmp_path / "run.safetensors")
    saved, metadata = trees.load(tmp_path / "run.safetensors")
    assert torch.equal(saved["embeddings"], log.embeddings)
    assert saved["steps"].tolist() == [2, 4]
    assert json.loads(metadata["names"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    log.close()
    optimizer.step(loss)
    assert len(log.embeddings) == 2


def test_a_log_that_can_keep_nothing_is_refused(tmp_path):
    optimizer, _ = next(trained("opt2vec"))
    with pytest.raises(UsageError, match="every must be at least 1"):
        EmbeddingLog(optimizer, every=0)
    with pytest.raises(UsageError, match="nothing to save after 0 steps"):
        EmbeddingLog(optimizer).save(tmp_path / "run.safetensors")
    with pytest.raises(UsageError, match="no controller"):
        EmbeddingLog(next(trained("adamw_mlp"))[0])
