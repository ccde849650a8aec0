"""SMAC3 (Lindauer et al. 2022, https://jmlr.org/papers/v23/21-0888.html), with the defaults of its facades."""

import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

from ConfigSpace import (
    AndConjunction,
    Categorical,
    ConfigurationSpace,
    EqualsCondition,
    Float,
    InCondition,
    Integer,
    OrConjunction,
)
from smac import HyperparameterOptimizationFacade, MultiFidelityFacade, Scenario
from smac.runhistory import TrialValue


def suggestions(task: dict[str, Any]) -> Generator[dict[str, Any], float, None]:
    with tempfile.TemporaryDirectory() as folder:
        facade = made(task, Path(folder))
        numbers: dict[Any, int] = {}
        while True:
            trial = facade.ask()
            number = numbers.setdefault(trial.config, len(numbers))
            value = yield {"design": number, "budget": trial.budget,
                           "params": {name: plain(answer) for name, answer in dict(trial.config).items()}}
            facade.tell(trial, TrialValue(cost=value), save=False)


def made(task: dict[str, Any], folder: Path) -> Any:
    is_multi_fidelity = task["method"] == "smac_hyperband"
    budgets = {"min_budget": task["least_budget"], "max_budget": task["budget"]} if is_multi_fidelity else {}
    # A design has one value, so it is never asked for twice.
    scenario = Scenario(space(task["parameters"], task["seed"]), deterministic=True, n_trials=task["trials"],
                        seed=task["seed"], output_directory=folder, **budgets)
    facade = MultiFidelityFacade if is_multi_fidelity else HyperparameterOptimizationFacade
    return facade(scenario, overwrite=True)


def space(parameters: list[dict[str, Any]], seed: int) -> ConfigurationSpace:
    found = {parameter["name"]: hyperparameter(parameter) for parameter in parameters}
    configurations, conditions = ConfigurationSpace(seed=seed), []
    for parameter in parameters:
        child = found[parameter["name"]]
        alternatives = [all_of([condition(child, found[each["parent"]], each["values"]) for each in one])
                        for one in parameter["alternatives"] if one]
        if len(alternatives) == 1:
            conditions.append(alternatives[0])
        elif alternatives:
            # ConfigSpace takes "this and that" for "this or that" where both have as many parts (its issue 430).
            conditions.append(OrConjunction(*alternatives, alternatives[-1]))
    configurations.add(*found.values(), *conditions)
    return configurations


def hyperparameter(parameter: dict[str, Any]) -> Any:
    name = parameter["name"]
    if parameter["kind"] == "choice":
        return Categorical(name, [str(index) for index in range(parameter["count"])])
    made = Float if parameter["kind"] == "float" else Integer
    return made(name, (parameter["low"], parameter["high"]), log=parameter["log"])


def condition(child: Any, parent: Any, values: list[int]) -> Any:
    words = [str(index) for index in values]
    return EqualsCondition(child, parent, words[0]) if len(words) == 1 else InCondition(child, parent, words)


def all_of(conditions: list[Any]) -> Any:
    return conditions[0] if len(conditions) == 1 else AndConjunction(*conditions)


def plain(answer: Any) -> Any:
    """Choices are numbers again."""
    return int(answer) if isinstance(answer, str) else answer.item() if hasattr(answer, "item") else answer
