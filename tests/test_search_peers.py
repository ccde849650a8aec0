"""Searchers of other packages: spaces are told as they are, what is trained is paid once, deaths are told in a line."""

import json
import sys
from functools import partial
from unittest.mock import patch

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from optsearch.bench import peer_space, replay, search, search_peers
from optsearch.bench.conditions import Condition, activities
from optsearch.bench.peer_space import Space
from optsearch.bench.replay import problems
from optsearch.bench.search_peers import Peer
from optsearch.bench.searchers import available, method_named
from optsearch.bench.spending import Spending
from optsearch.errors import FailureError, UsageError
from optsearch.search.samplers import encoding_of
from optsearch.search.spaces import load_space
from optsearch.search.surrogate.tree import TreeSpace
from tests.command_line import call
from tests.toy_table import BUDGETS, toy_table

VARIABLE = "OPTSEARCH_FAKE_PYTHON"
# Random search: three designs at 10 (asked for as 11) steps, the best of them at 80 (as 70) and at all, and again.
HALVING = """
import random, time

def draw(parameter, generator):
    if parameter["kind"] == "choice":
        return generator.randrange(parameter["count"])
    made = generator.uniform if parameter["kind"] == "float" else generator.randint
    return made(parameter["low"], parameter["high"])

def suggestions(task):
    print("chatter")
    generator, number = random.Random(task["seed"]), 0
    while True:
        values = {}
        for _ in range(3):
            params = {each["name"]: draw(each, generator) for each in task["parameters"]}
            values[number] = yield {"design": number, "params": params, "budget": 11}
            number += 1
        best = min(values, key=values.get)
        for budget in (70, task["budget"]):
            yield {"design": best, "params": {}, "budget": budget}
"""


def tree_walk(suggest):
    """`depth` and `width` hang on one answer, `rate` on either of two, `sum` on two at once, `odd` on a number."""
    kind = suggest("kind", CategoricalDistribution(("none", "shallow", "deep")))
    if kind != "none":
        suggest("width", IntDistribution(1, 9))
    is_deep = kind == "deep" and suggest("depth", CategoricalDistribution((2, 4, 8))) > 2
    other = suggest("other", CategoricalDistribution((True, False)))
    if other or is_deep:
        suggest("rate", FloatDistribution(0.0, 1.0))
    if other and kind == "shallow":
        suggest("sum", FloatDistribution(0.0, 1.0))
    if suggest("number", FloatDistribution(0.0, 1.0)) > 0.5:
        suggest("odd", FloatDistribution(0.0, 1.0))


def test_conditions_are_those_that_the_walk_has():
    found = activities(TreeSpace.of(tree_walk))
    words = {name: {frozenset(one) for one in activity.alternatives} for name, activity in found.items()}
    assert words["width"] == {frozenset({Condition("kind", ("shallow", "deep"))})}
    assert words["depth"] == {frozenset({Condition("kind", ("deep",))})}
    assert words["rate"] == {frozenset({Condition("other", (True,))}), frozenset({Condition("depth", (4, 8))})}
    assert words["sum"] == {frozenset({Condition("kind", ("shallow",)), Condition("other", (True,))})}
    assert words["kind"] == words["other"] == {frozenset()}
    # A number's answers can't be listed: such a parameter is always offered, and ignored where it isn't asked.
    assert [name for name, activity in found.items() if not activity.is_exact] == ["odd"]
    assert found["odd"].holds({})


def test_conditions_say_of_every_random_design_which_parameters_it_has():
    tree = encoding_of("all", load_space("all").text).tree
    found = activities(tree, num_points=1000)
    assert all(activity.is_exact for activity in found.values())
    for point in tree.sample(seed=99, count=1000):
        assert {name for name, activity in found.items() if activity.holds(point)} == set(point)


def test_peers_know_choices_and_steps_by_number():
    walk = {"choice": CategoricalDistribution((0.5, "a", None)), "step": FloatDistribution(0.1, 0.9, step=0.2),
            "even": IntDistribution(2, 10, step=2), "log": FloatDistribution(1e-4, 0.1, log=True),
            "one": CategoricalDistribution(("only",))}
    tree = TreeSpace.flat(walk)
    space = Space(tree.distributions, activities(tree, num_points=20))
    assert {each.pop("name"): each for each in json.loads(json.dumps(space.described()))} == {
        "choice": {"kind": "choice", "count": 3, "alternatives": [[]]},
        "step": {"kind": "int", "low": 0, "high": 4, "log": False, "alternatives": [[]]},
        "even": {"kind": "int", "low": 0, "high": 4, "log": False, "alternatives": [[]]},
        "log": {"kind": "float", "low": 1e-4, "high": 0.1, "log": True, "alternatives": [[]]}}
    values = space.values({"choice": 2, "step": 2, "even": 3, "log": 0.1 + 1e-17})
    assert values == {"choice": None, "step": pytest.approx(0.5), "even": 8, "log": 0.1}
    assert all(tree.has(name, value) for name, value in values.items())


