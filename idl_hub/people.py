"""Groups and roles: what each kind of person may ask of the hub, and the people of a trial."""

from __future__ import annotations

from typing import Any

from idl_hub.db.accounts import SMOKE_TEST

GROUPS = ("students", "assistants", "lecturers", "admins")

HELPER = "idl-hub"
"""The service in whose name the hub itself starts and stops servers: for the line, and for who ends a session."""

SMOKER = "smoke"
"""The service in whose name `idl-hub smoke` makes, uses and deletes its one account."""

PROMETHEUS = "prometheus"
"""The service in whose name Prometheus reads metrics, of the hub and of `idl-hub web`; it may do nothing else."""

WEB = "web"
"""The service of the GPU pages."""

_OF_STUDENTS = "group=students"

USE_WEB = f"access:services!service={WEB}"
"""Open the pages of `idl-hub web`, and ask its API about oneself."""
READ_FLEET = "custom:idlhub:fleet:read"
WRITE_FLEET = "custom:idlhub:fleet:write"
WRITE_LINE = "custom:idlhub:line:write"
WRITE_SESSIONS = "custom:idlhub:sessions:write"

CUSTOM_SCOPES: dict[str, dict[str, str]] = {
    READ_FLEET: {"description": "See every server, GPU and session, and the names in the line"},
    WRITE_FLEET: {"description": "Drain servers and exclude GPUs, and bring them back"},
    WRITE_LINE: {"description": "Move people in the line to its front, or out of it"},
    WRITE_SESSIONS: {"description": "End sessions, with a message"},
}
"""What `idl-hub web` asks for beyond JupyterHub's own scopes. A filter such as ``!group=students`` narrows them."""

SERVER_TOKEN_SCOPES = ("users:activity!user", "access:servers!server", USE_WEB)
"""What a student's server may ask: what every server may, and `idl-hub web` about its owner."""

ROLES: tuple[dict[str, Any], ...] = (
    {
        "name": "idlhub-students",
        "description": "Beyond JupyterHub's own role `user` (themselves and their server): the pages of idl-hub web",
        "scopes": [USE_WEB],
        "groups": ["students"],
    },
    {
        "name": "idlhub-assistants",
        "description": "See the names of the students, whether their servers run, and all GPUs",
        "scopes": [f"list:users!{_OF_STUDENTS}", f"read:servers!{_OF_STUDENTS}", USE_WEB, READ_FLEET],
        "groups": ["assistants"],
    },
    {
        "name": "idlhub-lecturers",
        "description": "See the students, their activity, their servers and all GPUs; order the line, end sessions",
        "scopes": [
            f"list:users!{_OF_STUDENTS}",
            f"read:users:activity!{_OF_STUDENTS}",
            f"read:servers!{_OF_STUDENTS}",
            USE_WEB,
            READ_FLEET,
            f"{WRITE_LINE}!{_OF_STUDENTS}",
            f"{WRITE_SESSIONS}!{_OF_STUDENTS}",
        ],
        "groups": ["lecturers"],
    },
    {
        "name": "idlhub-helper",
        "description": "Start and stop servers when the line or an admin says so",
        "scopes": ["servers"],
        "services": [HELPER],
    },
    {
        "name": "idlhub-smoke-test",
        "description": "Make and delete one account, start and stop its server, and use that: the student of a test",
        "scopes": [f"{what}!user={SMOKE_TEST}" for what in ("admin:users", "servers", "access:servers")],
        "services": [SMOKER],
    },
    {
        "name": "idlhub-prometheus",
        "description": "Read metrics",
        "scopes": ["read:metrics"],
        "services": [PROMETHEUS],
    },
    {
        "name": "idlhub-admins",
        "description": "Look after people and servers; not inside anybody's server (no access:servers)",
        "scopes": [
            "admin-ui",
            "admin:users",
            "admin:groups",
            "servers",
            "read:hub",
            "list:services",
            "read:metrics",
            USE_WEB,
            *CUSTOM_SCOPES,
        ],
        "groups": ["admins"],
    },
    {
        "name": "idlhub-web",
        "description": "What idl-hub web asks the hub itself: who is in a group",
        "scopes": ["read:groups"],
        "services": ["web"],
    },
)


def demo_people(students: int) -> dict[str, list[str]]:
    """Return the people of a trial, group by group.

    Parameters
    ----------
    students
        How many of student1, student2, ... there are.
    """
    return {
        "students": [f"student{number}" for number in range(1, students + 1)],
        "assistants": ["assistant"],
        "lecturers": ["lecturer"],
        "admins": ["admin"],
    }
