"""A SLURM for tests: a controller and two nodes on the loopback address, with all they have below one short folder.

No accounting, no cgroups, and memory is watched by sampling, so that it runs in containers and without root. The nodes
have more processors and memory than the machine, since what runs on them waits most of the time.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from msabench.runner.worker import die_with

NODES = ("n1", "n2")
DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")
PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
"""Daemons are not on everybody's path."""

PATIENCE = 300.0
"""Seconds after which what is waited for will not come, on a busy machine."""

CONFIGURATION = """\
ClusterName=msabench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# How long a job that is put back into the queue waits there, too.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
# The node with the least to do comes first, so that jobs are on both.
SelectTypeParameters=CR_CPU_Memory,CR_LLN
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SchedulerParameters=bf_interval=1,sched_interval=2
KillWait=1
MessageTimeout=5
ReturnToService=2
MailProg=/bin/true
PropagateResourceLimits=NONE
DefMemPerCPU=2000
NodeName={nodes[0]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=32000
NodeName={nodes[1]} NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=32000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """Which programs are not here, as a reason to skip a test; empty if all are."""
    absent = [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=PATH) is None]
    return f"needs {', '.join(absent)}; apt-get install slurm-wlm munge" if absent else ""


class CannotStartError(Exception):
    """A daemon ended, or did not come up; says so in one line."""


class SlurmCluster:
    """A cluster that runs.

    Args:
        folder: An empty folder of its own; its path must be short, since sockets stand in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.configuration)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        # The kernel ends the daemons with the thread that started them, so that is one that lasts.
        self._starter = ThreadPoolExecutor(max_workers=1)

    def start(self) -> None:
        """Start all daemons and wait until the nodes are idle.

        Raises:
            CannotStartError: They do not come up.
        """
        with ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(3)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            ports = [each.getsockname()[1] for each in sockets]
        host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
        text = CONFIGURATION.format(folder=self.folder, host=host, user=user, ports=ports, nodes=NODES)
        self.configuration.write_text(text)
        for name in ("state", *NODES):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        files = {f"--{what}-file": self.folder / f"munge.{what}" for what in ("key", "pid", "log", "seed")}
        # Only its socket need be found, by this user alone, whatever the folders above allow.
        places = [f"{option}={path}" for option, path in files.items()]
        self._start("munge", "munged", "--foreground", "--force", *places, f"--socket={self.folder}/munge.socket")
        self.wait_until(lambda: (self.folder / "munge.socket").exists(), "munge")
        self.start_controller()
        for name in NODES:
            self.start_node(name)
        self.wait_until(lambda: set(self.states().values()) == {"idle"}, "nodes")

    def start_controller(self) -> None:
        """Start the controller with the state that it left, and wait until it answers and has heard of the nodes."""
        self._start("controller", "slurmctld", "-D", "-i")
        self.wait_until(lambda: "UP" in self._said("scontrol", "ping"), "controller")
        nodes = self._daemons.keys() & {*NODES}
        self.wait_until(lambda: not any(self.states()[name].startswith("unknown") for name in nodes), "controller")

    def stop_controller(self) -> None:
        """End the controller as a restart of its machine does: it writes its state."""
        self._end("controller", signal.SIGTERM)

    def start_node(self, name: str) -> None:
        """Start the daemon of a node."""
        self._start(name, "slurmd", "-D", "-N", name)

    def crash_node(self, name: str) -> None:
        """End a node's daemon and all that runs on the node, without a word to the controller."""
        self._end(name, signal.SIGKILL)
        self._kill(f"SLURMD_NODENAME={name}")

    def states(self) -> dict[str, str]:
        """Node -> what the controller says of it, e.g. ``idle``."""
        lines = self._said("sinfo", "--noheader", "--Node", "--format=%N %T").splitlines()
        return dict(line.split() for line in lines if len(line.split()) == 2)

    def ask(self, *command: str) -> str:
        """What a command of SLURM prints.

        Raises:
            AssertionError: It fails.
        """
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def wait_until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something holds.

        Raises:
            CannotStartError: A daemon has ended meanwhile, or it takes too long.
        """
        end = time.monotonic() + PATIENCE
        while not holds():
            ended = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            if ended or time.monotonic() > end:
                name = ended[0] if ended else what
                raise CannotStartError(f"{name} {'ended' if ended else 'did not come up'}: {self._last_words(name)}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End everything that runs here."""
        for name in reversed([*self._daemons]):
            self._end(name, signal.SIGTERM)
        # With the steps of jobs, which outlive the daemons.
        self._kill(f"SLURM_CONF={self.configuration}")
        self._starter.shutdown()

    def _start(self, name: str, program: str, *words: str) -> None:
        parent = os.getpid()
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = self._starter.submit(
                subprocess.Popen,
                [str(shutil.which(program, path=PATH)), *words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),
            ).result()

    def _end(self, name: str, number: int) -> None:
        daemon = self._daemons.pop(name)
        daemon.send_signal(number)
        try:
            daemon.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _kill(self, variable: str) -> None:
        """Kill every process of this cluster that has a variable in its environment, such as ``NAME=value``."""
        own = {os.fsencode(variable), os.fsencode(f"SLURM_CONF={self.configuration}")}
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(entry.name) != os.getpid() and own <= {*(entry / "environ").read_bytes().split(b"\0")}:
                    os.kill(int(entry.name), signal.SIGKILL)

    def _said(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False).stdout

    def _last_words(self, name: str) -> str:
        log = self.folder / f"{name}.out"
        lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
        fatal = [line for line in lines if "fatal" in line or "Error" in line]
        return (fatal or lines or ["no output"])[-1]


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """A cluster for as long as the block lasts.

    Raises:
        CannotStartError: It does not come up here.
    """
    # Not pytest's folder, whose path may be too long for a socket.
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
        cluster = SlurmCluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
