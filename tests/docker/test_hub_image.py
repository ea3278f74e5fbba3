"""The image of hub, GPU pages and proxy: what is in it, and that each runs from it with next to no rights."""

import json
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin

import pytest
import requests
import yaml
from hubs import docker, free_ports, wait_for
from postgres import Postgres

pytestmark = pytest.mark.timeout(900)  # the first run builds the image

ROOT = Path(__file__).resolve().parents[2]
IMAGE = "idl-hub/hub:latest"
ROLE = yaml.safe_load((ROOT / "ansible" / "roles" / "hub" / "vars" / "main.yml").read_text())
STUDENT_UID = 1000
MOST_BYTES = 450 * 10**6
LOOK = """
import importlib.metadata, json, pathlib, shutil
static = pathlib.Path("/opt/idl_hub/venv/share/jupyterhub/static")
files = ("css/style.min.css", "js/home.js", "components/requirejs/require.js", "components/jquery/dist/jquery.min.js")
programs = ("pip", "cc", "gcc", "npm", "docker", "sudo", "ssh", "curl", "git")
print(json.dumps([
    {d.name.lower().replace("_", "-"): d.version for d in importlib.metadata.distributions()},
    [program for program in programs if shutil.which(program)],
    [file for file in files if not (static / file).exists()],
]))
"""


@dataclass(frozen=True)
class Running:
    """The three containers by what they do, and where people reach the hub."""

    url: str
    containers: dict[str, str]
    password: str
    homes: Path

    def session(self, user: str) -> requests.Session:
        """Return a browser's session, logged in."""
        session = requests.Session()
        session.get(f"{self.url}/hub/login", timeout=30).raise_for_status()
        form = {"username": user, "password": self.password, "_xsrf": session.cookies["_xsrf"]}
        session.post(f"{self.url}/hub/login", data=form, timeout=30).raise_for_status()
        return session


