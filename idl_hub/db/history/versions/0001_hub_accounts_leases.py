"""The hub's identity, account names, and leases with their GPUs."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "hub",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_table(
        "account",
        sa.Column("name", sa.String(32), primary_key=True),
        sa.Column("provider", sa.String(64), nullable=False),
        sa.Column("login", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
    )
    op.create_index("account_login", "account", ["provider", "login"], unique=True)
    op.create_table(
        "lease",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("server", sa.String(255), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("server_name", sa.String(255), nullable=False),
        sa.Column("container_id", sa.String(128)),
        sa.Column("phase", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("reserved_at", sa.Float(), nullable=False),
        sa.Column("ended_at", sa.Float()),
        sa.Column("ending", sa.Text()),
    )
    op.create_index("ix_lease_user", "lease", ["user"])
    op.create_index("ix_lease_phase", "lease", ["phase"])
    op.create_table(
        "lease_gpu",
        sa.Column("slot_id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("lease_id", sa.String(32), sa.ForeignKey("lease.id"), nullable=False),
        sa.Column("gpu_uuid", sa.String(64), nullable=False),
        sa.Column("gpu_index", sa.Integer(), nullable=False),
        sa.Column("gpu_name", sa.String(255), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("released_at", sa.Float()),
    )
    op.create_index("ix_lease_gpu_lease_id", "lease_gpu", ["lease_id"])
    op.create_index(
        "lease_gpu_one_holder",
        "lease_gpu",
        ["gpu_uuid", "slot"],
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    )
