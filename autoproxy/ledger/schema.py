"""The tables of the ledger."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

SCHEMA_VERSION = 3
"""Raised by every change of a table or of the meaning of a column; see `migration.py`."""

METADATA = MetaData()

VERSION = Table("schema_version", METADATA, Column("version", Integer, primary_key=True))

PROTOCOLS = Table(
    "protocols",
    METADATA,
    Column("protocol", String(32), primary_key=True),
    Column("content", JSON, nullable=False),
)

EVALUATIONS = Table(
    "evaluations",
    METADATA,
    Column("key", String(32), primary_key=True),
    Column("protocol", String(32), primary_key=True),
    Column("fidelity", Double, primary_key=True),
    Column("text", Text, nullable=False),
    Column("identity", String(64)),
    Column("value", Double),
    Column("details", JSON),
    Column("reason", Text),
    Column("seconds", Double, nullable=False),
    Column("recorded", String(32), nullable=False),
)

RUNS = Table(
    "runs",
    METADATA,
    Column("run", String(120), primary_key=True),
    Column("seed", BigInteger, nullable=False),
    Column("space", Text, nullable=False),
    Column("evaluator", Text, nullable=False),
    Column("config", JSON, nullable=False),
    Column("protocol", String(32), nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("status", String(16), nullable=False),
    Column("seconds", Double, nullable=False),
    Column("summary", JSON),
    Column("recorded", String(32), nullable=False),
)

EVENTS = Table(
    "events",
    METADATA,
    Column("run", String(120), primary_key=True),
    Column("slot", Integer, primary_key=True),
    Column("key", String(32), nullable=False),
    Column("text", Text, nullable=False),
    Column("origin", Text, nullable=False),
    Column("parents", JSON, nullable=False),
    Column("fate", String(16), nullable=False),
    Column("rule", Text),
    Column("reason", Text),
    Column("fidelity", Double),
    Column("value", Double),
    Column("complexity", Integer, nullable=False),
    Column("generation", Integer, nullable=False),
    Column("same_as", Integer),
)

STEPS = Table(
    "steps",
    METADATA,
    Column("run", String(120), primary_key=True),
    Column("generation", Integer, primary_key=True),
    Column("content", JSON, nullable=False),
)

REPORTS = Table(
    "reports",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("run", String(120), nullable=False),
    Column("role", String(16), nullable=False),
    Column("name", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("key", String(32), nullable=False),
    Column("complexity", Integer, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("values", JSON, nullable=False),
    Column("protocol", String(32), nullable=False),
    Column("recorded", String(32), nullable=False),
    UniqueConstraint("run", "role", "name", "key", "seed", "protocol"),
)
