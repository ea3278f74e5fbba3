"""Role tls: its Caddy gets a certificate from an ACME authority, here a Caddy too, and stands before the hub."""

import json
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from ansible.machine_images import machine_image
from hubs import docker, wait_for

from ansible import plays

ROLES = plays.ROOT / "ansible" / "roles"
AUTHORITY = """\
{
	admin off
	skip_install_trust
}
acme.test {
	tls internal
	acme_server
}
"""
ROOT_CERTIFICATE = "/data/caddy/pki/authorities/local/root.crt"
RENDER = """\
- hosts: localhost
  connection: local
  gather_facts: false
  vars_files:
    - {roles}/tls/defaults/main.yml
    - {roles}/tls/vars/main.yml
  tasks:
    - ansible.builtin.template:
        src: "{roles}/tls/templates/{{{{ item }}}}.j2"
        dest: "{folder}/{{{{ item }}}}"
        mode: "0644"
      loop: [Caddyfile, away.html]
"""
PAGES = yaml.safe_load((ROLES / "tls" / "vars" / "main.yml").read_text())["tls_pages"]
UPLOAD_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Front:
    """The container with the role's Caddy."""

    container: str
    address: str
    authority: Path

    def curl(self, *arguments: str) -> str:
        """Ask as a browser would that trusts the authority; return what curl prints."""
        return docker("exec", self.container, "curl", "-s", "-S", "--cacert", "/etc/caddy/tls/acme-ca.pem", *arguments)

    def connect(self) -> ssl.SSLSocket:
        """Return a connection to port 443; there is none unless the certificate is trusted and for hub.test."""
        context = ssl.create_default_context(cafile=self.authority)
        return context.wrap_socket(socket.create_connection((self.address, 443), 10), server_hostname="hub.test")


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Caddy as the role configures it, with the certificate that it asked for."""
    folder = tmp_path_factory.mktemp("https")
    network = f"idlhub-test-https-{secrets.token_hex(4)}"
    image = machine_image()
    docker("network", "create", network)
    try:
        authority = _start_authority(folder / "acme", network, image)
        files = folder / "caddy"
        (files / "tls").mkdir(parents=True)
        known = wait_for(lambda: _root_certificate(authority), "the authority to make its own certificate")
        (files / "tls" / "acme-ca.pem").write_text(known)
        _render(folder, files)
        shutil.copy(Path(__file__).with_name("https_upstream.py"), files)
        container = docker(
            *("run", "--detach", "--network", network, "--network-alias", "hub.test"),
            *(
                "--volume",
                f"{files}:{PAGES}:ro",
                "--volume",
                f"{files}:/etc/caddy:ro",
                "--tmpfs",
                "/run/caddy",
                "--env",
                "XDG_DATA_HOME=/data",
                image,
            ),
            *("sh", "-c", "python3 /etc/caddy/https_upstream.py & exec caddy run --config /etc/caddy/Caddyfile"),
        )
        shown = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        made = Front(container, docker("inspect", "--format", shown, container), files / "tls" / "acme-ca.pem")
        wait_for(lambda: _has_certificate(made), "the certificate", 60)
        yield made
    finally:
        for left in docker("ps", "--all", "--quiet", "--filter", f"network={network}").split():
            docker("rm", "--force", "--volumes", left)
        docker("network", "rm", network)


def _start_authority(folder: Path, network: str, image: str) -> str:
    folder.mkdir()
    (folder / "Caddyfile").write_text(AUTHORITY)
    return docker(
        *("run", "--detach", "--network", network, "--network-alias", "acme.test", "--env", "XDG_DATA_HOME=/data"),
        *("--volume", f"{folder}:/etc/caddy:ro", image, "caddy", "run", "--config", "/etc/caddy/Caddyfile"),
    )


def _root_certificate(container: str) -> str:
    read = ["docker", "exec", container, "cat", ROOT_CERTIFICATE]
    return subprocess.run(read, capture_output=True, text=True, timeout=30).stdout


def _render(folder: Path, files: Path) -> None:
    (folder / "render.yml").write_text(RENDER.format(roles=ROLES, folder=files))
    (folder / "hosts").write_text("localhost\n")
    given = {
        "fleet_domain": "hub.test",
        "fleet_course": "Deep Learning",
        "tls_email": "admins@hub.test",
        "tls_acme_directory": "https://acme.test/acme/local/directory",
        "tls_acme_ca": "acme-ca.pem",
    }
    played = plays.play(str(folder / "render.yml"), folder / "hosts", "--extra-vars", json.dumps(given))
    assert played.status == 0, played.output


def _has_certificate(front: Front) -> bool:
    try:
        with front.connect():
            return True
    except OSError:
        return False


def test_the_certificate_is_of_the_acme_authority(front: Front) -> None:
    with front.connect() as connection:
        shown = connection.getpeercert()

    assert shown is not None
    assert shown["subjectAltName"] == (("DNS", "hub.test"),)
    issuer = dict(pair for part in shown["issuer"] for pair in part)
    assert issuer["commonName"] == "Caddy Local Authority - ECC Intermediate"


def test_http_leads_to_https_and_browsers_remember_that(front: Front) -> None:
    status, leads_to = front.curl(
        "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "http://hub.test/hub/login"
    ).split()
    told = front.curl("-o", "/dev/null", "-D", "-", "https://hub.test/").lower()

    assert (status, leads_to) == ("308", "https://hub.test/hub/login")
    assert "strict-transport-security: max-age=31536000\n" in told
    assert "server:" not in told


def test_the_hub_learns_who_asks_and_that_it_was_over_https_whatever_the_browser_claims(front: Front) -> None:
    lie = ("-H", "X-Forwarded-For: 192.0.2.1", "-H", "X-Forwarded-Proto: http", "-H", "X-Forwarded-Host: evil.test")
    told = json.loads(front.curl(*lie, "https://hub.test/"))

    assert told["Host"] == told["X-Forwarded-Host"] == "hub.test"
    assert told["X-Forwarded-Proto"] == "https"
    assert told["X-Forwarded-For"] == front.address


def test_large_uploads_and_websockets_pass(front: Front) -> None:
    upload = f"head -c {UPLOAD_BYTES} /dev/zero >/tmp/upload && curl -sS -k -T /tmp/upload https://hub.test/file"
    counted = docker("exec", front.container, "sh", "-c", upload)
    with front.connect() as connection:
        connection.sendall(
            b"GET /user/ada/channels HTTP/1.1\r\nHost: hub.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        )
        said = b""
        while b"\r\n\r\n" not in said:
            said += connection.recv(4096)
        connection.sendall(b"a message")
        answer = connection.recv(4096)

    assert int(counted) == UPLOAD_BYTES
    assert said.startswith(b"HTTP/1.1 101")
    assert answer == b"a message"


def test_while_the_hub_is_away_people_are_told_so_and_pages_of_the_hub_are_left_alone(front: Front) -> None:
    ask = ("-w", "\n%{http_code} %{header_json}")
    proxy_alone = front.curl(*ask, "https://hub.test/proxy-alone")
    not_running = front.curl("-w", "\n%{http_code}", "https://hub.test/not-running")
    docker("exec", front.container, "sh", "-c", "pkill -f '[h]ttps_upstream'")
    wait_for(lambda: front.curl("-o", "/dev/null", "-w", "%{http_code}", "https://hub.test/") == "503", "its end")
    nobody = front.curl(*ask, "https://hub.test/hub/login")

    assert not_running == "Your server does not run\n503"
    for page in (proxy_alone, nobody):
        text, _, rest = page.rpartition("</html>\n")
        status, _, headers = rest.strip().partition(" ")
        assert "<h1>Back in a moment</h1>" in text
        assert "Deep Learning" in text
        assert status == "503"
        assert json.loads(headers)["retry-after"] == ["10"]
