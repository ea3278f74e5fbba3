"""Certificates, in files and as servers show them, and how many days they have left."""

from __future__ import annotations

import asyncio
import ssl
import time
from typing import TYPE_CHECKING

from cryptography import x509

if TYPE_CHECKING:
    from pathlib import Path

    from idl_hub.doctor.result import Found

WARN_DAYS = 21
FAIL_DAYS = 3
_PAGE = "certificate-expires.md"


def in_file(path: Path) -> float:
    """Return until when the first certificate in a PEM file is valid, seconds since 1970.

    Raises
    ------
    OSError, ValueError
        The file cannot be read, or holds no certificate.
    """
    return x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc.timestamp()


async def shown_at(host: str, port: int, name: str = "", client: tuple[Path, Path] | None = None) -> float:
    """Return until when the certificate is valid that a server shows, whoever vouches for it.

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
    return x509.load_der_x509_certificate(shown).not_valid_after_utc.timestamp()


def judge(found: Found, whose: str, until: float, renewal: str, now: float | None = None) -> None:
    """Note how long a certificate is valid, and when that is too short.

    Parameters
    ----------
    whose
        The certificate, in words.
    until
        When its time ends, seconds since 1970.
    renewal
        How it is renewed, as advice.
    """
    days = (until - (time.time() if now is None else now)) / 86_400
    found.certificates[whose] = until
    if days < 0:
        found.fail(f"the certificate of {whose} ended {-days:.1f} days ago: nobody trusts it any more", renewal, _PAGE)
    elif days < FAIL_DAYS:
        found.fail(f"the certificate of {whose} ends in {days:.1f} days", renewal, _PAGE)
    elif days < WARN_DAYS:
        found.warn(f"the certificate of {whose} ends in {days:.0f} days", renewal, _PAGE)
    else:
        found.facts.append(f"certificate for {days:.0f} more days")
