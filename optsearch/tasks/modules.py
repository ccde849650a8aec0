"""A task family made from somebody's own module, loss and dataset."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from optsearch.errors import TaskError
from optsearch.seeds import generator as stream
from optsearch.tasks.family import TaskFamily, split_rows
from optsearch.trees import Tree, prefixed, within

Factory = Callable[[], nn.Module]
Loss = Callable[[Callable[..., Any], Any], Tensor]

RANDOM_MODULES = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
MIN_ROWS = 4


@dataclass(frozen=True, kw_only=True)
class ModuleFamily(TaskFamily):
    """Fresh modules from `factory`, trained with `module_loss(model, batch)` on rows of a dataset."""

    factory: Factory
    module_loss: Loss
    skeleton: nn.Module
    num_fields: int

    @property
    def module(self) -> nn.Module:
        return self.skeleton

    def sample(self, generator: torch.Generator) -> Tree:
        return prefixed("frozen", {name: param.detach() for name, param in self.skeleton.named_parameters()
                                   if not param.requires_grad})

    def init(self, generator: torch.Generator, task: Tree) -> Tree:
        seed = int(torch.randint(2**62, (), generator=generator))
        # Modules initialise themselves from torch's global stream; it is put back afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.factory()
        return {name: param.detach().clone() for name, param in module.named_parameters()
                if param.requires_grad}

    def loss(self, params: Tree, batch: Tree) -> Tensor:
        def model(*args: Any, **kwargs: Any) -> Any:
            return functional_call(self.skeleton, params | within("frozen", batch), args, kwargs)

        fields = tuple(batch[str(index)] for index in range(self.num_fields))
        return self.module_loss(model, fields if self.num_fields > 1 else fields[0])


def from_module(factory: Factory, loss: Loss, dataset: Any, *, name: str = "own",
                batch_size: int = 64, domain: str = "synthetic", loss_cap: float | None = None) -> TaskFamily:
    """A task family from `factory() -> nn.Module`, `loss(model, batch) -> ()` and a map-style dataset.

    The dataset's items are tensors or tuples of tensors of equal shapes; it is held in memory and split
    60 : 20 : 20. `loss_cap` is by default twice the loss of a fresh module. Raises `TaskError` for modules
    with buffers or dropout, whose training can't be run as a batch of pure functions.

        from_module(lambda: nn.Linear(4, 1), lambda model, batch: mse_loss(model(batch[0]), batch[1]), dataset)
    """
    if isinstance(factory, nn.Module):
        raise TaskError("expected a function that makes fresh modules, not a module. "
                        f"Give `lambda: {type(factory).__name__}(...)`.")
    with torch.random.fork_rng(devices=[]):
        skeleton = _checked(factory())
    rows = _rows(dataset)
    num_rows = len(rows["0"])
    if num_rows < MIN_ROWS:
        raise TaskError(f"the dataset has {num_rows} rows; expected at least {MIN_ROWS}, some for each split.")
    family = ModuleFamily(
        name=name, domain=domain, loss_cap=loss_cap or 1.0, batch_size=batch_size, num_fields=len(rows),
        data=split_rows(rows, stream(0, "split", name)), factory=factory, module_loss=loss, skeleton=skeleton)
    if loss_cap is not None:
        return family
    return _capped(family)


def _checked(module: nn.Module) -> nn.Module:
    buffers = [name for name, _ in module.named_buffers()]
    if buffers:
        raise TaskError(f"the module has buffers ({', '.join(buffers[:3])}), which inner trainings would share. "
                        "Use layers without running statistics, such as GroupNorm or LayerNorm.")
    dropouts = [name for name, part in module.named_modules() if _dropout(part) > 0]
    if dropouts:
        raise TaskError(f"the module has dropout ({', '.join(dropouts[:3])}). Set it to 0 for meta-training.")
    if not any(param.requires_grad for param in module.parameters()):
        raise TaskError("the module has no trainable parameters; expected at least one.")
    return module


def _dropout(module: nn.Module) -> float:
    if isinstance(module, RANDOM_MODULES):
        return module.p
    return module.dropout if isinstance(module, (nn.MultiheadAttention, nn.RNNBase)) else 0.0


def _rows(dataset: Any) -> Tree:
    try:
        items = [item if isinstance(item, (tuple, list)) else (item,) for item in
                 (dataset[index] for index in range(len(dataset)))]
        return {str(field): torch.stack([torch.as_tensor(item[field]) for item in items])
                for field in range(len(items[0]))}
    except (TypeError, RuntimeError, IndexError, ValueError) as error:
        raise TaskError(f"the dataset can't be held as tensors ({error}). Expected a map-style dataset of "
                        "tensors, or of tuples of tensors of equal shapes.") from error


def _capped(family: ModuleFamily) -> TaskFamily:
    generator = stream(0, "cap", family.name)
    rows = {name: leaf[: family.batch_size] for name, leaf in family.data.meta.items()}
    with torch.no_grad():
        fresh = float(family.loss(family.init(generator, {}), rows | family.sample(generator)))
    return replace(family, loss_cap=2 * abs(fresh) or 1.0)
