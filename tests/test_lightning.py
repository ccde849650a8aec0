"""An exported optimizer inside PyTorch Lightning."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from pages import run_page, write_best
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import optsearch
from optsearch.errors import UsageError
from optsearch.export import OptimizerModule

lightning = pytest.importorskip("lightning", reason="needs the extra `lightning`: pip install 'optsearch[lightning]'")

pytestmark = [
    # Ours are small problems in this process.
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    # Lightning with a newer torch or Python than it was made for.
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:lightning"),
]
EPOCHS, BATCHES = 4, 5


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Tanh(), nn.Linear(16, 3))


def batches() -> DataLoader:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCHES * 16, 8, generator=generator)
    labels = (inputs @ torch.randn(8, 3, generator=generator)).argmax(1)
    return DataLoader(TensorDataset(inputs, labels), batch_size=16)


def loss_of(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(inputs), labels)


class Classifier(lightning.LightningModule):
    def __init__(self, learned: OptimizerModule) -> None:
        super().__init__()
        self.net, self.learned, self.losses = net(), [learned], []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = loss_of(self.net, *batch)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.learned[0](self.parameters(), num_steps=self.trainer.estimated_stepping_batches, model=self)


def trainer(folder: Path, **options: object) -> "lightning.Trainer":
    saving = lightning.pytorch.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(accelerator="cpu", callbacks=[saving], **quiet | {"max_epochs": EPOCHS} | options)


def tensors(module: "lightning.LightningModule") -> dict[str, Tensor]:
    """Params, and the state of its optimizer."""
    state = module.trainer.optimizers[0].state_dict()["state"]
    return dict(module.net.named_parameters()) | {
        f"{index}/{name}": leaf for index, leaves in state.items() for name, leaf in leaves.items()}


@pytest.fixture(params=["adamw_mlp", "opt2vec"])
def learned(request: pytest.FixtureRequest, tmp_path: Path) -> OptimizerModule:
    """A design without, and one with a controller, which looks at the loss."""
    return optsearch.load(write_best(tmp_path, request.param))


@pytest.mark.parametrize(("every", "clip"), [(1, None), (1, 0.1), (2, None), (2, 0.1)])
def test_lightning_trains_as_a_loop_does(learned: OptimizerModule, tmp_path: Path, every: int,
                                         clip: float | None) -> None:
    """Gradients are accumulated over `every` batches, the last of an epoch over what is left, and clipped."""
    module = Classifier(learned)
    trainer(tmp_path, accumulate_grad_batches=every, gradient_clip_val=clip).fit(module, batches())
    model, num_steps = net(), EPOCHS * math.ceil(BATCHES / every)
    optimizer = learned(model.parameters(), num_steps=num_steps)
    for _ in range(EPOCHS):
        for index, batch in enumerate(batches()):
            loss = loss_of(model, *batch) / every
            loss.backward()
            if (index + 1) % every == 0 or index + 1 == BATCHES:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step(loss=loss)
                optimizer.zero_grad()
    (group,) = module.trainer.optimizers[0].param_groups
    assert group["step"] == group["num_steps"] == num_steps
    for name, param in model.named_parameters():
        torch.testing.assert_close(dict(module.net.named_parameters())[name], param, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_a_run_resumed_from_a_checkpoint_ends_on_the_same_bits(learned: OptimizerModule, tmp_path: Path,
                                                               precision: str) -> None:
    straight = Classifier(learned)
    trainer(tmp_path, precision=precision).fit(straight, batches())
    assert sum(straight.losses[-BATCHES:]) < 0.9 * sum(straight.losses[:BATCHES])
    resumed = Classifier(learned)
    trainer(tmp_path, precision=precision).fit(resumed, batches(), ckpt_path=tmp_path / "epoch=1.ckpt")
    assert resumed.losses == straight.losses[EPOCHS // 2 * BATCHES:]
    expected, found = tensors(straight), tensors(resumed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_a_run_without_an_end_is_no_number_of_steps(learned: OptimizerModule, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="num_steps must be finite and at least 1, or None, not inf"):
        trainer(tmp_path, max_epochs=-1).fit(Classifier(learned), batches())


class Shared(Classifier):
    """Tells every process the mean loss, as the page does."""

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: torch.optim.Optimizer,
                       optimizer_closure: Callable[[], Tensor]) -> None:
        optimizer.step(lambda: self.trainer.strategy.reduce(optimizer_closure(), reduce_op="mean"))

    def on_train_end(self) -> None:
        for param in self.net.parameters():
            first, second = self.all_gather(param.detach())
            assert torch.equal(first, second)


@pytest.mark.slow
def test_models_of_two_processes_stay_alike(tmp_path: Path) -> None:
    learned = optsearch.load(write_best(tmp_path, "opt2vec"))
    trainer(tmp_path, devices=2, strategy="ddp_spawn").fit(Shared(learned), batches())


def test_the_page_runs_as_it_stands(tmp_path: Path) -> None:
    torch.manual_seed(0)
    variables = run_page("how-to/lightning.md", tmp_path)
    trained = variables["trainer"]
    assert trained.global_step == 80
    longer = variables["longer"].optimizers[0].param_groups[0]
    assert longer["step"] == longer["num_steps"] == 160
    assert trained.callback_metrics["loss"] < 0.2
