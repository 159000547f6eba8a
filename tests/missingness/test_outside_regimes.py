"""Training regimes from outside: what they draw, what they may not, and what records call them."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

import pytest
import torch

from msabench.__main__ import dispatch, with_plugins
from msabench.data.corpus import clip_uids
from msabench.errors import MSABenchError
from msabench.evaluation.command import evaluate_checkpoint
from msabench.methods.registry import add_plugins
from msabench.missingness.conditions import Cell
from msabench.missingness.config import MissingConfig
from msabench.missingness.outside_draws import drawn_outside
from msabench.missingness.patterns import (
    Clips,
    Purpose,
    cell_masks,
    mask_hash,
    training_masks,
    training_patterns,
    validation_masks,
)
from msabench.missingness.philox import draws24
from msabench.missingness.regimes import BUILT_IN, external_regime, regimes
from msabench.results.job_identity import config_hash
from msabench.results.store import ResultStore
from msabench.runner.suite_values import regimes_of
from msabench.training.build import resolve
from tests.support.outside_folder import OUTSIDE, outside_folder, plug_in

REPOSITORY = Path(__file__).parents[2]
CONFIG = REPOSITORY / "configs/constant_synth.yaml"
TEXT = (OUTSIDE / "my_corpus.py").read_text()
MODALITIES = ("text", "audio", "vision")

folder = pytest.fixture(outside_folder)
pytestmark = pytest.mark.usefixtures("folder")


def clips(n: int = 4000, steps: int = 20) -> Clips:
    uid = clip_uids("synth", "train", [f"clip{number}" for number in range(n)])
    lengths = {m: torch.full((n,), steps) for m in MODALITIES}
    return Clips(uid, lengths, dict.fromkeys(MODALITIES, steps), dict.fromkeys(MODALITIES, "end"))


def bad_audio() -> MissingConfig:
    add_plugins([plug_in("my_corpus.py")])
    return MissingConfig("bad_audio")


def broken(body: str) -> MissingConfig:
    """The regime with another function."""
    begins = '    """The first number'
    text = TEXT.replace("my_corpus:", "broken:").replace(begins, f"    import torch\n\n    {body}\n{begins}")
    add_plugins([plug_in("broken.py", text)])
    return MissingConfig("bad_audio")


# The table.


def test_regimes_stand_in_one_table_and_others_join_it_without_being_imported() -> None:
    first = ["complete", "intra", "inter", "mixed", "mixed_fsrf", "lnln"]
    more = ["random", "random_table", "only", "aligned", "block", "per_modality"]
    assert list(regimes()) == [*first, *more]
    page = (REPOSITORY / "docs/protocol.md").read_text()
    for name, description in regimes().items():
        assert f"| `{name}` | {description} |" in page
    add_plugins([plug_in("my_corpus.py")])
    assert list(regimes())[-1] == "bad_audio"
    assert regimes()["bad_audio"].startswith("audio lost with probability 1/4")
    assert "my_corpus" not in sys.modules


def test_an_unknown_one_is_guessed() -> None:
    with pytest.raises(MSABenchError, match=r"unknown training regime 'mixt'; allowed: complete, .*mean mixed\?"):
        MissingConfig("mixt")
    add_plugins([plug_in("my_corpus.py")])
    with pytest.raises(MSABenchError, match=r"allowed: .*lnln, .*per_modality, bad_audio; did you mean bad_audio\?"):
        config_hash(resolve([CONFIG], ["--data.missing.regime=bad_audoi"]))
    with pytest.raises(MSABenchError, match="unknown training regime 'bad_adio'"):
        regimes_of({"regimes": ["bad_adio"]}, "jobs 1", [])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (('name="bad_audio"', 'name="mixed"'), "cannot be the training regime mixed: one of msabench's own has that"),
        (('name="bad_audio"', 'name="external(x)"'), "training regime name 'external(x)' is not allowed"),
        (('draw="my_corpus:draw"', 'draw="draw"'), "draw 'draw' is not allowed; give a function, my_package.module:"),
        (("draws=2", "draws=65"), "draws 65 is not allowed; give a number from 1 to 64"),
        (("draws=2", "version=0"), "version 0 is not allowed; give a number from 1 on"),
    ],
)
def test_a_regime_that_cannot_be_used_is_refused_in_a_sentence(change: tuple[str, str], sentence: str) -> None:
    with pytest.raises(MSABenchError) as caught:
        add_plugins([plug_in("broken.py", TEXT.replace('name="my_clips"', 'name="theirs"').replace(*change))])
    assert sentence in str(caught.value)


# What is drawn.


