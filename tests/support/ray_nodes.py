"""Real Ray clusters on this machine: a head that runs no jobs, and nodes with a CPU each."""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]

SMALL: dict[str, Any] = {"include_dashboard": False, "object_store_memory": 80 << 20}
TRIES = 3
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    # How long processes look for a head that is gone; a minute by default.
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "PYTHONPATH": str(REPOSITORY),
}


class Nodes:
    """A cluster that can lose what it has.

    Attributes:
        cluster: Ray's own, for tests.
        port: Of the head.

    Args:
        count: Nodes beside the head.
    """

    def __init__(self, count: int) -> None:
        from ray.cluster_utils import Cluster

        with socket.socket() as any_port:
            any_port.bind(("", 0))
            self.port = any_port.getsockname()[1]
        self.cluster = Cluster()
        self.add_head()
        for _ in range(count):
            self.add()

    @property
    def address(self) -> str:
        """``host:port`` of the head."""
        return str(self.cluster.address)

    def add_head(self) -> None:
        """Start a head at the port."""
        self._add(num_cpus=0, gcs_server_port=self.port, no_monitor=True)

    def add(self, **resources: float) -> Any:
        """Start a node."""
        return self._add(**{"num_cpus": 1, **resources})

    def _add(self, **settings: Any) -> Any:
        for left in reversed(range(TRIES)):
            try:
                return self.cluster.add_node(**settings, **SMALL)
            # Ray gives a node half a minute to start, which a busy machine may need for more than one.
            except Exception:
                if not left:
                    raise

    def lose(self, node: Any = None) -> None:
        """Kill all processes of a node, the first one if not given."""
        self.cluster.remove_node(node or next(iter(self.cluster.worker_nodes)), allow_graceful=False)


@contextlib.contextmanager
def ray_settings() -> Iterator[None]:
    """Ray with files of its own and quick to give up, for as long as the block lasts."""
    pytest.importorskip("ray.cluster_utils", reason="needs the extra ray")
    # Sockets lie in there, and their names may not be long.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**SETTINGS, "RAY_TMPDIR": folder}.items():
            patch.setenv(name, value)
        yield


@contextlib.contextmanager
def ray_nodes(count: int) -> Iterator[Nodes]:
    """A cluster for as long as the block lasts."""
    with ray_settings():
        nodes = Nodes(count)
        try:
            yield nodes
        finally:
            nodes.cluster.shutdown()


def alive(process: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
