"""Search spaces: what their files may say, what is drawn from them, and that every method can train in its own."""

from __future__ import annotations

import hashlib
import inspect
import math
import re
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from msabench.data.datamodule import MSADataModule
from msabench.errors import MSABenchError
from msabench.methods import registry
from msabench.methods.base import MSAMethod
from msabench.missingness.config import MissingConfig
from msabench.packaged import names
from msabench.testing.corpora import data_module, random_corpus
from msabench.testing.subject import losses, training_batch
from msabench.training.config_files import config_of
from msabench.training.config_words import as_words
from msabench.training.search_space import (
    ADDRESS,
    BATCH_SIZE,
    FEWEST,
    MOST,
    Choice,
    Float,
    Integer,
    Range,
    Space,
    draw,
    read_space,
    space_from,
    space_of,
)
from tests.support.resolved import Resolve

CONFIGS = Path(__file__).parents[2] / "configs"
TUNED = [name for name, info in registry.methods(external=False).items() if info.reads]
LR, DROPOUT, LAYERS, DIM = (f"{ADDRESS}{name}" for name in ("lr", "dropout", "layers", "dim"))
SPACE: Space = {
    LR: Float(1e-5, 1e-2, log=True),
    DROPOUT: Float(0.0, 0.5),
    LAYERS: Integer(1, 6),
    BATCH_SIZE: Choice((16, 32, 64, 128)),
}
TEXT = """
# Where the ranges come from.
model.init_args.lr: {low: 1e-5, high: 1.0e-2, log: true}
model.init_args.dropout: {low: 0.0, high: 0.5}
model.init_args.layers: {low: 1, high: 6}
data.batch_size: {choices: [16, 32, 64, 128]}
"""

# What files may say.


def test_a_file_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(TEXT)
    space = read_space(path)
    assert space == SPACE
    assert [*space] == [*SPACE]
    assert space_from({key: found.to_data() for key, found in space.items()}) == space


