"""Keeps asking one server's agent for its readings. Whatever the agent does, nobody else waits for it."""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp

from idl_hub.gpus import wire
from idl_hub.gpus.strict import WireError, parse_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from idl_hub.gpus.reading import ServerReading

log = logging.getLogger(__name__)

_THREAD_FROM_BYTES = 64 * 2**10
"""A longer answer takes milliseconds to check, which the hub's loop has not; that of eight GPUs is far shorter."""


class _AgentError(Exception):
    """The agent's answer is no reading; the message says why and what to do."""


class AgentClient:
    """The newest reading of one server, asked for every second while `run` runs.

    A reading is kept until there is a newer one, with the time when it was received by the clock here:
    it ages when the agent falls silent, answers wrongly, or repeats itself.

    Parameters
    ----------
    server
        Its name. An agent that gives another one is the wrong agent.
    url
        Of the agent, such as ``https://10.0.0.5:9810``.
    token_file
        Holds what the agent wants as bearer token.
    ca_file
        PEM: who vouches for the agent's certificate; None only for plain HTTP within this machine.
    period
        Seconds from one question to the next.
    deadline
        Seconds that one question may take, with connecting and the whole answer.
    """

    def __init__(
        self,
        server: str,
        url: str,
        token_file: Path,
        ca_file: Path | None,
        *,
        period: float = 1.0,
        deadline: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fault = "it was not asked yet"
        """Why there is no newer reading, in words; empty when all is well."""
        self._server = server
        self._url = f"{url.rstrip('/')}/readings"
        self._token_file = token_file
        self._ca_file = ca_file
        self._period = period
        self._deadline = deadline
        self._clock = clock
        self._well: bool | None = None
        self._latest: ServerReading | None = None
        self._own_time: float | None = None
        """When the agent says that it took the newest reading, by its own clock."""
        self._first = asyncio.Event()
        self._session: aiohttp.ClientSession | None = None

    def latest(self) -> ServerReading | None:
        """Return the newest reading at once; None before the first one."""
        return self._latest

    async def wait_first(self, timeout: float) -> ServerReading:
        """Return the newest reading as soon as there is one.

        Raises
        ------
        TimeoutError
            None came in so many seconds.
        """
        await asyncio.wait_for(self._first.wait(), timeout)
        assert self._latest is not None  # noqa: S101 - that is what the event stands for
        return self._latest

    async def run(self) -> None:
        """Ask until cancelled."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        try:
            while True:
                await self._ask()
                next_at = max(next_at + self._period, loop.time())
                await asyncio.sleep(next_at - loop.time())
        finally:
            await self._close()

    async def _ask(self) -> None:
        """Ask once; what goes wrong becomes `fault`."""
        try:
            async with asyncio.timeout(self._deadline):
                body = await self._fetch()
            reading, own_time = await self._read(body, self._clock())
        except TimeoutError:
            self._failed(f"it did not answer within {self._deadline:g} s")
        except _AgentError as fault:
            self._failed(str(fault))
            await self._close()  # token and certificates are read again: they may have been replaced
        except WireError as error:
            self._failed(f"its answer is no reading: {error}")
        except (ssl.CertificateError, aiohttp.ClientSSLError) as error:
            self._failed(f"TLS with it fails; its certificate must be one that {self._ca_file} vouches for: {error}")
            await self._close()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            self._failed(f"it cannot be reached: {error or type(error).__name__}")
            await self._close()
        except Exception:
            log.exception("Asking the agent of %s failed", self._server)
            self._failed("asking it failed here; the log has the traceback")
            await self._close()
        else:
            self._received(reading, own_time)

    async def _fetch(self) -> bytes:
        if self._session is None:
            self._session = self._open()
        async with self._session.get(self._url, allow_redirects=False) as response:
            if response.status != HTTPStatus.OK:
                raise _AgentError(self._words_of(response.status))
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > wire.MAX_BYTES:
                    raise _AgentError(f"its answer is longer than {wire.MAX_BYTES} bytes")
        return bytes(body)

    def _open(self) -> aiohttp.ClientSession:
        try:
            token = self._token_file.read_text(encoding="ascii").strip()
            tls = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise _AgentError(f"the file of its token or its authority cannot be used: {error}") from error
        if not (token.isascii() and token.isprintable() and token):
            raise _AgentError(f"{self._token_file} holds no token")
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=1, ssl=tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"},
            timeout=aiohttp.ClientTimeout(total=self._deadline),
            auto_decompress=False,  # a kilobyte can become a gigabyte
        )

    async def _read(self, body: bytes, received_at: float) -> tuple[ServerReading, float]:
        """Return the reading and its time by the agent's own clock."""
        if len(body) < _THREAD_FROM_BYTES:
            reading, own_time = _decode(body, received_at)
        else:
            reading, own_time = await asyncio.to_thread(_decode, body, received_at)
        if reading.server != self._server:
            raise _AgentError(
                f"the agent there calls itself {reading.server!r}; the address in the settings is another server's, "
                "or the agent's --server-name is not this one"
            )
        return reading, own_time

    def _words_of(self, status: int) -> str:
        if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return f"it refuses the token in {self._token_file}"
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            return "it runs, but has no reading yet"
        return f"it answers with HTTP status {status}; is another program at {self._url}?"

    def _received(self, reading: ServerReading, own_time: float) -> None:
        if own_time == self._own_time:
            # Two questions may fall between two readings; what stands still for longer grows old by itself.
            return
        if self._well is False:
            log.info("The agent of %s answers again", self._server)
        self._well, self.fault = True, ""
        self._latest, self._own_time = reading, own_time
        self._first.set()

    def _failed(self, words: str) -> None:
        if self._well is not False:  # said once: a sick agent could fill the log
            log.warning("The agent of %s gives no readings: %s", self._server, words)
        self._well, self.fault = False, words

    async def _close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


def _decode(body: bytes, received_at: float) -> tuple[ServerReading, float]:
    reading = wire.decode(body, received_at)
    return reading, float(parse_json(body)["reading"]["taken_at"])
