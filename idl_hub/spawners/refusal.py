"""The error that tells a student why a start came to nothing, and what it says for some reasons."""

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


def no_server() -> Refusal:
    """Say that there is no server to start on."""
    return Refusal(
        "No server for students answers right now. Nothing of yours is lost. "
        "Try again in a few minutes; if it stays so, tell the course's admins.",
        "no_server",
        503,
    )


def host_failed(server: str) -> Refusal:
    """Say that the server which was chosen stopped answering; what exactly it said is for the hub's log."""
    return Refusal(
        f"Your server could not be started: {server or 'the machine for it'} does not answer any more, or failed. "
        "Nothing of yours is lost. Try again; if it happens again, tell the course's admins.",
        "host",
        503,
    )


def left_behind(why: str, page: str) -> Refusal:
    """Say that an earlier session may still write to the home; `page` is where its holder decides."""
    message = f"{why} Your saved files are safe."
    # The mark lets the page bring the student there by itself.
    link = f'<a class="alert-link" data-idl-line href="{escape(page)}">See what you can do</a>.'
    return Refusal(
        f"{message} The page {page} says what you can do.",
        "left_behind",
        409,
        message_html=f"{escape(message)} {link}",
    )


def stopped_meanwhile() -> Refusal:
    """Say that somebody stopped the server before it was ready."""
    return Refusal("Your server was stopped while it was starting. Start it again when you like.", "stopped", 409)


NOTHING_FREE = "A smoke test does not wait in line"
"""How the refusal of a smoke test ends when no GPU is free for it; `idl-hub smoke` looks for it."""


def nothing_for_a_test(why: str) -> Refusal:
    """Say that no GPU is free for a smoke test."""
    return Refusal(f"{why} {NOTHING_FREE}: try again when a GPU is free.", "taken", 409)


def unfit_for_a_test(server: str, why: Exception) -> Refusal:
    """Say that the server which is tried out cannot take sessions."""
    return Refusal(f"{server} cannot take a session, and is out of service: {why}.", "unfit", 503)
