"""The short help of the training verbs says what the parser takes, without the libraries that the parser needs."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from msabench.__main__ import dispatch
from msabench.training import build
from msabench.training.short_help import FULL, SHOWN_OF_TRAINER, settings, short_help

VERBS = {
    "fit": ["fit"],
    "validate": ["validate"],
    "test": ["test"],
    "predict": ["predict", "--config", "umdf_synth"],
}


def flat(values: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict) and values:
        for name, value in values.items():
            yield from flat(value, f"{at}.{name}" if at else name)
    else:
        yield at, values


def test_it_is_what_the_parser_takes() -> None:
    parser = build._parser_only()
    actions = {action.dest: action for action in parser._actions}
    defaults = dict(flat(parser.get_defaults().as_dict()))
    shown = {setting.name: setting for setting in settings()}
    assert len(shown) == len(settings())
    for name, setting in shown.items():
        assert setting.help, name
        if not name == "seed_everything":
            assert " ".join(str(actions[name].help).split()).startswith(setting.help), name
        if setting.default is ...:
            assert actions[name].required, name
        else:
            default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            found = defaults[name]
            assert (list(found) if isinstance(found, tuple) else found) == default, name
    # All of ours are there, and what links to another is not.
    ours = {name for name in actions if name.startswith("data.") and name not in ("data.seed", "data.missing")}
    assert ours == {name for name in shown if name.startswith("data.")}
    assert {f"trainer.{name}" for name in SHOWN_OF_TRAINER} == {name for name in shown if name.startswith("trainer.")}


def test_own_settings_have_their_types() -> None:
    for name, (kind, _, _) in build.OWN_SETTINGS.items():
        assert kind == in_words(build._OWN_TYPES[name])


def in_words(kind: Any) -> str:
    """A type as the help has it."""
    if get_args(kind):
        return " | ".join(map(in_words, get_args(kind)))
    return "None" if kind is type(None) else kind.__name__ if isinstance(kind, type) else str(kind)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_every_training_verb_has_it(verb: str, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch([*VERBS[verb], option]) == 0
    out = capsys.readouterr().out
    assert out.strip() == short_help(verb)
    assert f"msabench {verb} {FULL} has every setting" in out
    assert "  --data.dataset (required)\n" in out
    assert "  --data.missing.rate = [0.1, 0.9]\n" in out
    assert "  --trainer.max_epochs = 50\n" in out
    assert "  --early_stop = null\n" in out
    assert ("--ckpt_path (required)" in out) == (verb != "fit")
    assert max(map(len, out.splitlines())) <= 120


def test_the_full_help_has_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        dispatch(["fit", FULL])
    assert done.value.code == 0
    assert "--trainer.reload_dataloaders_every_n_epochs" in capsys.readouterr().out


def test_it_imports_neither_torch_nor_lightning() -> None:
    code = (
        "import sys\nfrom msabench.__main__ import dispatch\ndispatch(['fit', '--help'])\n"
        "assert not {'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
