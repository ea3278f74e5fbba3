"""Which servers there are, as the hub has them, and how their engines answer."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "server",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("place", sa.Integer(), nullable=False),
        sa.Column("settings", sa.Text(), nullable=False),
        sa.Column("leaving", sa.Boolean(), nullable=False),
        sa.Column("engine_version", sa.String(64)),
        sa.Column("silent_since", sa.Float()),
        sa.Column("fault", sa.Text()),
        sa.Column("said_at", sa.Float(), nullable=False),
    )
