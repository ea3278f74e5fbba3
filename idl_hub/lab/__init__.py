"""What a student's Jupyter server says about its GPU: a server extension and a JupyterLab extension.

This package runs in the student image, without the hub's dependencies. What Jupyter imports at every start
is kept small; the rest is imported when a browser first asks.
"""

from __future__ import annotations


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": "idl_hub.lab.server"}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "labextension", "dest": "idl-hub"}]
