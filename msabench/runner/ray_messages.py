"""What the processes of a run on Ray tell each other: the run itself, the one that speaks with Ray, those on nodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Order:
    """A task to run on a node.

    Attributes:
        task: The task, pickled.
        version: Version of msabench where the task was planned.
        folder: Working folder there; relative paths count from it.
        marks: Files in folders that the nodes must share; they are there as long as the run.
        environment: Variables of the worker beside those of the node.
        accelerator: Lightning's accelerator.
        lost: How many workers of the task were lost before, with their nodes.
    """

    task: bytes
    version: str
    folder: str
    marks: Sequence[str]
    environment: Mapping[str, str]
    accelerator: str
    lost: int = 0


@dataclass(frozen=True)
class Node:
    """A node that lives.

    Attributes:
        name: Its host.
        cpus: CPUs that Ray may give out.
        gpus: Likewise, GPUs.
    """

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """Which cluster to connect to.

    Attributes:
        address: ``auto`` or ``host:port``; None for one on this machine that ends with this process.
        cpus: CPUs of that one.
        gpus: Its GPUs.
    """

    address: str | None
    cpus: int = 1
    gpus: int = 0


@dataclass(frozen=True)
class Orders:
    """A run.

    Attributes:
        orders: What is to be run, in this order.
        per_device: Jobs on each GPU; 0 for jobs that need none.
        most: Most jobs at a time; None for as many as the nodes have room for.
        retries: How often a job is handed out again after its node was lost.
        patience: Seconds to wait for a node that has room for a job.
    """

    orders: Sequence[Order]
    per_device: int
    most: int | None
    retries: int
    patience: float


@dataclass(frozen=True)
class Ready:
    """The cluster was found, with these nodes."""

    nodes: Sequence[Node]


@dataclass(frozen=True)
class Begun:
    """The order with this number runs on a node."""

    number: int
    node: str


@dataclass(frozen=True)
class Lost:
    """The order with this number was lost, and is handed out again."""

    number: int
    why: str


@dataclass(frozen=True)
class Unfit:
    """A node cannot run jobs: no other is started, and those that run go on to their end."""

    why: str


@dataclass(frozen=True)
class Ended:
    """The order with this number ended, as in ``executor.Finished``."""

    number: int
    code: int
    error: str


@dataclass(frozen=True)
class Problem:
    """It cannot go on; one sentence."""

    sentence: str


def jobs_at_once(nodes: Sequence[Node], per_device: int) -> int:
    """How many jobs the nodes have room for, when no one else uses them.

    Args:
        nodes: The nodes.
        per_device: Jobs on each GPU; 0 for jobs that need none. Each job takes a CPU.
    """
    if not per_device:
        return sum(int(node.cpus) for node in nodes)
    return sum(min(int(node.cpus), int(node.gpus) * per_device) for node in nodes)


def needs(per_device: int) -> str:
    """In words, what of a node a job takes.

    Args:
        per_device: As in ``Orders``.
    """
    if not per_device:
        return "1 CPU"
    return "1 CPU and 1 GPU" if per_device == 1 else f"1 CPU and 1/{per_device} of a GPU"
