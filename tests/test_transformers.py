"""An exported optimizer inside the Hugging Face Trainer, and in a loop of Accelerate."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pages import run_page, write_best
from torch import Tensor, nn

import optsearch
from optsearch.export import OptimizerModule

transformers = pytest.importorskip("transformers", minversion="4.50",
                                   reason="needs the extra `transformers`: pip install 'optsearch[transformers]'")
accelerate = pytest.importorskip("accelerate", reason="needs the extra `transformers`")

pytestmark = [
    # The default of both libraries, on a machine without a GPU.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator:UserWarning"),
    # These libraries with a newer torch or Python than they were made for.
    pytest.mark.filterwarnings("ignore:.*:FutureWarning:(transformers|accelerate)"),
    pytest.mark.filterwarnings("ignore:.*:DeprecationWarning:(transformers|accelerate)"),
]
NUM_STEPS = 12
ROWS = [{"input_ids": row, "labels": row} for row in (torch.arange(8) + torch.arange(192)[:, None]) % 16]


@pytest.fixture(autouse=True)
def fresh_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accelerate keeps its precision, and the loader it is in, for the whole process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    accelerate.state.GradientState._reset_state()


@pytest.fixture(params=["adamw_mlp", "opt2vec"])
def learned(request: pytest.FixtureRequest, tmp_path: Path) -> OptimizerModule:
    """A design without, and one with a controller, which looks at the loss."""
    return optsearch.load(write_best(tmp_path, request.param))


def tiny(dropout: float = 0.1) -> nn.Module:
    """Its dropout makes a resumed run need the state of the generator too."""
    torch.manual_seed(1)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(
        vocab_size=16, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0,
        embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout))


def trainer(learned: OptimizerModule, folder: Path, **options: Any) -> "transformers.Trainer":
    """As the page sets it up."""
    options = {"max_steps": NUM_STEPS, "save_steps": NUM_STEPS // 2, "logging_steps": 1, "max_grad_norm": 0.0} | options
    args = transformers.TrainingArguments(
        str(folder), per_device_train_batch_size=8, lr_scheduler_type="constant", report_to="none", use_cpu=True,
        disable_tqdm=True, **options)
    model = tiny()
    optimizer = learned(model.parameters(), num_steps=args.max_steps, model=model)
    return transformers.Trainer(model, args, train_dataset=ROWS, optimizers=(optimizer, None))


def tensors(run: "transformers.Trainer") -> dict[str, Tensor]:
    """Params, and the state of the optimizer."""
    state = run.optimizer.state_dict()["state"]
    return dict(run.model.named_parameters()) | {
        f"{index}/{name}": leaf for index, leaves in state.items() for name, leaf in leaves.items()}


def losses(run: "transformers.Trainer") -> list[float]:
    return [entry["loss"] for entry in run.state.log_history if "loss" in entry]


@pytest.mark.parametrize("options", [{}, {"bf16": True}, {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1}],
                         ids=["plain", "bf16", "accumulated and clipped"])
def test_a_run_resumed_from_a_checkpoint_ends_on_the_same_bits(learned: OptimizerModule, tmp_path: Path,
                                                               options: dict[str, Any]) -> None:
    straight = trainer(learned, tmp_path / "run", **options)
    straight.train()
    assert losses(straight)[-1] < 0.9 * losses(straight)[0]
    (group,) = straight.optimizer.param_groups
    assert (group["step"], group["num_steps"], group["lr"]) == (NUM_STEPS, NUM_STEPS, 1.0)
    resumed = trainer(learned, tmp_path / "again", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{NUM_STEPS // 2}"))
    assert losses(resumed) == losses(straight)
    expected, found = tensors(straight), tensors(resumed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)


def test_the_trainer_of_the_page_tells_length_and_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it does what a plain loop over the same batches does."""
    page = run_page("how-to/transformers.md", tmp_path)
    assert page["result"].training_loss < 3
    learned = optsearch.load(write_best(tmp_path, "opt2vec"))
    batches: list[dict[str, Tensor]] = []

    def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        batches.append({name: torch.stack([row[name] for row in rows]) for name in rows[0]})
        batches[-1]["labels"][:, 0] = -100  # Nothing predicts it, but Trainer's mean would count it.
        return batches[-1]

    args = transformers.TrainingArguments(
        str(tmp_path), num_train_epochs=2, per_device_train_batch_size=8, gradient_accumulation_steps=4,
        lr_scheduler_type="constant", max_grad_norm=0.0, report_to="none", use_cpu=True, disable_tqdm=True)
    run = page["LearnedTrainer"](tiny(dropout=0.0), args, train_dataset=ROWS, data_collator=collate)
    monkeypatch.chdir(tmp_path)
    run.train()
    model = tiny(dropout=0.0)
    optimizer = learned(model.parameters(), num_steps=12)
    for start in range(0, 48, 4):
        optimizer.zero_grad()
        loss = sum(model(**batch).loss for batch in batches[start:start + 4]) / 4
        loss.backward()
        optimizer.step(loss=loss)
    (group,) = run.optimizer.param_groups
    assert group["step"] == group["num_steps"] == 12
    # Not params: those that change nothing, as biases of attention keys, only have noise for gradients.
    torch.testing.assert_close(run.model(**batches[0]).logits, model(**batches[0]).logits, rtol=1e-4, atol=1e-4)


def test_a_loop_of_accelerate_resumes_on_the_same_bits(learned: OptimizerModule, tmp_path: Path) -> None:
    def prepared() -> tuple[Any, nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(1)
        model = nn.Linear(8, 3)
        accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
        optimizer = learned(model.parameters(), num_steps=NUM_STEPS)
        return accelerator, *accelerator.prepare(model, optimizer)

    def train(accelerator: Any, model: nn.Module, optimizer: torch.optim.Optimizer, batches: range) -> None:
        for batch in batches:
            inputs = torch.randn(16, 8, generator=torch.Generator().manual_seed(batch))
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1))
                accelerator.backward(loss)
                optimizer.step(lambda loss=loss: loss.detach())
                optimizer.zero_grad()

    straight = prepared()
    train(*straight, range(NUM_STEPS))
    straight[0].save_state(str(tmp_path / "half"))
    train(*straight, range(NUM_STEPS, 2 * NUM_STEPS))
    resumed = prepared()
    resumed[0].load_state(str(tmp_path / "half"))
    train(*resumed, range(NUM_STEPS, 2 * NUM_STEPS))
    assert resumed[2].param_groups[0]["step"] == NUM_STEPS
    torch.testing.assert_close(resumed[1].weight, straight[1].weight, rtol=0, atol=0)
    torch.testing.assert_close(resumed[2].state_dict(), straight[2].state_dict(), rtol=0, atol=0)
