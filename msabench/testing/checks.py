"""The list of checks, and the ways to run them: one by one, all at once, or as a pytest function."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.methods.info import MethodInfo
from msabench.missingness.conditions import LETTERS, MODALITIES
from msabench.missingness.regimes import BUILT_IN as REGIMES
from msabench.optional import require
from msabench.testing import form, prediction, training


@dataclass(frozen=True)
class Check:
    """One thing that a method must hold.

    Attributes:
        function: What looks at it; its docstring says what is required.
        settings: Its keyword arguments.
    """

    function: Callable[..., None]
    settings: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """Its name in reports, e.g. ``removed_modality_tells_nothing-text``."""
        return "-".join((self.function.__name__, *self.settings.values()))

    def __call__(self, cls: type[MSAMethod], folder: Path) -> None:
        """Look at a method.

        Args:
            cls: Its class.
            folder: An empty folder for what a training leaves.

        Raises:
            AssertionError: The method does not hold it; one sentence says what is wrong.
        """
        __tracebackhide__ = True
        self.function(cls, folder, **self.settings)


_EVERY = (
    form.found_by_its_class_path,
    form.arguments_are_explicit_and_documented,
    form.evaluation_is_the_base_s,
    form.unknown_variant_is_refused,
    prediction.sequences_of_length_one,
    prediction.order_of_clips,
    prediction.batch_composition,
    prediction.present_modality_is_read,
    prediction.unobserved_frames,
    prediction.evaluation_sees_no_training_information,
    training.every_variant,
    training.batch_of_one,
    training.modality_missing_for_a_whole_batch,
    training.checkpoint_round_trip,
)


_REGIMES = tuple(name for name in REGIMES if name != "only")
"""Regimes under which every modality is there in some clips."""


def checks_of(info: MethodInfo) -> list[Check]:
    """The checks that concern a method.

    Args:
        info: Its facts, which say for example which tasks it handles.
    """
    every = [Check(function) for function in _EVERY if info.variants or function is not training.every_variant]
    by_task = [
        Check(function, {"task": task})
        for function in (prediction.every_cell, training.twenty_steps_lower_the_loss)
        for task in info.tasks
    ]
    by_modality = [Check(prediction.removed_modality_tells_nothing, {"modality": name}) for name in MODALITIES]
    by_regime = [Check(training.gradient_reaches_every_parameter, {"regime": name}) for name in _REGIMES]
    by_regime += [Check(training.specialist_trains_what_it_reads, {"only": letter}) for letter in LETTERS]
    return [*by_task, *by_modality, *by_regime, *every]


def method_tests(method: type[MSAMethod] | str) -> Callable[..., None]:
    """All checks of a method as one pytest function, with a report for each.

    ```python
    from msabench.testing import method_tests
    from my_net import MyNet

    test_my_net = method_tests(MyNet)
    ```

    Args:
        method: Its class, or the name or class path that a config has.

    Returns:
        A test function; give it a name that begins with ``test``.

    Raises:
        MSABenchError: There is no such method, or pytest is not installed.
    """
    pytest: Any = require("pytest", "dev")
    cls = _class_of(method)

    def test(check: Check, tmp_path: Path) -> None:
        __tracebackhide__ = True
        check(cls, tmp_path)

    test.__doc__ = f"What msabench requires of {cls.__name__}."
    parametrised: Callable[..., None] = pytest.mark.parametrize("check", checks_of(cls.info), ids=str)(test)
    return parametrised


def check_method(method: type[MSAMethod] | str) -> None:
    """Run all checks of a method, without pytest.

    Args:
        method: Its class, or the name or class path that a config has.

    Raises:
        MSABenchError: There is no such method.
        AssertionError: The method fails some checks; one line each.
    """
    cls = _class_of(method)
    failed = [line for check in checks_of(cls.info) if (line := _failure(check, cls))]
    if failed:
        raise AssertionError(_listed(cls, failed))


def _failure(check: Check, cls: type[MSAMethod]) -> str:
    with tempfile.TemporaryDirectory(prefix="msabench-check-") as folder:
        try:
            check(cls, Path(folder))
        except Exception as error:
            return f"{check}: {error}"
    return ""


def _listed(cls: type[MSAMethod], failed: Sequence[str]) -> str:
    return "\n".join([f"{cls.__name__} fails {len(failed)} checks", *(f"- {line}" for line in failed)])


def _class_of(method: type[MSAMethod] | str) -> type[MSAMethod]:
    return registry.method_class(registry.name_of(method)) if isinstance(method, str) else method
