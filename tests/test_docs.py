"""Commands in README and docs exist as written, and files they name are there."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from pathlib import Path

import pytest

import msabench
from msabench.__main__ import TRAINING_VERBS, VERBS, arguments_of, dispatch
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.training.build import resolve

REPOSITORY = Path(__file__).parents[1]
PAGES = [REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")] + sorted((REPOSITORY / "docs").glob("*.md"))


PREDICTIONS = "needs predictions"
"""What stands behind a command in a block that only works on the machine that made the predictions."""

READING = (
    *("table", "compare", "regimes", "figures", "audit", "costs", "metrics", "methods", "suites"),
    *("data list", "store verify"),
)
"""Verbs that read what is there and end at once."""

WRITING = ("methods new",)
"""Verbs that begin like one that reads."""

MENTIONED = ("compare", "figures")
"""Verbs that need options and stand alone where a sentence speaks of them."""


def commands() -> list[tuple[str, str]]:
    """(page, command line) for every ``msabench`` command in a block or in backticks."""
    return [(page, line.partition("#")[0].strip()) for page, line in _lines()]


def _lines() -> list[tuple[str, str]]:
    """The same with what stands behind a command as a remark."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"^```\w*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE))
        inline = re.findall(r"`(msabench [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        lines = [line for line in blocks.splitlines() if line.startswith("msabench ")]
        found += [(page.name, line) for line in [*lines, *inline]]
    return found


@pytest.mark.parametrize(("page", "line"), commands())
def test_command_is_understood(page: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(line)[1:]
    if words[0] in TRAINING_VERBS:
        if len(words) > 1:
            assert words[1] == "--config"
            if "<" not in line and "foo" not in line:
                # A setting of the verb, not of the config.
                resolve([Path(words[2])], words[3 : words.index("--ckpt_path") if "--ckpt_path" in words else None])
        return
    name = " ".join(words[:2]) if " ".join(words[:2]) in VERBS else words[0]
    assert name in VERBS, f"{page}: {line}"
    rest = words[len(name.split()) :]
    placeholders = any(word in ("FILE", "DATASET", "NAME", "foo") for word in rest)
    if rest and not placeholders:
        arguments_of(name, VERBS[name].load(), rest)


def readings() -> list[tuple[str, str]]:
    """(command line, remark) of every command that reads what is there, each once."""
    found = {}
    for _, line in _lines():
        command, _, remark = line.partition("#")
        given = command.removeprefix("msabench ").strip()
        if given.startswith(READING) and not given.startswith(WRITING) and given not in MENTIONED:
            found[command.strip()] = remark.strip()
    return list(found.items())


@pytest.mark.parametrize(("line", "remark"), readings())
def test_a_command_that_reads_does_what_the_page_says(
    line: str, remark: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = shlex.split(line)[1:]
    if "mine.csv" in words:
        pytest.skip("it reads a file of the reader's own")
    for word in words:
        if word.startswith("runs/") and not (REPOSITORY / word).is_dir():
            pytest.skip(f"there is no {word}, which a command before it on the page makes")
        if "tsne" in words and word.startswith("runs/") and not [*(REPOSITORY / word).rglob("*.safetensors")]:
            pytest.skip(f"{word} has no representations, which a command before it on the page keeps")
    monkeypatch.chdir(REPOSITORY)
    # A store with records, as the reader has after the commands before it.
    monkeypatch.setenv("MSABENCH_STORE", "leaderboard/results")
    words += ["--out", str(tmp_path)] if words[0] == "figures" else []
    if remark == PREDICTIONS and not (REPOSITORY / "leaderboard/results/predictions").exists():
        with pytest.raises(MSABenchError, match="predictions"):
            dispatch(words)
    else:
        assert dispatch(words) == 0


def test_the_examples_from_python_run(elsewhere: Path) -> None:
    text = (REPOSITORY / "docs/api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/api.md, example {number + 1}", "exec"), names)
    shown = set(re.findall(r"\bmb\.([a-z]+)\(", "".join(blocks)))
    assert shown == {name for name in msabench.__all__ if name.isidentifier() and name.islower() and name[0] != "_"}
    assert Path("predictions.parquet").is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("http"):
            continue
        file, _, heading = target.partition("#")
        place = page.parent / file if file else page
        assert place.exists(), f"{page.name}: {target}"
        assert not heading or heading in headings_of(place), f"{page.name}: {target}"


def headings_of(page: Path) -> set[str]:
    """What links may name in a page: its headings in small letters, with dashes for spaces and nothing else."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    }


def test_commands_were_found() -> None:
    assert len(commands()) > 20


def test_readme_names_every_method_beside_those_of_its_fidelity() -> None:
    lines = (REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()
    [row] = [line for line in lines if line.startswith("| Methods |")]
    named = [set(re.findall(r"`(\w+)`", sentence)) for sentence in row.split(". ")]
    own, same_as_code, from_text, guessed, baseline = filter(None, named)
    of_kind = defaultdict(set)
    for name in registry.methods(external=False):
        of_kind[registry.method_info(name).fidelity].add(name)
    assert same_as_code == of_kind["parity"]
    assert own | from_text == of_kind["equations"] | of_kind["reconstructed"]
    assert own <= of_kind["equations"]
    assert guessed == of_kind["experimental"]
    assert baseline == of_kind["reference"]
