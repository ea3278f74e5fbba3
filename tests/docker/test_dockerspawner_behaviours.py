"""What dockerspawner's documentation promises, in `GPUDockerSpawner`; what test_spawner.py shows is not shown again.

One hub; each student's spawner is set up in another way, by a hook.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from hubs import Hub, docker, wait_for
from light import light_image
from students import Student

MIB = 2**20
CONFIG = """
import asyncio
from pathlib import Path

volumes = {volumes!r}
notes = Path({notes!r})
light = {light!r}


async def host_config_later(spawner):
    await asyncio.sleep(0)
    return {{"dns_search": [spawner.user.name + ".example", "{{username}}.test"], "cpu_period": 50_000}}


def create_kwargs(spawner):
    return {{"hostname": spawner.user.name + "-box", "host_config": {{"OomScoreAdj": 100}}}}


def by_user(spawner):
    return {{"student2": "256M"}}.get(spawner.user.name, "512M")


async def set_up(spawner):
    await asyncio.sleep(0)  # hooks may be coroutines
    name = spawner.user.name
    if name == "student1":
        spawner.prefix = "lab"
        spawner.name_template = (
            "{{prefix}}-{{imagename}}-{{username}}-{{safe_username}}-{{raw_username}}-{{servername}}-{{lease}}"
        )
        spawner.volumes = {{volumes + "own-{{username}}": {{"bind": "/srv/{{username}}", "mode": "ro"}}}}
        spawner.read_only_volumes = {{volumes + "shared": "/srv/shared"}}
        spawner.mounts = [
            {{"type": "volume", "source": volumes + "more-{{username}}", "target": "/srv/more-{{username}}"}}
        ]
        spawner.environment = {{"COURSE": "deep learning", "MADE_FOR": lambda spawner: spawner.user.name}}
        spawner.extra_create_kwargs = {{"labels": {{"course": "for {{username}}"}}, "stop_signal": "SIGINT"}}
        spawner.extra_host_config = {{"tmpfs": {{"/srv/scratch": "size=1m"}}, "pids_limit": 77}}
    elif name == "student2":
        spawner.extra_host_config = host_config_later
        spawner.extra_create_kwargs = create_kwargs
        spawner.mem_limit = by_user
        spawner.cpu_limit = lambda spawner: 0.5
        spawner.network_name = {network!r}
        spawner.use_internal_ip = True
        spawner.port = 8765
        spawner.format_volume_name = lambda template, spawner: template.format(username="everybody")
        spawner.cmd = ["python3", "-S", "/server.py"]
        spawner.args = ["--an-argument"]
    elif name == "student3":
        spawner.allowed_images = [light]
    elif name == "student4":
        spawner.allowed_images = lambda spawner: {{spawner.user.name: light}}
        spawner.read_only = False


def stopped(spawner):
    (notes / spawner.user.name).write_text(spawner.name)


c.Spawner.pre_spawn_hook = set_up
c.Spawner.post_stop_hook = stopped
"""


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which the hook after a stop leaves a file."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, notes: Path) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("behaviours")
    hub = Hub(
        folder / "hub",
        gpus=1,
        students=5,
        settings={"spawner": {"image": light_image(), "stop_timeout_seconds": 1}},
    )
    config = CONFIG.format(volumes=hub.volume_prefix, notes=str(notes), light=light_image(), network=hub.volume_prefix)
    with (folder / "hub" / "config.py").open("a", encoding="utf-8") as file:
        file.write(config)
    docker("network", "create", hub.volume_prefix)
    try:
        with hub:
            yield hub
    finally:
        docker("network", "rm", hub.volume_prefix)


def start(hub: Hub, name: str, **options: str) -> dict[str, Any]:
    """Start a student's server and return what the engine says of its container."""
    answer = hub.api("POST", f"/users/{name}/server", {"gpu": "none", **options}, timeout=60)
    assert answer.ok, answer.text
    wait_for(lambda: hub.api("GET", f"/users/{name}").json()["servers"].get("", {}).get("ready"), "the server", 60)
    [lease] = [lease for lease in hub.leases(live=True) if lease.user == name]
    assert lease.container_id is not None
    [shown] = json.loads(docker("inspect", lease.container_id))
    return {**shown, "lease": lease.id}


def places(shown: dict[str, Any]) -> set[tuple[str, str, bool]]:
    """Return name, place and whether it may be written to, of each volume."""
    return {(each["Name"], each["Destination"], each["RW"]) for each in shown["Mounts"] if each["Type"] == "volume"}


