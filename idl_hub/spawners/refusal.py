"""The error that tells a student why a start came to nothing."""

from __future__ import annotations

from html import escape

from jupyterhub.spawner import SpawnException


class Refusal(SpawnException):
    """Why there is no server, in words for the person who asked for it.

    Parameters
    ----------
    message
        What happened, what it means, what to do next.
    reason
        One word for the metric of failed starts.
    message_html
        The same with links; when left out, the message.
    """

    def __init__(self, message: str, reason: str, status_code: int, *, message_html: str = "") -> None:
        message_html = message_html or escape(message)
        super().__init__(message, reason=reason, message_html=message_html, status_code=status_code)
        # Start page, progress and "server not running" page look for these, and show the exception's name without.
        self.jupyterhub_message = message
        self.jupyterhub_html_message = message_html
