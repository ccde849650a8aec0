"""The page about one study: what was asked, what was found, and what it is worth."""

from collections import Counter
from math import exp
from platform import platform

from optsearch.pictures import Chart, Series
from optsearch.report import redo, yardstick
from optsearch.report.charts import study_charts
from optsearch.report.headline import Headline
from optsearch.report.material import Material
from optsearch.report.page import Block, Figures, Listing, Page, Section
from optsearch.report.winner import best_in_words, winner
from optsearch.report.worth import duration, worth
from optsearch.search.definition import ROLES, StudyDefinition
from optsearch.search.environment import cpu_name, versions
from optsearch.search.importance import MIN_TRIALS, Importances
from optsearch.tables import Table

NUM_SHOWN = 12


def study_page(material: Material) -> Page:
    """All of it, in the order in which a reader asks."""
    name = material.name
    return Page(f"Study {name}", best_in_words(material), [
        Section("What was asked, and what was found", [*_figures(material), asked([material]), *_found(material)]),
        Section("How good it is", standing(material.headline, name)),
        Section("How the search went", list(study_charts(material.snapshot).values()) or ["No trial has ended yet."]),
        Section("Which choices mattered", _importance(material.importances)),
        Section("The winner", winner(material)),
        Section("Were the forecasts right?", _forecasts(material)),
        Section("What it cost, and when it has paid for itself", worth(material.snapshot, material.headline)),
        Section("What failed", _failures(material)),
        Section("How to do it again", _again(material))])


def asked(materials: list[Material]) -> Table:
    """A column a study."""
    facts = [_facts(material) for material in materials]
    header = ("", *(material.name if len(materials) > 1 else "" for material in materials))
    return Table("", "", header, [(key, *(each[key] for each in facts)) for key in facts[0]])


def _facts(material: Material) -> dict[str, str]:
    definition = material.snapshot.definition
    stopping = (f"{definition.pruner} pruner" if definition.scheduler == "full"
                else f"{definition.scheduler} scheduler, which pauses and continues trials")
    return {
        "space": definition.space,
        **{f"tasks, {role}": ", ".join(_tasks(definition, key)) or _default(key) for key, role in ROLES.items()},
        "horizon": f"{definition.horizon:,} inner steps",
        "budget of a trial": f"{definition.budget:,} inner steps",
        "chosen and stopped by": f"{definition.sampler} sampler, {stopping}",
        "limits of a design": f"{definition.limits} per parameter",
        "learns from studies": ", ".join(definition.previous) or "none", "seed": str(definition.seed),
        "trials": ", ".join(f"{count} {state}" for state, count in _states(material).items()) or "none",
        "best value": "none yet" if material.winner is None else _values(material)}


def _default(role: str) -> str:
    return "other rows and seeds of the same tasks" if role == "validation" else "none"


def _tasks(definition: StudyDefinition, role: str) -> list[str]:
    names = list(getattr(definition, role))
    if role == "tasks" and definition.weights:
        return [f"{name} ({weight:.3g})" for name, weight in zip(names, definition.weights, strict=True)]
    return names


def _values(material: Material) -> str:
    best = material.snapshot.best
    value = 0.0 if best is None else best.value or 0.0
    return f"{value:.4f}, which is {exp(value):.3f} times tuned AdamW's loss"


def _states(material: Material) -> dict[str, int]:
    return dict(Counter(trial.state for trial in material.snapshot.trials).most_common())


def _figures(material: Material) -> list[Block]:
    pairs = []
    snapshot, headline = material.snapshot, material.headline
    if snapshot.best is not None:
        pairs.append((f"{exp(snapshot.best.value or 0.0):.3f}", "best trial: loss relative to tuned AdamW's, on the "
                      "rows that chose it"))
    if headline is not None:
        pairs += [(f"{headline.learned.relative_loss.value:.3f}", "the same on fresh seeds and test rows"),
                  (f"{headline.learned.train_speedup.value:.2f}×", "train speedup over tuned AdamW, in steps")]
    return [Figures([*pairs, (str(len(snapshot.trials)), "designs tried"),
                     (duration(snapshot.seconds), "process time of all trials")])]


def _found(material: Material) -> list[Block]:
    snapshot = material.snapshot
    if snapshot.best is None or material.winner is None:
        return []
    if snapshot.finals is None:
        return [f"The best of {len(snapshot.in_state('complete'))} complete trials is partly the luckiest: no trial "
                "was trained again with new seeds. To know which is best, run:",
                Listing([f"optsearch study finalists {material.name}"])]
    if snapshot.best.last_number not in snapshot.finals["trials"]:
        return ["The best trial is newer than the race between the finalists, so that race does not count any more. "
                "Run it again:", Listing([f"optsearch study finalists {material.name}"])]
    return [f"The best trials were trained again with {snapshot.finals['num_seeds']} new seeds: "
            f"{snapshot.finals['statement']}."]


