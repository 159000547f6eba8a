"""Files appear whole or not at all; what must never be replaced is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from msabench.files import creating, replacing


def test_what_is_created_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new"
    with creating(path) as stream:
        stream.write(b"first")
        assert not path.exists()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_there_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new"
    path.write_bytes(b"first")
    with pytest.raises(FileExistsError), creating(path):
        pytest.fail("the block ran")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("hard_links", [True, False])
def test_whoever_is_slower_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(95, "Operation not supported")

    if not hard_links:
        monkeypatch.setattr(os, "link", unsupported)
    path = tmp_path / "new"

    def overtaken() -> None:
        with creating(path) as slow:
            slow.write(b"second")
            with creating(path) as fast:
                fast.write(b"first")

    with pytest.raises(FileExistsError):
        overtaken()
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [creating, replacing])
def test_a_block_that_fails_leaves_nothing(tmp_path: Path, write: type) -> None:
    def interrupted() -> None:
        with write(tmp_path / "new") as stream:
            stream.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_only_what_is_durable_waits_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    with replacing(tmp_path / "often", durable=False) as stream:
        stream.write(b"word")
    assert synced == []
    for write in (replacing, creating):
        with write(tmp_path / write.__name__) as stream:
            stream.write(b"word")
    # The content, then the folder's list of names.
    assert len(synced) == 4
    assert (tmp_path / "often").read_bytes() == b"word"
