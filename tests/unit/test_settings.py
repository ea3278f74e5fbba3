"""The settings file: what it accepts, and what it says about what it does not."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from idl_hub import settings
from idl_hub.cli import main
from idl_hub.settings import Settings, SettingsError, load, parse_size_bytes

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "settings.example.yml"
REFERENCE = ROOT / "docs" / "reference" / "settings.md"


def sections() -> dict[str, type[settings.Section]]:
    return {
        name: field.annotation
        for name, field in Settings.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, settings.Section)
    }


def every_setting() -> dict[str, typing.Any]:
    """Return key, with its section's name before it -> its field."""
    inner = {f"{name}.{key}": field for name, kind in sections().items() for key, field in kind.model_fields.items()}
    return {name: field for name, field in Settings.model_fields.items() if name not in sections()} | inner


def written(folder: Path, text: str, name: str = "settings.yml") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def refusal(folder: Path, text: str) -> str:
    file = written(folder, text)
    with pytest.raises(SettingsError) as caught:
        load([file])
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert message.isprintable(), "one line"
    return message.removeprefix(f"{file}: ")


# -- what is accepted -------------------------------------------------------------------------------------


def test_without_any_file_the_defaults_are_in_force() -> None:
    assert load([]) == Settings()


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "hub:\nlogin:\n  # nothing\n", "hub: {}"])
def test_a_file_or_section_that_says_nothing_leaves_the_defaults(tmp_path: Path, text: str) -> None:
    assert load([written(tmp_path, text)]) == Settings()


def test_later_files_win_key_by_key(tmp_path: Path) -> None:
    first = written(tmp_path, "trial: true\nhub: {public_port: 9000, internal_port: 9001}\n", "1.yml")
    second = written(tmp_path, "hub: {internal_port: 9002}\nspawner:\n", "2.yml")
    both = load([first, second])
    assert (both.trial, both.hub.public_port, both.hub.internal_port) == (True, 9000, 9002)
    assert load([second, first]).hub.internal_port == 9001


def test_an_empty_section_in_a_later_file_takes_nothing_away(tmp_path: Path) -> None:
    first = written(tmp_path, "hub: {public_port: 9000}", "1.yml")
    assert load([first, written(tmp_path, "hub:\n", "2.yml")]).hub.public_port == 9000


def test_maps_of_later_files_are_laid_over_earlier_ones(tmp_path: Path) -> None:
    first = written(tmp_path, "spawner: {environment: {A: a, B: b}}", "1.yml")
    second = written(tmp_path, "spawner: {environment: {B: c}}", "2.yml")
    assert load([first, second]).spawner.environment == {"A": "a", "B": "c"}


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        (0, 0),
        (1024, 1024),
        ("1KiB", 1024),
        ("26GiB", 26 * 2**30),
        ("1.5 GiB", 3 * 2**29),
        ("2TiB", 2 * 2**40),
        ("3MB", 3_000_000),
        (".5KB", 500),
    ],
)
def test_a_size_is_bytes_or_a_number_with_its_unit(text: object, size_bytes: int) -> None:
    assert parse_size_bytes(text) == size_bytes


@given(st.one_of(st.text(), st.booleans(), st.integers(max_value=-1), st.floats(), st.none()))
def test_whatever_else_is_no_size(value: object) -> None:
    if isinstance(value, str) and re.fullmatch(r"\s*[\d.]+\s*(K|M|G|T)i?B", value):
        return
    with pytest.raises(ValueError, match=r"a size such as 26GiB or 512MiB \(units: "):
        parse_size_bytes(value)


def test_the_files_are_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IDLHUB_SETTINGS", "/a/1.yml:/b/2.yml")
    assert settings.files_from_environment() == [Path("/a/1.yml"), Path("/b/2.yml")]


def test_without_the_variable_the_default_file_is_read_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IDLHUB_SETTINGS", raising=False)
    monkeypatch.setattr(settings, "DEFAULT_FILE", tmp_path / "settings.yml")
    assert settings.files_from_environment() == []
    written(tmp_path, "")
    assert settings.files_from_environment() == [tmp_path / "settings.yml"]


def test_a_default_file_that_may_not_be_looked_at_is_not_taken_for_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.delenv("IDLHUB_SETTINGS", raising=False)
    monkeypatch.setattr(Path, "exists", refuse)
    assert settings.files_from_environment() == [settings.DEFAULT_FILE]


