"""Studies in Python: the same numbers as the commands print, and what a notebook shows of them."""

import json
import re
import sys
from dataclasses import fields, replace
from html.parser import HTMLParser
from math import exp, isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call
from pages import run_page

import optsearch
from optsearch.errors import OptsearchError, StudyError, UsageError
from optsearch.export import Artifact
from optsearch.optimizers import LearnedOptimizer, named_design
from optsearch.pictures import Chart, sparkline_svg
from optsearch.search.definition import StudyDefinition
from optsearch.search.options import Options
from optsearch.search.snapshot import Trial

EVIL = '<script>alert("1")</script>&'
OPTIONS = {"space": "quickstart", "tasks": ["quadratics"], "horizon": 40, "budget": 1600}
VOID = {"br", "hr", "img"}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder in which the page's code has run, and its variables."""
    folder, threads = tmp_path_factory.mktemp("notebook"), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("OPTUNA_STORAGE", raising=False)
        variables = run_page("how-to/notebook.md", folder)
    assert torch.get_num_threads() == threads + 1
    torch.set_num_threads(threads)
    return folder, variables


@pytest.fixture(scope="module")
def study(page: tuple[Path, dict[str, Any]]) -> "optsearch.Study":
    return optsearch.Study("mine", storage=f"sqlite:///{page[0]}/studies/optsearch.db")


def said(study: "optsearch.Study", *words: str) -> Any:
    """What a command about the study's database prints with --json."""
    found = call(*words, "--storage", study.store.url, "--json")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def of(shown: Any) -> str:
    """Its HTML, once all tags are known to be closed and all colours to be those of the notebook."""
    html = str(shown._repr_html_())
    plain = re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL)
    opened: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            opened.extend([tag] if tag not in VOID else [])

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Reader().feed(html)
    assert not opened
    assert "<script" not in html
    assert not re.search(r'style="[^"]*(?<![-\w])(color|background)', plain)
    return html


def test_trials_are_those_that_the_command_shows(study: "optsearch.Study") -> None:
    shown = said(study, "study", "show", "mine")
    assert [(trial.number, trial.state, trial.value, trial.params) for trial in study.trials] == [
        (row["number"], row["state"].lower(), row["value"], row["params"]) for row in shown["trials"]]
    assert study.best is not None
    assert study.best.value == shown["best_value"]
    assert study.definition.budget == shown["budget"]
    assert study.optuna.best_value == shown["best_value"]
    assert [each.name for each in optsearch.list_studies(study.store.url)] == ["mine"] == [
        row["name"] for row in said(study, "study", "list")]
    again = said(study, "study", "run", "mine", "--trials", "3", "--quiet")
    assert again["complete"] + again["pruned"] == 3


