"""How files are read, written, locked and told apart, in one place. Free of torch."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from msabench.errors import MSABenchError

_BLOCK = 1 << 22


def text_of(path: Path) -> str:
    """What a text file holds.

    Raises:
        MSABenchError: It is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise MSABenchError(
            f"{path} is no UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}); save it as UTF-8"
        ) from error


def yaml_of(path: Path, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """What a YAML file holds.

    Args:
        path: The file.
        load: Makes values of its text.

    Raises:
        MSABenchError: It is no UTF-8, or no YAML.
    """
    try:
        return load(text_of(path))
    except yaml.YAMLError as error:
        raise MSABenchError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error


def sha256_of(path: Path) -> str:
    """The sha256 of a file, as 64 hex digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class Stamp:
    """What tells a file from its later versions without reading it.

    Attributes:
        path: Resolved path.
        size: Bytes.
        mtime_ns: Time of the last change of the content, which whoever writes a file may set as they like.
        ctime_ns: Time of the last change of any kind, which they may not.
        inode: Number of the file, another one after a replacement.
    """

    path: str
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    @classmethod
    def of(cls, path: Path) -> Stamp:
        """The stamp of a file as it is now."""
        status = path.stat()
        return cls(str(path.resolve()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class HashMemory:
    """Remembers hashes of files by their stamps, so that 13 GB are not hashed at every start.

    Args:
        folder: Where to remember; one small file for each path, so that processes do not overwrite each other.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, stamp: Stamp) -> str | None:
        """The hash of a file that has not changed since it was remembered, else None."""
        try:
            known = json.loads(self._entry(stamp).read_text(encoding="utf-8"))
            return str(known["sha256"]) if known["stamp"] == asdict(stamp) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, stamp: Stamp, sha256: str) -> None:
        """Remember a hash; where the cache cannot be written, the file is hashed again next time."""
        entry = self._entry(stamp)
        with contextlib.suppress(OSError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            with replacing(entry) as stream:
                stream.write(json.dumps({"stamp": asdict(stamp), "sha256": sha256}).encode())

    def _entry(self, stamp: Stamp) -> Path:
        return self._folder / f"{hashlib.sha256(stamp.path.encode()).hexdigest()[:32]}.json"


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say where it happened if writing fails in the block: a full disk is reported without a file's name.

    Raises:
        OSError: As in the block, with ``path`` as its file where it had none.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextlib.contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file atomically: it appears whole when the block ends, or not at all, also after a power cut.

    Its mode is what the umask leaves, as of any file that is written in place.

    Args:
        path: The file; one that is there is replaced.
        durable: Whether to wait for the disk. Without, a power cut may leave an empty file, so it is for what is
            written often or can be made again.

    Yields:
        A binary stream onto a temporary file in the same folder, which must exist.
    """
    with _temporary(path) as temporary:
        with _written(temporary, path, durable) as stream:
            yield stream
        temporary.replace(path)
    if durable:
        sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file as ``replacing`` does, in UTF-8."""
    with replacing(path) as stream:
        stream.write(text.encode())


@contextlib.contextmanager
def creating(path: Path) -> Iterator[IO[bytes]]:
    """Write a file as ``replacing`` does, but never in the place of another: of several processes one succeeds.

    Yields:
        A binary stream onto a temporary file in the same folder, which must exist.

    Raises:
        FileExistsError: There is such a file, at the beginning or at the end of the block.
        MSABenchError: The file system has no hard links, and another process is writing the file or was killed at it.
    """
    if path.exists():
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    with _temporary(path) as temporary:
        with _written(temporary, path, durable=True) as stream:
            yield stream
        try:
            # Unlike a rename, a link fails if another process was faster.
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:
            _rename_new(temporary, path)
    sync(path.parent)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside ``path`` that nobody else uses; the file is gone at the end whatever happens."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(temporary: Path, path: Path, durable: bool) -> Iterator[IO[bytes]]:
    """A stream onto a new file; errors are about ``path``, which it is to become."""
    with naming(path), temporary.open("xb") as stream:
        yield stream
        stream.flush()
        if durable:
            os.fsync(stream.fileno())


def _rename_new(temporary: Path, path: Path) -> None:
    """``creating`` for file systems without hard links: a lock file instead."""
    lock = path.with_name(f".{path.name}.lock")
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        raise MSABenchError(
            f"another process is writing {path}; if none is running, delete the stale lock {lock}"
        ) from None
    try:
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        temporary.replace(path)
    finally:
        lock.unlink()


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, written to the disk before what follows.

    Without it a rename may reach the disk before the content of what was renamed. Where a folder cannot be opened or
    synced (Windows, some network folders) nothing happens.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def creating_folder(path: Path) -> Iterator[Path]:
    """Make a folder with all that is in it, or nothing: it gets its name when the block ends without an error.

    Args:
        path: The folder to be; an empty one that is there is taken, and those around it are made.

    Yields:
        A folder beside it to write into.

    Raises:
        MSABenchError: Something else is at its place.
    """
    path = path.absolute()
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise MSABenchError(f"{path} is there already; name a folder that is new or empty")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with naming(path):
            temporary.mkdir()
            yield temporary
            if path.is_dir():
                # Not empty any more, it stays, and this fails.
                path.rmdir()
            temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file while in the block; other processes wait. Its folder must exist.

    The file goes with the block. The lock only saves double work. Where locking does not work (some network folders, a
    lock file of another user), the block runs all the same, so what it does must be safe without.
    """
    # Here, since it takes a tenth of a second, and few verbs convert.
    from filelock import FileLock

    # Without locks of the system, a file that merely exists would stand for one, and outlive a killed process.
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError:
        held = False
    else:
        held = True
    try:
        yield
    finally:
        if held:
            # Before the release, not after it: who waits here finds that the file that it then locks has lost its name,
            # and takes a new one, while after the release the name may be that of somebody else's lock.
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()


def format_size(n_bytes: int) -> str:
    """A size for people, e.g. ``0.6 GB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= 0.1 * factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file; False if another process has. Where locking does not work, nothing is locked."""
    # Not by filelock as above: a child process that inherits the file holds the lock on after us, which takes a lock on
    # an open file that we may hand on. Filelock opens its files itself, closed to children.
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        pass
    return True
