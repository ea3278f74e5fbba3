"""The admin's guide says nothing that cannot be done; on machines it is followed by the tests in tests/ansible."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import yaml

from ansible import guide
from script.lib import deploy

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
STEPS = guide.steps(guide.PAGE.read_text(encoding="utf-8"))
PLAY = re.compile(r"script/deploy ([a-z-]+\.yml)")


def test_the_guide_leads_from_a_copy_of_the_example_to_a_tried_and_backed_up_hub() -> None:
    plays = [play for step in STEPS for play in PLAY.findall(step.command)]

    assert STEPS[0].command == "cp -r ansible/example ansible/inventory\n"
    assert plays == ["preflight.yml", "site.yml", "smoke.yml", "backup.yml"]


def test_every_file_that_the_guide_says_to_edit_is_there_after_its_first_command(tmp_path: Path) -> None:
    folder = guide.checkout(tmp_path / "checkout")
    subprocess.run(["bash", "-ec", STEPS[0].command], cwd=folder, check=True, timeout=60)

    edits = [step.edit for step in STEPS if step.edit]
    assert edits == ["ansible/inventory/hosts.yml", "ansible/inventory/group_vars/all/settings.yml"]
    for file in edits:
        assert yaml.safe_load((folder / file).read_text(encoding="utf-8"))


def test_the_copy_that_the_guide_is_followed_in_is_the_checkout(tmp_path: Path) -> None:
    folder = guide.checkout(tmp_path / "checkout")

    assert (folder / "ansible" / "site.yml").read_bytes() == (ROOT / "ansible" / "site.yml").read_bytes()
    assert (folder / "script" / "deploy").stat().st_mode & 0o111
    assert not (folder / "ansible" / "inventory").exists()


def test_following_fills_in_what_is_to_be_edited_runs_the_commands_in_order_and_ends_where_one_fails(
    tmp_path: Path, monkeypatch
) -> None:
    folder, filled_in = tmp_path / "checkout", tmp_path / "inventory"
    (folder / "ansible" / "example").mkdir(parents=True)
    (folder / "ansible" / "example" / "hosts.yml").write_text("example")
    (filled_in / "tls").mkdir(parents=True)
    (filled_in / "hosts.yml").write_text("mine")
    (filled_in / "tls" / "hub.pem").write_text("certificate")
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\ncp -r ansible/example ansible/inventory\n```\nEdit `ansible/inventory/hosts.yml`: yours.\n"
        "```console\n$ false\n```\n```sh\ncat ansible/inventory/hosts.yml ansible/inventory/tls/hub.pem\n```\n"
        "```sh\necho no >&2; exit 3\n```\n```sh\ntouch beyond\n```\n"
    )
    monkeypatch.setattr(guide, "PAGE", page)

    done = guide.follow(folder, filled_in)

    assert [(one.status, one.output) for one in done] == [(0, ""), (0, "minecertificate"), (3, "no\n")]
    assert not (folder / "beyond").exists()


def test_every_play_that_the_pages_name_can_be_run_with_the_arguments_they_give() -> None:
    named = {
        tuple(match.split())
        for page in [*HOWTO.glob("*.md"), *(ROOT / "docs" / "runbook").glob("*.md"), ROOT / "README.md"]
        for match in re.findall(r"script/deploy ([a-z-]+\.yml[^`\n]*)", page.read_text(encoding="utf-8"))
    }

    assert {words[0] for words in named} >= {"site.yml", "upgrade.yml", "rotate-secrets.yml", "uninstall.yml"}
    for words in named:
        assert deploy.parse(words)[0].is_file()
