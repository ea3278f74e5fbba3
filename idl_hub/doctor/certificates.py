"""Certificates, in files and as servers show them, and how many days they have left."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from idl_hub.doctor.result import Found
    from idl_hub.settings import Settings

WARN_DAYS = 21
"""So many days before its end, or in the last quarter of its time where that is shorter."""
FAIL_DAYS = 3
"""The same for a twentieth of its time: some authorities vouch for six days, or for twelve hours."""
_DAY_SECONDS = 86_400
_PAGE = "certificate-expires.md"


@dataclass(frozen=True, slots=True)
class Valid:
    """The time of a certificate, seconds since 1970."""

    since: float
    until: float


def authorities(settings: Settings) -> tuple[Path, ...]:
    """Return the files of the fleet's own authority, which may vouch for the hub's address as well."""
    files = (server.engine.ca_file for server in settings.servers if server.engine)
    return tuple(dict.fromkeys(file for file in files if file is not None))


def trusting(files: Iterable[Path]) -> ssl.SSLContext:
    """Return what trusts whom this machine trusts, and those in these PEM files.

    Raises
    ------
    OSError
        When one cannot be used.
    """
    tls = ssl.create_default_context()
    for file in files:
        tls.load_verify_locations(file)
    return tls


def in_file(path: Path) -> Valid:
    """Return the time of the first certificate in a PEM file.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, or holds no certificate.
    """
    return _valid(x509.load_pem_x509_certificate(path.read_bytes()))


async def shown_at(host: str, port: int, name: str = "", client: tuple[Path, Path] | None = None) -> Valid:
    """Return the time of the certificate that a server shows, whoever vouches for it.

    Parameters
    ----------
    name
        Which of a server's names is meant.
    client
        Certificate and key, for a server that asks for them.

    Raises
    ------
    OSError, ValueError
        No connection; no certificate.
    """
    tls = ssl.create_default_context()
    tls.check_hostname = False
    tls.verify_mode = ssl.CERT_NONE
    if client:
        tls.load_cert_chain(*client)
    _, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=name or None)
    try:
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    finally:
        writer.transport.abort()
    if not shown:
        raise ValueError("it shows no certificate")
    return _valid(x509.load_der_x509_certificate(shown))


def _valid(certificate: x509.Certificate) -> Valid:
    return Valid(certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp())


def judge(found: Found, whose: str, valid: Valid, renewal: str, now: float | None = None) -> None:
    """Note how long a certificate is valid, and when that is too short.

    Parameters
    ----------
    whose
        The certificate, in words.
    renewal
        How it is renewed, as advice.
    """
    now = time.time() if now is None else now
    left, whole = (valid.until - now) / _DAY_SECONDS, (valid.until - valid.since) / _DAY_SECONDS
    found.certificates[whose] = valid.until
    if valid.since > now:
        found.fail(f"the certificate of {whose} is not valid yet: a clock is wrong", "`timedatectl`", "clock-off.md")
    elif left < 0:
        found.fail(f"the certificate of {whose} ended {-left:.1f} days ago: nobody trusts it any more", renewal, _PAGE)
    elif left < min(FAIL_DAYS, whole / 20):
        found.fail(f"the certificate of {whose} ends in {left:.1f} days", renewal, _PAGE)
    elif left < min(WARN_DAYS, whole / 4):
        found.warn(f"the certificate of {whose} ends in {left:.1f} days", renewal, _PAGE)
    else:
        found.facts.append(f"certificate for {left:.{0 if left >= 10 else 1}f} more days")