def standing(headline: Headline | None, name: str) -> list[Block]:
    """The honest tables, or how to get them."""
    if headline is None:
        return ["Not measured. On fresh seeds and test rows, with half and double the horizon:",
                Listing([f"optsearch report {name}"])]
    first = headline.main[0].measurements["learned"]
    seen = headline.seen
    told = f"{', '.join(sorted(seen))}, on other rows and seeds" if seen else "none"
    return [f"Of every family, {len(first.finals)} trainings with fresh seeds, measured on test rows. Families seen in "
            f"meta-training or selection: {told}.", *yardstick.tables(headline), *_curves(headline), _profile(headline)]


def _curves(headline: Headline) -> list[Chart]:
    return [Chart(f"Mean {title}", "inner steps", title,
                  [Series(words, *curve) for words, curve in curves.items()], log_y=True,
                  note=f"Over {len(headline.main)} families and all seeds.")
            for title, curves in headline.curves.items()]


def _profile(headline: Headline) -> Chart:
    from optsearch import evaluation

    rows = {"learned": "learned", evaluation.BASELINE: "AdamW + cosine, tuned"}
    return Chart("Performance profile", "loss at most so many times tuned AdamW's", "part of all trainings", [
        Series(words, yardstick.RATIOS, evaluation.profile(headline.main, name, yardstick.RATIOS), "step")
        for name, words in rows.items()], log_x=True, note="Higher and further left is better.")


def _importance(found: Importances) -> list[Block]:
    if not found.rows:
        return [f"Nothing is said yet: {found.num_trials} trials are complete, and from fewer than {MIN_TRIALS} "
                "influence can't be told from chance."]
    rows = found.rows[:NUM_SHOWN]
    clear = [row.name for row in found.rows if row.is_clear]
    return [
        f"From {found.num_trials} complete trials, by PED-ANOVA (Optuna), which compares the values of a parameter in "
        "the best trials with those in all, only where it was active. A parameter is clear where it is above 19 of 20 "
        f"shuffles of the trials' values: {', '.join(clear) or 'none is'}. Of all {len(found.rows)} parameters, one in "
        "twenty is expected there by chance alone.",
        Chart("Parameter importance", "share of the total", "", [
            Series("importance", [row.name for row in rows], [row.value for row in rows], "bars",
                   [row.low for row in rows], [row.high for row in rows])],
            note=f"The first {len(rows)} of {len(found.rows)}, with bootstrap intervals of 90 %."),
        Table("", "", ("parameter", "share", "90 % interval", "active in", "clear"), [
            (row.name, f"{row.value:.1%}", f"{row.low:.1%} to {row.high:.1%}", f"{row.num_active} trials",
             "yes" if row.is_clear else "no") for row in rows])]


def _forecasts(material: Material) -> list[Block]:
    if not material.audit.num_forecasts:
        return ["No forecasts were made."]
    return [*(f"{line[0].upper()}{line[1:]}." for line in material.audit.sentences), material.audit.table]


def _failures(material: Material) -> list[Block]:
    problems = Counter((trial.state, trial.problem) for trial in material.snapshot.trials if trial.problem)
    numbers = {key: ", ".join(str(trial.number) for trial in material.snapshot.trials
                              if (trial.state, trial.problem) == key) for key in problems}
    diverged = sum(any(point.failed_share > 0 for point in trial.curve) for trial in material.snapshot.trials)
    counts = material.counts
    said = (f"{counts['fail']} trials failed. {counts['duplicate']} points were skipped since their design had been "
            f"tried, {counts['over_limit']} since it costs more than the study allows. In {diverged} trials some "
            "losses of inner trainings were no numbers or at the task's cap.")
    rows = [(problem, state, str(count), numbers[state, problem])
            for (state, problem), count in problems.most_common()]
    return [said, *([Table("", "", ("reason", "state", "trials", "numbers"), rows)] if rows else [])]


def _again(material: Material) -> list[Block]:
    now, source = versions(), material.artifact.provenance.get("versions", {}) if material.artifact else {}
    rows = [("made with", ", ".join(f"{key} {value}" for key, value in source.items()))] if source else []
    rows += [("this page with", ", ".join(f"{key} {value}" for key, value in now.items())),
             ("processor", cpu_name()), ("system", platform())]
    return [Listing(redo.commands(material)),
            "Trials have seeds of their own. With several workers, which trials the sampler knows when it chooses the "
            "next depends on their timing, so that another run may choose other designs. A database "
            "that is not the default one goes to every command by --storage or $OPTUNA_STORAGE.",
            Table("", "", ("", ""), rows)]
