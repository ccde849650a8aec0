"""Tables of learning curves: written and read whole, made once, gone on with where they were stopped."""

import gzip
import json
from dataclasses import replace

import pytest

from optsearch.bench import table_making
from optsearch.bench.design_table import Curve, DesignTable, full_length
from optsearch.bench.table_facts import facts
from optsearch.bench.table_making import Recipe, make_table
from optsearch.errors import FileError, TaskError
from optsearch.search.spaces import load_space
from tests.toy_table import BUDGETS, end_of, toy_table

TINY = Recipe(("quadratics",), num_designs=2, horizon=40, budget=1_280)


def test_what_is_saved_is_loaded_and_the_same_table_is_the_same_file(tmp_path):
    table = toy_table(9)
    table.save(tmp_path / "one" / "table.json.gz")
    loaded = DesignTable.load(tmp_path / "one" / "table.json.gz")
    assert loaded == table
    loaded.save(tmp_path / "other.json.gz")
    assert (tmp_path / "other.json.gz").read_bytes() == (tmp_path / "one" / "table.json.gz").read_bytes()


@pytest.mark.parametrize("damage", [
    lambda content: content[:len(content) // 2], lambda content: b"", lambda content: b"mine",
    lambda content: gzip.compress(b'{"runs": []}'), lambda content: gzip.compress(b"[1, 2]"),
    lambda content: gzip.compress(json.dumps(json.loads(gzip.decompress(content)) | {"more": 1}).encode())])
def test_what_is_no_table_is_one_line_that_says_how_to_make_one(tmp_path, damage):
    path = tmp_path / "table.json.gz"
    toy_table(3).save(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(FileError, match=r"holds no table of designs.*optsearch bench table"):
        DesignTable.load(path)
    with pytest.raises(FileError, match=r"there is no table.*optsearch bench table"):
        DesignTable.load(tmp_path / "nothing")


def test_a_curve_that_ended_early_is_left_with_its_last_value():
    curve = Curve(0, "one", 0, (3.0, 2.0), (0.0, 0.0), "COLLAPSED", 1.0)
    assert full_length(curve, 4) == (3.0, 2.0, 2.0, 2.0)


def test_the_figures_of_a_table():
    table = toy_table(9)
    found = facts(table)
    ends = [end_of(params, "one") for params in table.designs]
    assert (found["curves"], found["designs"], found["budget"]) == (24, 9, BUDGETS[-1])
    family = found["families"]["one"]
    assert (family["curves"], family["designs"], family["ended_early"]) == (12, 9, 1)
    assert family["best"] == pytest.approx(min(ends), abs=1e-3)
    # The second meta-training is always worse by the same.
    assert family["repeat_correlation"] == 1.0


def test_a_table_is_made_once_and_goes_on_where_it_was_stopped(tmp_path, monkeypatch):
    path, made = tmp_path / "table.json.gz", []

    def until_killed(entry):
        _, design, family, seed = entry
        made.append((design, family, seed))
        if len(made) == 3:
            raise KeyboardInterrupt
        return Curve(design, family, seed, (1.0,), (0.0,), "DIVERGED", 1.0)

    monkeypatch.setattr(table_making, "_run", until_killed)
    with pytest.raises(KeyboardInterrupt):
        make_table(TINY, path, 1, quiet=True)
    assert len(DesignTable.load(path).curves) == 2
    table = make_table(TINY, path, 1, quiet=True)
    assert made == [(0, "quadratics", 0), (0, "quadratics", 1), (1, "quadratics", 0), (1, "quadratics", 0)]
    assert make_table(TINY, path, 1, quiet=True) == table
    assert len(made) == 4


@pytest.mark.slow
def test_a_table_that_was_stopped_is_bit_for_bit_what_it_would_have_been(tmp_path, monkeypatch):
    """But for the time that it took."""
    monkeypatch.setattr(table_making, "_run", lambda entry, run=table_making._run: replace(run(entry), seconds=1.0))
    recipe, path, whole = replace(TINY, budget=4_000), tmp_path / "table.json.gz", tmp_path / "whole.json.gz"
    first, again, other = make_table(recipe, whole, 1, quiet=True).curves
    replace(recipe.empty(), curves=(first,)).save(path)
    make_table(recipe, path, 1, quiet=True)
    assert path.read_bytes() == whole.read_bytes()
    assert first.values[-1] != again.values[-1]
    assert first.values[0] != other.values[0]
    assert all(len(curve.values) <= len(recipe.budgets) for curve in (first, again, other))


def test_budgets_are_log_spaced_and_other_tables_are_left_alone(tmp_path):
    budgets = Recipe(budget=10_000).budgets
    assert (budgets[0], budgets[12], budgets[-1]) == (100, 1000, 10_000)
    path = tmp_path / "table.json.gz"
    toy_table(3).save(path)
    written = path.read_bytes()
    with pytest.raises(FileError, match="another space, horizon or budget"):
        make_table(TINY, path, 1, quiet=True)
    with pytest.raises(TaskError, match="magic"):
        make_table(replace(TINY, families=("magic",)), path, 1, quiet=True)
    assert path.read_bytes() == written


def test_designs_do_not_depend_on_how_many_there_are():
    few, many = replace(TINY, num_designs=3).empty(), replace(TINY, num_designs=5).empty()
    assert many.designs[:3] == few.designs
    assert few.space_text == load_space("all").text
