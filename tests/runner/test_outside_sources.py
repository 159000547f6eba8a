"""Files from outside that have a part in a training: another content, another training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from msabench.methods.registry import add_plugins
from msabench.results.provenance import sources_of_data
from msabench.runner.stages import fit_hash
from tests.support.outside_folder import outside_folder, plug_in

folder = pytest.fixture(outside_folder)
pytestmark = pytest.mark.usefixtures("folder")


def hashed(regime: str | None = None, **data: Any) -> str:
    """The hash of a training of ``constant``; ``regime`` in place of its own."""
    config = {
        "data": {"dataset": "synth", **data},
        "trainer": {},
        "model": {"class_path": "msabench.methods.constant.Constant"},
    }
    built: Any = SimpleNamespace(
        config=config,
        datamodule=SimpleNamespace(corpus=SimpleNamespace(revision="r1")),
        trainer=SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu"))),
    )
    task: Any = SimpleNamespace(job=SimpleNamespace(key=SimpleNamespace(seed=1)))
    return fit_hash(built, task, regime)


def test_an_edited_plug_in_makes_another_training() -> None:
    add_plugins([plug_in("my_corpus.py")])
    drawn: dict[str, Any] = {"missing": {"regime": "bad_audio"}}
    read: dict[str, Any] = {"dataset": "my_clips", "features": "columns"}

    def every() -> list[str]:
        return [hashed(), hashed(**drawn), hashed(**read), hashed("complete", **drawn)]

    before = every()
    assert len(set(before)) == 3
    assert before[0] == before[3], "what is shared among regimes does not depend on one from outside"
    Path("my_corpus.py").write_text(Path("my_corpus.py").read_text() + "\n# edited\n")
    after = every()
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False, False, True]


def test_what_is_msabenchs_own_has_no_source() -> None:
    assert sources_of_data("synth", None, "mixed") == {}
    add_plugins([plug_in("my_corpus.py")])
    found = sources_of_data("my_clips", "arrays", "bad_audio")
    assert found.keys() == {"corpus", "regime"}
    assert "reader" not in found["corpus"], "msabench reads this family itself"
