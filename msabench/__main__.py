"""The command ``msabench``: hands each verb to the function that does it.

Training verbs go to Lightning's command line; all others are plain functions with typed arguments, imported only when
called, so that listing and tables do not wait for torch.
"""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, get_type_hints

from msabench import __version__
from msabench.errors import MSABenchError, one_of, printable
from msabench.interruption import interruptible, signal_of

TRAINING_VERBS = {
    "fit": "train one method: msabench fit --config umdf_mosei",
    "validate": "evaluate a checkpoint on the validation split",
    "test": "evaluate a checkpoint on every cell of the grid, as Lightning does",
}

LIGHTNING_PREDICT = ("--config", "-c", "--ckpt_path", "--trainer", "--data", "--model", "--seed_everything")
"""Options, or the beginnings of their names, by which ``predict`` is Lightning's: test predictions of every cell."""

OWN_PREDICT = ("--checkpoint", "--input")
"""Options by which it is ours: predictions of one's own clips."""


@dataclass(frozen=True)
class Verb:
    """One verb that is a plain function.

    Attributes:
        target: ``module:function``.
        help: One line for the overview.
        operands: Its arguments that are given without their names; None for those without a default of verbs of two
            words, and none of other verbs.
    """

    target: str
    help: str
    operands: tuple[str, ...] | None = None

    def load(self) -> Callable[..., Any]:
        """Import the function."""
        module, _, name = self.target.partition(":")
        function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return function


VERBS = {
    # Functions are not called as those of the package are, which the parser would import for their names alone.
    "predict": Verb(
        "msabench.evaluation.predict_command:predict_file",
        "predict clips of your own; with --config, test predictions for every cell of the grid",
    ),
    "evaluate": Verb(
        "msabench.evaluation.command:evaluate_checkpoint", "evaluate a checkpoint over a grid and store records"
    ),
    "score": Verb(
        "msabench.evaluation.score:score", "score predictions that were made elsewhere", operands=("predictions",)
    ),
    "masks export": Verb(
        "msabench.evaluation.masks_command:export", "write what test cells leave to see, for any program", operands=()
    ),
    "run": Verb("msabench.runner.command:run", "run every job of a suite that the store does not have yet"),
    "tune": Verb(
        "msabench.runner.tune_command:tune", "search settings by val/task, and train the best under fresh seeds"
    ),
    "table": Verb("msabench.tables.command:table", "print result tables, tables of papers, or what the store holds"),
    "compare": Verb("msabench.tables.compare:compare", "compare methods with a baseline, and rank them"),
    "regimes": Verb("msabench.tables.regimes:regimes", "show what seeing missing data in training changes"),
    "specialists": Verb(
        "msabench.tables.specialists:specialists", "show one model for all conditions beside one per condition"
    ),
    "tuning": Verb("msabench.tables.tuning:tuning", "show what tuned settings change, and what they took"),
    "figures": Verb("msabench.figures.command:figures", "draw figures of stored results"),
    "audit": Verb("msabench.audit.command:audit", "check published numbers, or your own"),
    "costs": Verb("msabench.tables.costs:costs", "print what methods cost: parameters, seconds, memory"),
    "metrics": Verb("msabench.tables.metrics:metrics", "recompute metrics from stored predictions, beside the records"),
    "regress": Verb("msabench.runner.regress:regress", "train every method briefly and compare F1 with the record"),
    "methods": Verb("msabench.tables.methods:methods", "list the methods (see also: methods new)"),
    "methods new": Verb("msabench.methods.new:new", "write a method of your own, with configs and a test"),
    "configs": Verb("msabench.training.command:configs", "list, print or copy msabench's configs", operands=("name",)),
    "suites": Verb("msabench.runner.command:suites", "list the suites and their jobs"),
    "leaderboard build": Verb(
        "msabench.leaderboard.command:build", "build the leaderboard as pages that open from disk"
    ),
    "leaderboard add": Verb("msabench.leaderboard.command:add", "check a contributor's records and admit them"),
    "leaderboard intervals": Verb("msabench.leaderboard.command:intervals", "make the intervals that the pages show"),
    "leaderboard readme": Verb(
        "msabench.leaderboard.command:readme", "write the leaderboard's README from the records"
    ),
    "store verify": Verb("msabench.results.verify:verify", "say what of a store is damaged"),
    "checkpoint export": Verb(
        "msabench.evaluation.checkpoint_commands:checkpoint_export", "export a checkpoint as a folder to pass on"
    ),
    "checkpoint info": Verb(
        "msabench.evaluation.checkpoint_commands:checkpoint_info", "say what a checkpoint is, and verify its hash"
    ),
    "data list": Verb("msabench.data.commands:data_list", "list corpora, feature files, and what is here"),
    "data fetch": Verb("msabench.data.commands:data_fetch", "download a corpus, or say how to get it"),
    "data convert": Verb("msabench.data.commands:data_convert", "convert a feature file into the fast store"),
    "data verify": Verb("msabench.data.commands:data_verify", "check a feature file thoroughly"),
    "data describe": Verb("msabench.data.probe:data_describe", "sizes, label shares and what a ridge probe reaches"),
}


