"""Optuna Dashboard shows our studies: its answers, and the pages in a real browser where there is one."""

import csv
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import pytest

from optsearch.dashboard import publishing
from optsearch.dashboard.note import MARK, with_note
from optsearch.dashboard.plots import MOST_POINTS, MOST_QUIET, lean
from optsearch.dashboard.publishing import PICTURE_SECONDS, Publisher, publish
from optsearch.evaluation.metrics import final_loss
from optsearch.pictures import Chart, Series
from optsearch.search.attachments import file_ids
from optsearch.search.definition import define
from optsearch.search.snapshot import Snapshot
from optsearch.search.study import Store

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
         "--disable-sync"]
PICTURES = {"curve.png", "design.png", "inner_curves.png"}


@dataclass(frozen=True)
class Site:
    """A dashboard over a study that has been run, and the address that its browser was sent to."""

    store: Store
    address: str
    opened: Path

    def trials(self) -> list[dict[str, Any]]:
        with urllib.request.urlopen(f"{self.address}/api/studies/1", timeout=30) as answer:
            return json.load(answer)["trials"]

    def file(self, trial: dict[str, Any], name: str) -> bytes:
        (identifier,) = [each["artifact_id"] for each in trial["artifacts"] if each["filename"] == name]
        with urllib.request.urlopen(f"{self.address}/artifacts/1/{trial['trial_id']}/{identifier}", timeout=30) as got:
            return got.read()


def plot(name: str) -> str:
    """The selector of one of our plots."""
    return f'[id="user-defined-plot:optsearch-{name}"]'


