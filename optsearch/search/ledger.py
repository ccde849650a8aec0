"""What a study has spent and promised, read and written in one transaction."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import optuna
from optuna.storages._rdb import models
from optuna.trial import TrialState
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from optsearch.search.recovery import (
    CHAIN,
    CONTINUES,
    NUM_RETRIES,
    OWNER,
    PAUSED,
    RETRY_OF,
    database,
    new_row,
    set_attr,
    successor,
)

CONFIG_ID = "config_id"


@dataclass(frozen=True)
class _Entry:
    """A trial as a transaction sees it."""

    trial_id: int
    number: int
    state: TrialState
    num_spent: int
    attributes: dict[str, str]

    @property
    def chain(self) -> int:
        return json.loads(self.attributes.get(CHAIN, str(self.number)))

    @property
    def is_running(self) -> bool:
        return self.state is TrialState.RUNNING and OWNER in self.attributes


Ledger = dict[int, list[_Entry]]


@dataclass(frozen=True)
class Room:
    """What `num_trials` whole trials may spend."""

    num_trials: int
    budget: int

    def has(self, ledger: Ledger, chain: int | None = None) -> bool:
        """Whether a chain, or a new one, can be trained to its end beside all that runs."""
        committed = sum(self.budget if any(entry.is_running for entry in entries) else _num_spent(entries)
                        for entries in ledger.values())
        remaining = self.budget - _num_spent(ledger.get(chain, []) if chain is not None else [])
        return committed + remaining <= self.num_trials * self.budget


def _num_spent(entries: Sequence[_Entry]) -> int:
    return max((entry.num_spent for entry in entries), default=0)


def _ledger(study: optuna.Study, session: Session) -> Ledger:
    """The trials of every chain, in their order."""
    trial, point, attribute = models.TrialModel, models.TrialIntermediateValueModel, models.TrialUserAttributeModel
    is_ours = trial.study_id == study._study_id
    known: dict[int, dict[str, str]] = {}
    for trial_id, key, value in session.execute(
            select(attribute.trial_id, attribute.key, attribute.value_json).join(trial)
            .where(is_ours, attribute.key.in_((CHAIN, OWNER, PAUSED)))):
        known.setdefault(trial_id, {})[key] = value
    ledger: Ledger = {}
    for trial_id, number, state, step in session.execute(
            select(trial.trial_id, trial.number, trial.state, func.max(point.step)).outerjoin(point).where(is_ours)
            .group_by(trial.trial_id, trial.number, trial.state).order_by(trial.number)):
        entry = _Entry(trial_id, number, state, step or 0, known.get(trial_id, {}))
        ledger.setdefault(entry.chain, []).append(entry)
    return ledger


def waiting_row(study: optuna.Study, session: Session, room: Room) -> models.TrialModel | None:
    """The first waiting trial that there is room for."""
    ledger = _ledger(study, session)
    for chain, entries in ledger.items():
        if entries[-1].state is TrialState.WAITING and room.has(ledger, chain):
            return _named(study, session, models.TrialModel.find_or_raise_by_id(entries[-1].trial_id, session), chain)
    return None


def first_row(study: optuna.Study, session: Session, room: Room) -> models.TrialModel | None:
    """A trial with which a config begins."""
    if not room.has(_ledger(study, session)):
        return None
    row = new_row(study, session)
    return _named(study, session, row, int(row.number))


def thawed_row(study: optuna.Study, session: Session, room: Room, chain: int) -> models.TrialModel | None:
    """A successor of the paused trial of a chain, unless another has come first."""
    ledger = _ledger(study, session)
    last = ledger[chain][-1]
    if last.state is not TrialState.PRUNED or PAUSED not in last.attributes or not room.has(ledger, chain):
        return None
    row = models.TrialModel.find_or_raise_by_id(last.trial_id, session)
    paused = database(study)._build_frozen_trial_from_trial_model(row)
    # It has come far since its last retry.
    for key in (RETRY_OF, NUM_RETRIES):
        paused.user_attrs.pop(key, None)
    return new_row(study, session, successor(paused, {CONTINUES: paused.number}))


def _named(study: optuna.Study, session: Session, row: models.TrialModel, chain: int) -> models.TrialModel:
    set_attr(database(study), session, row, CONFIG_ID, chain)
    return row
