"""The note on a study's page: what is searched, how far it is, what is best, and what to do with it."""

import shlex
from collections import Counter
from math import exp

from optsearch.report.winner import change
from optsearch.report.worth import duration
from optsearch.search.definition import StudyDefinition
from optsearch.search.snapshot import Snapshot, Trial
from optsearch.search.storage import DEFAULT_URL, is_sqlite

MARK = "*Below this line optsearch writes; what stands above it stays.*"
PICTURES = ("A complete trial has pictures: `curve.png`, its learning curve with what was forecast of its end, "
            "`design.png`, what it computes, and `inner_curves.png`, its trainings beside those with tuned AdamW.")


def with_note(body: str, snapshot: Snapshot) -> str:
    """The `body` of a note with our part anew; what somebody wrote above it stays."""
    return "\n\n".join([*filter(None, [body.partition(MARK)[0].rstrip()]), MARK, note(snapshot)])


def note(snapshot: Snapshot) -> str:
    """Markdown."""
    return "\n\n".join([_best(snapshot), _asked(snapshot.definition), _counts(snapshot), _commands(snapshot), PICTURES])


def _best(snapshot: Snapshot) -> str:
    best = snapshot.best
    if best is None:
        return "## No trial is complete yet"
    loss = exp(best.value or 0.0)
    return (f"## {change(loss)} tuned AdamW's loss\n\nThe best so far is {_link(snapshot, best)}: {best.in_brief}. On "
            f"the validation tasks its loss is **{loss:.3f} times** that of AdamW with its learning rate tuned "
            f"(value {best.value:.4f}).")


def _link(snapshot: Snapshot, trial: Trial) -> str:
    return f"[trial {trial.last_number}](/dashboard/studies/{snapshot.study_id}/trials?numbers={trial.last_number})"


def _asked(definition: StudyDefinition) -> str:
    validation = f", and are judged on {_names(definition.validation)}" if definition.validation else ""
    return (f"Searched are designs of learned optimizers from the space `{definition.space}`. They learn on "
            f"{_names(definition.tasks)}{validation}, in trainings of {definition.horizon:,} steps; a trial may spend "
            f"{definition.budget:,} of these inner steps. A trial's value is log(loss / tuned AdamW's), so below 0 it "
            "beats AdamW.")


def _names(tasks: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in tasks)


def _counts(snapshot: Snapshot) -> str:
    states = Counter(trial.state for trial in snapshot.trials)
    said = ", ".join(f"{count} {state}" for state, count in states.most_common())
    return (f"**{len(snapshot.trials)} designs**: {said or 'none yet'}. Together they took {snapshot.num_spent:,} "
            f"inner steps and {duration(snapshot.seconds)} of process time.")


def _commands(snapshot: Snapshot) -> str:
    name = shlex.quote(snapshot.name)
    # The address of a server may hold a password.
    is_told = is_sqlite(snapshot.url) and snapshot.url != DEFAULT_URL
    where = f" --storage {shlex.quote(snapshot.url)}" if is_told else ""
    lines = {"The best, as a file for `optsearch.load`": f"optsearch export {name} -o best.safetensors",
             "All about the study, measured on fresh seeds": f"optsearch report {name}",
             "To go on": f"optsearch study run {name}"}
    return "\n".join(f"- {words}: `{line}{where}`" for words, line in lines.items())