def overview() -> str:
    """The text of ``msabench --help``."""
    rows = [*TRAINING_VERBS.items(), *((name, verb.help) for name, verb in VERBS.items())]
    width = max(len(name) for name, _ in rows) + 2
    lines = "\n".join(f"  {name:<{width}}{text}" for name, text in rows)
    return (
        f"msabench {__version__}: multimodal sentiment analysis with missing modalities\n\n"
        f"usage: msabench VERB [options]   (msabench VERB --help for its options)\n\n{lines}\n\n"
        "  --debug        show the traceback of an error\n"
        "  --plugins X    methods, corpora, regimes from outside: Python files or modules, separated by commas\n"
        "  --version      print the version"
    )


def dispatch(words: list[str]) -> int:
    """Run one command line.

    Args:
        words: The words after ``msabench``.

    Returns:
        The exit code.

    Raises:
        MSABenchError: The verb or one of its arguments is not allowed.
    """
    if not words or words[0] in ("-h", "--help", "help"):
        print(overview())
        return 0
    if words[0] == "--version":
        print(__version__)
        return 0
    if words[0] in TRAINING_VERBS or (words[0] == "predict" and _is_lightnings(words[1:])):
        from msabench.training.short_help import FULL, short_help

        if {"-h", "--help"} & set(words[1:]):
            print(short_help(words[0]))
            return 0
        from msabench.cli import main as training_main

        return training_main(["--help" if word == FULL else word for word in words])
    group = {name: verb for name, verb in VERBS.items() if name.startswith(f"{words[0]} ")}
    if words[0] in VERBS and (len(words) == 1 or words[1].startswith("-")):
        # It stands alone, beside others that begin with it.
        group = {}
    if group and (len(words) == 1 or words[1] in ("-h", "--help")):
        width = max(map(len, group)) + 2
        print("\n".join(f"msabench {name:<{width}}{verb.help}" for name, verb in group.items()))
        return 0
    name, rest = (" ".join(words[:2]), words[2:]) if group else (words[0], words[1:])
    if name not in VERBS:
        raise one_of("verb", name, _allowed(words[0], group))
    return _call(name, VERBS[name], rest)


def _allowed(word: str, group: Iterable[str]) -> list[str]:
    """What could stand in the place of an unknown verb that begins with a word."""
    return [*([word] if word in VERBS else []), *group] or [*TRAINING_VERBS, *VERBS]


def _is_lightnings(words: list[str]) -> bool:
    """Whether ``predict`` is to predict the test split by a config, and not clips of one's own by a checkpoint.

    Raises:
        MSABenchError: Options of both are given.
    """
    names = [word.partition("=")[0] for word in words]
    ours = next((name for name in names if name in OWN_PREDICT), None)
    theirs = next((name for name in names if name.partition(".")[0] in LIGHTNING_PREDICT), None)
    if ours and theirs:
        raise MSABenchError(
            f"msabench predict takes {ours} or {theirs}, not both: --checkpoint and --input predict clips of your own, "
            "--config and --ckpt_path the test split in every cell"
        )
    return theirs is not None


def with_plugins(words: list[str]) -> list[str]:
    """Take ``--plugins`` out of a command line, and what it names in.

    Args:
        words: The words after ``msabench``.

    Returns:
        The others.

    Raises:
        MSABenchError: A plug-in is missing or cannot be read.
    """
    rest: list[str] = []
    named: list[str] = []
    waiting = iter(words)
    for word in waiting:
        option, equals, value = word.partition("=")
        if option != "--plugins":
            rest.append(word)
            continue
        value = value if equals else next(waiting, "")
        if not value or value.startswith("--"):
            raise MSABenchError("--plugins needs a Python file or the name of a module, several separated by commas")
        named += value.split(",")
    if named:
        from msabench.methods.registry import add_plugins

        add_plugins(named)
    return rest


def _call(name: str, verb: Verb, words: list[str]) -> int:
    function = verb.load()
    result = function(**arguments_of(name, function, words))
    if isinstance(result, str):
        print(printable(result))
        return 0
    return result if isinstance(result, int) else 0