# -- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # unknown keys
        ("hubb: {}", "hubb is not a setting; allowed here: gpus, homes, hub, "),
        ("hub: {port: 1}", "hub.port is not a setting; allowed here: address, database_url, hub_database_url, "),
        ("5: x", "5 is not a setting; allowed here: gpus, homes, hub, "),
        ('"a\\nb": 1', "a\\nb is not a setting; allowed here: "),
        # wrong types
        ("trial: maybe", "trial is 'maybe'; allowed: true or false"),
        ("hub: 5", "hub is 5; allowed: a section with keys (address, database_url, "),
        ("hub: [1]", "hub is [1]; allowed: a section with keys (address, database_url, "),
        ("hub: {public_port: eighty}", "hub.public_port is 'eighty'; allowed: a valid integer"),
        ("hub: {public_port: true}", "hub.public_port is True; allowed: something else than true or false"),
        ("hub: {public_port: {a: 1}}", "hub.public_port is {'a': 1}; allowed: a valid integer"),
        ("hub: {public_port:}", "hub.public_port is None; allowed: a valid integer"),
        ("hub: {state_directory: 7}", "hub.state_directory is 7; allowed: a path, as text"),
        ("login: {demo_students: 5.5}", "login.demo_students is 5.5; allowed: a valid integer"),
        ("spawner: {environment: {A: 5}}", "spawner.environment.A is 5; allowed: a valid string"),
        ("spawner: {cpu_limit: yes}", "spawner.cpu_limit is True; allowed: something else than true or false"),
        # impossible values
        ("hub: {public_port: 0}", "hub.public_port is 0; allowed: greater than or equal to 1"),
        ("hub: {public_port: 65536}", "hub.public_port is 65536; allowed: less than or equal to 65535"),
        ("hub: {internal_port: 8000}", "hub.internal_port is 8000; allowed: another port than hub.public_port"),
        ("login: {kind: ldap}", "login.kind is 'ldap'; allowed: 'demo'"),
        ("spawner: {kind: swarm}", "spawner.kind is 'swarm'; allowed: 'docker' or 'process'"),
        ("gpus: {busy_utilization_ratio: 10}", "gpus.busy_utilization_ratio is 10; allowed: less than or equal to 1"),
        ("gpus: {busy_memory: 1 GB of it}", "gpus.busy_memory is '1 GB of it'; allowed: a size such as 26GiB"),
        ("gpus: {server_name: ''}", "gpus.server_name is ''; allowed: String should have at least 1 character"),
        ("spawner: {memory_limit: 0}", "spawner.memory_limit is 0; allowed: a size of at least 64MiB"),
        ("spawner: {shared_memory: 1KiB}", "spawner.shared_memory is '1KiB'; allowed: a size of at least 1MiB"),
        (f"spawner: {{memory_limit: {'9' * 400}GiB}}", "spawner.memory_limit is '9999999999"),
        ("spawner: {cpu_limit: .inf}", "spawner.cpu_limit is inf; allowed: a finite number"),
        ("spawner: {call_timeout_seconds: .nan}", "spawner.call_timeout_seconds is nan; allowed: "),
        ("spawner: {home_volume: home}", "spawner.home_volume is 'home'; allowed: a name with {username} in it"),
        # values that are wrong together
        (
            "hub: {public_address: 0.0.0.0}",
            "hub.public_address is '0.0.0.0'; allowed: 127.0.0.1 with the demo login: one password for everybody",
        ),
        (
            "gpus: {simulated: 3}",
            "gpus.simulated is 3; allowed: above 0 only together with simulator_library and simulator_state",
        ),
    ],
)
def test_a_wrong_setting_is_named_with_its_value_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_of_several_faults_the_first_is_told_and_how_many_more(tmp_path: Path) -> None:
    told = refusal(tmp_path, "hub: {public_port: 0, internal_port: x}\nspawner: {kind: swarm}")
    assert told.startswith("hub.public_port is 0; ")
    assert told.endswith(" (and 2 more)")


@pytest.mark.parametrize("value", ["[hunter2]", "{password: hunter2}", "5"])
def test_a_secret_is_not_shown_even_when_it_is_wrong(tmp_path: Path, value: str) -> None:
    for key in ("database_url", "hub_database_url"):
        told = refusal(tmp_path, f"hub: {{{key}: {value}}}")
        assert told == f"hub.{key} is **********; allowed: a valid string"


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    assert len(refusal(tmp_path, f"trial: {'x' * 5000}")) < 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "is not valid YAML in line 1, column 5: "),
        ("hub:\n\tpublic_port: 1", "is not valid YAML in line 2, column 1: "),
        ("a: \x01", "is not valid YAML: "),
        ("a: 2024-13-45", "holds a value that cannot be read: month must be in 1..12"),
        ("- a\n- b", "must hold keys with values, such as 'hub:', not ['a', 'b']"),
        ("just text", "must hold keys with values, such as 'hub:', not 'just text'"),
        ("? [a]\n: b", "is not valid YAML in line 1, column 3: found unhashable key"),
        ("a: !!python/object:os.system {}", "is not valid YAML in line 1, column 4: could not determine a constructor"),
        ("hub: {}\nlogin: {}\nhub: {}", "is not valid YAML in line 3, column 1: the key 'hub' stands there a second"),
        ("hub: {public_port: 1, public_port: 2}", "is not valid YAML in line 1, column 23: the key 'public_port' "),
    ],
)
def test_a_file_that_cannot_be_read_as_keys_and_values_is_refused_with_the_place(
    tmp_path: Path, text: str, message: str
) -> None:
    assert refusal(tmp_path, text).startswith(message)


