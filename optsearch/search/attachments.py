"""Files that belong to trials which have ended already, where Optuna Dashboard finds them."""

import json
import mimetypes
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

import optuna

from optsearch.search.recovery import ARTIFACT_IDS
from optsearch.search.storage import storage_errors
from optsearch.search.study import Store

# Optuna uploads to trials that run only; what the dashboard's own button uploads stands here, at the study.
PREFIX = "dashboard:artifacts:"


def attach(store: Store, study: optuna.Study, number: int, path: Path) -> None:
    """Show a file at a trial that has ended; one of the same name that was attached before is replaced."""
    trial_id = _trial_id(study, number)
    identifier = str(uuid5(NAMESPACE_URL, f"{study.study_name}/{trial_id}/{path.name}"))
    with path.open("rb") as file:
        store.places.artifact_store().write(identifier, file)
    content = {"artifact_id": identifier, "filename": path.name, "encoding": None,
               "mimetype": mimetypes.guess_type(path.name)[0] or "application/octet-stream"}
    with storage_errors(store.url):
        study._storage.set_study_system_attr(study._study_id, f"{PREFIX}{trial_id}:{identifier}", json.dumps(content))


def attached(study: optuna.Study) -> dict[int, set[str]]:
    """The names of the files at every trial, by its number: those attached, and those that it left itself."""
    trials = study.get_trials(deepcopy=False)
    names = {trial._trial_id: set(trial.user_attrs.get(ARTIFACT_IDS, {})) for trial in trials}
    for key, content in study._storage.get_study_system_attrs(study._study_id).items():
        # The dashboard leaves null where somebody has deleted one.
        if key.startswith(PREFIX) and (found := json.loads(content)):
            names.setdefault(int(key.removeprefix(PREFIX).split(":")[0]), set()).add(found["filename"])
    return {trial.number: names[trial._trial_id] for trial in trials}


def _trial_id(study: optuna.Study, number: int) -> int:
    return study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
