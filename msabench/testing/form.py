"""What a method's class must say of itself, and what it must leave alone."""

from __future__ import annotations

import inspect
from pathlib import Path

from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.testing.corpora import data_module, random_corpus
from msabench.testing.subject import build, hold

EVALUATION_STEPS = (
    "validation_step",
    "test_step",
    "predict_step",
    "on_validation_epoch_end",
    "on_test_epoch_end",
)
"""What every number in a table goes through."""


def found_by_its_class_path(cls: type[MSAMethod], folder: Path) -> None:
    """A config that names the class finds it, and its facts, without importing its file."""
    path = f"{cls.__module__}.{cls.__qualname__}"
    name = registry.name_of(path)
    hold(name == cls.info.name, f"the file of {path} gives its name as {name}, the class as {cls.info.name}")


def arguments_are_explicit_and_documented(cls: type[MSAMethod], folder: Path) -> None:
    """The constructor takes named arguments, and the class's docstring says of each what it is: both make its help."""
    text = cls.__doc__ or ""
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        hold(parameter.kind is not parameter.VAR_KEYWORD, f"the constructor takes **{name}; give every argument a name")
        hold(name == "self" or f"{name}:" in text, f"the docstring of {cls.__name__} does not say what {name} is")


def evaluation_is_the_base_s(cls: type[MSAMethod], folder: Path) -> None:
    """Validation, test and prediction are not overridden."""
    for step in EVALUATION_STEPS:
        hold(
            getattr(cls, step) is getattr(MSAMethod, step),
            f"{cls.__name__} overrides {step}; every method is evaluated by the base's",
        )


def unknown_variant_is_refused(cls: type[MSAMethod], folder: Path) -> None:
    """A variant that ``info.variants`` does not name is an error: the constructor hands it on to the base."""
    try:
        build(cls, data_module(random_corpus()), variant="nonsense")
    except MSABenchError as error:
        hold("unknown variant" in str(error), f"variant nonsense is refused for another reason: {error}")
        return
    raise AssertionError("variant nonsense is taken; hand variant on to super().__init__")