def test_a_file_that_is_missing_a_folder_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"missing.yml: there is no such file; settings.example.yml is one to"):
        load([tmp_path / "missing.yml"])
    with pytest.raises(SettingsError, match=r"cannot be read: .*Is a directory"):
        load([tmp_path])
    (tmp_path / "binary.yml").write_bytes(b"a: \xff\xfe")
    with pytest.raises(SettingsError, match=r"binary.yml: cannot be read: 'utf-8' codec"):
        load([tmp_path / "binary.yml"])


WILD = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(every_setting())), WILD)
def test_any_value_of_any_setting_is_taken_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    content = {key: value}
    if "." in key:
        section, name = key.split(".")
        content = {section: {name: value}}
    file = written(tmp_path_factory.getbasetemp(), yaml.safe_dump(content))
    told = ""
    try:
        load([file])
    except SettingsError as error:
        told = str(error)
    assert told == "" or (told.isprintable() and "; allowed" in told)


# -- the commands -----------------------------------------------------------------------------------------


def test_check_says_that_settings_can_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "check", str(written(tmp_path, "trial: true"))]) == 0
    assert capsys.readouterr() == ("The settings can be used.\n", "")


@pytest.mark.parametrize("verb", ["check", "show"])
def test_a_fault_is_one_line_on_stderr_and_a_failing_exit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main(["settings", verb, str(written(tmp_path, "trial: maybe"))]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("idl-hub settings: ")
    assert told.err.count("\n") == 1


def test_show_prints_every_setting_and_masks_the_secrets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "hub: {database_url: 'postgresql://u:hunter2@s/d', hub_database_url: 'sqlite:///x'}")
    assert main(["settings", "show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "hunter2" not in shown
    content = yaml.safe_load(shown)
    assert content["hub"]["database_url"] == content["hub"]["hub_database_url"] == "**********"
    for key in every_setting():
        section, _, name = key.rpartition(".")
        assert name in (content[section] if section else content)


def test_what_show_prints_can_be_used_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = written(tmp_path, "spawner: {memory_limit: 1GiB, environment: {A: ä}}")
    main(["settings", "show", str(file)])
    assert load([written(tmp_path, capsys.readouterr().out, "shown.yml")]) == load([file])


def test_show_without_a_file_reads_those_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("IDLHUB_SETTINGS", str(written(tmp_path, "hub: {public_port: 9999}")))
    assert main(["settings", "show"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["hub"]["public_port"] == 9999


# -- the example and the reference ------------------------------------------------------------------------


def uncommented() -> str:
    """Return the example with every `#key: value` in force; explanations stand behind `# `."""
    return re.sub(r"^( *)#(?=\S)", r"\1", EXAMPLE.read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_the_example_loads_as_it_is() -> None:
    assert load([EXAMPLE]) == Settings()


def test_the_example_names_every_setting_with_its_true_default(tmp_path: Path) -> None:
    content = yaml.safe_load(uncommented())
    named = {key for key in content if key not in sections()}
    named |= {f"{section}.{key}" for section in sections() for key in content[section]}
    assert named == set(every_setting())
    assert load([written(tmp_path, uncommented())]) == Settings()


def test_the_example_explains_every_setting_in_the_words_of_its_description() -> None:
    words = " ".join(EXAMPLE.read_text(encoding="utf-8").replace("#", " ").split())
    for key, field in every_setting().items():
        assert " ".join(field.description.split()) in words, key


def reference_rows() -> dict[str, list[str]]:
    rows = re.findall(r"^\| `([\w.]+)` \| (.*) \|$", REFERENCE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {key: rest.split(" | ") for key, rest in rows}


def test_the_reference_has_every_setting_with_its_description_default_and_limits() -> None:
    rows = reference_rows()
    assert set(rows) == set(every_setting())
    defaults = yaml.safe_load(uncommented())
    for key, field in every_setting().items():
        _, default, allowed, meaning = rows[key]
        section, _, name = key.rpartition(".")
        assert meaning == field.description, key
        assert yaml.safe_load(default.strip("`")) == (defaults[section] if section else defaults)[name], key
        for limit in field.metadata:
            for bound in ("ge", "gt", "le", "max_length"):
                if (value := getattr(limit, bound, None)) is not None:
                    assert f"{value:g}" in allowed, key
        for word in typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ():
            assert f"`{word}`" in allowed, key