@pytest.fixture(scope="module")
def image() -> str:
    """The image, built if it has to be."""
    done = subprocess.run([ROOT / "script" / "hub-image"], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    return IMAGE


@pytest.fixture(scope="module")
def running(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """All three with their rights as role hub gives them, and databases in Postgres."""
    folder = tmp_path_factory.mktemp("hub")
    postgres = Postgres()
    containers: dict[str, str] = {}
    try:
        yield _start(image, folder, postgres, containers)
        print(*(_logs(container) for container in containers.values()), sep="\n---\n")
    finally:
        for container in containers.values():
            docker("rm", "--force", "--volumes", container)
        postgres.stop()


def _start(image: str, folder: Path, postgres: Postgres, containers: dict[str, str]) -> Running:
    public, proxy_api, internal, web = free_ports(4, "127.0.0.1")
    databases = [postgres.new_database().replace("postgresql:", "postgresql+psycopg:") for _ in range(2)]
    socket = Path(databases[0].rpartition("=")[2])
    socket.chmod(0o755)  # as /run/postgresql is
    shared, state, seen_by_pages = folder / "shared", folder / "state", folder / "pages"
    for each in (shared, state, seen_by_pages):
        each.mkdir(mode=0o755)
    hub = {"public_port": public, "proxy_api_port": proxy_api, "internal_port": internal, "web_port": web}
    settings = {
        "trial": True,
        "hub": hub | {"database_url": databases[0], "hub_database_url": databases[1]},
        "login": {"demo_password_file": "/var/lib/idl_hub/demo-password"},
        "homes": {"directory": f"{shared}/homes", "snapshots": f"{shared}/snapshots"},
    }
    (folder / "settings.yml").write_text(yaml.safe_dump(settings))
    password, token = secrets.token_hex(8), secrets.token_hex(32)
    (state / "demo-password").write_text(password)
    for place in (state, seen_by_pages):
        for name in ("web-token", "prometheus-token"):
            (place / name).write_text(token if name == "web-token" else token[::-1])
            (place / name).chmod(0o644)
    options = ["--detach", "--network", "host", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp"]
    options += ["--security-opt", "no-new-privileges:true", "--env", f"CONFIGPROXY_AUTH_TOKEN={secrets.token_hex(32)}"]
    mounts = ["--volume", f"{socket}:{socket}", "--volume", f"{shared}:{shared}"]
    mounts += ["--volume", f"{folder}/settings.yml:/etc/idl_hub/settings/settings.yml:ro"]
    mounts += ["--env", "IDLHUB_SETTINGS=/etc/idl_hub/settings/settings.yml"]
    target = f"http://127.0.0.1:{internal}"
    where = ["--ip", "127.0.0.1", "--port", f"{public}", "--api-ip", "127.0.0.1", "--api-port", f"{proxy_api}"]
    where += ["--no-x-forward"] if "--no-x-forward" in ROLE["hub_proxy_command"] else []
    where += ["--default-target", target, "--error-target", f"{target}/hub/error"]
    proxy = ["--user", "nobody:nogroup", image, "configurable-http-proxy", *where]
    containers["proxy"] = docker("run", *options, *proxy)
    pages = ["--user", f"{STUDENT_UID}:{STUDENT_UID}", "--volume", f"{seen_by_pages}:/var/lib/idl_hub:ro"]
    containers["pages"] = docker("run", *options, *mounts, *pages, image, "idl-hub", "web")
    rights = [word for name in ROLE["hub_capabilities"] for word in ("--cap-add", name)]
    containers["hub"] = docker("run", *options, *mounts, *rights, "--volume", f"{state}:/var/lib/idl_hub", image)
    url = f"http://127.0.0.1:{public}"
    wait_for(lambda: _answers(f"{url}/hub/api/"), "the hub to answer", 120)
    return Running(url, containers, password, shared / "homes")


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def _logs(container: str) -> str:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, timeout=30)
    return done.stdout + done.stderr


def test_the_image_holds_what_is_locked_and_no_tools_to_change_it(image: str) -> None:
    run = ("run", "--rm", "--network", "none", image)
    installed, programs, missing = json.loads(docker(*run, "python", "-c", LOOK))
    special = docker(*run, "find", "/", "-xdev", "-perm", "/6000", "-type", "f")
    locked = dict(
        line.split(" ;")[0].strip().split("==")
        for line in (ROOT / "requirements" / "hub.txt").read_text().splitlines()
        if "==" in line and not line.startswith((" ", "#"))
    )
    versions = {name: version for name, version in installed.items() if name != "idl-hub"}

    assert versions.items() <= {name.lower().replace("_", "-"): version for name, version in locked.items()}.items()
    assert {"jupyterhub", "dockerspawner", "psycopg-binary", "idl-hub"} <= installed.keys()
    assert {"jupyterlab", "nbgrader", "setuptools"} & installed.keys() == set()
    assert programs == []
    assert missing == []
    assert special == ""
    assert int(docker("image", "inspect", "--format", "{{.Size}}", image)) < MOST_BYTES


def test_an_image_that_is_up_to_date_is_not_built_again(image: str) -> None:
    before = docker("image", "inspect", "--format", "{{.Id}}", image)
    done = subprocess.run([ROOT / "script" / "hub-image"], capture_output=True, text=True, timeout=60)

    assert done.stdout == f"The image {IMAGE} is up to date.\n"
    assert docker("image", "inspect", "--format", "{{.Id}}", image) == before


def test_people_log_in_and_see_hub_and_gpu_pages(running: Running) -> None:
    session = running.session("student1")
    home = session.get(f"{running.url}/hub/home", timeout=30)
    pages = session.get(f"{running.url}/services/web/", timeout=30)
    style = next(part for part in home.text.split('"') if "style.min.css" in part)

    assert "student1" in home.text
    assert session.get(urljoin(home.url, style), timeout=30).headers["Content-Type"] == "text/css"
    assert pages.url == f"{running.url}/services/web/"
    assert "student1" in pages.text


def test_over_https_the_login_is_kept_in_a_cookie_that_never_travels_unencrypted(running: Running) -> None:
    session = requests.Session()
    session.headers.update({"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.7"})  # as Caddy says it
    session.get(f"{running.url}/hub/login", timeout=30).raise_for_status()
    form = {"username": "student4", "password": running.password, "_xsrf": session.cookies["_xsrf"]}
    session.post(f"{running.url}/hub/login", data=form, timeout=30, allow_redirects=False).raise_for_status()
    login = next(cookie for cookie in session.cookies if cookie.name == "jupyterhub-hub-login")

    assert login.secure
    assert "(student4@192.0.2.7)" in _logs(running.containers["hub"])


@pytest.mark.parametrize(
    ("name", "uid", "capabilities"),
    [("proxy", 65534, []), ("pages", STUDENT_UID, []), ("hub", 0, ROLE["hub_capabilities"])],
)
def test_none_has_more_rights_than_it_needs(running: Running, name: str, uid: int, capabilities: list[str]) -> None:
    container = running.containers[name]
    status = docker("exec", container, "cat", "/proc/1/status")
    held = int(next(line for line in status.splitlines() if line.startswith("CapBnd")).split()[1], 16)
    touched = subprocess.run(["docker", "exec", container, "touch", "/opt/x"], capture_output=True, timeout=30)

    assert f"Uid:\t{uid}\t{uid}" in status
    assert "NoNewPrivs:\t1" in status
    assert held.bit_count() == len(capabilities)
    assert touched.returncode != 0


def test_the_pages_bring_a_file_back_into_a_home_as_its_owner_without_any_right(running: Running) -> None:
    hub = running.containers["hub"]
    home = running.homes / "student2"
    for command in ("homes init", "snapshots init"):
        docker("exec", hub, "idl-hub", *command.split(), "--own-disk")
    owner = ("-o", f"{STUDENT_UID}", "-g", f"{STUDENT_UID}")
    docker("exec", hub, "install", "-d", *owner, "-m", "700", str(home))
    docker("exec", hub, "sh", "-c", f"echo precious > {home}/notes.txt && chown {STUDENT_UID} {home}/notes.txt")
    docker("exec", hub, "idl-hub", "snapshots", "take")
    docker("exec", hub, "rm", f"{home}/notes.txt")

    session = running.session("student2")
    api = f"{running.url}/services/web/api/versions"
    session.get(f"{running.url}/services/web/versions", timeout=30).raise_for_status()
    shown = session.get(api, timeout=30)
    assert shown.ok, shown.text
    (version,) = shown.json()["versions"]
    xsrf = [cookie.value for cookie in session.cookies if cookie.name == "_xsrf" and "web" in cookie.path]
    headers = {"X-XSRFToken": str(xsrf[-1])}
    done = session.post(f"{api}/{version['name']}/restore?path=notes.txt", headers=headers, timeout=60)

    assert done.status_code == 200, done.text
    assert docker("exec", hub, "cat", f"{home}/notes.txt") == "precious"
    assert docker("exec", hub, "stat", "-c", "%u", f"{home}/notes.txt") == f"{STUDENT_UID}"


def test_the_command_works_in_the_image_and_a_hub_that_starts_again_finds_everything(running: Running) -> None:
    hub = running.containers["hub"]
    session = running.session("student3")
    docker("restart", hub)
    wait_for(lambda: _answers(f"{running.url}/hub/api/"), "the hub to answer again", 120)

    assert "student3" in session.get(f"{running.url}/hub/home", timeout=30).text
    assert "student3" in session.get(f"{running.url}/services/web/", timeout=30).text
    assert docker("exec", hub, "idl-hub", "--version").startswith("idl-hub ")
    assert docker("exec", hub, "idl-hub", "settings", "check") == "The settings can be used."