def test_clips_are_drawn_as_the_function_says() -> None:
    config, here = bad_audio(), clips()
    draws = draws24(7, Purpose.OUTSIDE_TRAINING_CLIPS_VIEW0, 3, here.uid, {"text": 2})["text"]
    (pattern,) = training_patterns(config, here, 7, 3)
    assert torch.equal(pattern.available[:, 1], draws[:, 0] >= 2**22)
    assert torch.equal(pattern.threshold[:, 1], (draws[:, 1] + 1) // 2), "the rate is half the draw, rounded up"
    assert pattern.available[:, [0, 2]].all()
    assert not pattern.threshold[:, [0, 2]].any()
    (masks,) = training_masks(config, here, 7, 3)
    assert masks.observed["text"].all()
    assert masks.observed["vision"].all()
    lost = 1 - masks.observed["audio"].double().mean()
    assert float(lost) == pytest.approx(0.25 + 0.75 * 0.25, abs=0.02)


def test_its_masks_are_frozen_and_its_draws_are_nobody_elses() -> None:
    config, here = bad_audio(), clips(12)
    views = training_masks(config, here, 1111, 3, n_views=2)
    hashes = [*(mask_hash(view) for view in views), mask_hash(validation_masks(config, here, 2))]
    assert hashes == ["fed47cb693399e62", "fda2b08d3842303d", "5952f28483d21642"]
    (alone,) = training_masks(config, here, 1111, 3)
    assert mask_hash(alone) == hashes[0]
    assert {Purpose(number).name for number in (7, 8, 9)} == {
        *("OUTSIDE_VALIDATION_CLIPS", "OUTSIDE_TRAINING_CLIPS_VIEW0", "OUTSIDE_TRAINING_CLIPS_VIEW1"),
    }


def test_a_clip_is_drawn_alike_in_any_company_and_anew_in_every_epoch() -> None:
    config, here = bad_audio(), clips(200)
    (pattern,) = training_patterns(config, here, 1, 0)
    rows = torch.arange(150, 50, -3)
    fewer = Clips(here.uid[rows], {m: n[rows] for m, n in here.lengths.items()}, here.seq_lens, here.padding)
    (there,) = training_patterns(config, fewer, 1, 0)
    assert torch.equal(there.available, pattern.available[rows])
    assert torch.equal(there.threshold, pattern.threshold[rows])
    (later,) = training_patterns(config, here, 1, 1)
    assert not torch.equal(later.threshold, pattern.threshold)


def test_test_masks_do_not_depend_on_it() -> None:
    config, here = bad_audio(), clips(20)
    cell = Cell("la", "0.4")
    assert mask_hash(cell_masks(cell, config, here, 3)) == mask_hash(cell_masks(cell, MissingConfig(), here, 3))


ONES = "torch.ones(len(uniform), 3, dtype=torch.bool)"


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return None", "must return two tensors of shape (50, 3), bool for what is kept and float for rates"),
        (f"return {ONES}, {ONES}", "must return two tensors of shape (50, 3)"),
        (f"return {ONES}[:, :2], torch.zeros(len(uniform), 3)", "must return two tensors of shape (50, 3)"),
        (f"return ~{ONES}, torch.zeros(len(uniform), 3)", "leaves a clip without any modality; keep one at least"),
        (f"return {ONES}, torch.full((len(uniform), 3), 1.5)", "draws rates beyond [0, 1]"),
        (f"return {ONES}, torch.full((len(uniform), 3), float('nan'))", "draws rates beyond [0, 1]"),
        (f"return {ONES}, (uniform[:, :1] / uniform[:, :1].max()).expand(-1, 3)", "draws a clip in another way among"),
        (f"return {ONES}, torch.rand(len(uniform), 3)", "draws a clip in another way among other clips"),
        ("return uniform[:, 9], None", "broken:draw failed (IndexError: "),
    ],
)
def test_what_a_function_gets_wrong_is_one_sentence(body: str, sentence: str) -> None:
    config = broken(body)
    with pytest.raises(MSABenchError) as caught:
        training_masks(config, clips(50), 1, 0)
    assert str(caught.value).startswith("training regime bad_audio: ")
    assert sentence in str(caught.value)


def test_a_function_that_writes_into_its_numbers_changes_nothing() -> None:
    config = broken(f"uniform.zero_(); return {ONES}, uniform[:, :1].expand(-1, 3)")
    (pattern,) = training_patterns(config, clips(50), 1, 0)
    assert not pattern.threshold.any()


def test_a_single_clip_can_be_drawn() -> None:
    bad_audio()
    found = external_regime("bad_audio")
    assert found is not None
    available, threshold = drawn_outside(found.info, clips(1).uid, 1, Purpose.OUTSIDE_VALIDATION_CLIPS, 0)
    assert available.shape == threshold.shape == (1, 3)


# What it is called.


def test_no_label_is_one_of_msabenchs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = bad_audio()
    assert config.label == "external(bad_audio)"
    assert all(not MissingConfig(n, **r.example).label.startswith("external") for n, r in BUILT_IN.items())
    plain = config_hash(resolve([CONFIG], []))
    assert config_hash(resolve([CONFIG], ["--data.missing.regime=bad_audio"])) != plain
    monkeypatch.setenv("MSABENCH_PLUGINS", "")
    add_plugins([plug_in("broken.py", TEXT.replace("draws=2", "draws=2, version=3"))])
    assert MissingConfig("bad_audio").label == "external(bad_audio,v3)"


def test_it_trains_and_stands_in_the_record() -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        words = ["fit", "--config", str(CONFIG), "--data.missing.regime=bad_audio", "--data.size=[24,8,10]"]
        words += ["--data.length=8", "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
        assert dispatch(with_plugins([*words, "--plugins", plug_in("my_corpus.py")])) == 0
    (checkpoint,) = Path("runs").rglob("best.ckpt")
    evaluate_checkpoint(checkpoint, store=Path("store"))
    (job,) = ResultStore(Path("store")).jobs()
    assert job.key.regime == "external(bad_audio)"
    assert job.config["data"]["missing"]["regime"] == "bad_audio"
    source = job.provenance["regime"]
    assert (source["object"], source["draw"]) == ("my_corpus:bad_audio", "my_corpus:draw")
    assert len(source["draw_sha256"]) == 64
    assert "corpus" not in job.provenance, "synth is msabench's own"