def optsearch(store: Store, *words: str) -> list[str]:
    return [sys.executable, "-m", "optsearch", *words, "--storage", store.url]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Of three trials; opened by a browser that writes down where."""
    home = tmp_path_factory.mktemp("dashboard")
    store = Store.at(f"sqlite:///{home}/studies.db")
    store.create("tiny", define(space="quickstart", tasks=["quadratics"], horizon=40, budget=400))
    subprocess.run(optsearch(store, "study", "run", "tiny", "--trials", "3", "-q"), check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (home / "browser").write_text(f'#!/bin/sh\necho "$1" > {home}/opened\n')
    (home / "browser").chmod(0o755)
    server = subprocess.Popen(optsearch(store, "dashboard", "tiny", "--port", str(port)), stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL, env=os.environ | {"BROWSER": f"{home}/browser %s"})
    found = Site(store, f"http://127.0.0.1:{port}", home / "opened")
    try:
        until(lambda: _has_all(found), server)
        yield found
    finally:
        server.kill()
        server.wait()


def _has_all(site: Site) -> bool:
    """Once every trial has the pictures that the dashboard draws, it has begun to serve and has published."""
    try:
        return all({"curve.png", "design.png"} <= {each["filename"] for each in trial["artifacts"]}
                   for trial in site.trials())
    except urllib.error.URLError:
        return False


def until(is_so: Any, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 90
    while not is_so():
        assert server.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_trials_come_with_curve_weights_and_pictures(site: Site) -> None:
    trials = site.trials()
    assert len(trials) == 3
    for trial in trials:
        names = [artifact["filename"] for artifact in trial["artifacts"]]
        assert len(names) == len(set(names))
        pictures = PICTURES if trial["state"] == "Complete" else PICTURES - {"inner_curves.png"}
        assert set(names) >= {"weights.safetensors", "curve.csv"} | pictures
        for name in pictures:
            content = site.file(trial, name)
            assert content.startswith(b"\x89PNG")
            assert len(content) < 300_000


def test_inner_curves_are_those_of_the_value_beside_tuned_adamw(site: Site) -> None:
    import torch

    from optsearch import evaluation
    from optsearch.search.objective import content_cache

    trial = next(trial for trial in site.trials() if trial["state"] == "Complete")
    rows = list(csv.DictReader(io.StringIO(site.file(trial, "inner_curves.csv").decode())))
    assert [int(row["inner_steps"]) for row in rows] == list(range(1, 41))
    (family,) = define(space="quickstart", tasks=["quadratics"], horizon=40, budget=400).selected_on
    against = evaluation.opponent(family, 40, content_cache(site.store.records))
    # Both meet the same tasks and the same first batch, before any of them has made a step.
    assert float(rows[0]["learned"]) == pytest.approx(float(rows[0]["tuned_adamw"]), rel=1e-4)
    learned, tuned = (final_loss(torch.tensor([float(row[name]) for row in rows])) for name in
                      ("learned", "tuned_adamw"))
    # Losses of training batches and of held-out rows are near on quadratics, so the ratio has the value's sign.
    assert (learned > tuned) == (trial["values"][0] > 0)
    assert float(tuned) == pytest.approx(float(against.finals.mean()), rel=0.5)


def test_the_dashboard_opens_at_the_page_of_the_study(site: Site) -> None:
    assert site.opened.read_text().strip() == f"{site.address}/dashboard/studies/1"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_pages_in_a_browser_show_note_plots_and_pictures(site: Site) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    complete = next(trial for trial in site.trials() if trial["state"] == "Complete")
    best = Snapshot.of(site.store, "tiny").best
    assert best is not None
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=QUIET)
        page, problems = browser.new_page(), []
        page.set_default_timeout(60_000)
        page.on("console", lambda said: problems.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"{site.address}/dashboard/studies/1")
        for name in ("progress", "curves", "families"):
            page.wait_for_selector(f"{plot(name)} .xtick >> nth=0")
        assert "The best so far" in page.inner_text(plot("progress"))
        page.goto(f"{site.address}/dashboard/studies/1/note")
        page.wait_for_selector(f"text=trial {best.last_number}")
        assert "optsearch export tiny" in page.inner_text("body")
        page.click(f"a:text('trial {best.last_number}')")
        page.wait_for_selector(f"text=Trial {best.last_number} (trial_id")
        page.goto(f"{site.address}/dashboard/studies/1/trials?numbers={complete['number']}")
        shown = page.wait_for_function(
            "count => { const all = [...document.images].filter(i => i.src.includes('/artifacts/') && i.naturalWidth);"
            " return all.length >= count && all.map(i => i.naturalWidth); }", arg=len(PICTURES)).json_value()
        assert min(shown) > 400
        browser.close()
    assert not problems


def test_an_unknown_study_and_a_taken_port_are_told_in_a_line(site: Site) -> None:
    port = site.address.rpartition(":")[2]
    for words, told in ((["other"], "no study `other`"), (["--port", port], "choose another with --port")):
        ran = subprocess.run(optsearch(site.store, "dashboard", "--no-browser", *words), capture_output=True,
                             text=True, check=False)
        assert ran.returncode == 2
        assert told in ran.stderr
        assert ran.stderr.count("\n") == 1


def test_what_is_published_again_is_not_drawn_again_and_goes_with_the_study(site: Site, tmp_path: Path) -> None:
    shutil.copytree(Path(site.opened).parent, tmp_path / "copy")
    store = Store.at(f"sqlite:///{tmp_path}/copy/studies.db")
    study = store.load("tiny")
    kept = [store.places.artifacts / identifier for files in file_ids(study).values() for identifier in files.values()]
    written = [path.stat().st_mtime_ns for path in kept]
    publish(store, "tiny")
    assert [path.stat().st_mtime_ns for path in kept] == written
    store.delete("tiny")
    assert not [path for path in kept if path.exists()]


def test_a_note_keeps_what_somebody_wrote_above(site: Site) -> None:
    snapshot = Snapshot.of(site.store, "tiny")
    ours = with_note("", snapshot)
    assert ours.startswith(MARK)
    assert snapshot.best is not None
    assert f"{snapshot.best.loss_ratio:.3f} times" in ours
    assert with_note(f"Mine.\n\n{ours}", snapshot) == f"Mine.\n\n{ours}"


def test_plots_stay_small_however_many_trials_there_are() -> None:
    curves = [Series(f"trial {number}", list(range(10)), [1 / 3] * 10, quiet=True) for number in range(1000)]
    cloud = Series("ends", list(range(5000)), [1 / 3] * 5000, "points", texts=["words"] * 5000)
    together, thinned = lean(Chart("", "", "", [*curves, cloud])).series
    assert together.quiet
    assert 0.5 * MOST_QUIET < sum(not isnan(value) for value in together.y) <= MOST_QUIET
    assert MOST_POINTS / 2 < len(thinned.y) == len(thinned.x) == len(thinned.texts) <= MOST_POINTS
    assert thinned.x[-1] == 4999
    assert thinned.y[0] == 0.3333


def test_a_failure_to_publish_is_one_line_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(publishing, "LEAST_SECONDS", 0.0)

    def fail(store: Store, name: str, seconds: float) -> None:
        assert seconds == PICTURE_SECONDS
        raise OSError("no\nroom")

    monkeypatch.setattr(publishing, "publish", fail)
    with Publisher(Store.at("sqlite:///none.db"), "tiny", said.append) as tell:
        for _ in range(3):
            tell()
    assert said == ["the dashboard's pages are not up to date: no room"]
    assert not Path("none.db").exists()
