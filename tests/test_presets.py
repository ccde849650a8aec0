"""Shipped studies: one a domain, each of which can begin."""

from pathlib import Path

import pytest
from command_line import call

from optsearch.optimizers import LearnedOptimizer
from optsearch.search.definition import StudyDefinition, preset
from optsearch.search.rows import random_suggest
from optsearch.search.study import Store
from optsearch.tasks import suites


@pytest.mark.parametrize("domain", suites.ROLES)
def test_every_domain_has_a_study_that_can_begin(domain: str, tmp_path: Path) -> None:
    definition, num_trials = preset(domain)
    roles = suites.roles(domain)
    assert (definition.tasks, definition.validation, definition.held_out) == (
        roles.meta_training + roles.validation, (), roles.held_out)
    assert (definition.space, definition.sampler, definition.scheduler) == ("all", "gp", "freeze-thaw")
    assert num_trials > definition.num_startup_trials
    store = Store.at(f"sqlite:///{tmp_path / 'studies.db'}")
    store.create(domain, definition)
    assert StudyDefinition.of(store.load(domain)) == definition
    design, settings = definition.parsed_space().suggest(random_suggest(seed=0))
    assert definition.horizon >= settings.truncation
    assert LearnedOptimizer.from_config(design.to_config()) == design


def test_the_general_study_learns_on_all_domains_and_never_on_what_is_held_out() -> None:
    definition, num_trials = preset("general")
    roles = [suites.roles(domain) for domain in suites.ROLES]
    assert all(set(each.meta_training) & set(definition.tasks) for each in roles)
    assert set(definition.held_out) == set(suites.suite(suites.STANDARD))
    assert set(definition.held_out).isdisjoint({*definition.tasks, *definition.validation})
    assert num_trials == 1


def test_create_takes_a_preset_and_nothing_that_contradicts_it(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'studies.db'}"
    made = call("study", "create", "mine", "--preset", "tabular", "--seed", "3", "--storage", storage)
    assert made.returncode == 0, made.stderr
    definition, num_trials = preset("tabular")
    assert f"--trials {num_trials}" in made.stdout
    assert StudyDefinition.of(Store.at(storage).load("mine")) == StudyDefinition(**vars(definition) | {"seed": 3})
    refused = call("study", "create", "other", "--preset", "tabular", "--horizon", "300", "--storage", storage)
    assert refused.returncode == 2
    assert "leave out `horizon`" in refused.stderr
    missing = call("study", "create", "other", "--preset", "tablar", "--storage", storage)
    assert missing.returncode == 2
    assert "tabular" in missing.stderr
