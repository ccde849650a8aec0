"""What a study shows, as charts: the same for the report and for the dashboard."""

from collections.abc import Sequence
from math import exp, inf

from optsearch.pictures import Chart, Series
from optsearch.search.snapshot import Snapshot, Trial

VALUE, LOSS, STEPS = "log(loss / tuned AdamW's)", "loss / tuned AdamW's", "inner steps"
NUM_FAMILIES = 7


def study_charts(snapshot: Snapshot) -> dict[str, Chart]:
    """By a short name that stays the same; those that have nothing to show yet are left out."""
    found = {"progress": progress_chart(snapshot), "front": front_chart(snapshot),
             "curves": curves_chart(snapshot), "families": families_chart(snapshot),
             "calibration": calibration_chart(snapshot)}
    return {name: chart for name, chart in found.items() if any(len(series.x) for series in chart.series)}


def progress_chart(snapshot: Snapshot) -> Chart:
    """Where complete trials ended and the best of them, over the inner steps that all had spent.

    Those of a paused trial count where it was paused last.
    """
    ended = sorted((trial for trial in snapshot.trials if trial.ended and trial.curve),
                   key=lambda trial: (trial.ended, trial.number))
    spent, best, steps, bests, complete = 0, inf, [], [], []
    for trial in ended:
        spent += trial.num_spent
        if trial.state == "complete" and trial.is_feasible and trial.value is not None:
            best = min(best, trial.value)
            complete.append((spent, trial))
        if best < inf:
            steps.append(spent)
            bests.append(exp(best))
    return Chart("The best so far", f"{STEPS} spent", LOSS, [
        Series("complete trials", [at for at, _ in complete], [_loss(trial) for _, trial in complete], "points",
               texts=[_words(trial) for _, trial in complete]),
        Series("best so far", steps, bests, "step")],
        log_y=True, mark=1.0, note="Below 1 a design beats AdamW with its learning rate tuned.")


def front_chart(snapshot: Snapshot) -> Chart:
    """Loss against the FLOPs of a step, and the designs that nothing is better than in both."""
    ended = sorted((trial for trial in snapshot.in_state("complete") if trial.cost and trial.value is not None),
                   key=lambda trial: (_flops(trial), trial.value))
    front: list[Trial] = []
    for trial in ended:
        if not front or _loss(trial) < _loss(front[-1]):
            front.append(trial)
    return Chart("Quality against cost", "FLOPs per parameter and step", LOSS, [
        _cloud("complete trials", ended), Series("front", [_flops(trial) for trial in front], list(map(_loss, front)),
                                                 "step", texts=list(map(_words, front)))],
        log_x=all(map(_flops, ended)), log_y=True, mark=1.0,
        note="Designs on the line are beaten by none that costs less.")


def curves_chart(snapshot: Snapshot, num_best: int = 3) -> Chart:
    """All learning curves; those that ended best stand out."""
    trials = [trial for trial in snapshot.trials if trial.curve]
    ended = sorted((trial for trial in trials if trial.state == "complete" and trial.is_feasible),
                   key=lambda trial: trial.value if trial.value is not None else inf)
    best = ended[:num_best]
    others = [_curve(trial, quiet=True) for trial in trials if trial not in best]
    return Chart("Learning curves", f"{STEPS} spent on the trial", LOSS,
                 [*others, *(_curve(trial) for trial in best)], log_y=True, mark=1.0,
                 note="Grey lines that end early were pruned or are paused.")


def families_chart(snapshot: Snapshot) -> Chart:
    """What kinds of designs were tried when, and how good they were."""
    counts: dict[str, int] = {}
    trials = [trial for trial in snapshot.trials if trial.value is not None]
    for trial in trials:
        counts[trial.family] = counts.get(trial.family, 0) + 1
    common = sorted(counts, key=lambda name: (-counts[name], name))[:NUM_FAMILIES]
    rest = [trial for trial in trials if trial.family not in common]
    clouds = {name: [trial for trial in trials if trial.family == name] for name in common}
    clouds |= {"others": rest} if rest else {}
    return Chart("Families over time", "trial", LOSS, [
        Series(name, [trial.number for trial in chosen], list(map(_loss, chosen)), "points",
               texts=list(map(_words, chosen))) for name, chosen in clouds.items()],
        log_y=True, mark=1.0, note="The newest value of each design, of those stopped early too: controller + rule.")


def calibration_chart(snapshot: Snapshot) -> Chart:
    """The first forecast of each trial that came to its end, with its 90 % interval, against that end."""
    judged = [(trial, next((row for row in trial.forecasts if row.mean is not None), None))
              for trial in snapshot.in_state("complete") if trial.value is not None]
    known = [(trial.value or 0.0, row) for trial, row in judged if row is not None and row.mean is not None]
    ends = [end for end, _ in known]
    return Chart("Were forecasts right?", f"true end, {VALUE}", f"first forecast, {VALUE}", [
        Series("forecast, 90 % interval", ends, [row.mean or 0.0 for _, row in known], "points",
               [row.quantiles[0] for _, row in known], [row.quantiles[-1] for _, row in known]),
        Series("as forecast", sorted(ends), sorted(ends), quiet=True)] if known else [],
        note="Nine of ten intervals should cross the diagonal.")


def trial_chart(trial: Trial, budget: int) -> Chart:
    """One learning curve, and what was forecast of its end at each point, with the 90 % interval."""
    rows = [row for row in trial.forecasts if row.mean is not None and row.inner_steps < budget]
    forecast = Series("forecast of its end, 90 %", [row.inner_steps for row in rows], [row.mean or 0.0 for row in rows],
                      "line", [row.quantiles[0] for row in rows], [row.quantiles[-1] for row in rows])
    curve = Series("value", [point.inner_steps for point in trial.curve], [point.value for point in trial.curve])
    return Chart(f"Trial {trial.number}: {trial.state}", f"{STEPS} spent", VALUE,
                 [curve, *([forecast] if rows else [])], mark=0.0, note="Below 0 it beats tuned AdamW.")


def _cloud(label: str, trials: Sequence[Trial]) -> Series:
    return Series(label, list(map(_flops, trials)), list(map(_loss, trials)), "points", texts=list(map(_words, trials)))


def _curve(trial: Trial, *, quiet: bool = False) -> Series:
    return Series(f"trial {trial.number}", [point.inner_steps for point in trial.curve],
                  [exp(point.value) for point in trial.curve], quiet=quiet,
                  texts=[_words(trial)] * len(trial.curve))


def _loss(trial: Trial) -> float:
    return exp(trial.value or 0.0)


def _flops(trial: Trial) -> float:
    return trial.cost.flops if trial.cost else 0.0


def _words(trial: Trial) -> str:
    return f"trial {trial.number}: {_loss(trial):.3f}, {trial.in_brief}"
