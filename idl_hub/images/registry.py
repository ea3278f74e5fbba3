"""What idl_hub asks of the registry itself: the sizes of layers, and to forget an image."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests

from idl_hub.images.offers import SHORT_DIGEST

if TYPE_CHECKING:
    from collections.abc import Mapping

CERTIFICATES = Path("/etc/docker/certs.d")
"""Where Docker engines look for who vouches for a registry: ``HOST:PORT/ca.crt``. So do we."""
_TIMEOUT_SECONDS = 15
_INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)


class RegistryError(Exception):
    """The registry did not do what was asked; the message says why and what to do."""


class Registry:
    """A registry of Docker's distribution API.

    Parameters
    ----------
    address
        Host and port. On loopback it is asked without TLS, as Docker engines do, unless there is a certificate.
    certificates
        Folder with the certificates of who vouches for registries.
    """

    def __init__(self, address: str, certificates: Path = CERTIFICATES) -> None:
        self.address = address
        authority = certificates / address / "ca.crt"
        trusted = authority.exists()
        self._base = f"{'http' if _on_loopback(address) and not trusted else 'https'}://{address}/v2"
        self._session = requests.Session()
        self._session.trust_env = False  # proxies and certificates of the environment are for the internet
        self._session.verify = str(authority) if trusted else True

    def layers(self, repository: str, digest: str) -> dict[str, int]:
        """Return the first digits of each layer's digest -> its packed size in bytes.

        Parameters
        ----------
        repository
            Without the registry, such as ``idl-hub/student``.

        Raises
        ------
        RegistryError
            When it does not answer or does not have the image.
        """
        manifest = self._manifest(repository, digest)
        if manifest.get("mediaType") in _INDEXES:
            # An image for several kinds of machines; further entries are only statements about the others.
            [manifest, *_] = [
                self._manifest(repository, entry["digest"])
                for entry in manifest["manifests"]
                if (entry.get("platform") or {}).get("os") == "linux"
            ] or [{}]
        layers: list[Mapping[str, Any]] = manifest.get("layers") or []
        if not layers:
            raise RegistryError(f"The registry {self.address} has no layers of {repository}@{digest}.")
        return {layer["digest"].removeprefix("sha256:")[:SHORT_DIGEST]: int(layer["size"]) for layer in layers}

    def holds(self, repository: str, digest: str, image_id: str) -> bool:
        """Whether what lies there under a digest is the image that an engine knows by this id.

        Raises
        ------
        RegistryError
            When it does not answer.
        """
        answer = self._ask("GET", f"{repository}/manifests/{digest}", {"Accept": ", ".join((*_MANIFESTS, *_INDEXES))})
        if answer.status_code != 200:
            return False
        # An engine calls an image by the digest of its configuration, or (containerd's store) of its manifest.
        configuration = answer.json().get("config") or {}
        return image_id in (digest, configuration.get("digest"))

    def _manifest(self, repository: str, digest: str) -> dict[str, Any]:
        accepted = {"Accept": ", ".join((*_MANIFESTS, *_INDEXES))}
        answer = self._ask("GET", f"{repository}/manifests/{digest}", accepted)
        if answer.status_code != 200:
            raise RegistryError(f"The registry {self.address} does not show {repository}@{digest}: {_why(answer)}.")
        try:
            found: dict[str, Any] = answer.json()
        except ValueError:
            raise RegistryError(f"What answers at {self.address} is no registry.") from None
        return {"mediaType": answer.headers.get("Content-Type", ""), **found}

    def remove(self, repository: str, digest: str) -> None:
        """Forget an image and its tags; gone already is fine. Its space is freed by the registry's own clean-up.

        Raises
        ------
        RegistryError
            When it does not answer or does not allow it.
        """
        answer = self._ask("DELETE", f"{repository}/manifests/{digest}")
        if answer.status_code == 405:
            raise RegistryError(
                f"The registry {self.address} does not let images be removed: its configuration needs "
                "storage.delete.enabled: true."
            )
        if answer.status_code not in (202, 404):
            raise RegistryError(f"The registry {self.address} does not remove {repository}@{digest}: {_why(answer)}.")

    def _ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> requests.Response:
        url = f"{self._base}/{path}"
        try:
            return self._session.request(method, url, headers=headers, timeout=_TIMEOUT_SECONDS)
        except requests.exceptions.SSLError as error:
            raise RegistryError(
                f"The certificate of the registry {self.address} is not trusted here ({error}). "
                f"Who vouches for it belongs into {CERTIFICATES / self.address / 'ca.crt'}."
            ) from error
        except requests.RequestException as error:
            raise RegistryError(
                f"The registry {self.address} does not answer ({error}). See the runbook, “The registry is gone”."
            ) from error


def _on_loopback(address: str) -> bool:
    host = address.rpartition(":")[0]
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _why(answer: requests.Response) -> str:
    return f"HTTP {answer.status_code} {' '.join(answer.text.split())[:200]}".strip()
