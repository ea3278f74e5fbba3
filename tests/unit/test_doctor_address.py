"""The doctor at the address that people type: a real TLS server, good and bad."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from cluster_pki import Authority, Issued

from idl_hub.doctor.hub import look_at_address
from idl_hub.doctor.look import Look
from idl_hub.doctor.result import Found
from idl_hub.settings import Settings


@asynccontextmanager
async def shown(folder: Path, issued: Issued, status: int = 200) -> AsyncIterator[str]:
    """Serve /hub/health with this certificate; yield the address."""

    async def health(_: web.Request) -> web.Response:
        return web.Response(status=status)

    application = web.Application()
    application.router.add_get("/hub/health", health)
    (folder / "pair.pem").write_bytes(issued.certificate + issued.key)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(folder / "pair.pem")
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        [server] = [server for server in (site._server,) if server is not None]
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}"  # type: ignore[attr-defined]
    finally:
        await runner.cleanup()


async def said(address: str, *authorities: Path) -> Found:
    found = Found()
    await look_at_address(Look(Settings(), address, authorities), found)
    return found


async def test_a_trusted_certificate_with_a_way_to_the_hub_is_well(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    async with shown(tmp_path, authority.issue("localhost")) as address:
        found = await said(address, authority.file)
    assert (found.problems, found.facts[0]) == ([], f"{address} leads to the hub")
    assert set(found.certificates) == {"localhost"}


async def test_what_is_wrong_with_the_certificate_is_told_apart(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    async with shown(tmp_path, authority.issue("localhost")) as address:
        [untrusted] = (await said(address)).problems
    assert "is not to be trusted" in untrusted.text
    async with shown(tmp_path, authority.issue("elsewhere")) as address:
        [wrong_name] = (await said(address, authority.file)).problems
    assert "not valid for 'localhost'" in wrong_name.text
    async with shown(tmp_path, authority.issue("localhost", days=-0.5)) as address:
        ended, refused = (await said(address, authority.file)).problems
    assert "ended 0.5 days ago" in ended.text
    assert "certificate has expired" in refused.text


async def test_a_silent_address_and_one_that_leads_elsewhere_are_told_apart(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "pki")
    async with shown(tmp_path, authority.issue("localhost"), status=502) as address:
        [elsewhere] = (await said(address, authority.file)).problems
    assert elsewhere.text == f"{address} does not lead to the hub: HTTP 502"
    [silent] = (await said(address, authority.file)).problems
    assert "does not answer at port" in silent.text
