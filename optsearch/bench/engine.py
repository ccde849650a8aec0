"""`optsearch bench engine`: everything measured in one run, as plain data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from optsearch import progress
from optsearch.bench import ceilings, jax_peer, memory, peers, scaling, steps, unrolls, workers
from optsearch.bench.timing import Report, Spread, in_turns, ratio
from optsearch.bench.unrolls import Unroll
from optsearch.compiling import compiled
from optsearch.errors import CompileError

Content = dict[str, Any]
NAIVE, PEER = "naive", "peer"


@dataclass(frozen=True)
class Effort:
    """How much is measured; a short one leaves out peers, peaks of memory and scaling."""

    configurations: tuple[Unroll, ...] = unrolls.UNROLLS
    forms: tuple[str, ...] = (unrolls.EAGER, unrolls.COMPILED)
    layouts: tuple[str, ...] = tuple(steps.LAYOUTS)
    repetitions: int = 9
    is_short: bool = False


FULL = Effort()
QUICK = Effort(forms=(unrolls.EAGER,), repetitions=3, is_short=True)


@dataclass
class _Parts:
    """The parts of the work as one progress."""

    meter: progress.Meter
    done: int = 0

    def next(self, name: str) -> Report:
        """What reports on the next part."""
        self.done += 1
        before = self.done - 1
        return lambda part: self.meter.update(before + part, name)


def measure(effort: Effort = FULL, *, quiet: bool = False) -> Content:
    """The whole benchmark on one torch thread; see `tables` for what the figures mean."""
    torch.set_num_threads(1)
    if unrolls.COMPILED in effort.forms and not _can_compile():
        effort = replace(effort, forms=(unrolls.EAGER,))
    varied = [] if effort.is_short else scaling.unroll_panels()
    num_parts = len(effort.configurations) + len(effort.layouts) + len(varied) + 2 * (not effort.is_short)
    content: Content = {"meta_training": [], "step": [],
                        "peers": {"measured": [], "absent": None if effort.is_short else peers.absent()},
                        "machine": ceilings.machine()}
    with progress.meter("bench engine", num_parts, quiet=quiet) as meter:
        parts = _Parts(meter)
        for unroll in effort.configurations:
            _add(content, _meta_training(unroll, effort, content["machine"], parts.next(unroll.name)))
        for layout in effort.layouts:
            _add(content, _step(layout, effort, parts.next(f"steps of {layout}")))
        if not effort.is_short:
            content["workers"] = [workers.measure(unroll, 5, parts.next("two processes"))
                                  for unroll in effort.configurations[:1]]
            panels = [scaling.unroll_panel(name, points, effort.forms, 3, parts.next(name)) for name, points in varied]
            panels.append(scaling.step_panel(3, parts.next("scaling of the step")))
            content["scaling"] = [asdict(panel) for panel in panels]
    return content


def _add(content: Content, found: Mapping[str, list[Content]]) -> None:
    for section in ("meta_training", "step"):
        content[section] += found.get(section, [])
    content["peers"]["measured"] += found[PEER]


def _meta_training(unroll: Unroll, effort: Effort, machine: Content, report: Report) -> Mapping[str, list[Content]]:
    """One configuration in all its forms, the naive loop and the peer, in turns."""
    family = unrolls.digits()
    ours = unrolls.engines(unroll, family, effort.forms)
    num_steps = dict.fromkeys((*ours, PEER), unroll.inner_steps)
    contenders = dict(ours)
    if unroll.rule is not None:
        contenders[NAIVE], num_steps[NAIVE] = unroll.loop(family)
    peer = None if effort.is_short else peers.meta_step(unroll, family)
    if peer is not None:
        contenders[PEER] = peer
    measured = in_turns(contenders, effort.repetitions, report)
    each = {name: [seconds / num_steps[name] for seconds in turns] for name, turns in measured.items()}
    rates = {name: Spread.of([1 / seconds for seconds in turns]) for name, turns in each.items()}
    rows = [{"name": unroll.name, "form": form, "inner_steps_per_second": rates[form].median,
             "lowest": rates[form].lowest, "highest": rates[form].highest,
             "naive_ratio": ratio(each[NAIVE], each[form]) if NAIVE in each else None,
             **ceilings.percents(unroll, family, rates[form].median, machine)} for form in ours]
    found = [] if peer is None else [
        {"peer": jax_peer.title(), "against": unroll.name, "unit": "inner steps/s", **asdict(rates[PEER]),
         "speedups": {form: ratio(each[PEER], each[form]) for form in ours}}]
    return {"meta_training": rows, PEER: found}


def _step(layout: str, effort: Effort, report: Report) -> Mapping[str, list[Content]]:
    """All optimizers on one list of tensors, in turns."""
    shapes = steps.LAYOUTS[layout]
    others = {} if effort.is_short else peers.optimizers()
    makers = steps.TORCH | {name: make for name, (_, make) in others.items()}
    cases = [steps.Case(design, form) for design in steps.DESIGNS for form in effort.forms]
    measured = steps.measure(cases, makers, shapes, effort.repetitions, report)
    rows = [steps.row(case, shapes, measured) for case in cases]
    for case, row in zip(cases, rows, strict=True):
        row["extra_peak_megabytes"] = None if effort.is_short else memory.extra_peak_megabytes(case, shapes)
    each = {name: [1e9 * turn / rows[0]["num_parameters"] for turn in measured[name]] for name in others}
    found = [{"peer": name, "against": f"{design}, {layout}", "unit": "ns/parameter", **asdict(Spread.of(each[name])),
              "speedups": {case.form: ratio(measured[name], measured[case.name])
                           for case in cases if case.design == design}} for name, (design, _) in others.items()]
    return {"step": rows, PEER: found}


def _can_compile() -> bool:
    try:
        compiled(lambda leaf: (leaf + 1,), torch.ones(8))
    except CompileError:
        return False
    return True
