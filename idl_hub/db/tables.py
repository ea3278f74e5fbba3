"""The tables. Times are seconds since 1970 (UTC), so that SQLite and Postgres agree."""

from __future__ import annotations

from sqlalchemy import Boolean, Float, ForeignKey, Index, Integer, String, Text, text
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
    ready_at: Mapped[float | None] = mapped_column(Float)
    ends_at: Mapped[float | None] = mapped_column(Float)
    """When the longest allowed session ends; moved by an extension."""
    warned_at: Mapped[float | None] = mapped_column(Float)
    """Since when the holder is warned that the idle GPU will be taken back; empty when not warned."""
    kept_at: Mapped[float | None] = mapped_column(Float)
    """When "keep it" was used in the present idle period; empty when it can be used."""
    end_message: Mapped[str | None] = mapped_column(Text)
    """What the holder is told when a person ends the session at `ends_at`; empty when its end is the limit's."""
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
    measured_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    """How long readings were there while the GPU was held."""
    busy_seconds: Mapped[float] = mapped_column(Float, default=0.0)
    """The utilization over that time, summed up: 30 minutes at 50 % are 900 s."""
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


class TicketRow(Base):
    """A place in the line for GPUs. It outlives browsers and hubs; one live ticket for each server of a user."""

    __tablename__ = "ticket"
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user: Mapped[str] = mapped_column(String(255), index=True)
    server_name: Mapped[str] = mapped_column(String(255))
    gpu_count: Mapped[int] = mapped_column(Integer)
    options: Mapped[str] = mapped_column(Text)
    """The spawn's user options as JSON: what the server is started with when its turn comes."""
    state: Mapped[str] = mapped_column(String(16))
    """waiting, offered (a GPU is reserved, the server starts), ready (to be opened), or how it ended."""
    created_at: Mapped[float] = mapped_column(Float)
    place: Mapped[float] = mapped_column(Float)
    """The line is sorted by this: the time of arrival, or less for who was moved to the front."""
    moved_by: Mapped[str | None] = mapped_column(String(255))
    lease_id: Mapped[str | None] = mapped_column(String(32))
    offered_at: Mapped[float | None] = mapped_column(Float)
    ready_at: Mapped[float | None] = mapped_column(Float)
    attempts: Mapped[int] = mapped_column(Integer, default=0)
    ended_at: Mapped[float | None] = mapped_column(Float)
    ending: Mapped[str | None] = mapped_column(Text)
    __table_args__ = (
        Index(
            "ticket_one_for_a_server",
            "user",
            "server_name",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )


class CommandRow(Base):
    """Something another process asks of the hub, and what came of it. Only the hub executes."""

    __tablename__ = "command"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(32))
    arguments: Mapped[str] = mapped_column(Text)
    """JSON."""
    asked_by: Mapped[str] = mapped_column(String(255))
    asked_at: Mapped[float] = mapped_column(Float)
    state: Mapped[str] = mapped_column(String(16), index=True)
    """asked, done or refused."""
    result: Mapped[str | None] = mapped_column(Text)
    """What came of it, in words for who asked."""
    done_at: Mapped[float | None] = mapped_column(Float)


class OutOfServiceRow(Base):
    """A server or GPU that gets no new sessions until `ended_at`."""

    __tablename__ = "out_of_service"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    kind: Mapped[str] = mapped_column(String(16))
    """server or gpu; or what the hub found: orphan (a GPU), fenced (a server)."""
    target: Mapped[str] = mapped_column(String(255))
    """A server's name or a GPU's UUID."""
    reason: Mapped[str] = mapped_column(Text)
    by: Mapped[str] = mapped_column(String(255))
    """An admin, or hub for what the hub found sick and an admin must look at."""
    since: Mapped[float] = mapped_column(Float)
    ended_at: Mapped[float | None] = mapped_column(Float)
    ended_by: Mapped[str | None] = mapped_column(String(255))
    __table_args__ = (
        Index(
            "out_of_service_once",
            "kind",
            "target",
            unique=True,
            sqlite_where=text("ended_at IS NULL"),
            postgresql_where=text("ended_at IS NULL"),
        ),
    )


