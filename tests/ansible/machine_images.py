"""Images of bare machines, made once and again when something in them changes."""

from __future__ import annotations

from functools import cache

from cluster_image import CERTIFICATES, ROOT

from images.builder import base, inputs
from images.builder.engine import Engine, find_docker
from images.builder.steps import Reporter

PACKAGES = (
    # What the roles install. Packages that are not here are downloaded while a test runs.
    *("acl", "caddy", "chrony", "curl", "docker-registry", "docker.io", "gnupg", "iptables", "nfs-common"),
    *("nfs-kernel-server", "nftables", "postgresql", "prometheus", "prometheus-alertmanager"),
    *("prometheus-node-exporter", "python3-cryptography", "python3-psycopg2", "python3-requests", "python3-venv"),
    *("quota", "restic", "rsync", "unattended-upgrades", "wireguard-go", "wireguard-tools"),
)
_LABEL = "idlhub.machine-inputs"


@cache
def machine_image(debian: str = "bookworm", *, bare: bool = False) -> str:
    """Return the image's id; making it takes about a minute, and nothing when it is up to date.

    Parameters
    ----------
    debian
        ``bookworm`` or ``trixie``.
    bare
        Without the packages that the roles install.
    """
    engine = Engine(find_docker(), Reporter(quiet=True))
    name = f"idl-hub/{'bare-' if bare else ''}machine-test:{debian}"
    files = _context()
    arguments = {"BASE": f"idl-hub/base:{debian}", "PACKAGES": "" if bare else " ".join(PACKAGES)}
    wanted = inputs.fingerprint(files, arguments, base.ensure(engine, fresh=False, suite=debian))
    if engine.label(name, _LABEL) != wanted:
        what = "Build a bare machine's image"
        engine.build(what, name, inputs.as_tar(files), arguments, f"{_LABEL}={wanted}", fresh=False)
        engine.remove_replaced(_LABEL)
    made = engine.image_id(name)
    assert made, f"{name} is gone right after it was made"
    return made


def _context() -> tuple[inputs.ContextFile, ...]:
    files = inputs.read_tree(ROOT / "tests" / "ansible" / "machine_image")
    # A machine of this kind boots as the servers of the tests' cluster do, and its disk is filled as theirs.
    files += inputs.read_tree(ROOT / "tests" / "server_image" / "rootfs" / "usr", "rootfs/usr")
    files += inputs.read_tree(CERTIFICATES, "ca-certificates", (".crt",))
    # The folder must be there for COPY even when it is empty.
    files.append(inputs.ContextFile("ca-certificates/README", executable=False, content=b"Extra CA certificates.\n"))
    return tuple(sorted(files))
