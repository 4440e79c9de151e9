"""How a run stands, in a few numbers: what a view from elsewhere asks of the ledger."""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from autoproxy.evaluation import Direction, Individual
from autoproxy.ledger.connection import at_one_moment
from autoproxy.ledger.schema import EVALUATIONS, EVENTS, REPORTS, RUNS, STEPS

RECENT = 500
"""Proposals among whose measurements the latest news is looked for."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a run stands.

    Attributes:
        run: Name.
        space: Name of its search space.
        config: All that was asked.
        objective: Name of what it measures.
        direction: Which way is better.
        protocol: Content hash of the protocol that it measures under.
        status: `running`, `interrupted` or `done`.
        seconds: Wall-clock time up to its latest whole generation.
        generations: Whole ones.
        spent: Budget spent, with that of what is known of the generation under way.
        new: Share of new ones among the proposals of the latest generation.
        funnel: How many proposals each rule dropped, and what became of the rest.
        best: At each complexity, the best that was measured in full, the earliest of equals.
        reported: Whether its winner has been measured on a report text.
        news: When it began or last measured something that no run had measured before.
    """

    run: str
    space: str
    config: Mapping[str, Any]
    objective: str
    direction: Direction
    protocol: str
    status: str
    seconds: float
    generations: int
    spent: float
    new: float | None
    funnel: Mapping[str, int]
    best: tuple[Individual, ...]
    reported: bool
    news: dt.datetime


def run_names(connection: Connection) -> list[str]:
    """Return the names of all runs, oldest first."""
    query = sa.select(RUNS.c.run).order_by(RUNS.c.recorded, RUNS.c.run)
    return list(connection.execute(query).scalars())


def read_funnel(connection: Connection, run: str, generations: int | None = None) -> dict[str, int]:
    """Return how many proposals of a run each rule dropped, and what became of the rest."""
    what = sa.func.coalesce(EVENTS.c.rule, EVENTS.c.fate)
    query = sa.select(what, sa.func.count()).where(EVENTS.c.run == run).group_by(what)
    if generations is not None:
        query = query.where(EVENTS.c.generation < generations)
    return {str(name): int(count) for name, count in connection.execute(query)}


def read_standing(connection: Connection, run: str) -> Standing:
    """Return how a run that exists stands."""
    at_one_moment(connection)
    row = connection.execute(sa.select(RUNS).where(RUNS.c.run == run)).one()
    objective, direction = _objective(row.config, row.summary)
    generations, spent, new = _steps(connection, run)
    under_way = sa.select(sa.func.coalesce(sa.func.sum(EVENTS.c.fidelity), 0.0)).where(
        EVENTS.c.run == run, EVENTS.c.generation >= generations
    )
    return Standing(
        run=run,
        space=row.space,
        config=row.config,
        objective=objective,
        direction=direction,
        protocol=row.protocol,
        status=row.status,
        seconds=row.seconds,
        generations=generations,
        spent=_told_at_the_end(row.summary) or spent + connection.execute(under_way).scalar_one(),
        new=new,
        funnel=read_funnel(connection, run),
        best=tuple(_best(connection, run, direction)),
        reported=_reported(connection, run),
        news=dt.datetime.fromisoformat(max(row.recorded, _measured(connection, run, row.protocol))),
    )


def _objective(
    config: Mapping[str, Any], summary: Mapping[str, Any] | None
) -> tuple[str, Direction]:
    """Return name and direction; of a run of an earlier version, its summary alone has them."""
    told = (summary or {}).get("objective", {})
    name = config.get("objective", told.get("name", "value"))
    direction = config.get("direction", told.get("direction", Direction.MINIMIZE.value))
    return name, Direction(direction)


def _told_at_the_end(summary: Mapping[str, Any] | None) -> float | None:
    """Return what a run that is done spent: its last generation may have ended before its end."""
    return None if summary is None else float(summary["search"]["spent"])


def _steps(connection: Connection, run: str) -> tuple[int, float, float | None]:
    """Return how many generations are whole, what they spent, and what the last one had new."""
    spent, new = (STEPS.c.content[name].as_float() for name in ("spent", "new"))
    query = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(spent), 0.0))
    count, total = connection.execute(query.where(STEPS.c.run == run)).one()
    latest = sa.select(new).where(STEPS.c.run == run).order_by(STEPS.c.generation.desc()).limit(1)
    return count, float(total), connection.execute(latest).scalar()


def _best(connection: Connection, run: str, direction: Direction) -> list[Individual]:
    extreme = sa.func.max if direction is Direction.MAXIMIZE else sa.func.min
    measured = sa.and_(EVENTS.c.run == run, EVENTS.c.fate == "measured")
    best = (
        sa.select(EVENTS.c.complexity, extreme(EVENTS.c.value).label("value"))
        .where(measured)
        .group_by(EVENTS.c.complexity)
        .subquery()
    )
    same = sa.and_(best.c.complexity == EVENTS.c.complexity, best.c.value == EVENTS.c.value)
    names = ("text", "key", "complexity", "value", "slot", "origin")
    query = sa.select(*(EVENTS.c[name] for name in names)).join(best, same).where(measured)
    rows = connection.execute(query.order_by(EVENTS.c.complexity, EVENTS.c.slot.desc()))
    return list({row.complexity: Individual(*row) for row in rows}.values())  # the lowest slot


def _reported(connection: Connection, run: str) -> bool:
    query = sa.select(REPORTS.c.number).where(REPORTS.c.run == run).limit(1)
    return connection.execute(query).first() is not None


def _measured(connection: Connection, run: str, protocol: str) -> str:
    """Return when the latest of its measurements was stored; they have times, events have not."""
    slots = sa.select(sa.func.coalesce(sa.func.max(EVENTS.c.slot), 0)).where(EVENTS.c.run == run)
    known = sa.and_(EVALUATIONS.c.key == EVENTS.c.key, EVALUATIONS.c.protocol == protocol)
    query = (
        sa.select(sa.func.coalesce(sa.func.max(EVALUATIONS.c.recorded), ""))
        .select_from(EVENTS)
        .join(EVALUATIONS, known)
        .where(EVENTS.c.run == run, EVENTS.c.slot > slots.scalar_subquery() - RECENT)
        .where(EVENTS.c.fidelity.is_not(None))
    )
    return str(connection.execute(query).scalar_one())