class EventRow(Base):
    """Something that happened to a person, a server or a GPU, in words: what `idl-hub why` tells."""

    __tablename__ = "event"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    at: Mapped[float] = mapped_column(Float, index=True)
    kind: Mapped[str] = mapped_column(String(32))
    """login, ticket, lease, start, stop, error, notice or admin."""
    user: Mapped[str | None] = mapped_column(String(255), index=True)
    server: Mapped[str | None] = mapped_column(String(255))
    gpu_uuid: Mapped[str | None] = mapped_column(String(64))
    lease_id: Mapped[str | None] = mapped_column(String(32))
    text: Mapped[str] = mapped_column(Text)


class ServerRow(Base):
    """A server as the hub has it now. Only the hub writes it, for the pages, the shell and its own next start."""

    __tablename__ = "server"
    name: Mapped[str] = mapped_column(String(255), primary_key=True)
    place: Mapped[int] = mapped_column(Integer)
    """Its number in the settings, from 0."""
    settings: Mapped[str] = mapped_column(Text)
    """Its part of the settings as JSON, which holds no secrets; empty for the hub's own machine alone."""
    leaving: Mapped[bool] = mapped_column(Boolean)
    """Whether it is not in the settings any more, but still has sessions."""
    engine_version: Mapped[str | None] = mapped_column(String(64))
    silent_since: Mapped[float | None] = mapped_column(Float)
    fault: Mapped[str | None] = mapped_column(Text)
    """Why its engine does not answer, in words; NULL when it does."""
    said_at: Mapped[float] = mapped_column(Float)
    """When the hub last said so; one that runs says it at least every 10 s."""


class ImageRow(Base):
    """A version of a student image that was published to the registry. Rows are never deleted."""

    __tablename__ = "image"
    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(255))
    """As the settings call it, such as idl-hub/student:latest."""
    digest: Mapped[str] = mapped_column(String(80))
    layers: Mapped[str] = mapped_column(Text)
    """JSON: first digits of each layer's digest -> its packed size in bytes."""
    created_at: Mapped[float] = mapped_column(Float)
    published_at: Mapped[float] = mapped_column(Float)
    published_by: Mapped[str] = mapped_column(String(255))
    offered_at: Mapped[float | None] = mapped_column(Float)
    """When students' new servers last began to run it. The newest that is not withdrawn is what they run now."""
    withdrawn_at: Mapped[float | None] = mapped_column(Float)
    removed_at: Mapped[float | None] = mapped_column(Float)
    """When it was taken out of the registry."""
    __table_args__ = (Index("image_once", "name", "digest", unique=True),)


class FenceRow(Base):
    """A session whose server is silent, and what was done so that another one may write to the same home."""

    __tablename__ = "fence"
    lease_id: Mapped[str] = mapped_column(ForeignKey("lease.id"), primary_key=True)
    server: Mapped[str] = mapped_column(String(255))
    user: Mapped[str] = mapped_column(String(255))
    asked_by: Mapped[str] = mapped_column(String(255))
    asked_at: Mapped[float] = mapped_column(Float)
    called: Mapped[bool] = mapped_column(Boolean)
    """Whether the program that cuts a server off was ever called for it, so that it has to be called back."""
    cut_at: Mapped[float | None] = mapped_column(Float)
    """Since when the server can write to the home no more."""
    accepted_at: Mapped[float | None] = mapped_column(Float)
    """When the holder took the risk that two sessions write to the home."""
    failure: Mapped[str | None] = mapped_column(Text)
    """Why the server could not be cut off."""
    stopped_at: Mapped[float | None] = mapped_column(Float)
    """When JupyterHub had let the old session go, so that a new one may start."""
    lifted_at: Mapped[float | None] = mapped_column(Float)
    """When the server was back, what ran there was gone, and it could write to the home again."""
