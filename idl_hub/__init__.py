"""idl_hub: a GPU classroom on JupyterHub."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("idl_hub")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
