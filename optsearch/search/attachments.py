"""The files of trials, and those that are added once a trial has ended, where Optuna Dashboard finds them."""

import json
import mimetypes
from collections.abc import Iterator
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import optuna

from optsearch.search.places import Places
from optsearch.search.recovery import ARTIFACT_IDS, database
from optsearch.search.storage import storage_errors

# Optuna uploads to trials that run only; what the dashboard's own button uploads stands here, at the study.
PREFIX = "dashboard:artifacts:"


def attach(study: optuna.Study, places: Places, number: int, path: Path) -> None:
    """Show a file at a trial that has ended; one of the same name that was attached before is replaced."""
    storage = study._storage
    with storage_errors(database(study).url):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        identifier = str(uuid5(NAMESPACE_URL, f"{study.study_name}/{trial_id}/{path.name}"))
        with path.open("rb") as file:
            places.artifact_store().write(identifier, file)
        content = {"artifact_id": identifier, "filename": path.name, "encoding": None,
                   "mimetype": mimetypes.guess_type(path.name)[0] or "application/octet-stream"}
        storage.set_study_system_attr(study._study_id, f"{PREFIX}{trial_id}:{identifier}", json.dumps(content))


def file_ids(study: optuna.Study) -> dict[int, dict[str, str]]:
    """For every trial, by number, the names of its files and by what identifiers they are kept."""
    trials = study.get_trials(deepcopy=False)
    found = {trial._trial_id: dict(trial.user_attrs.get(ARTIFACT_IDS, {})) for trial in trials}
    for trial_id, content in _attached(study):
        found[trial_id][content["filename"]] = content["artifact_id"]
    return {trial.number: found[trial._trial_id] for trial in trials}


def _attached(study: optuna.Study) -> Iterator[tuple[int, dict[str, str]]]:
    for key, content in study._storage.get_study_system_attrs(study._study_id).items():
        # Of what somebody deletes, the dashboard leaves null.
        if key.startswith(PREFIX) and (found := json.loads(content)):
            yield int(key.removeprefix(PREFIX).split(":")[0]), found