@pytest.fixture(scope="module")
def problem():
    with patch.object(replay, "NUM_RANDOM", 100):
        found = problems(toy_table(40))[0]
        # Fitted once.
        found.expected([found.table.designs[0]])
        return found


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a peer from the text of its program."""
    monkeypatch.setenv(VARIABLE, sys.executable)
    for other in (search_peers.SMAC, search_peers.NEPS):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setattr(replay, "NUM_RANDOM", 100)
    monkeypatch.setattr(peer_space, "activities", partial(activities, num_points=300))

    def make(text):
        program = tmp_path / "fake_peer.py"
        program.write_text(text)
        return Peer("fake", "random search, halved", VARIABLE, program)

    return make


def searched(peer, problem, limit=6.0, seed=3):
    spending = Spending(problem, limit)
    peer.search(spending, seed)
    return spending


def test_a_design_that_is_asked_for_again_is_continued_and_only_the_rest_is_paid(fake, problem):
    spending = searched(fake(HALVING), problem)
    # A round trains three designs to 10, one of them to the end; collapsed ones (after 40) cost what they took.
    spent = {design: curve.budgets[-1] for design, curve in spending.resting.items()}
    assert spending.steps == sum(spent.values())
    assert 6 * 160 <= spending.steps < 7 * 160
    assert set(spent.values()) <= {10, 40, 160, 80}
    for first in range(0, len(spent) - 3, 3):
        values = {design: spending.problem.curve(spending.resting[design].params).values[0]
                  for design in range(first, first + 3)}
        assert [design for design in values if spent[design] > 10] == [min(values, key=values.get)]
    assert all(point.steps <= spending.steps for point in spending.trace)


def test_a_peer_is_told_the_value_at_the_budget_that_is_nearest_by_its_ratio(fake, problem):
    """Of 40 and 80, 57 is nearer to 80; by the difference it were 40."""
    peer = fake(f"{HALVING}\ndef suggestions(task):\n    generator = random.Random(0)\n"
                "    params = {each['name']: draw(each, generator) for each in task['parameters']}\n"
                "    value = yield {'design': 'a', 'params': params, 'budget': 57}\n"
                "    raise SystemExit(repr(value))\n")
    spending = Spending(problem, 2.0)
    with pytest.raises(FailureError) as caught:
        peer.search(spending, 0)
    (known,) = spending.resting.values()
    assert (known.budgets, spending.steps) == (BUDGETS[:4], 80)
    assert f"status 1: {spending.problem.curve(known.params).values[3]!r}." in str(caught.value)


def test_searches_repeat_themselves_and_other_seeds_are_others(fake, problem):
    peer = fake(HALVING)
    one, again, other = (searched(peer, problem, 3.0, seed) for seed in (1, 1, 2))
    assert one.resting == again.resting
    assert one.resting != other.resting


def test_start_up_is_no_time_of_the_searcher_but_thinking_is(fake, problem):
    """Half a second of work at import, and a fifth of one at the first suggestion."""
    work = ("\ndef work(seconds):\n    until = time.process_time() + seconds\n"
            "    while time.process_time() < until:\n        pass\n")
    thinking = HALVING.replace('print("chatter")', "work(0.2)")
    spending = searched(fake(f"{thinking}{work}work(0.5)\n"), problem, 1.0)
    assert 0.2 <= spending.seconds < 0.6


@pytest.mark.parametrize(("program", "words"), [
    ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'."),
    ("def suggestions(task):\n    raise ValueError('two\\nlines')\n    yield", "ValueError: two lines."),
    ("import os\nos._exit(9)", "fake ended with status 9: it said nothing."),
])
def test_a_peer_that_dies_says_why_in_one_line(fake, problem, program, words):
    with pytest.raises(FailureError) as caught:
        searched(fake(program), problem)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sys.executable in str(caught.value)


def test_a_peer_that_goes_round_in_circles_is_stopped(fake, problem):
    circles = "def suggestions(task):\n    while True:\n        yield {'design': 0, 'params': {}}\n"
    with patch.object(search_peers, "MOST_FREE_TURNS", 5), pytest.raises(FailureError, match="5 times in a row"):
        searched(fake(circles), problem)


def test_peers_are_methods_where_their_python_is_given(fake, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="set OPTSEARCH_SMAC_PYTHON to the Python"):
        method_named("smac")
    monkeypatch.setattr("optsearch.bench.searchers.PEERS", (fake(HALVING),))
    assert "fake" in search.chosen(None)
    toy_table(40).save(table := tmp_path / "table.json.gz")
    rows = search.compare(search.Comparison(table, ("random", "fake"), 1, 3, 50), None, 1, quiet=True)
    assert {row["method"] for row in rows} == {"random", "fake"}
    assert all(3 * 160 <= row["steps"] < 4 * 160 for row in rows)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "no_python"))
    failed = call("bench", "search", "--table", str(table), "--method", "fake", "--quick")
    assert failed.returncode == 2
    assert f"{tmp_path / 'no_python'} could not be run" in failed.stderr
    monkeypatch.delenv(VARIABLE)
    assert "fake" not in available()
