"""Why a smoke test found something wrong, or could not be made at all."""

from __future__ import annotations


class SmokeError(Exception):
    """A stage failed; the message says what happened, what that means, and what to do."""


class NotNowError(SmokeError):
    """No GPU is free for a test, so nothing was tried; nothing is broken."""
