"""`optsearch bench engine --device cuda:0`: meta-training and one step of a large model, beside what is published.

Floors are counted. Of an inner step: the products of the inner model's gradient and of the rule, in float32; params,
gradients and state, each read and written once. Of a step of small_fc, a parameter: gradient, param, three momenta and
a second moment read, all but the gradient written, 44 bytes; 16 features of its own into 32 units, those into 32, those
into 2, 3.2 kFLOP; with 86.6 million parameters 3.8 GB and 277 GFLOP. A floor is reached where a kernel does nothing
else and reaches what copies, or products of large matrices, reach on the same device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from optsearch import progress
from optsearch.bench import ceilings, steps, unrolls
from optsearch.bench.timing import Contender, Report, Spread, in_turns, ratio
from optsearch.errors import UsageError
from optsearch.meta_training import MetaTraining
from optsearch.optimizers import DESIGNS
from optsearch.tasks import TaskFamily

Content = dict[str, Any]
# Moudgil et al. 2026 (arxiv.org/abs/2602.19142): 320 million inner steps in 4.5 hours of a GPU.
PUBLISHED_INNER_STEPS = 320e6 / (4.5 * 3600)
# Belilovsky-Lab/pylo, docs/how_it_works.rst: ViT-B/16 with small_fc by its CUDA kernel, on an A100.
PUBLISHED_STEP_SECONDS = 0.0996
NUM_FAMILIES = 4


def vit_b16() -> steps.Shapes:
    """The tensors of a ViT-B/16 for 1,000 classes: 86.6 million parameters."""
    block = ((768,), (768,), (2304, 768), (2304,), (768, 768), (768,), (768,), (768,), (3072, 768), (3072,),
             (768, 3072), (768,))
    return ((1, 1, 768), (1, 197, 768), (768, 3, 16, 16), (768,), *block * 12, (768,), (768,), (1000, 768), (1000,))


@dataclass(frozen=True)
class GPUEffort:
    """How much is measured: pairs of trainings a family, those also compiled, and the tensors that are stepped."""

    particles: tuple[int, ...] = (8, 64, 512, 4096)
    compiled: tuple[int, ...] = (512, 4096)
    truncation: int = 50
    shapes: steps.Shapes = field(default_factory=vit_b16)
    repetitions: int = 5


FULL = GPUEffort()
QUICK = GPUEffort(particles=(8, 1024), compiled=(), repetitions=3)


@dataclass(frozen=True)
class Reference(unrolls.Unroll):
    """Celo2's own meta-training: truncations of 50 steps of runs of 100 to 2,000, each step's training loss."""

    truncation: int = 50

    @property
    def settings(self) -> MetaTraining:
        return MetaTraining(estimator=self.estimator, num_tasks=self.num_tasks, truncation=self.truncation,
                            horizon=40 * self.truncation, min_horizon_ratio=0.05, meta_loss="train",
                            num_meta_losses=self.truncation)


def device_of(name: str) -> torch.device:
    """The GPU of that name; `UsageError` where there is none."""
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("cpu")
    if device.type != "cuda" or (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"there is no device {name!r} to measure here: expected cpu, or one of the "
                         f"{torch.cuda.device_count()} GPUs of this machine, such as cuda:0.")
    return device


def measure(device: torch.device, effort: GPUEffort = FULL, *, quiet: bool = False) -> Content:
    """The whole benchmark of one device; see `gpu_page` for what the figures mean."""
    torch.set_num_threads(1)
    content: Content = {"machine": _machine(device), "meta_training": [], "step": []}
    cases = [(count, form) for count in effort.particles for form in _forms(count, effort)]
    with progress.meter("bench engine", len(cases) + 1, quiet=quiet) as meter:
        for index, (count, form) in enumerate(cases):
            report = _reporter(meter, index, f"{count} particles, {form}")
            try:
                content["meta_training"].append(_meta_training(count, form, device, effort, report))
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
        content["step"] = _steps(device, effort, content["machine"], _reporter(meter, len(cases), "steps"))
    family = _family(torch.device("cpu"))
    return content | {"meta_training": [row | ceilings.percents(
        _unroll(row["particles"], effort), family, row["inner_steps_per_second"], content["machine"])
        for row in content["meta_training"]]}


def _reporter(meter: progress.Meter, done: int, name: str) -> Report:
    return lambda part: meter.update(done + part, name)


CALLS, GRAPHS, COMPILED_GRAPHS = "single calls", "graphs", "compiled, graphs"


def _forms(count: int, effort: GPUEffort) -> list[str]:
    """Graphs always; beside them what they replace, once, and compiled steps where many trainings pay for it."""
    return [*([CALLS] if count == effort.particles[0] else []), GRAPHS,
            *([COMPILED_GRAPHS] if count in effort.compiled else [])]


def _unroll(count: int, effort: GPUEffort) -> Reference:
    return Reference(f"celo2, {count} particles", DESIGNS["celo2"][0], "pes", count, truncation=effort.truncation)


def _family(device: torch.device) -> TaskFamily:
    return replace(unrolls.digits(), batch_size=64).on(device)


def _meta_training(count: int, form: str, device: torch.device, effort: GPUEffort, report: Report) -> Content:
    """Four families of their own particles, one after the other."""
    unroll = _unroll(count, effort)
    families = [unrolls.MetaStep(unroll, _family(device), is_compiled=form == COMPILED_GRAPHS)
                for _ in range(NUM_FAMILIES)]
    for family in families:
        family.steps.captures.has_failed = form == CALLS

    def turn() -> None:
        for family in families:
            family()

    seconds = in_turns({form: _waiting(turn, device)}, effort.repetitions, report)[form]
    each = Spread.of([NUM_FAMILIES * unroll.inner_steps / turn for turn in seconds])
    # What could not be captured or compiled has gone on without, and is named so.
    is_captured = all(family.steps.captures.made and not family.steps.captures.has_failed for family in families)
    is_compiled = all(family.is_compiled for family in families)
    form = (COMPILED_GRAPHS if is_compiled else GRAPHS) if is_captured else CALLS
    return {"name": unroll.name, "particles": count, "form": form, "inner_steps_per_second": each.median,
            "lowest": each.lowest, "highest": each.highest, "published_ratio": each.median / PUBLISHED_INNER_STEPS}


LEARNED, PLAIN = "small_fc", "small_fc, without kernels"


def _steps(device: torch.device, effort: GPUEffort, machine: Content, report: Report) -> list[Content]:
    """One step of small_fc with its kernels and without, and of torch's fused AdamW, in turns."""
    params = {name: _params_on(effort.shapes, device) for name in (LEARNED, PLAIN, steps.FUSED)}
    case = steps.Case("small_fc", unrolls.EAGER)
    learned, plain = case(params[LEARNED]), case(params[PLAIN])
    plain.fused.leave()
    adamw = steps.TORCH[steps.FUSED](params[steps.FUSED])
    optimizers: dict[str, Optimizer] = {LEARNED: learned, PLAIN: plain, steps.FUSED: adamw}
    measured = in_turns({name: _waiting(each.step, device) for name, each in optimizers.items()}, effort.repetitions,
                        report)
    numbers = sum(param.numel() for param in params[LEARNED])
    floors = _floors(params[LEARNED], machine)
    rows = []
    for name, seconds in measured.items():
        each = Spread.of([1e3 * turn for turn in seconds])
        rows.append({"name": name, "num_parameters": numbers, "num_tensors": len(effort.shapes),
                     "milliseconds": each.median, "lowest": each.lowest, "highest": each.highest,
                     "adamw_fused_ratio": ratio(seconds, measured[steps.FUSED])} | (
                         {"has_kernels": learned.fused.is_used and name == LEARNED,
                          "published_ratio": 1e3 * PUBLISHED_STEP_SECONDS / each.median, **floors,
                          "floor_percent": 100 * max(floors.values()) / each.median} if name != steps.FUSED else {}))
    return rows


