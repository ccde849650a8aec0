"""Pages about studies: one content in two formats, with the figures of the study."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from math import exp, inf
from pathlib import Path
from typing import Any

import numpy
import optuna
import pytest
from command_line import call

from optsearch.evaluation.metrics import Interval
from optsearch.pictures import Chart, Series
from optsearch.report import page, redo
from optsearch.report.page import Figures, Listing, Page, Section
from optsearch.report.worth import duration, trainings_in_steps, trainings_in_time
from optsearch.search.definition import StudyDefinition, define
from optsearch.search.importance import MIN_TRIALS, importances
from optsearch.search.snapshot import Snapshot
from optsearch.search.storage import quietly
from optsearch.search.study import Store
from optsearch.tables import Table

EVIL = '<script>alert("1")</script> a|b'
IDLE = tuple("abcdef")
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Store]:
    """A folder with pages about a study of three trials, measured, and its database."""
    folder = tmp_path_factory.mktemp("report")
    url = f"sqlite:///{folder}/studies/a.db"
    store = Store.at(url)
    store.create("mine", define(space="quickstart", tasks=["quadratics"], horizon=40, budget=1600, num_points=4))
    for _ in store.run("mine", ["cpu"], 3, quiet=True):
        pass
    found = call("report", "mine", "--seeds", "2", "--output", str(folder / "page"), "--storage", url, "--json")
    assert found.returncode == 0, found.stderr
    (folder / "said.json").write_text(found.stdout)
    return folder, store


def test_figures_are_those_of_the_study(made: tuple[Path, Store]) -> None:
    folder, store = made
    snapshot = Snapshot.of(store, "mine")
    best = snapshot.best
    assert best is not None
    ratio = exp(best.value or 0.0)
    said = json.loads((folder / "said.json").read_text())["studies"][0]
    assert said["loss_ratio"] == pytest.approx(ratio)
    assert said["inner_steps"] == snapshot.num_spent
    measured = json.loads((folder / "page" / "evaluation.json").read_text())
    for name in page.NAMES:
        text = (folder / "page" / name).read_text()
        for figure in (f"{ratio:.3f}", f"{snapshot.num_spent:,}", f"Trial {best.number} is the best",
                       f"{measured['relative_loss']['value']:.3f}", "optsearch study finalists mine"):
            assert figure in text, figure
        for horizon in (20, 40, 80):
            assert re.search(rf"(\| |>){horizon}( \||<)", text)


def test_the_page_needs_nothing_but_itself(made: tuple[Path, Store]) -> None:
    folder, _ = made
    text = (folder / "page" / "index.html").read_text()
    loads = re.findall(r'(?:src|href|url)\s*[=(]\s*["\']?([^"\')\s>]+)', text)
    assert loads
    assert not [each for each in loads if not each.startswith(("#", "data:"))]
    assert "<script" not in text
    pictures = re.findall(r"!\[.*\]\((.*)\)", (folder / "page" / "report.md").read_text())
    assert len(pictures) >= 5
    assert all((folder / "page" / each).read_bytes().startswith(b"\x89PNG") for each in pictures)


def test_two_studies_side_by_side(made: tuple[Path, Store], tmp_path: Path) -> None:
    _, store = made
    if "yours" not in store.names():
        store.create("yours", define(space="quickstart", tasks=["quadratics"], horizon=80, budget=1600))
    found = call("report", "mine", "yours", "--no-evaluate", "--output", str(tmp_path), "--storage", store.url)
    assert found.returncode == 0, found.stderr
    text = (tmp_path / "report.md").read_text()
    assert "differ in horizon" in text
    assert "| horizon | 40 inner steps | 80 inner steps |" in text
    assert "none yet" in text
    assert (tmp_path / "mine" / "best.safetensors").exists()


@pytest.mark.parametrize("words", [("nothing",), ("mine", "mine"), ("a", "b", "c")])
def test_misuse_is_one_line(made: tuple[Path, Store], words: tuple[str, ...], tmp_path: Path) -> None:
    found = call("report", *words, "--no-evaluate", "--output", str(tmp_path / "x"), "--storage", made[1].url)
    assert found.returncode == 2
    assert found.stderr.startswith("optsearch: ")
    assert found.stderr.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_text_is_never_markup(tmp_path: Path) -> None:
    chart = Chart(EVIL, EVIL, EVIL, [Series(EVIL, [1, 2], [1, 2]), Series("b", [1, 2], [2, 3])], note=EVIL)
    content = Page(EVIL, EVIL, [Section(EVIL, [
        EVIL, Table(EVIL, EVIL, (EVIL, "b"), [(EVIL, "1")]), chart, chart, Figures([(EVIL, EVIL)]), Listing([EVIL])])])
    page.write(content, tmp_path)
    assert "<script" not in (tmp_path / "index.html").read_text()
    outside = [line for line in (tmp_path / "report.md").read_text().splitlines() if not line.startswith("    ")]
    assert "<script" not in "\n".join(outside)
    assert len(list(tmp_path.glob("*.png"))) == len(set(re.findall(r"\]\((.*)\)", "\n".join(outside)))) == 2
    rows = [line for line in outside if line.startswith("| ")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", ""])
def test_names_lead_nowhere_else(name: str) -> None:
    found = page.file_name(name)
    assert Path(found).name == found
    assert found not in ("", ".", "..")


@pytest.mark.parametrize("options", [
    {}, {"tasks": {"quadratics": 2.0, "digits_mlp": 0.5}, "sampler": "tpe", "pruner": "none", "seed": 3},
    {"tasks": {"quadratics": 1.0, "digits_mlp": 1.0}}, {"num_points": 4, "max_flops": 100.0},
    {"pareto": True, "max_flops": None, "validation": ["digits_mlp"], "sampling": "loss_balanced"},
    {"stop_gain": 0.1, "scheduler": "freeze-thaw", "previous": ["older"]}])
def test_the_commands_make_the_same_study(options: dict[str, Any], tmp_path: Path,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store.at(f"sqlite:///{tmp_path}/a.db")
    for name in options.get("previous", ()):
        store.create(name, define(space="quickstart", tasks=["quadratics"]))
    definition = define(**({"space": "quickstart", "tasks": ["quadratics"]} | options))
    *file, command = redo.create("again", definition, store.places)
    if file:
        subprocess.run(["sh", "-c", "\n".join(file)], check=True)
    found = call(*shlex.split(command)[1:], "--storage", store.url)
    assert found.returncode == 0, found.stderr
    assert StudyDefinition.of(store.load("again")) == definition


@contextmanager
def a_study(num_trials: int) -> Iterator[optuna.Study]:
    """`x` says the value wherever it is active, which is where `kind` is "a"; those of `IDLE` say nothing."""
    stream = numpy.random.default_rng(0)
    with quietly():
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        for _ in range(num_trials):
            trial = study.ask()
            kind = trial.suggest_categorical("kind", ["a", "b"])
            value = 1.0 if kind == "b" else abs(trial.suggest_float("x", 0.0, 1.0) - 0.3)
            for name in IDLE:
                trial.suggest_float(name, 0.0, 1.0)
            study.tell(trial, value + 0.01 * float(stream.normal()))
        yield study


def test_importance_is_told_from_chance_where_a_parameter_was_active() -> None:
    with a_study(60) as study:
        found = importances(study)
    rows = {row.name: row for row in found.rows}
    assert found.num_trials == 60
    assert found.rows[0].name == "x"
    assert rows["x"].is_clear
    # Each of the six has a chance of one in twenty.
    assert sum(rows[name].is_clear for name in IDLE) <= 2
    assert rows["x"].num_active == sum("x" in trial.params for trial in study.trials) < 60
    assert sum(row.value for row in found.rows) == pytest.approx(1.0)
    assert all(0 <= row.low <= row.high <= 1 for row in found.rows)


def test_few_trials_say_nothing() -> None:
    with a_study(MIN_TRIALS - 1) as study:
        assert not importances(study).rows


def test_a_search_pays_for_itself_only_where_it_is_faster(made: tuple[Path, Store]) -> None:
    snapshot = Snapshot.of(made[1], "mine")
    # Twice as fast: every training of 100 steps saves 50.
    assert trainings_in_steps(snapshot.num_spent, 100, 2.0) == pytest.approx(snapshot.num_spent / 50)
    assert trainings_in_steps(snapshot.num_spent, 100, 1.0) == inf
    # Four times fewer steps that take twice as long: half of the time is saved.
    assert trainings_in_time(3600.0, 60.0, 4.0, 2.0) == pytest.approx(120.0)
    assert trainings_in_time(3600.0, 60.0, 2.0, 2.0) == trainings_in_time(3600.0, 60.0, 0.0, 2.0) == inf
    assert [duration(each) for each in (5, 600, 7200)] == ["5 s", "10 min", "2.0 h"]
    assert str(Interval(2.0, 1.0, 3.0)) in "2.000 (1.000 to 3.000)"


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium")
def test_a_browser_shows_it_at_every_width(made: tuple[Path, Store]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    said: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=[
            "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
            "--disable-sync"])
        for width in (390, 1280):
            for scheme in ("light", "dark"):
                shown = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
                shown.on("console", lambda message: said.append(message.text))
                shown.on("pageerror", lambda error: said.append(str(error)))
                shown.goto((made[0] / "page" / "index.html").as_uri())
                assert shown.evaluate("document.documentElement.scrollWidth") == width
                ink, ground = shown.evaluate("(({color, backgroundColor}) => [color, backgroundColor])"
                                             "(getComputedStyle(document.body))")
                assert (sum(map(int, re.findall(r"\d+", ink))) < sum(map(int, re.findall(r"\d+", ground)))) == (
                    scheme == "light")
        browser.close()
    assert not said