GOOD: dict[str, Any] = {key: found.to_data() for key, found in SPACE.items()}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({LR: {"low": 0.1, "high": 0.1}}, "lr: low 0.1 with high 0.1 is not allowed; low must be less than high"),
        ({LAYERS: {"low": 6, "high": 1}}, "layers: low 6 with high 1 is not allowed"),
        ({LR: {"low": 0.0, "high": 0.1, "log": True}}, "low 0.0 of a log range is not allowed; give more than 0"),
        ({LAYERS: {"low": 1, "high": 6, "log": True}}, "log is not allowed between the whole numbers 1 and 6"),
        ({LR: {"low": 0.1, "high": 1.0, "log": "yes"}}, "log 'yes' is not allowed; give true or false"),
        ({LR: {"low": 0.1}}, "{'low': 0.1} is no range; give low and high, with log if need be, or choices"),
        ({LR: {"low": 0.1, "high": 1.0, "step": 0.1}}, "is no range"),
        ({LR: 0.1}, "0.1 is no range"),
        ({LR: {"low": "0.1", "high": 1.0}}, "bounds '0.1' and 1.0 are not allowed; give two numbers"),
        ({LR: {"low": 0.1, "high": math.inf}}, "bounds 0.1 and inf are not allowed"),
        ({LR: {"low": False, "high": True}}, "bounds False and True are not allowed"),
        ({BATCH_SIZE: {"choices": 16}}, "choices 16 are not allowed; give a list"),
        ({BATCH_SIZE: {"choices": [16]}}, "choices [16] leave nothing to choose; give at least two"),
        ({BATCH_SIZE: {"choices": [16, 32, 16.0]}}, "choices [16, 32, 16.0] name one twice"),
        (
            {BATCH_SIZE: {"choices": [16, [32]]}},
            "choice [32] is not allowed; give a number, a text, true, false or nul",
        ),
        ({BATCH_SIZE: {"choices": [16, math.nan]}}, "choice nan is not allowed"),
        (
            {"trainer.max_epochs": {"low": 1, "high": 9}},
            "setting 'trainer.max_epochs' is not tuned; allowed: data.batch",
        ),
        ({"data.missing.rate": {"low": 0.0, "high": 1.0}}, "setting 'data.missing.rate' is not tuned"),
        ({"seed_everything": {"low": 1, "high": 9}}, "setting 'seed_everything' is not tuned"),
        ({3: {"low": 1, "high": 9}}, "setting 3 is not tuned"),
        ({"model.init_args.a.b": {"low": 1, "high": 9}}, "setting 'model.init_args.a.b' is not tuned"),
        (
            {f"{ADDRESS}text_encoder": {"choices": ["a", "b"]}},
            "text_encoder is not tuned: it belongs to what is compared",
        ),
        ({f"{ADDRESS}variant": {"choices": ["a", "b"]}}, "variant is not tuned"),
        ({f"{ADDRESS}teacher_epochs": {"low": 1, "high": 9}}, "teacher_epochs is not tuned"),
        ({f"{ADDRESS}sampling_seed": {"low": 1, "high": 9}}, "sampling_seed is not tuned"),
        ({DIM + str(n): {"low": 1, "high": 9} for n in range(MOST)}, f"{MOST + len(GOOD)} settings are not allowed"),
    ],
)
def test_what_is_no_space_is_refused_in_a_sentence(changes: dict[Any, Any], sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    with pytest.raises(MSABenchError) as caught:
        read_space(path)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(f"search space {path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("given", [{LR: GOOD[LR]}, {}])
def test_too_few_settings_are_no_search(given: dict[str, Any]) -> None:
    with pytest.raises(MSABenchError, match=f"{len(given)} settings are not allowed; give {FEWEST} to {MOST}"):
        space_from(given)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.yaml"
    with pytest.raises(MSABenchError, match=r"there is no search space .*net\.yaml"):
        read_space(path)
    path.write_text("- 1\n")
    with pytest.raises(MSABenchError, match="must be a mapping of settings to ranges, not list"):
        read_space(path)
    path.write_text("a: {")
    with pytest.raises(MSABenchError, match="is not valid YAML"):
        read_space(path)


def test_one_s_own_space_wins_over_the_one_that_comes_along(elsewhere: Path) -> None:
    ours = space_of("umdf")
    Path("configs/spaces").mkdir(parents=True)
    Path("configs/spaces/umdf.yaml").write_text(TEXT)
    Path("mine/spaces").mkdir(parents=True)
    Path("mine/spaces/umdf.yaml").write_text(TEXT.replace("6", "7"))
    assert space_of("umdf") == SPACE != ours
    assert space_of("umdf", Path("mine"))[LAYERS] == Integer(1, 7)
    assert space_of("lf_dnn", Path("mine")) == space_of("lf_dnn")


def test_what_has_no_space_is_refused(elsewhere: Path) -> None:
    with pytest.raises(MSABenchError, match=r"unknown method 'umdff'.*did you mean umdf"):
        space_of("umdff")
    with pytest.raises(MSABenchError, match="constant reads nothing of a clip, so there is nothing in it to tune"):
        space_of("constant")


def test_reading_and_drawing_need_no_torch() -> None:
    code = (
        "import sys\n"
        "from msabench.training.search_space import draw, space_of\n"
        "draw(space_of('umdf'), 1, 1)\n"
        "assert not {'torch', 'lightning', 'optuna'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CONFIGS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_documented_example_is_one(tmp_path: Path) -> None:
    page = (CONFIGS.parent / "docs/adding-a-method.md").read_text(encoding="utf-8")
    [example] = re.findall(r"```yaml\n(# Foo: what.*?)```", page, re.DOTALL)
    (tmp_path / "foo.yaml").write_text(example)
    kinds = [type(found) for found in read_space(tmp_path / "foo.yaml").values()]
    assert kinds == [Float, Float, Integer, Choice, Choice]


@pytest.mark.parametrize(
    ("found", "inside", "outside"),
    [
        (Float(0.1, 0.5), [0.1, 0.3, 0.5], [0.09, 0.51, math.nan, "0.3", None]),
        (Float(0.5, 1.5), [1], [True]),
        (Integer(1, 3), [1, 2, 3], [0, 4, 2.0, True, "2"]),
        (Choice((1, "a", None)), [1, 1.0, "a", None], [True, 2, "1", "", False, [1]]),
        (Choice((True, 0)), [True, 0], [1, False]),
    ],
)
def test_what_a_range_contains(found: Range, inside: list[Any], outside: list[Any]) -> None:
    assert [value for value in inside if not found.contains(value)] == []
    assert [value for value in outside if found.contains(value)] == []


# What is drawn.

SEEDS = st.integers(0, 2**64 - 1)
TRIALS = st.integers(1, 2**64 - 1)
BOUNDS = st.floats(-1e12, 1e12, allow_subnormal=False)
POSITIVE = st.floats(1e-12, 1e12)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


def _ordered(bounds: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(bounds, bounds).map(sorted).filter(lambda pair: pair[0] < pair[1]).map(tuple)


def _identity(value: Any) -> tuple[Any, bool]:
    return value, isinstance(value, bool)


RANGES: st.SearchStrategy[Range] = st.one_of(
    _ordered(BOUNDS).map(lambda pair: Float(*pair)),
    _ordered(POSITIVE).map(lambda pair: Float(*pair, log=True)),
    _ordered(st.integers(-(10**6), 10**6)).map(lambda pair: Integer(*pair)),
    st.lists(SCALARS, min_size=2, max_size=6, unique_by=_identity).map(lambda values: Choice(tuple(values))),
)
SPACES = st.dictionaries(st.text(max_size=5), RANGES, min_size=1, max_size=MOST)


@given(SPACES, SEEDS, TRIALS)
def test_settings_lie_within_their_ranges_and_are_plain_values(space: Space, seed: int, number: int) -> None:
    drawn = draw(space, seed, number)
    assert [*drawn] == [*space]
    for key, found in space.items():
        assert found.contains(drawn[key])
        assert type(drawn[key]) in (bool, int, float, str, type(None))
        assert isinstance(found, Choice) or type(drawn[key]) is (int if isinstance(found, Integer) else float)


@given(SPACES, SEEDS, TRIALS, st.randoms())
def test_a_setting_depends_on_no_other_and_on_no_other_trial(space: Space, seed: int, number: int, order: Any) -> None:
    drawn = draw(space, seed, number)
    shuffled = [*space]
    order.shuffle(shuffled)
    draw(space, seed ^ 1, number)
    torch.manual_seed(order.randrange(100))
    assert draw({key: space[key] for key in shuffled}, seed, number) == drawn
    for key in shuffled:
        assert draw({key: space[key]}, seed, number) == {key: drawn[key]}


@given(_ordered(POSITIVE), st.booleans(), SEEDS, TRIALS)
def test_a_number_is_the_same_in_yaml_and_reads_well(
    pair: tuple[float, float], log: bool, seed: int, number: int
) -> None:
    value = draw({LR: Float(*pair, log=log)}, seed, number)[LR]
    assert isinstance(value, float)
    assert yaml.safe_load(yaml.safe_dump({LR: value})) == {LR: value}
    assert value in (*pair, float(f"{value:.3e}"))
    [word] = as_words({LR: value})
    assert float(word.partition("=")[2]) == value


def test_trial_0_has_the_settings_of_the_config() -> None:
    assert draw(SPACE, 1, 0) == {}


@pytest.mark.parametrize(("seed", "number"), [(-1, 1), (2**64, 1), (1, -1), (1, 2**64)])
def test_numbers_out_of_range_are_refused(seed: int, number: int) -> None:
    with pytest.raises(MSABenchError, match=r"is not allowed; give an integer in \[0, 2\*\*64\)"):
        draw(SPACE, seed, number)


def philox4x64(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as its paper has it (Salmon et al. 2011), one block."""
    full = (1 << 64) - 1
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(10):
        first, second = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (second >> 64) ^ c1 ^ k0, second & full, (first >> 64) ^ c3 ^ k1, first & full
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & full, (k1 + 0xBB67AE8584CAA73B) & full
    return [c0, c1, c2, c3]


def test_the_reference_gives_the_published_words() -> None:
    # Random123's kat_vectors: philox4x64 10, all zeros.
    words = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    assert philox4x64([0, 0, 0, 0], [0, 0]) == words


@pytest.mark.parametrize(("seed", "number", "key"), [(0, 1, "a"), (1, 7, LR), (2**64 - 1, 2**64 - 1, BATCH_SIZE)])
def test_a_draw_is_a_word_of_philox_under_seed_and_trial(seed: int, number: int, key: str) -> None:
    place = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")
    share = (philox4x64([1, 0, place, 0], [seed, number])[0] >> 11) / 2**53
    assert draw({key: Float(0.0, 1.0)}, seed, number) == {key: float(f"{share:.3e}")}
    assert draw({key: Integer(0, 999)}, seed, number) == {key: int(1000 * share)}
    assert draw({key: Choice(("a", "b", "c"))}, seed, number) == {key: "abc"[int(3 * share)]}
    logged = float(f"{10 ** (-5 + 3 * share):.3e}")
    assert draw({key: Float(1e-5, 1e-2, log=True)}, seed, number)[key] == pytest.approx(logged, rel=1e-3)


def test_draws_are_spread_as_the_ranges_say() -> None:
    drawn = [draw(SPACE, 3, number) for number in range(1, 3001)]
    decades = [math.floor(math.log10(settings[LR])) for settings in drawn]
    dropouts = [settings[DROPOUT] for settings in drawn]
    for values, bins in (
        (decades, (-5, -4, -3)),
        ([math.floor(10 * value) for value in dropouts], range(5)),
        ([settings[LAYERS] for settings in drawn], range(1, 7)),
        ([settings[BATCH_SIZE] for settings in drawn], (16, 32, 64, 128)),
    ):
        expected = len(drawn) / len(bins)
        counts = [values.count(found) for found in bins]
        assert sum(counts) == len(drawn)
        # Five standard deviations of a binomial count.
        assert all(abs(count - expected) < 5 * math.sqrt(expected) for count in counts), counts
    # Neighbouring trials, seeds and settings go their own ways.
    for others in (dropouts[1:], [draw(SPACE, 4, number)[DROPOUT] for number in range(1, 3000)], decades[:-1]):
        both = torch.tensor([dropouts[:-1], others], dtype=torch.float64)
        assert abs(torch.corrcoef(both)[0, 1].item()) < 5 / math.sqrt(len(drawn))


# What every method has.


def corners(space: Space) -> list[dict[str, Any]]:
    """The least and the greatest value of every setting, and the choices between, all settings moving together."""
    ends = {key: r.choices if isinstance(r, Choice) else (r.low, r.high) for key, r in space.items()}
    middle = zip_longest(*(values[1:-1] for values in ends.values()))
    between = [
        {key: values[0] if value is None else value for (key, values), value in zip(ends.items(), row, strict=True)}
        for row in middle
    ]
    return [{k: v[0] for k, v in ends.items()}, *between, {k: v[-1] for k, v in ends.items()}]


def arguments_in(settings: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix(ADDRESS): value for key, value in settings.items() if key != BATCH_SIZE}


def defaults_of(method: str) -> dict[str, Any]:
    parameters = inspect.signature(registry.method_class(method).__init__).parameters
    return {name: found.default for name, found in parameters.items() if name not in ("self", "spec")}


def configs_of(method: str) -> list[dict[str, Any]]:
    """What the configs of a method say for each corpus."""
    files = [name for name in names("configs") if name.startswith(f"{method}_")]
    found = [config_of(CONFIGS / f"{name}.yaml") for name in files]
    class_name = registry.class_path(method).rpartition(".")[2]
    return [config for config in found if config["model"]["class_path"] == class_name and "dataset" in config["data"]]


def test_every_method_with_something_to_train_has_a_space_and_no_other() -> None:
    with_arguments = {name for name in registry.methods(external=False) if registry.arguments_of(name) != ("variant",)}
    assert set(TUNED) == with_arguments
    assert {path.stem for path in (CONFIGS / "spaces").glob("*")} == with_arguments
    for path in (CONFIGS / "spaces").glob("*"):
        assert path.suffix == ".yaml"
        assert path.read_text().startswith("# "), f"{path.name} does not say where its ranges come from"
        assert {f"{ADDRESS}lr", BATCH_SIZE} <= read_space(path).keys(), path.name


@pytest.mark.parametrize("method", TUNED)
def test_the_values_of_every_config_lie_within_the_ranges(method: str) -> None:
    defaults, configs = defaults_of(method), configs_of(method)
    assert len(configs) >= 5
    outside = []
    for key, found in space_of(method).items():
        for config in configs:
            given = {**defaults, **config["model"].get("init_args", {})}
            value = config["data"]["batch_size"] if key == BATCH_SIZE else given[key.removeprefix(ADDRESS)]
            if not found.contains(value):
                outside.append(f"{config['data']['dataset']}: {key} {value}")
    assert outside == []


@pytest.mark.parametrize("method", TUNED)
def test_every_setting_is_one_that_the_config_takes(method: str, resolved: Resolve) -> None:
    highest = corners(space_of(method))[-1]
    config = resolved([CONFIGS / f"{method}_synth.yaml"], list(as_words(highest)))
    found = {**config["model"]["init_args"], BATCH_SIZE: config["data"]["batch_size"]}
    taken = {key: found[key.removeprefix(ADDRESS)] for key in highest}
    assert taken == highest
    # Arguments that are whole numbers get none with a point, which other values of the range would have.
    defaults = defaults_of(method)
    for key, range_ in space_of(method).items():
        if isinstance(range_, Float):
            assert isinstance(defaults[key.removeprefix(ADDRESS)], float), f"{key} is no number with a point"


@pytest.fixture(scope="module")
def data() -> MSADataModule:
    steps = dict.fromkeys(("text", "audio", "vision"), 20)
    return data_module(random_corpus(sizes=(12, 4, 4), steps=steps), missing=MissingConfig(regime="mixed"))


@pytest.mark.parametrize("method", TUNED)
def test_no_config_is_refused_for_its_sizes_anywhere_in_the_space(method: str, data: MSADataModule) -> None:
    build_everywhere(method, space_of(method), data)


def test_a_width_that_some_heads_do_not_divide_is_found(data: MSADataModule) -> None:
    # CorrKD has 10 heads, and 8 on CMU-MOSEI.
    with pytest.raises(MSABenchError, match="60"):
        build_everywhere("corrkd", {**space_of("corrkd"), DIM: Choice((40, 60, 80))}, data)


def build_everywhere(method: str, space: Space, data: MSADataModule) -> None:
    """Build a method as each of its configs has it, at every corner of a space."""
    cls = registry.method_class(method)
    seen = []
    for config in configs_of(method):
        # Steps of these clips are others than the corpora's; how they are divided is in no space.
        by_steps = {name: v for name, v in cls.info.smoke.items() if name.startswith(("temporal_heads", "kernel_size"))}
        given = {**config["model"].get("init_args", {}), "text_encoder": None, "finetune": False, **by_steps}
        taken = {name: value for name, value in given.items() if name in registry.arguments_of(method)}
        for corner in corners(space):
            arguments = {**taken, **arguments_in(corner)}
            if arguments not in seen:
                seen.append(arguments)
                cls(data.spec, **arguments)


@pytest.mark.parametrize("method", TUNED)
def test_a_step_is_taken_at_the_corners_and_between(method: str, data: MSADataModule) -> None:
    cls = registry.method_class(method)
    space = space_of(method)
    given = config_of(CONFIGS / f"{method}_synth.yaml")["model"]["init_args"]
    ends = corners(space)
    for settings in (ends[0], ends[-1], *(draw(space, 1, number) for number in range(1, 6))):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            step(cls(data.spec, **{**given, **arguments_in(settings)}).train(), data)


def step(method: MSAMethod, data: MSADataModule) -> None:
    """One step of the method's own optimiser in every stage and turn, to finite weights."""
    for stage in method.stages:
        method.enter_stage(stage)
        for turn in method.turns:
            method.turn = turn
            groups = [group for group in method.param_groups() if group["params"]]
            optimizer = method.optimizer_of(groups)
            total = torch.stack(list(losses(method, training_batch(method, data, rows=6)).values())).sum()
            if total.requires_grad:
                torch.autograd.backward(total)
            optimizer.step()
    assert all(torch.isfinite(parameter).all() for parameter in method.parameters())
