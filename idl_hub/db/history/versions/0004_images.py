"""Which student images were published, and which one is offered."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the tables to this revision."""
    op.create_table(
        "image",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("digest", sa.String(80), nullable=False),
        sa.Column("layers", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("published_at", sa.Float(), nullable=False),
        sa.Column("published_by", sa.String(255), nullable=False),
        sa.Column("offered_at", sa.Float()),
        sa.Column("withdrawn_at", sa.Float()),
        sa.Column("removed_at", sa.Float()),
    )
    op.create_index("image_once", "image", ["name", "digest"], unique=True)
