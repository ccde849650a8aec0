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


class Measurement(_Table):
    """What an optimizer came to on one family at one horizon; `key` says which, by content."""

    __tablename__ = "optsearch_measurements"
    key: Mapped[str] = mapped_column(String(512), primary_key=True)


class CurvePoint(_Table):
    """One point of the learning curve of a chain: of a trial and its retries."""

    __tablename__ = "optsearch_curve_points"
    study_id: Mapped[int] = mapped_column(primary_key=True)
    chain: Mapped[int] = mapped_column(primary_key=True)
    inner_steps: Mapped[int] = mapped_column(primary_key=True)


class Forecast(_Table):
    """What was forecast of a chain at one point of its learning curve, and what was decided."""

    __tablename__ = "optsearch_forecasts"
    study_id: Mapped[int] = mapped_column(primary_key=True)
    chain: Mapped[int] = mapped_column(primary_key=True)
    inner_steps: Mapped[int] = mapped_column(primary_key=True)


class Records:
    """Measurements, learning curves and forecasts beside the studies at `url`.

    What is written once stays: writing it again changes nothing. Every method raises `StorageError`.
    """

    def __init__(self, url: str | None = None):
        self.url = resolve_url(url)

    def __reduce__(self) -> tuple[type["Records"], tuple[str]]:
        return Records, (self.url,)

    def measurement(self, key: str) -> Content | None:
        """What was put under `key`."""
        rows = self._all(select(Measurement).where(Measurement.key == key))
        return json.loads(rows[0].content) if rows else None

    def put_measurement(self, key: str, content: Content) -> Content:
        """Keep `content`, unless another was first; the one that stands."""
        self._put(Measurement(key=key, content=json.dumps(content)))
        return self.measurement(key) or content

    def curves(self, study_id: int) -> dict[int, dict[int, Content]]:
        """For every chain of a study: inner steps -> point, in rising order."""
        return self._by_chain(CurvePoint, study_id)

    def curve(self, study_id: int, chain: int) -> dict[int, Content]:
        """Inner steps -> point, in rising order."""
        chosen = select(CurvePoint).where(CurvePoint.study_id == study_id, CurvePoint.chain == chain)
        rows = self._all(chosen.order_by(CurvePoint.inner_steps))
        return {row.inner_steps: json.loads(row.content) for row in rows}

    def put_point(self, study_id: int, chain: int, inner_steps: int, content: Content) -> None:
        """Keep one point of a learning curve."""
        self._put(CurvePoint(study_id=study_id, chain=chain, inner_steps=inner_steps,
                             content=json.dumps(content)))

    def forecasts(self, study_id: int) -> dict[int, dict[int, Content]]:
        """For every chain of a study: inner steps -> what was forecast there, in rising order."""
        return self._by_chain(Forecast, study_id)

    def put_forecast(self, study_id: int, chain: int, inner_steps: int, content: Content) -> None:
        """Keep one forecast."""
        self._put(Forecast(study_id=study_id, chain=chain, inner_steps=inner_steps, content=json.dumps(content)))

    def delete_study(self, study_id: int) -> None:
        """Forget a study's curves and forecasts; measurements stay, for other studies use them too.

        To be called for new studies as well: SQLite gives the number of a deleted study to the next one.
        """
        with storage_errors(self.url), Session(self._engine) as session, session.begin():
            for table in (CurvePoint, Forecast):
                session.execute(delete(table).where(table.study_id == study_id))

    @cached_property
    def _engine(self) -> Engine:
        engine = opened(self.url, lambda: create_engine(self.url, **engine_options(self.url)))
        opened(self.url, lambda: _Table.metadata.create_all(engine))
        return engine

    def _by_chain(self, table: type[CurvePoint] | type[Forecast], study_id: int) -> dict[int, dict[int, Content]]:
        found: dict[int, dict[int, Content]] = {}
        chosen = select(table).where(table.study_id == study_id)
        for row in self._all(chosen.order_by(table.chain, table.inner_steps)):
            found.setdefault(row.chain, {})[row.inner_steps] = json.loads(row.content)
        return found

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
