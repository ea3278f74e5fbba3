"""The agent does not start where its readings would lie open, and says what to do."""

import socket
from pathlib import Path

import pytest
from agents import write_certificate, write_private

from idl_hub.cli import main
from idl_hub.gpus.agent_command import AgentError, read_token

TOKEN = b"0123456789abcdef0123456789abcdef\n"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """What a whole command line needs."""
    certificate, key = write_certificate(tmp_path)
    token = write_private(tmp_path / "token", TOKEN)
    return {"--token-file": str(token), "--certificate": str(certificate), "--key": str(key)}


def refusal(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["agent", *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("idl-hub agent: ")
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("address", ["0.0.0.0", "::", "10.0.0.5", "::ffff:10.0.0.5"])
@pytest.mark.parametrize(
    "missing", [{"--token-file"}, {"--certificate", "--key"}, {"--token-file", "--certificate", "--key"}]
)
def test_open_to_the_network_it_wants_both_token_and_tls(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], address: str, missing: set[str]
) -> None:
    given = [word for option, value in files.items() if option not in missing for word in (option, value)]
    said = refusal(capsys, "--listen", address, "--port", "0", *given)
    assert "can be reached over the network" in said
    assert "--token-file" in said
    refusal(capsys, "--listen", address, "--port", "0", "--insecure-loopback", *given)


def test_on_loopback_it_wants_the_token_or_the_word_that_none_is_meant(
    files: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "--insecure-loopback" in refusal(capsys)
    assert "leave it" in refusal(capsys, "--insecure-loopback", "--token-file", files["--token-file"])


@pytest.mark.parametrize("alone", ["--certificate", "--key"])
def test_half_of_what_tls_needs_is_refused(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], alone: str
) -> None:
    assert "go together" in refusal(capsys, alone, files[alone], "--insecure-loopback")


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o620, 0o601])
def test_a_token_that_others_can_get_at_is_refused(tmp_path: Path, mode: int) -> None:
    file = write_private(tmp_path / "token", TOKEN)
    file.chmod(mode)
    with pytest.raises(AgentError, match="chmod 600"):
        read_token(file)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o440])
def test_a_token_for_its_owner_and_group_is_taken(tmp_path: Path, mode: int) -> None:
    file = write_private(tmp_path / "token", TOKEN)
    file.chmod(mode)
    assert read_token(file) == TOKEN.decode().strip()


@pytest.mark.parametrize("content", [b"", b"\n", b"short", b"x" * 31, b"x" * 600, b"two words " * 5, "ä".encode() * 40])
def test_a_token_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(AgentError, match="openssl rand"):
        read_token(write_private(tmp_path / "token", content))


def test_a_token_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="No such file"):
        read_token(tmp_path / "token")
    with pytest.raises(AgentError, match="Is a directory"):
        read_token(tmp_path)


def test_a_key_that_others_can_read_is_refused(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(files["--key"]).chmod(0o644)
    words = [word for option in files.items() for word in option]
    assert "chmod 600" in refusal(capsys, *words)


def test_a_certificate_with_another_ones_key_is_refused(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    files["--key"] = str(write_certificate(other)[1])
    assert "belong together" in refusal(capsys, *[word for option in files.items() for word in option])


@pytest.mark.parametrize("address", ["gpu01", "", "300.0.0.1", "127.0.0.1:80"])
def test_a_listening_address_must_be_an_address(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], address: str
) -> None:
    assert "no IP address" in refusal(capsys, "--listen", address, "--token-file", files["--token-file"])


@pytest.mark.parametrize("name", ["", "gpu 01", "-gpu", "gpu/1", "x" * 64, "gpu\n"])
def test_a_server_is_named_like_a_host(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert "--server-name" in refusal(capsys, f"--server-name={name}", "--insecure-loopback")


def test_a_port_that_is_taken_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refusal(capsys, "--insecure-loopback", "--port", port)
    assert port in said
    assert "ss -ltnp" in said


@pytest.mark.parametrize("port", ["70000", "65536", "-1"])
def test_a_port_that_cannot_be_is_refused(capsys: pytest.CaptureFixture[str], port: str) -> None:
    assert "65535" in refusal(capsys, "--insecure-loopback", "--port", port)
