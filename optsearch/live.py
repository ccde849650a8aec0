"""A study while it runs, as plain data and as the lines of text that a terminal shows of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from math import exp, inf, isfinite
from typing import Any, Self

from optsearch.search.snapshot import Snapshot, State, Trial
from optsearch.tables import columns

BLOCKS = "▁▂▃▄▅▆▇█"
# So that noise looks as flat as it is, in units of the value: 5 % of the loss.
LEAST_SPAN = 0.05
NUM_BLOCKS = 12
COUNTED: tuple[State, ...] = ("running", "complete", "pruned", "paused", "failed")
# Those to be left out where there is no room for them, the least important first.
END = "end (90 %)"
DISPENSABLE = ("on", "steps/s", "budget", END, "curve")
# So that the table keeps its form while curves grow.
LEAST_WIDTH = {"curve": 8, "loss": 6}
NARROWEST_DESIGN = 16
# Parts that tell designs apart least.
MINOR = ("head", "schedule")
BAR_WIDTH = 24


@dataclass(frozen=True, kw_only=True)
class Running:
    """A trial that runs.

    `values` is its curve, log(loss / tuned AdamW's), `end` the forecast of its last point and the ends of the interval
    meant to hold it with 90 %, `part` that of the budget which it has spent. `place` is a device, or the host of a
    process elsewhere.
    """

    number: int
    kinds: Mapping[str, str]
    values: tuple[float, ...]
    end: tuple[float, float, float] | None
    part: float
    inner_steps_per_second: float | None
    place: str

    @classmethod
    def of(cls, trial: Trial, budget: int, place: str) -> Self:
        forecast = next((each for each in reversed(trial.forecasts) if each.mean is not None), None)
        return cls(
            number=trial.number, kinds=trial.kinds, values=tuple(point.value for point in trial.curve),
            end=None if forecast is None else (forecast.mean or 0.0, forecast.quantiles[0], forecast.quantiles[-1]),
            part=trial.num_spent / budget, place=place,
            inner_steps_per_second=trial.curve[-1].inner_steps_per_second if trial.curve else None)

    @property
    def cells(self) -> dict[str, str]:
        """By the column, all but the design."""
        end = "" if self.end is None else "{} ({}-{})".format(*(ratio_in_words(value, 2) for value in self.end))
        return {"trial": str(self.number), "curve": sparkline(self.values),
                "loss": ratio_in_words(self.values[-1]) if self.values else "", END: end,
                "budget": f"{self.part:.0%}",
                "steps/s": f"{self.inner_steps_per_second:.0f}" if self.inner_steps_per_second else "",
                "on": self.place}


@dataclass(frozen=True, kw_only=True)
class View:
    """What a study has come to.

    `states` says how every trial is, `saved` is the part of the inner steps of all started trials that pruning and
    pausing left unspent. `seconds` have passed since the first trial began, and `seconds_left` is what the running ones
    take if none is stopped; both None where they can't be said.
    """

    running: tuple[Running, ...]
    best: Trial | None
    states: Mapping[int, State]
    values: Mapping[int, float | None]
    saved: float | None
    seconds: float | None
    seconds_left: float | None

    @classmethod
    def of(cls, snapshot: Snapshot, places: Mapping[int, str] | None = None) -> Self:
        """`places` are the devices of running trials, by their last number, as far as they are known."""
        trials, budget = snapshot.in_state("running"), snapshot.definition.budget
        begun = min((trial.started for trial in snapshot.trials if trial.started), default=None)
        until = max((trial.ended for trial in snapshot.trials if trial.ended and not trials), default=datetime.now())
        running = tuple(Running.of(trial, budget, (places or {}).get(trial.last_number, trial.host))
                        for trial in trials)
        left = [(budget - trial.num_spent) / trial.curve[-1].inner_steps_per_second if trial.curve else inf
                for trial in trials]
        return cls(
            running=running, best=snapshot.best, states={trial.number: trial.state for trial in snapshot.trials},
            values={trial.number: trial.value for trial in snapshot.trials}, saved=saved(snapshot),
            seconds=None if begun is None else max(0.0, (until - begun).total_seconds()),
            seconds_left=max(left) if left and isfinite(max(left)) else None)

    def count(self, state: State) -> int:
        return sum(each == state for each in self.states.values())


def saved(snapshot: Snapshot) -> float | None:
    """A complete trial cost what it spent, also where it ended early; the others would have cost the budget."""
    budget = snapshot.definition.budget
    started = snapshot.in_state("complete", "pruned", "paused", "running")
    whole = sum(trial.num_spent if trial.state == "complete" else budget for trial in started)
    unspent = sum(budget - trial.num_spent for trial in snapshot.in_state("pruned", "paused"))
    return unspent / whole if whole else None


def sparkline(values: Sequence[float]) -> str:
    """A curve in at most `NUM_BLOCKS` blocks, high where the value is; "!" is a value that is no number."""
    stride = max(1.0, (len(values) - 1) / (NUM_BLOCKS - 1))
    chosen = [values[round(index * stride)] for index in range(min(len(values), NUM_BLOCKS))]
    known = [value for value in chosen if isfinite(value)]
    if not known:
        return "!" * len(chosen)
    span = max(max(known) - min(known), LEAST_SPAN)
    return "".join(BLOCKS[round((value - min(known)) / span * (len(BLOCKS) - 1))] if isfinite(value) else "!"
                   for value in chosen)


def ratio_in_words(value: float, digits: int = 3) -> str:
    """A loss over the tuned AdamW's, from its logarithm."""
    if not isfinite(value):
        return "inf"
    ratio = exp(min(value, 700.0))
    return f"{ratio:.{digits}f}" if ratio < 100 else f"{ratio:.0e}"


def table(view: View, width: int, num_rows: int = 1000) -> list[str]:
    """The running trials, in lines of at most `width` characters."""
    shown = view.running if len(view.running) <= num_rows else view.running[:max(0, num_rows - 1)]
    if not shown:
        return [f"{len(view.running)} trials run"] if view.running else []
    cells = [trial.cells for trial in shown]
    names = [name for name in cells[0] if name != END or any(row[name] for row in cells)]
    names.insert(1, "design")
    widths = {name: max(len(name), LEAST_WIDTH.get(name, 0), *(len(row[name]) for row in cells))
              for name in names if name != "design"}
    for name in DISPENSABLE:
        if sum(widths.values()) + 2 * len(widths) + NARROWEST_DESIGN > width and name in widths:
            del widths[name]
    names = [name for name in names if name == "design" or name in widths]
    room = width - sum(widths.values()) - 2 * len(widths)
    designs = [design_in_words(trial.kinds, room) for trial in shown]
    rows = [tuple(design if name == "design" else row[name] for name in names)
            for row, design in zip(cells, designs, strict=True)]
    more = len(view.running) - len(shown)
    return [fitted(line, width) for line in columns([tuple(names), *rows])] + ([f"and {more} more"] if more else [])


def design_in_words(kinds: Mapping[str, str], width: int) -> str:
    """The kinds of the parts; with the parts' names, and of all parts, where there is room for them."""
    if not kinds:
        return fitted("not chosen yet", width)
    forms = (", ".join(f"{kind} {slot}" for slot, kind in kinds.items()), ", ".join(kinds.values()),
             ", ".join(kind for slot, kind in kinds.items() if slot not in MINOR))
    return next((form for form in forms if len(form) <= width), fitted(forms[-1], width))


def fitted(line: str, width: int) -> str:
    """Cut to at most `width` characters."""
    return line if len(line) <= width else line[:max(0, width - 1)] + "…"


def best_line(view: View, width: int) -> str:
    if view.best is None or view.best.value is None:
        return "best so far: no complete trial yet"
    words = f"best so far: trial {view.best.number}, loss {ratio_in_words(view.best.value)} x tuned AdamW's: "
    return fitted(words + design_in_words(view.best.kinds, width - len(words)), width)


def counts_line(view: View, width: int) -> str:
    counts = ", ".join(f"{view.count(state)} {state}" for state in COUNTED)
    words = "; ".join(filter(None, (counts, saved_words(view))))
    return words if len(words) <= width else fitted(words.removesuffix(" of the inner steps"), width)


def saved_words(view: View) -> str:
    by = "pruning" if not view.count("paused") else "pruning and pausing" if view.count("pruned") else "pausing"
    return f"{by} saved {view.saved:.0%} of the inner steps" if view.saved else ""


def bar_line(part: float, seconds: float, seconds_left: float | None, width: int) -> str:
    """How far a run is; `part` is from 0 to 1."""
    blocks = round(BAR_WIDTH * min(1.0, part))
    left = "" if seconds_left is None or part >= 1 else f", about {duration(seconds_left)} left"
    return fitted(f"{'━' * blocks}{'─' * (BAR_WIDTH - blocks)} {part:.0%}, {duration(seconds)} elapsed{left}", width)


def times_line(view: View) -> str:
    """Of a study that others run, which only they know the end of."""
    since = "" if view.seconds is None else f"{duration(view.seconds)} since the first trial"
    left = "" if view.seconds_left is None else f"running ones end in about {duration(view.seconds_left)}"
    return "; ".join(filter(None, (since, left)))


def duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def rest_lines(view: View) -> list[str]:
    """What pruning has saved, and the times."""
    return list(filter(None, (saved_words(view), times_line(view))))


def as_data(view: View) -> dict[str, Any]:
    """For JSON, which has no number that isn't finite."""
    best = view.best and {"number": view.best.number, "value": view.best.value, "parts": view.best.kinds}
    running = [asdict(trial) | {"values": _finite(trial.values), "end": trial.end and _finite(trial.end)}
               for trial in view.running]
    return {"best_trial": best, "compute_saved": view.saved, "seconds": view.seconds,
            "seconds_left": view.seconds_left, "running_trials": running}


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if isfinite(value) else None for value in values]


def news(before: View, now: View) -> list[str]:
    """A line about each trial that has ended, or been paused, between two views."""
    ended = [number for number, state in now.states.items()
             if state in COUNTED and state != "running" and before.states.get(number) != state]
    return [f"trial {number} {now.states[number]}" + _loss(now.values[number]) for number in ended]


def _loss(value: float | None) -> str:
    return "" if value is None else f": loss {ratio_in_words(value)} x tuned AdamW's (value {value:.4f})"
