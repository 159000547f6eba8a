"""The parser's reports of what it cannot read, reworded as one sentence for the user. Free of torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

from msabench.errors import nearest, one_of
from msabench.methods import registry


def sentence(message: str, settings: Iterable[str]) -> str:
    """Reword a report of jsonargparse.

    Args:
        message: The report, over one line or several.
        settings: Options and keys that there are, from which a mistyped one is guessed.

    Returns:
        One sentence; the report on one line where it is of no known kind.
    """
    text = " ".join(message.split())
    unknown_option = re.search(r"unrecognized arguments: (\S+)", text)
    if unknown_option:
        return _no_such("option", unknown_option[1].partition("=")[0], [f"--{name}" for name in settings])
    unknown_key = re.search(r"does not accept option '([^']+)'", text)
    if unknown_key:
        return _no_such("setting", unknown_key[1], settings)
    in_class = re.search(r"Problem with given class_path '([\w.]+)': (.+)", text)
    if in_class:
        return _of_class(in_class[1], in_class[2])
    unknown_section = re.search(r"Option '([^']+)' is not accepted", text)
    if unknown_section:
        return _no_such("setting", unknown_section[1], settings)
    unknown_class = re.search(r"Expected a dot import path string: ([\w.]+)", text)
    if unknown_class:
        return str(one_of("method class", unknown_class[1], [_class_name(name) for name in registry.methods()]))
    without = re.search(r"arguments are required: (?:(?:fit|validate|test|predict)\.)?(data\.dataset|model)\b", text)
    if without:
        shared = "configs/<method>.yaml is only what the configs/<method>_<dataset>.yaml share"
        return f"nothing sets {without[1]}, which is needed; {shared}"
    return _wrong_value(text) or text


def _of_class(path: str, problem: str) -> str:
    named = {registry.class_path(name): name for name in registry.methods()}
    owner = named.get(path, path.rpartition(".")[2])
    unknown = re.search(r"Option '([^']+)' is not accepted", problem)
    if unknown:
        has = registry.arguments_of(owner) if path in named else ()
        said = f"{owner} has no argument {unknown[1]}"
        close = nearest(unknown[1], has)
        if close:
            return f"{said}; did you mean {close}?"
        return f"{said}; it has: {', '.join(has)}" if has else said
    return f"{owner}: {_wrong_value(problem) or problem}"


def _wrong_value(text: str) -> str | None:
    key = re.search(r'Parser key "([\w.]+)"', text)
    value = re.search(r"(?:Given value|Got value): (.+?)(?: - Expected a <class 'NoneType'>.*)?$", text)
    if not key or not value:
        return None
    said = f"{key[1]} {value[1]!r} is not allowed"
    choices = re.search(r"Literal\[(.+?)\]", text)
    if choices:
        return f"{said}; allowed: {choices[1].replace(chr(39), '')}"
    types = re.search(r"Subtypes: \[(.+?)\] Errors", text) or re.search(r"Expected an? (<class '[\w.]+'>)\.", text)
    if types:
        expected = " or ".join(re.sub(r"<class '(.+?)'>", r"\1", types[1]).split(", "))
        return f"{said}; expected {expected.replace('NoneType', 'null')}"
    return None


def _no_such(what: str, name: str, settings: Iterable[str]) -> str:
    close = nearest(name, settings)
    return f"there is no {what} {name}" + (f"; did you mean {close}?" if close else "; see --help for those there are")


def _class_name(method: str) -> str:
    return registry.class_path(method).rpartition(".")[2]
