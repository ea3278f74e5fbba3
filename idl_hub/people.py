"""Groups and roles: what each kind of person may ask of the hub, and the people of a trial."""

from __future__ import annotations

from typing import Any

GROUPS = ("students", "assistants", "lecturers", "admins")

HELPER = "idl-hub"
"""The service in whose name the hub itself starts and stops servers: for the line, and for who ends a session."""

_OF_STUDENTS = "group=students"

ROLES: tuple[dict[str, Any], ...] = (
    # Students need nothing beyond JupyterHub's own role `user`: themselves and their own server.
    {
        "name": "idlhub-assistants",
        "description": "See the names of the students and whether their servers run",
        "scopes": [f"list:users!{_OF_STUDENTS}", f"read:servers!{_OF_STUDENTS}"],
        "groups": ["assistants"],
    },
    {
        "name": "idlhub-lecturers",
        "description": "See the students, their activity and their servers",
        "scopes": [
            f"list:users!{_OF_STUDENTS}",
            f"read:users:activity!{_OF_STUDENTS}",
            f"read:servers!{_OF_STUDENTS}",
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
        "name": "idlhub-admins",
        "description": "Look after people and servers; not inside anybody's server (no access:servers)",
        "scopes": ["admin-ui", "admin:users", "admin:groups", "servers", "read:hub", "list:services", "read:metrics"],
        "groups": ["admins"],
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
