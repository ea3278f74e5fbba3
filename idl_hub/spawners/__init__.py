"""How a student's server is started, with its GPU."""

from idl_hub.spawners.docker import GPUDockerSpawner
from idl_hub.spawners.gpu import GPUSpawnerMixin
from idl_hub.spawners.process import GPUProcessSpawner

__all__ = ["GPUDockerSpawner", "GPUProcessSpawner", "GPUSpawnerMixin"]
