"""The waiting line, requests to the hub, what is out of service, what happened, and how sessions were used."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_LIVE = sa.text("ended_at IS NULL")


def upgrade() -> None:
    """Bring the tables to this revision."""
    for column in ("ready_at", "ends_at", "warned_at", "kept_at"):
        op.add_column("lease", sa.Column(column, sa.Float()))
    for column in ("measured_seconds", "busy_seconds"):
        op.add_column("lease_gpu", sa.Column(column, sa.Float(), nullable=False, server_default="0"))
    op.create_table(
        "ticket",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("server_name", sa.String(255), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("place", sa.Float(), nullable=False),
        sa.Column("moved_by", sa.String(255)),
        sa.Column("lease_id", sa.String(32)),
        sa.Column("offered_at", sa.Float()),
        sa.Column("ready_at", sa.Float()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("ended_at", sa.Float()),
        sa.Column("ending", sa.Text()),
    )
    op.create_index("ix_ticket_user", "ticket", ["user"])
    op.create_index(
        "ticket_one_for_a_server",
        "ticket",
        ["user", "server_name"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_table(
        "command",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False),
        sa.Column("asked_by", sa.String(255), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("result", sa.Text()),
        sa.Column("done_at", sa.Float()),
    )
    op.create_index("ix_command_state", "command", ["state"])
    op.create_table(
        "out_of_service",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("target", sa.String(255), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("by", sa.String(255), nullable=False),
        sa.Column("since", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float()),
        sa.Column("ended_by", sa.String(255)),
    )
    op.create_index(
        "out_of_service_once",
        "out_of_service",
        ["kind", "target"],
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    )
    op.create_table(
        "event",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("kind", sa.String(32), nullable=False),
        sa.Column("user", sa.String(255)),
        sa.Column("server", sa.String(255)),
        sa.Column("gpu_uuid", sa.String(64)),
        sa.Column("lease_id", sa.String(32)),
        sa.Column("text", sa.Text(), nullable=False),
    )
    op.create_index("ix_event_at", "event", ["at"])
    op.create_index("ix_event_user", "event", ["user"])
