"""Whether a student's server answers where it should."""

from __future__ import annotations

import aiohttp

_TIMEOUT = aiohttp.ClientTimeout(total=5)


def client() -> aiohttp.ClientSession:
    """Return a client for `answers`, with a deadline for each question; proxies of the environment are not asked."""
    return aiohttp.ClientSession(timeout=_TIMEOUT, trust_env=False)


async def answers(client: aiohttp.ClientSession, url: str) -> bool:
    """Ask once: an open port proves nothing, Docker's proxy opens it early."""
    try:
        async with client.get(url, allow_redirects=False) as answer:
            return answer.status < 500
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False
