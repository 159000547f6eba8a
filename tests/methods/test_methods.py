"""What every method must hold, for every method that is registered; the checks are ``msabench.testing``'s."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from msabench.methods import registry
from msabench.testing import Check, build, checks_of, data_module, random_corpus

CASES = [
    pytest.param(name, check, id=f"{name}-{check}")
    for name in sorted(registry.methods())
    for check in checks_of(registry.method_info(name))
]


# Their checkpoints are offered the methods that are named here.
@pytest.mark.by_sources("msabench/methods/lf_dnn.py", "msabench/methods/constant.py", method="name")
@pytest.mark.parametrize(("name", "check"), CASES)
def test_method(name: str, check: Check, tmp_path: Path) -> None:
    check(registry.method_class(name), tmp_path)


@pytest.mark.by_sources(method="name")
@pytest.mark.parametrize("name", ["corrkd", "hrlf", "kt"])
def test_a_teacher_that_teaches_is_frozen_and_has_no_dropout(name: str) -> None:
    method = build(registry.method_class(name), data_module(random_corpus())).train()
    assert isinstance(method.teacher, torch.nn.Module)
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert not any(part.training for part in method.teacher.modules())
    assert method.training
    method.eval().train()
    assert not method.teacher.training
