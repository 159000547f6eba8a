"""All methods speak one language: names of arguments, their documentation, the form and size of a method's file."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from msabench.methods import registry

METHODS = sorted(registry.methods())
GUIDE = (Path(__file__).parents[1] / "docs/adding-a-method.md").read_text(encoding="utf-8")

OTHER_WORDS = {
    **dict.fromkeys(("width", "d_model", "embed_dim", "hidden_dim", "channels"), "dim"),
    **dict.fromkeys(("depth", "num_layers", "n_layers"), "layers"),
    **dict.fromkeys(("num_heads", "n_heads", "nhead"), "heads"),
    **dict.fromkeys(("hidden_size", "units"), "hidden"),
    **dict.fromkeys(("alpha", "beta", "l1", "l2", "sigma"), "lambda_<term>"),
    **dict.fromkeys(("tau", "temp"), "temperature"),
    **dict.fromkeys(("learning_rate", "eta"), "lr"),
    **dict.fromkeys(("drop", "p_drop", "dropout_rate"), "dropout"),
    **dict.fromkeys(("clip", "grad_clip", "max_norm"), "gradient_clip"),
    **dict.fromkeys(("bert", "pretrained"), "text_encoder"),
}
"""Name -> what it is called here."""
OF_THE_TEXT_INPUT = {"text_encoder", "text_vector"}
LONGEST = 300
LONGER = {"recap": "the paper's equations and, as variant ``code``, what the official code computes"}
"""Method -> why its file has more lines of code."""


class Argument(NamedTuple):
    method: str
    name: str
    type: str
    doc: str


def file_of(method: str) -> Path:
    return registry.METHODS_FOLDER / f"{method}.py"


@lru_cache
def arguments() -> list[Argument]:
    """Keyword arguments of all constructors, with what their class says about them."""
    found = []
    for method in METHODS:
        kind = registry.method_class(method)
        sections = re.split(r"\n(?=\w+:\n)", inspect.getdoc(kind) or "")
        text = next((part for part in sections if part.startswith("Args:")), "")
        docs = {
            m[1]: " ".join(m[2].split()) for m in re.finditer(r"^    (\w+): (.*(?:\n {6,}.*)*)", text, re.MULTILINE)
        }
        for name, parameter in inspect.signature(kind.__init__).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY:
                found.append(Argument(method, name, str(parameter.annotation), docs.get(name, "")))
    return found


def fault(name: str) -> str | None:
    """What is wrong with the name of an argument, in words."""
    if name.startswith("lambda_"):
        return None
    if name in OTHER_WORDS:
        return f"call it {OTHER_WORDS[name]}"
    if re.fullmatch(r"(weight|w)_(?!decay).*|.*_lambda|(eta|alpha|beta)_.*", name):
        return "the weight of a term of the loss is lambda_<term>"
    of_a_modality = re.fullmatch(r"(text|audio|vision)_(.+)", name)
    if of_a_modality and name not in OF_THE_TEXT_INPUT and not re.fullmatch(r".*_(lr|weight_decay)", name):
        return f"call it {of_a_modality[2]}_{of_a_modality[1]}"
    if re.fullmatch(r"(lr|weight_decay)_(?!patience|epoch).*|(layers|heads|width)_(?!text|audio|vision).*", name):
        return "what belongs to a part is <part>_<quantity>"
    if re.fullmatch(r".*_(dim|depth|size|hidden|units)", name) and name != "kernel_size":
        return "hidden units and widths of a part are <part>_width, its layers <part>_layers"
    return None


@pytest.mark.parametrize("method", METHODS)
def test_arguments_have_the_names_that_they_have_elsewhere(method: str) -> None:
    faults = {a.name: fault(a.name) for a in arguments() if a.method == method}
    assert {name: why for name, why in faults.items() if why} == {}


@pytest.mark.parametrize(
    "name",
    [
        *("width", "depth", "fusion_depth", "text_dropout", "audio_width", "weight_recon", "eta_uni", "beta"),
        *("lr_bounds", "critic_hidden", "vision_out", "dropout_rate", "layers_fusion", "learning_rate"),
    ],
)
def test_other_names_are_noticed(name: str) -> None:
    assert fault(name)


@pytest.mark.parametrize("method", METHODS)
def test_every_argument_is_documented(method: str) -> None:
    assert [a.name for a in arguments() if a.method == method and not a.doc] == []


def test_a_name_has_one_type() -> None:
    types = defaultdict(set)
    for argument in arguments():
        types[argument.name].add(argument.type.removesuffix(" | None"))
    assert {name: found for name, found in types.items() if len(found) > 1} == {}


def test_weights_of_the_loss_and_nothing_else_begin_with_lambda() -> None:
    for a in arguments():
        says = re.match(r"Weight( \w+)? >= 0 of ", a.doc) is not None
        assert says or a.doc.startswith("The same for") if a.name.startswith("lambda_") else not says, a


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("text_encoder", "Folder or hub name of a BERT that reads the tokens"),
        ("lr_patience", "Epochs without a better ``val/task`` before "),
        ("spec", "What the data look like; filled in from the data module."),
    ],
)
def test_the_same_argument_is_described_in_the_same_words(name: str, says: str) -> None:
    described = {a.method: a.doc for a in arguments() if a.name == name}
    if name == "spec":
        described = {method: inspect.getdoc(registry.method_class(method)) or "" for method in METHODS}
    assert len(described) > 10
    assert [method for method, doc in described.items() if says not in doc] == []


def test_the_guide_names_what_several_methods_have() -> None:
    by_name = defaultdict(set)
    for argument in arguments():
        by_name[argument.name].add(argument.method)
    listed = set(re.findall(r"`([\w<>]+)`", GUIDE))
    families = [re.compile(re.sub(r"<\w+>", r"\\w+", name)) for name in listed if "<" in name]
    shared = {name for name, methods in by_name.items() if len(methods) >= 4}
    assert len(shared) > 20
    assert {name for name in shared - listed if not any(family.fullmatch(name) for family in families)} == set()


@pytest.mark.parametrize("method", [name for name in METHODS if name != "constant"])
def test_a_file_begins_with_title_source_and_deviations(method: str) -> None:
    text = ast.get_docstring(ast.parse(file_of(method).read_text(encoding="utf-8"))) or ""
    head, found, _ = text.partition("\nDeviations:\n")
    assert found
    if registry.method_info(method).fidelity != "experimental":  # which has no source to name
        assert re.match(r"[\w+ -]+(, or \w+)?: .+\.\n", text)
        assert "https://" in head
    assert re.search(r"\b[Cc]ode\b", head), "whether there is code, and where"


def code_lines(source: str) -> int:
    """Lines that are neither blank, comment nor docstring."""
    described: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            described |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(source.splitlines(), start=1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") for n, line in lines if n not in described)


def test_lines_of_code_are_counted() -> None:
    source = (
        '"""About."""\n\nimport os  # why\n\n# Why.\ndef f():\n    """One.\n\n    Two.\n    """\n    return [\n    ]\n'
    )
    assert code_lines(source) == 4


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_short_or_has_a_reason(method: str) -> None:
    lines = code_lines(file_of(method).read_text(encoding="utf-8"))
    assert (lines > LONGEST) == (method in LONGER), lines