def arguments_of(name: str, function: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """Read a verb's command line.

    Args:
        name: The verb, for messages.
        function: The function that does it; its signature and docstring give options and help.
        words: The words after the verb.

    Returns:
        The function's keyword arguments.

    Raises:
        MSABenchError: An option is unknown, missing, or has a value that is not allowed.
    """
    from argparse import ArgumentError

    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"msabench {name}", description=VERBS[name].help, exit_on_error=False)
    helps, hints = _help_of(function), get_type_hints(function)
    lists, flags, positionals = _list_options(function), _flags(function), _positionals(name, function)
    for option, default in lists.items():
        # A list[str] parameter would want JSON on the command line; a plain nargs takes words.
        kind = int if str(hints[option]).startswith("list[int]") else str
        parser.add_argument(f"--{option}", nargs="+", type=kind, default=default, help=helps.get(option, ""))
    needed = inspect.signature(function).parameters
    for option in positionals:
        count = None if needed[option].default is inspect.Parameter.empty else "?"
        parser.add_argument(option, nargs=count, type=hints[option], help=helps.get(option, ""))
    for option in flags:
        # A bool parameter would want a value: --dry_run true.
        names = dict.fromkeys((f"--{option.replace('_', '-')}", f"--{option}"))
        parser.add_argument(*names, action="store_true", help=helps.get(option, ""))
    parser.add_function_arguments(_with_types(function, hints), skip={*lists, *flags, *positionals})
    try:
        given = parser.instantiate(parser.parse_args(words))
    except ArgumentError as error:
        from msabench.training.parser_messages import sentence

        raise MSABenchError(f"msabench {name}: {sentence(str(error), hints)}") from error
    values: dict[str, Any] = given.as_dict()
    return values


def _with_types(function: Callable[..., Any], hints: dict[str, Any]) -> Callable[..., Any]:
    """The same function with types where it has their names.

    To find out what a name means, the parser would run what its module imports for type checkers alone; and the module
    of another function of the package, where one has the same name as this.
    """
    parameters = inspect.signature(function).parameters.values()
    typed = update_wrapper(lambda: None, function)
    typed.__annotations__ = hints
    typed.__qualname__ = f"_{function.__name__}"
    typed.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(annotation=hints[parameter.name]) for parameter in parameters]
    )
    del typed.__wrapped__
    return typed


def _list_options(function: Callable[..., Any]) -> dict[str, Any]:
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.items()
    return {name: parameter.default for name, parameter in parameters if str(hints[name]).startswith("list[")}


def _flags(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.items()
    return [name for name, parameter in parameters if parameter.default is False]


def _positionals(name: str, function: Callable[..., Any]) -> list[str]:
    operands = VERBS[name].operands
    if operands is not None:
        return list(operands)
    if " " not in name:
        return []
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is inspect.Parameter.empty]


def _help_of(function: Callable[..., Any]) -> dict[str, str]:
    from docstring_parser import parse

    return {item.arg_name: item.description or "" for item in parse(function.__doc__ or "").params}


def main() -> int:
    """Entry point of the console script; turns errors and signals into one sentence and an exit code."""
    words = [word for word in sys.argv[1:] if word != "--debug"]
    code: int | None = None
    with interruptible() as received:
        try:
            code = _outcome(words, debug="--debug" in sys.argv[1:])
        except KeyboardInterrupt as error:
            received.signal = received.signal or signal_of(error)
        except SystemExit:
            # Lightning exits so after it has cleaned up an interrupted training, and --help without one.
            if received.signal is None:
                raise
    # A verb that has said so itself returns the code.
    if received.signal is not None and code != 128 + received.signal:
        print(f"msabench: {words[0]} was ended by {received.signal.name} before it was done", file=sys.stderr)
        return 128 + received.signal
    assert code is not None
    return code


def _outcome(words: list[str], debug: bool) -> int:
    """Run one command line; errors become a sentence and a code."""
    try:
        return dispatch(with_plugins(words))
    except BrokenPipeError:
        # The reader of our output went away (msabench table | head).
        sys.stderr.close()
        return 0
    except MSABenchError as error:
        if debug:
            traceback.print_exc()
        print(f"msabench: {printable(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        if debug:
            traceback.print_exc()
        print(f"msabench: {printable(str(error))}", file=sys.stderr)
        return 2
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            text = printable(f"{type(error).__name__}: {error}")
            print(f"msabench: {text} (--debug shows the traceback)", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
