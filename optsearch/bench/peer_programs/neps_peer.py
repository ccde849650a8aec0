"""NePS (Neural Pipeline Search, https://github.com/automl/neps): its algorithms for flat mixed spaces."""

import random
from collections.abc import Generator
from typing import Any

import neps
import numpy
import torch
from neps import algorithms

FIDELITY = "budget"
# By default as many as there are parameters, inactive ones too: all of a search would be random.
NUM_STARTUP = 10


def suggestions(task: dict[str, Any]) -> Generator[dict[str, Any], float, None]:
    # NePS draws from the global generators.
    random.seed(task["seed"])
    numpy.random.seed(task["seed"])
    torch.manual_seed(task["seed"])
    search = neps.AskAndTell(made(task))
    while True:
        trial = search.ask()
        params = {name: int(answer) if isinstance(answer, str) else answer for name, answer in trial.config.items()}
        budget = params.pop(FIDELITY, task["budget"])
        # Ids are "<design>_rung_<rung>" where there are rungs.
        value = yield {"design": trial.id.split("_")[0], "budget": budget, "params": params}
        search.tell(trial, value)


def made(task: dict[str, Any]) -> Any:
    parameters = {parameter["name"]: hyperparameter(parameter) for parameter in task["parameters"]}
    if task["method"] == "neps_bo":
        return algorithms.bayesian_optimization(neps.SearchSpace(parameters), initial_design_size=NUM_STARTUP)
    fidelity = neps.HPOFloat(task["least_budget"], task["budget"], is_fidelity=True)
    return algorithms.priorband(neps.SearchSpace({**parameters, FIDELITY: fidelity}), eta=task["reduction_factor"])


def hyperparameter(parameter: dict[str, Any]) -> Any:
    if parameter["kind"] == "choice":
        return neps.HPOCategorical([str(index) for index in range(parameter["count"])])
    made = neps.HPOFloat if parameter["kind"] == "float" else neps.HPOInteger
    return made(parameter["low"], parameter["high"], log=parameter["log"])