def _floors(params: list[Parameter], machine: Content) -> Content:
    """Milliseconds that bytes and products of a step of small_fc take at the ceilings."""
    tree = {str(index): torch.empty(param.shape, device="meta") for index, param in enumerate(params)}
    unroll = unrolls.Unroll("small_fc", DESIGNS["small_fc"][0])
    # Unlike there, gradients are only read.
    moved = ceilings.step_bytes(unroll, tree) - ceilings.BYTES_PER_NUMBER * sum(map(Tensor.numel, params))
    return {"bytes_floor_milliseconds": moved / machine["copy_gigabytes_per_second"] / 1e6,
            "flops_floor_milliseconds": ceilings.rule_flops(unroll, tree) / machine["tf32_gigaflops"] / 1e6}


def _params_on(shapes: steps.Shapes, device: torch.device) -> list[Parameter]:
    moved = []
    for param in steps.params_of(shapes):
        assert param.grad is not None
        moved.append(Parameter(param.detach().to(device)))
        moved[-1].grad = param.grad.to(device)
    return moved


def _waiting(work: Callable[[], object], device: torch.device) -> Contender:
    """`work`, and waiting for it."""
    def waited() -> None:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return waited


def _machine(device: torch.device) -> Content:
    """What the figures depend on, with three ceilings."""
    size, count = (8192, 1 << 28) if device.type == "cuda" else (256, 1 << 16)
    first, second = (torch.rand(size, size, device=device) for _ in range(2))
    product, source = torch.empty_like(first), torch.rand(count, device=device)
    target = torch.empty_like(source)

    def gigaflops() -> float:
        product_of = _waiting(lambda: torch.mm(first, second, out=product), device)
        return 2 * size**3 / ceilings.best_seconds(product_of) / 1e9

    with _products_in("high"):
        tf32 = gigaflops()
    with _products_in("highest"):
        float32 = gigaflops()
    copied = ceilings.best_seconds(_waiting(lambda: target.copy_(source), device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return {"device": name, "torch": torch.__version__, "matmul_gigaflops": float32, "tf32_gigaflops": tf32,
            "copy_gigabytes_per_second": 2 * 4 * count / copied / 1e9}


@contextmanager
def _products_in(precision: str) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
