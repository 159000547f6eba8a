"""Measures what conversion and verification of a large feature file take, in memory and in processor time.

    python benchmarks/speed/conversion.py [--gigabytes 8] [--before 1] [--folder .]
        [--write benchmarks/speed/conversion.md]

A file in MMSA's unaligned layout is written a few clips at a time, then read by ``msabench data convert`` and
``msabench data verify``, each in a process of its own. ``--before`` is the size at which the revision that
``revisions.BEFORE`` names is measured beside today's, which takes 1.6 times the file's size of memory. Twice
``--gigabytes`` of disk are needed in ``--folder`` while it runs. Nothing is asserted here;
``tests/data/test_conversion.py`` holds that memory does not grow with the file.
"""

from __future__ import annotations

import os
import pickle
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import revisions  # noqa: E402
from benchmarks.speed.command import parser_of, show  # noqa: E402

SHAPES = {"text": (50, 768), "audio": (500, 74), "vision": (500, 35)}
"""Steps and features of a clip, as in MOSEI's unaligned file."""

SHARES = {"train": 0.715, "valid": 0.08, "test": 0.205}
TOGETHER = 64
"""Clips that are written together."""

GB = 1e9
INTERVAL = 0.02
"""Seconds between two looks at a process's memory."""


@dataclass(frozen=True)
class Cost:
    """What a call took.

    Attributes:
        seconds: Processor seconds, the start of Python included.
        anonymous: Largest resident memory that no file stands behind, as far as was seen, in bytes.
        resident: Largest resident memory, pages of mapped files and libraries included, in bytes.
    """

    seconds: float
    anonymous: int
    resident: int


def small(value: object) -> bytes:
    """What a pickle needs for a value, without the memo, so that it can stand anywhere in another pickle."""
    stream = BytesIO()
    pickler = pickle.Pickler(stream, protocol=3)
    pickler.fast = True
    pickler.dump(value)
    return stream.getvalue()[2:-1]


def clips(rng: np.random.Generator, n: int, shape: tuple[int, int], dtype: str) -> Iterator[bytes]:
    """Features of clips that are padded at the end, a few at a time."""
    steps, dims = shape
    drawn = rng.standard_normal((TOGETHER, steps, dims), dtype=np.float32).astype(dtype)
    for start in range(0, n, TOGETHER):
        lengths = 1 + np.arange(start, start + TOGETHER) * 7 % steps
        frames = np.where((np.arange(steps) < lengths[:, None])[:, :, None], np.roll(drawn, start, axis=1), 0)
        yield frames[: n - start].tobytes()


def generate(path: Path, n_bytes: int, dtype: str) -> int:
    """Write a feature file of about a size; returns the bytes of its largest array."""
    per_clip = sum(steps * dims for steps, dims in SHAPES.values()) * np.dtype(dtype).itemsize
    rng = np.random.default_rng(0)
    largest = 0
    with path.open("wb") as stream:
        stream.write(pickle.PROTO + b"\x04" + pickle.EMPTY_DICT + pickle.MARK)
        for name, share in SHARES.items():
            n = max(2, int(share * n_bytes / per_clip))
            stream.write(small(name) + pickle.EMPTY_DICT + pickle.MARK)
            for modality, shape in SHAPES.items():
                size = n * shape[0] * shape[1] * np.dtype(dtype).itemsize
                largest = max(largest, size)
                blank = small((0,)) + small(b"b") + pickle.TUPLE3 + pickle.REDUCE
                stream.write(small(modality) + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n" + blank)
                stream.write(pickle.MARK + small(1) + small((n, *shape)) + small(np.dtype(dtype)) + pickle.NEWFALSE)
                stream.write(pickle.BINBYTES8 + size.to_bytes(8, "little"))
                stream.writelines(clips(rng, n, shape, dtype))
                stream.write(pickle.TUPLE + pickle.BUILD)
            words = 2 + np.arange(n) * 7 % 49
            mask = np.arange(50) < words[:, None]
            rest = {
                "text_bert": np.stack([mask * 2000, mask, mask * 0], axis=1).astype(np.float32),
                "audio_lengths": (1 + np.arange(n) * 7 % 500).tolist(),
                "vision_lengths": (1 + np.arange(n) * 7 % 500).tolist(),
                "id": [f"{name}{row // 9}$_${row % 9}" for row in range(n)],
                "regression_labels": (np.arange(n) % 7 - 3).astype(np.float32),
            }
            for key, value in rest.items():
                stream.write(small(key) + small(value))
            stream.write(pickle.SETITEMS)
        stream.write(pickle.SETITEMS + pickle.STOP)
    return largest


def measured(verb: str, path: Path, cache: Path, package: Path = ROOT) -> Cost:
    """What one call of ``msabench data`` takes."""
    words = ["data", verb, "custom", "--path", str(path), "--cache", str(cache)]
    environment = {**revisions.environment(package), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "msabench", *words],
            stdout=said,
            stderr=said,
            cwd=package,
            env=environment,
        )
        anonymous = 0
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("RssAnon:"):
                    anonymous = max(anonymous, int(line.split()[1]) * 1024)
            time.sleep(INTERVAL)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode())
    return Cost(used.ru_utime + used.ru_stime, anonymous, used.ru_maxrss * 1024)


def rows(folder: Path, size: float, dtype: str, packages: dict[str, Path]) -> Iterator[str]:
    """Lines of the table for one file, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as here:
        path = Path(here) / "mine.pkl"
        largest = generate(path, int(size * GB), dtype)
        for verb in ("convert", "verify"):
            for state, package in packages.items():
                with tempfile.TemporaryDirectory(dir=folder) as cache:
                    cost = measured(verb, path, Path(cache), package)
                cells = (f"{path.stat().st_size / GB:.3g} GB", dtype, f"{largest / GB:.2g} GB", f"`data {verb}`", state)
                costs = (f"{cost.anonymous / GB:.2f} GB", f"{cost.resident / GB:.2f} GB", f"{cost.seconds:.1f} s")
                row = f"| {' | '.join((*cells, *costs))} |"
                print(row, file=sys.stderr, flush=True)
                yield row


def report(folder: Path, size: float, before: float) -> str:
    lines = [
        "# Memory of conversion",
        "",
        "What it takes to convert and to verify a generated file in MMSA's unaligned layout (MOSEI's shapes).",
        "RssAnon is the most memory that no file stands behind, looked at every 20 ms; resident is ru_maxrss,",
        "libraries and mapped files included. The smallest file shows what imports take. Processor seconds of one",
        f"thread, the start of Python included. `before` is revision {revisions.BEFORE}, which held whole files.",
        f"Measured with Python {platform.python_version()} by",
        f"`python benchmarks/speed/conversion.py --gigabytes {size:g} --before {before:g} "
        "--write benchmarks/speed/conversion.md`.",
        "",
        "| file | numbers | largest array | call | state | RssAnon | resident | time |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with revisions.checkout() as earlier:
        for dtype in ("float32", "float64"):
            lines += rows(folder, 0.001, dtype, {"now": ROOT})
            lines += rows(folder, before, dtype, {"before": earlier, "now": ROOT})
            lines += rows(folder, size, dtype, {"now": ROOT})
    return "\n".join(lines)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the large file")
    parser.add_argument("--before", type=float, default=1.0, help="size at which the earlier state is measured, too")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where files lie meanwhile")
    given = parser.parse_args()
    text = report(given.folder, given.gigabytes, given.before)
    show(text, given.write)


if __name__ == "__main__":
    main()
