"""What Optuna has no place for, in tables of our own in the same database."""

import json
from functools import cached_property
from typing import Any

from sqlalchemy import Engine, Select, String, Text, create_engine, delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from optsearch.search.storage import engine_options, opened, resolve_url, storage_errors

Content = dict[str, Any]


class _Table(DeclarativeBase):
    # Text and not SQL's JSON: PostgreSQL's has no NaN and no infinity.
    content: Mapped[str] = mapped_column(Text)


class TunedBaseline(_Table):
    """The tuned baseline of one task at one horizon; `key` says which."""

    __tablename__ = "optsearch_tuned_baselines"
    key: Mapped[str] = mapped_column(String(512), primary_key=True)


class CurvePoint(_Table):
    """One point of the learning curve of a chain: of a trial and its retries."""

    __tablename__ = "optsearch_curve_points"
    study_id: Mapped[int] = mapped_column(primary_key=True)
    chain: Mapped[int] = mapped_column(primary_key=True)
    inner_steps: Mapped[int] = mapped_column(primary_key=True)


class TaskEvaluation(_Table):
    """How a trial's learned optimizer did on one task."""

    __tablename__ = "optsearch_task_evaluations"
    study_id: Mapped[int] = mapped_column(primary_key=True)
    trial_number: Mapped[int] = mapped_column(primary_key=True)
    task: Mapped[str] = mapped_column(String(512), primary_key=True)


class Records:
    """Baselines, learning curves and evaluations beside the studies at `url`.

    What is written once stays: writing it again changes nothing. Every method raises `StorageError`.
    """

    def __init__(self, url: str | None = None):
        self.url = resolve_url(url)

    def __reduce__(self) -> tuple[type["Records"], tuple[str]]:
        return Records, (self.url,)

    def baseline(self, key: str) -> Content | None:
        """The baseline that was put under `key`."""
        rows = self._all(select(TunedBaseline).where(TunedBaseline.key == key))
        return json.loads(rows[0].content) if rows else None

    def put_baseline(self, key: str, content: Content) -> Content:
        """Keep `content`, unless another was first; the one that stands."""
        self._put(TunedBaseline(key=key, content=json.dumps(content)))
        return self.baseline(key) or content

    def curves(self, study_id: int) -> dict[int, dict[int, Content]]:
        """For every chain of a study: inner steps -> point, in rising order."""
        chosen = select(CurvePoint).where(CurvePoint.study_id == study_id)
        curves: dict[int, dict[int, Content]] = {}
        for row in self._all(chosen.order_by(CurvePoint.chain, CurvePoint.inner_steps)):
            curves.setdefault(row.chain, {})[row.inner_steps] = json.loads(row.content)
        return curves

    def curve(self, study_id: int, chain: int) -> dict[int, Content]:
        """Inner steps -> point, in rising order."""
        chosen = select(CurvePoint).where(CurvePoint.study_id == study_id, CurvePoint.chain == chain)
        rows = self._all(chosen.order_by(CurvePoint.inner_steps))
        return {row.inner_steps: json.loads(row.content) for row in rows}

    def put_point(self, study_id: int, chain: int, inner_steps: int, content: Content) -> None:
        """Keep one point of a learning curve."""
        self._put(CurvePoint(study_id=study_id, chain=chain, inner_steps=inner_steps,
                             content=json.dumps(content)))

    def evaluations(self, study_id: int, trial_number: int) -> dict[str, Content]:
        """Task -> evaluation."""
        rows = self._all(select(TaskEvaluation).where(TaskEvaluation.study_id == study_id,
                                                      TaskEvaluation.trial_number == trial_number))
        return {row.task: json.loads(row.content) for row in rows}

    def put_evaluation(self, study_id: int, trial_number: int, task: str, content: Content) -> None:
        """Keep how a trial did on one task."""
        self._put(TaskEvaluation(study_id=study_id, trial_number=trial_number, task=task,
                                 content=json.dumps(content)))

    def delete_study(self, study_id: int) -> None:
        """Forget a study's curves and evaluations; baselines stay, for other studies use them too.

        To be called for new studies as well: SQLite gives the number of a deleted study to the next one.
        """
        with storage_errors(self.url), Session(self._engine) as session, session.begin():
            session.execute(delete(CurvePoint).where(CurvePoint.study_id == study_id))
            session.execute(delete(TaskEvaluation).where(TaskEvaluation.study_id == study_id))

    @cached_property
    def _engine(self) -> Engine:
        engine = opened(self.url, lambda: create_engine(self.url, **engine_options(self.url)))
        opened(self.url, lambda: _Table.metadata.create_all(engine))
        return engine

    def _all(self, chosen: Select[Any]) -> list[Any]:
        with storage_errors(self.url), Session(self._engine) as session:
            return list(session.scalars(chosen))

    def _put(self, row: _Table) -> None:
        with storage_errors(self.url):
            try:
                with Session(self._engine) as session, session.begin():
                    session.add(row)
            except IntegrityError:
                return