def test_templates_are_filled_in_wherever_they_may_stand(hub: Hub) -> None:
    shown = start(hub, "student1")
    config, host = shown["Config"], shown["HostConfig"]
    image = light_image().replace("/", "-").replace(":", "-")
    assert shown["Name"] == f"/lab-{image}-student1-student1-student1--{shown['lease']}"
    volumes = hub.volume_prefix
    assert places(shown) == {
        (f"{volumes}own-student1", "/srv/student1", False),
        (f"{volumes}shared", "/srv/shared", False),
        (f"{volumes}more-student1", "/srv/more-student1", True),
    }
    assert {"COURSE=deep learning", "MADE_FOR=student1", f"JUPYTER_IMAGE_SPEC={light_image()}"} <= set(config["Env"])
    assert config["Cmd"][:3] == ["python3", "-S", "/server.py"], "the image's own command comes first"
    assert (config["Labels"]["course"], config["StopSignal"]) == ("for student1", "SIGINT")
    # What is asked of the engine beside ours is laid over it, key by key.
    assert host["PidsLimit"] == 77
    assert set(host["Tmpfs"]) == {"/tmp", "/var/local/idl_hub", "/srv/scratch"}
    assert host["ReadonlyRootfs"] is True


def test_options_may_be_functions_and_coroutines(hub: Hub) -> None:
    shown = start(hub, "student2")
    config, host = shown["Config"], shown["HostConfig"]
    assert config["Hostname"] == "student2-box"
    assert host["OomScoreAdj"] == 100
    assert host["DnsSearch"] == ["student2.example", "student2.test"]
    assert (host["Memory"], host["MemorySwap"]) == (256 * MIB, 256 * MIB)
    assert f"size={128 * MIB}" in host["Tmpfs"]["/tmp"]
    assert (host["CpuPeriod"], host["CpuQuota"]) == (50_000, 25_000)
    assert places(shown) == {(f"{hub.volume_prefix}everybody", "/home/student", True)}
    assert config["Cmd"][:4] == ["python3", "-S", "/server.py", "--an-argument"]

    # The hub and the proxy go to the container's own address and port, and nothing is published.
    assert host["NetworkMode"] == hub.volume_prefix
    assert set(shown["NetworkSettings"]["Networks"]) == {hub.volume_prefix}
    assert not host["PortBindings"]
    assert any(word.startswith("JUPYTERHUB_SERVICE_URL=") and ":8765/" in word for word in config["Env"])
    assert Student(hub, "student2").ask_server().json() == {"version": "light"}


def test_an_image_of_the_list_is_started_and_another_one_refused(hub: Hub) -> None:
    refused = hub.api("POST", "/users/student3/server", {"gpu": "none", "image": "idl-hub/student:latest"})
    assert refused.status_code == 400
    assert f"not in allowed list: {light_image()}" in refused.json()["message"]
    assert start(hub, "student3", image=light_image())["Config"]["Image"] == light_image()


def test_images_may_be_offered_by_a_function_and_go_by_another_name(hub: Hub) -> None:
    shown = start(hub, "student4", image="student4")
    assert f"JUPYTER_IMAGE_SPEC={light_image()}" in shown["Config"]["Env"]
    # Turned off for this student: the image's files can be written, on the server's disk.
    assert shown["HostConfig"]["ReadonlyRootfs"] is False
    docker("exec", "--user=root", shown["Id"], "touch", "/written")


def test_where_no_image_is_offered_none_can_be_asked_for(hub: Hub) -> None:
    refused = hub.api("POST", "/users/student5/server", {"gpu": "none", "image": light_image()})
    assert refused.status_code == 400
    assert "Specifying image to launch is not allowed" in refused.json()["message"]


def test_after_a_stop_the_hook_runs_and_neither_container_nor_token_is_left(hub: Hub, notes: Path) -> None:
    shown = start(hub, "student5")
    [token] = [word.partition("=")[2] for word in shown["Config"]["Env"] if word.startswith("JUPYTERHUB_API_TOKEN=")]

    def known() -> bool:
        return requests.get(f"{hub.url}/hub/api/user", headers={"Authorization": f"token {token}"}, timeout=30).ok

    assert known()
    assert hub.api("DELETE", "/users/student5/server", timeout=60).status_code in (202, 204)
    wait_for((notes / "student5").exists, "the hook to run")
    wait_for(lambda: shown["Id"] not in hub.containers(), "the container to be removed")
    assert not known()
