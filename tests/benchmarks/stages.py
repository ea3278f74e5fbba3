"""Notes when a hub reaches each stage of a start; the benchmark arms it in both hubs alike."""

from __future__ import annotations

import functools
import inspect
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def arm(file: Path, spawner: type) -> None:
    """Append to `file` a JSON line for each stage: user, stage, when it began and ended (seconds since 1970)."""
    from jupyterhub.proxy import Proxy
    from jupyterhub.user import User

    _note(file, User, "spawn", lambda user, *_: user.name)
    _note(file, User, "_wait_up", lambda user, *_: user.name)
    _note(file, Proxy, "add_user", lambda _, user, *__: user.name)
    for method in ("start", "create_object", "start_object"):
        _note(file, spawner, method, lambda self, *_: self.user.name)


def _note(file: Path, owner: type, name: str, who: Callable[..., str]) -> None:
    inner = getattr(owner, name)
    assert inspect.iscoroutinefunction(inner), f"{owner.__name__}.{name} is not what it was"

    @functools.wraps(inner)
    async def outer(*args: Any, **kwargs: Any) -> Any:
        began = time.time()
        try:
            return await inner(*args, **kwargs)
        finally:
            line = {"user": who(*args), "stage": name, "began": began, "ended": time.time()}
            line["container"] = getattr(args[0], "object_id", "")
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line) + "\n")

    setattr(owner, name, outer)
