"""The tables. Times are seconds since 1970 (UTC), so that SQLite and Postgres agree."""

from __future__ import annotations

from sqlalchemy import Float, ForeignKey, Index, Integer, String, Text, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    """All tables of idl_hub."""


class HubRow(Base):
    """The hub's own identity: one row. Containers carry it, so that two hubs never touch each other's."""

    __tablename__ = "hub"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    created_at: Mapped[float] = mapped_column(Float)


class AccountRow(Base):
    """What a login provider says, and the names it stands for here. Rows are never changed or deleted."""

    __tablename__ = "account"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    provider: Mapped[str] = mapped_column(String(64))
    login: Mapped[str] = mapped_column(Text)
    created_at: Mapped[float] = mapped_column(Float)
    __table_args__ = (Index("account_login", "provider", "login", unique=True),)


class LeaseRow(Base):
    """A session (later also a job or a grading run) and where it runs, with or without GPUs."""

    __tablename__ = "lease"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    server: Mapped[str] = mapped_column(String(255))
    user: Mapped[str] = mapped_column(String(255), index=True)
    server_name: Mapped[str] = mapped_column(String(255))
    container_id: Mapped[str | None] = mapped_column(String(128))
    phase: Mapped[str] = mapped_column(String(16), index=True)
    reason: Mapped[str] = mapped_column(Text)
    reserved_at: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    ending: Mapped[str | None] = mapped_column(Text)
    gpus: Mapped[list[LeaseGPURow]] = relationship(
        back_populates="lease", lazy="selectin", order_by="LeaseGPURow.slot_id"
    )


class LeaseGPURow(Base):
    """One GPU slot of a lease. While `released_at` is empty nobody else can have the slot: the index forbids it."""

    __tablename__ = "lease_gpu"
    slot_id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    lease_id: Mapped[str] = mapped_column(ForeignKey("lease.id"), index=True)
    gpu_uuid: Mapped[str] = mapped_column(String(64))
    gpu_index: Mapped[int] = mapped_column(Integer)
    gpu_name: Mapped[str] = mapped_column(String(255))
    slot: Mapped[int] = mapped_column(Integer)
    released_at: Mapped[float | None] = mapped_column(Float)
    lease: Mapped[LeaseRow] = relationship(back_populates="gpus")
    __table_args__ = (
        Index(
            "lease_gpu_one_holder",
            "gpu_uuid",
            "slot",
            unique=True,
            sqlite_where=text("released_at IS NULL"),
            postgresql_where=text("released_at IS NULL"),
        ),
    )
