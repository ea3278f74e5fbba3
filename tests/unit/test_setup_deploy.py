from __future__ import annotations

import pytest

from script.lib import deploy
from script.lib.console import SetupError


def test_the_play_comes_first_and_all_else_goes_to_ansible():
    play, arguments = deploy.parse(["site.yml", "--limit", "gpu03", "--check"])
    assert play.name == "site.yml"
    assert play.is_absolute()
    assert play.exists()
    assert arguments == ["--limit", "gpu03", "--check"]


def test_an_unknown_play_is_answered_with_those_there_are(capsys):
    with pytest.raises(SystemExit):
        deploy.parse(["sight.yml"])
    assert "site.yml" in capsys.readouterr().err


def test_without_an_inventory_it_says_how_to_make_one(monkeypatch, tmp_path):
    monkeypatch.setattr(deploy, "_INVENTORY", deploy.ROOT / tmp_path / "inventory")
    monkeypatch.setattr(deploy, "ROOT", tmp_path)
    with pytest.raises(SetupError) as told:
        deploy._require_inventory(["--check"])
    assert "cp -r ansible/example ansible/inventory" in told.value.text()


@pytest.mark.parametrize("arguments", [["-i", "other"], ["-iother"], ["--inventory=other"], ["--inventory", "other"]])
def test_another_inventory_may_be_named(monkeypatch, tmp_path, arguments):
    monkeypatch.setattr(deploy, "_INVENTORY", tmp_path / "inventory")
    deploy._require_inventory(arguments)
