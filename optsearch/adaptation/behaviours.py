"""Which behaviour a run has fared best with, by what happened in the steps after each choice."""

import random
from collections import deque
from dataclasses import dataclass, field
from math import hypot, log
from statistics import fmean, stdev
from typing import Any

# Steps that a choice lasts; what they did to the loss is its outcome.
SPELL = 10
# Fewer outcomes say nothing of a behaviour.
LEAST = 3
# Changes of the mean log loss from spell to spell that count as rising or falling.
LARGE = 0.1
MIN_LOSS = 1e-6


@dataclass
class Behaviours:
    """A contextual bandit over `num_choices` behaviours, of which number `usual` is taken unless another is better.

    The context is whether the loss was falling, flat or rising in the last spell; the outcome how much the mean of the
    log loss fell to the next. Better is what was so by more than the standard error of the difference, of outcomes in
    this context among the last `size`. One choice in 1 / `exploration_rate` is drawn.
    """

    num_choices: int
    usual: int
    size: int
    exploration_rate: float
    seed: int = 0
    choice: int = field(init=False)
    context: int = 0
    memory: deque[tuple[int, int, float]] = field(init=False)
    spell: list[float] = field(default_factory=list)
    before: float | None = None
    num_spells: int = 0

    def __post_init__(self) -> None:
        self.choice = self.usual
        self.memory = deque(maxlen=self.size)

    def tell(self, loss: float) -> None:
        """One more loss; after a spell of them the choice is made anew. Losses that are not finite say nothing."""
        if not loss < float("inf"):
            return
        self.spell.append(log(max(loss, MIN_LOSS)))
        if len(self.spell) == SPELL:
            self._end_spell(fmean(self.spell))

    def _end_spell(self, mean: float) -> None:
        if self.before is not None:
            fall = self.before - mean
            self.memory.append((self.context, self.choice, fall))
            self.context = 1 if fall > LARGE else -1 if fall < -LARGE else 0
        self.before, self.spell, self.num_spells = mean, [], self.num_spells + 1
        # A generator of its own each time: what it draws is the same after a resume.
        draw = random.Random(f"{self.seed} {self.num_spells}")
        explores = draw.random() < self.exploration_rate
        self.choice = draw.randrange(self.num_choices) if explores else self._best()

    def _best(self) -> int:
        outcomes: dict[int, list[float]] = {}
        for context, choice, fall in self.memory:
            if context == self.context:
                outcomes.setdefault(choice, []).append(fall)
        known = {choice: (fmean(falls), stdev(falls) / len(falls)**0.5) for choice, falls in outcomes.items()
                 if len(falls) >= LEAST}
        if self.usual not in known:
            return self.usual
        mean, error = known[self.usual]
        better = {choice: found for choice, (found, its_error) in known.items()
                  if found - mean > hypot(error, its_error)}
        return max(better, key=better.__getitem__, default=self.usual)

    def to_state(self) -> dict[str, Any]:
        """Plain data; `load` is the inverse."""
        return {"choice": self.choice, "context": self.context, "memory": list(self.memory), "spell": list(self.spell),
                "before": self.before, "num_spells": self.num_spells}

    def load(self, state: dict[str, Any]) -> None:
        self.choice, self.context, self.before = state["choice"], state["context"], state["before"]
        self.memory = deque(map(tuple, state["memory"]), maxlen=self.size)
        self.spell, self.num_spells = list(state["spell"]), state["num_spells"]
