"""What a search has cost, and after how many trainings it has paid for itself."""

from math import inf

from optsearch.evaluation.metrics import Interval
from optsearch.report.headline import Headline
from optsearch.report.page import Block
from optsearch.search.snapshot import Snapshot
from optsearch.tables import Table

NEVER = "never"
# How long one training with AdamW takes, of which the answer in time depends.
TRAININGS = {"a minute": 60.0, "ten minutes": 600.0, "an hour": 3600.0, "ten hours": 36000.0}


def trainings_in_steps(num_spent: int, horizon: int, speedup: float) -> float:
    """Trainings of `horizon` inner steps until those saved make up for the search's; infinite where never."""
    return num_spent / (horizon * (1 - 1 / speedup)) if speedup > 1 else inf


def trainings_in_time(core_seconds: float, training_seconds: float, speedup: float, seconds_ratio: float) -> float:
    """The same of time: a training of `training_seconds` with AdamW takes `seconds_ratio` ÷ `speedup` of that."""
    saved = 1 - seconds_ratio / speedup if speedup > 0 else 0.0
    return core_seconds / (training_seconds * saved) if saved > 0 else inf


def cost_table(snapshot: Snapshot) -> Table:
    """What was spent on the study's trials; `elapsed` is from the first start to the last end, pauses included."""
    begun = [trial.started for trial in snapshot.trials if trial.started]
    ended = [trial.ended for trial in snapshot.trials if trial.ended]
    elapsed = (max(ended) - min(begun)).total_seconds() if begun and ended else 0.0
    return Table("", "", ("", "spent on trials"), [
        ("inner steps", f"{snapshot.num_spent:,}"),
        ("process time (one core or device each)", duration(snapshot.seconds)),
        ("from the first start to the last end, pauses included", duration(elapsed))])


def worth(snapshot: Snapshot, headline: Headline | None) -> list[Block]:
    """The cost, and the pay-back where the train speedup was measured."""
    blocks: list[Block] = [cost_table(snapshot)]
    if snapshot.finals is not None:
        blocks.append("What the finalists' new meta-trainings took comes on top of this.")
    if headline is None:
        return [*blocks, "When it has paid for itself is not known, for the best design's speed was not measured."]
    standing, horizon = headline.learned, headline.horizon
    speedup, ratio = standing.train_speedup, standing.seconds_ratio
    said = (f"In inner steps: trainings = search's inner steps ÷ (horizon × (1 − 1 ÷ train speedup)), with a horizon "
            f"of {horizon:,} and a train speedup of {speedup}. In time: trainings = search's process time ÷ (time of a "
            f"training with AdamW × (1 − time of a step ÷ train speedup)), with a step that takes {ratio:.2f} times as "
            "long as AdamW's, here and on the models of these tasks; on larger models the ratio is another.")
    table = _payback(snapshot, horizon, speedup, ratio)
    if all(cell == NEVER for row in table.rows for cell in row[1:]):
        return [*blocks, "It never pays for itself as it is: to AdamW's final training loss it is not faster than "
                "AdamW, in steps or in time, not even at the high end of the interval.", said]
    return [*blocks, said, table]


def _payback(snapshot: Snapshot, horizon: int, speedup: Interval, ratio: float) -> Table:
    ends = (speedup.value, speedup.low, speedup.high)
    rows = [("in inner steps", *(_count(trainings_in_steps(snapshot.num_spent, horizon, each)) for each in ends))]
    rows += [(f"in time, where a training with AdamW takes {words}",
              *(_count(trainings_in_time(snapshot.seconds, seconds, each, ratio)) for each in ends))
             for words, seconds in TRAININGS.items()]
    return Table("Paid for after so many trainings", "At the train speedup measured, and at both ends of its 95 % "
                 "interval. Never: it is not faster.", ("", "at the estimate", "at the low end", "at the high end"),
                 rows)


def _count(trainings: float) -> str:
    return NEVER if trainings == inf else f"{max(1, round(trainings)):,}"


def duration(seconds: float) -> str:
    """For a person: seconds, minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
