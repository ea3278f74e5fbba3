"""Domains of users and services."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from traitlets.config import Config

from idl_hub import subdomains
from idl_hub.db.accounts import NAME_PATTERN
from idl_hub.settings import Settings
from idl_hub.web import service

HUB = "https://hub.example.org"
names = st.from_regex(re.compile(NAME_PATTERN.removesuffix("$") + r"\Z"), fullmatch=True)
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)\Z")


@given(st.sets(names, min_size=2, max_size=8))
def test_every_account_has_a_domain_of_its_own_that_no_service_has(accounts: set[str]) -> None:
    origins = {subdomains.user_origin(HUB, name) for name in accounts}
    assert len(origins) == len(accounts)
    assert not origins & {subdomains.service_origin(HUB, name) for name in accounts}
    for origin in origins:
        label, _, rest = str(urlsplit(origin).hostname).partition(".")
        assert _LABEL.match(label), origin
        assert rest == "hub.example.org"


@pytest.mark.parametrize("name", ["web--service", "web--user", "xn--mnchen-3ya", "12345", "a_b", "a-"])
def test_no_account_takes_the_domain_of_somebody_else_by_an_odd_name(name: str) -> None:
    origin = subdomains.user_origin(HUB, name)
    assert origin != f"https://{name}.hub.example.org"
    assert origin != subdomains.service_origin(HUB, "web")


def test_scheme_and_port_are_the_hubs() -> None:
    assert subdomains.user_origin("http://hub.test:8000", "ada") == "http://ada.hub.test:8000"
    assert subdomains.service_origin(HUB, "web") == "https://web--service.hub.example.org"


def test_without_subdomains_all_is_where_the_hub_is() -> None:
    assert subdomains.user_origin("", "ada") == subdomains.service_origin("", "web") == ""
    assert service.public_url(Settings()) == "/services/web/"
    c = Config()
    subdomains.configure(c, "")
    assert c == Config()


@pytest.mark.parametrize(("host", "bound"), [(HUB, True), ("http://hub.test:8000", False)])
def test_cookies_are_bound_to_one_host_where_browsers_take_such_cookies(host: str, bound: bool) -> None:
    c = Config()
    subdomains.configure(c, host)
    assert c.JupyterHub.subdomain_host == host
    assert c.JupyterHub.cookie_host_prefix_enabled is bound
