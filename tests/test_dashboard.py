"""Optuna Dashboard shows our studies: its answers, and the page in a real browser where there is one."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from optsearch.search.definition import define
from optsearch.search.study import Store

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a dashboard over a study with one trial."""
    home = tmp_path_factory.mktemp("dashboard")
    url = f"sqlite:///{home}/studies.db"
    Store.at(url).create("tiny", define(space="quickstart", tasks=["quadratics"], horizon=40, budget=800))
    subprocess.run([sys.executable, "-m", "optsearch", "study", "run", "tiny", "--trials", "1", "-q", "--storage", url],
                   check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "optsearch", "dashboard", "--port", str(port), "--storage", url],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/studies", timeout=5).close()
                break
            except urllib.error.URLError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
    finally:
        server.kill()
        server.wait()


def test_trials_come_with_curve_weights_and_picture(page: str) -> None:
    with urllib.request.urlopen(f"{page}/api/studies/1", timeout=30) as answer:
        (trial,) = json.load(answer)["trials"]
    assert trial["state"] == "Complete"
    assert len(trial["intermediate_values"]) == 8
    names = {artifact["filename"]: artifact["artifact_id"] for artifact in trial["artifacts"]}
    assert set(names) == {"weights.safetensors", "curve.csv", "curve.png"}
    with urllib.request.urlopen(f"{page}/artifacts/1/{trial['trial_id']}/{names['curve.png']}", timeout=30) as picture:
        assert picture.read(4) == b"\x89PNG"


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_shows_the_trial_in_a_browser(page: str, tmp_path: Path) -> None:
    shown = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}", "--virtual-time-budget=15000",
         "--dump-dom", f"{page}/dashboard/studies/1/trials?numbers=0"],
        capture_output=True, text=True, check=True, timeout=120).stdout
    for words in ("Trial 0", "Complete", "weights.safetensors", "schedule.progress.initial_lr"):
        assert words in shown
