"""Sessions that were given up because their server is silent, and whether it is cut off from the homes."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "fence",
        sa.Column("lease_id", sa.String(32), sa.ForeignKey("lease.id"), primary_key=True),
        sa.Column("server", sa.String(255), nullable=False),
        sa.Column("user", sa.String(255), nullable=False),
        sa.Column("asked_by", sa.String(255), nullable=False),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("called", sa.Boolean(), nullable=False),
        sa.Column("cut_at", sa.Float()),
        sa.Column("accepted_at", sa.Float()),
        sa.Column("failure", sa.Text()),
        sa.Column("stopped_at", sa.Float()),
        sa.Column("lifted_at", sa.Float()),
    )