def test_the_best_exported_and_compared_is_what_the_commands_give(study: "optsearch.Study", tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    made = study.export(ours)
    assert call("export", "mine", "-o", str(theirs), "--storage", study.store.url).returncode == 0
    again = Artifact.load(theirs)
    assert (made.design, made.provenance) == (again.design, again.provenance)
    assert all(torch.equal(leaf, again.weights[name]) for name, leaf in Artifact.load(ours).weights.items())
    assert repr(made).startswith(f"<Artifact: trial {study.best and study.best.last_number} of mine: ")
    found = optsearch.evaluate(ours, tasks="quadratics", seeds=2, storage=study.store.url)
    printed = said(study, "evaluate", str(theirs), "--task", "quadratics", "--seeds", "2")
    ours_said = json.loads(json.dumps(found.to_config()))
    # How long steps take is measured anew each time.
    for content in (ours_said, printed, *ours_said["families"].values(), *printed["families"].values()):
        for name in ("seconds", "seconds_ratio", "artifact"):
            content.pop(name, None)
    assert ours_said == printed
    assert study.evaluate(seeds=2).learned.relative_loss == found.learned.relative_loss
    text, loss = of(found), found.learned.relative_loss
    assert str(loss) in text
    assert f"relative loss {loss}" in repr(found)
    assert "<td" in text
    for result in found.main:
        assert result.family in text


def test_a_frame_has_a_row_a_trial_and_a_column_a_choice(study: "optsearch.Study") -> None:
    frame, trials = study.to_frame(), study.trials
    assert list(frame["number"]) == [trial.number for trial in trials]
    for row, trial in zip(frame.to_dict("records"), trials, strict=True):
        assert row["loss_ratio"] == pytest.approx(exp(trial.value or 0.0))
        assert row["flops"] == (trial.cost and trial.cost.flops)
        assert row["num_spent"] == trial.num_spent
        chosen = {name.removeprefix("params_"): value for name, value in row.items() if name.startswith("params_")}
        asked = {name: value for name, value in chosen.items() if not (isinstance(value, float) and isnan(value))}
        assert asked == trial.params


def test_what_a_notebook_shows_begins_with_the_winner(study: "optsearch.Study") -> None:
    best = study.best
    assert best is not None
    ratio = f"{best.loss_ratio:.3f}"
    text = of(study)
    assert text.index(ratio) < text.index("quadratics")
    assert of(best).index(ratio) < of(best).index("FLOPs")
    assert "<svg" in of(best)
    for kind in best.kinds.values():
        assert kind in of(best)
    assert isinstance(best.design, LearnedOptimizer)
    drawing = of(best.design)
    assert f"{best.design.costs().num_weights:,} weights" in drawing
    assert "currentColor" in drawing
    charts = study.charts()
    assert isinstance(charts["progress"], Chart)
    assert of(charts["progress"]).startswith("<svg")
    for shown in (study, best, best.design, charts["progress"], study.snapshot.trials[-1]):
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 300
    assert ratio in repr(study)
    assert ratio in repr(best)


def test_words_of_others_are_never_markup(study: "optsearch.Study") -> None:
    (url, trial), part = (study.store.url, study.trials[0]), {"rule": {"kind": EVIL}}
    evil: Trial = replace(trial, problem=EVIL, state=EVIL, parts=part)  # type: ignore[arg-type]
    assert "&lt;script&gt;" in of(evil)
    made = optsearch.Study.create(EVIL, storage=url, **OPTIONS)
    assert made.best is None
    assert list(made.to_frame()["number"]) == []
    assert "&lt;script&gt;" in of(made)
    made.delete()
    with pytest.raises(StudyError, match="Studies: mine"):
        optsearch.Study(EVIL, storage=url)


def test_a_trial_that_waits_has_nothing_to_show_yet(study: "optsearch.Study") -> None:
    waiting = replace(study.trials[0], state="waiting", parts={}, value=None, cost=None, curve=())
    assert waiting.design is None
    assert waiting.loss_ratio is None
    assert "no design yet" in repr(waiting)
    assert "<svg" not in of(waiting)


def test_a_study_is_found_by_url_and_by_environment(study: "optsearch.Study", tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTUNA_STORAGE", raising=False)
    with pytest.raises(StudyError, match=r"no study `mine`.*none yet"):
        optsearch.Study("mine")
    assert len(optsearch.Study("mine", storage=study.store.url).trials) == 3
    monkeypatch.setenv("OPTUNA_STORAGE", study.store.url)
    assert len(optsearch.Study("mine").trials) == 3


@pytest.mark.parametrize(("options", "words"), [
    ({"preset": "vision", "horizon": 40}, "leave out horizon"),
    ({"preset": "no such"}, "there is no `no such`"),
    ({"tasks": "digits"}, "digits"),
    ({}, "needs a task"),
    ({"tasks": "quadratics", "sampler": "magic"}, "no sampler 'magic'"),
    ({"tasks": "quadratics", "trials": 3}, "a study has no `trials`"),
])
def test_what_cannot_be_made_is_said_in_words(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    with pytest.raises(UsageError, match=words):
        optsearch.Study.create("mine", storage=url, **options)
    assert optsearch.list_studies(url) == []


def test_presets_and_domains_are_made_as_the_command_makes_them(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    ours = [optsearch.Study.create("a", preset="quickstart", seed=7, storage=url),
            optsearch.Study.create("b", domains="vision", validation="quadratics", storage=url)]
    for words in (("c", "--preset", "quickstart", "--seed", "7"),
                  ("d", "--domain", "vision", "--validation", "quadratics")):
        assert call("study", "create", *words, "--storage", url).returncode == 0
    for mine, name in zip(ours, "cd", strict=True):
        theirs = optsearch.Study(name, url).definition
        # A domain among others has a weight; alone it has one, too.
        assert mine.definition == theirs
    with pytest.raises(StudyError, match="exists already"):
        optsearch.Study.create("a", preset="quickstart", storage=url)


def test_mistakes_in_calls_are_ours(study: "optsearch.Study", monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="device"):
        study.run(device=",")
    with pytest.raises(UsageError, match="no device `moon`"):
        study.run(device="moon")
    with pytest.raises(StudyError, match="has no trial 99"):
        study.export(tmp_path / "best.safetensors", trial=99)
    with pytest.raises(UsageError, match="named twice"):
        study.finalists(study)
    with pytest.raises(OptsearchError, match=r"missing\.safetensors"):
        optsearch.evaluate(tmp_path / "missing.safetensors", tasks=["quadratics"])
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(OptsearchError, match=r"optsearch\[notebook\]"):
        study.to_frame()


def test_editors_know_every_option_of_a_study() -> None:
    known = {field.name for field in fields(StudyDefinition)} - {"space_text", "weights", "files"}
    assert set(Options.__annotations__) == known | {"domains"}
    assert set(optsearch.__all__) <= set(dir(optsearch))
    assert all(getattr(optsearch, name) is not None for name in optsearch.__all__)


def test_a_curve_as_small_as_a_word_goes_down_where_values_do() -> None:
    drawn = sparkline_svg([1, 2, 4], [3.0, float("inf"), 1.0], mark=0.0)
    (points,) = re.findall(r'points="([^"]+)"', drawn)
    (first, last) = [tuple(map(float, point.split(","))) for point in points.split(" ")]
    assert first[0] < last[0]
    assert first[1] < last[1]
    assert sparkline_svg([1], [float("nan")]) == ""


def test_designs_of_the_library_say_what_they_are() -> None:
    design = named_design("small_fc")
    assert repr(design) == "<LearnedOptimizer: mlp rule, exp_magnitude head, constant schedule; 2,409 weights>"
    assert repr(Artifact(design, {}, {})) == f"<Artifact: {design!r}>"


def test_the_page_runs_as_it_stands(page: tuple[Path, dict[str, Any]]) -> None:
    folder, variables = page
    assert len(variables["frame"]) == 3
    assert str(variables["evaluation"].learned.relative_loss) in of(variables["evaluation"])
    assert optsearch.load(folder / "best.safetensors").provenance["study"] == "mine"
