"""A validation split for files without one: whole conversations, the same ones whatever the order of the clips."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from msabench.__main__ import dispatch
from msabench.data.commands import data_convert, data_verify
from msabench.data.datamodule import MSADataModule
from msabench.data.file_words import conversation_of
from msabench.data.probe import data_describe
from msabench.data.store import open_corpus
from msabench.data.valid_share import ValidShare
from msabench.errors import MSABenchError
from msabench.evaluation.command import evaluate_checkpoint
from msabench.missingness.conditions import Cell
from msabench.missingness.patterns import mask_hash
from msabench.results.job_identity import config_hash
from msabench.results.store import ResultStore
from msabench.runner import suite
from msabench.training.build import resolve
from tests.support.corpora import Content, write_mmsa, write_npz

CONFIG = Path(__file__).parents[2] / "configs/constant_custom.yaml"
VIDEOS = [f"video{number}$_${clip}" for number in range(20) for clip in range(1 + number % 4)]

pytestmark = pytest.mark.usefixtures("elsewhere")


def conversations(content: Content) -> None:
    """Take the validation clips out, and name the videos that clips are from: three each."""
    rows = content["split"] != "valid"
    for key in content:
        content[key] = content[key][rows]
    content["id"] = np.array([f"{split}{row // 3}$_${row % 3}" for row, split in enumerate(content["split"])])


def write(path: str = "own.npz", sizes: tuple[int, int, int] = (60, 3, 9), **settings: Any) -> Content:
    return write_npz(Path(path), sizes=sizes, change=conversations, **settings)


def opened(path: str = "own.npz", **settings: Any) -> Any:
    return open_corpus("custom", path=Path(path), **settings)


def refused(**settings: Any) -> str:
    with pytest.raises(MSABenchError) as caught:
        opened(**settings)
    assert not list(Path("cache").glob("msabench/stores/*/*"))
    return str(caught.value)


# Which clips are taken.


def test_the_choice_is_part_of_the_protocol() -> None:
    taken = {seed: ValidShare(0.2, seed).chosen(VIDEOS) for seed in (0, 1)}
    names = {seed: sorted({VIDEOS[row].split("$")[0] for row in np.flatnonzero(rows)}) for seed, rows in taken.items()}
    assert names == {
        0: ["video11", "video15", "video2"],
        1: ["video1", "video12", "video17", "video7", "video9"],
    }


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.99])
def test_conversations_stay_whole_and_the_share_is_met(share: float) -> None:
    rows = ValidShare(share).chosen(VIDEOS)
    sides = {
        name: {bool(row) for row, clip in zip(rows, VIDEOS, strict=True) if conversation_of(clip) == name}
        for name in map(conversation_of, VIDEOS)
    }
    assert all(len(side) == 1 for side in sides.values())
    assert 0 < rows.sum() < len(VIDEOS)
    assert abs(rows.sum() - share * len(VIDEOS)) <= 4, "the longest conversation has four clips"


def test_the_order_of_clips_does_not_matter_and_the_seed_does() -> None:
    shuffled = np.random.default_rng(0).permutation(VIDEOS).tolist()
    first = {clip for clip, here in zip(VIDEOS, ValidShare(0.3).chosen(VIDEOS), strict=True) if here}
    again = {clip for clip, here in zip(shuffled, ValidShare(0.3).chosen(shuffled), strict=True) if here}
    other = {clip for clip, here in zip(VIDEOS, ValidShare(0.3, 1).chosen(VIDEOS), strict=True) if here}
    assert first == again != other


def test_a_clip_whose_id_names_no_video_is_a_conversation_of_its_own() -> None:
    lone = [f"clip{number}" for number in range(50)]
    assert ValidShare(0.1).chosen(lone).sum() == 5


# Corpora.


def test_a_share_of_the_training_clips_becomes_the_validation_split() -> None:
    written = write()
    corpus = opened(valid_share=0.1)
    train, valid, test = (corpus.splits[name] for name in ("train", "valid", "test"))
    everything = written["id"][written["split"] == "train"].tolist()
    assert sorted([*train.ids, *valid.ids]) == sorted(everything)
    assert not {conversation_of(clip) for clip in train.ids} & {conversation_of(clip) for clip in valid.ids}
    place = {clip: row for row, clip in enumerate(written["id"].tolist())}
    for split in (train, valid, test):
        rows = [place[clip] for clip in split.ids]
        assert np.array_equal(split.features["audio"], written["audio"][rows])
        assert split.lengths["audio"].tolist() == written["audio_lengths"][rows].tolist()
        assert np.array_equal(split.labels, written["regression_labels"][rows])
    (note,) = [note for note in corpus.notes if note.startswith("valid: ")]
    assert f"valid: {len(valid)} of 60 training clips, " in note
    assert "taken by valid_share 0.1 and valid_seed 0, since the file has no validation split" in note


def test_shares_and_seeds_are_revisions_of_their_own_and_test_masks_are_the_same() -> None:
    write()
    corpora = [opened(valid_share=0.1), opened(valid_share=0.2), opened(valid_share=0.1, valid_seed=3)]
    plain = corpora[0].revision.removesuffix("-valid0.1")
    assert [corpus.revision for corpus in corpora] == [f"{plain}-valid0.1", f"{plain}-valid0.2", f"{plain}-valid0.1s3"]
    assert corpora[0].splits["valid"].ids != corpora[2].splits["valid"].ids
    modules = [MSADataModule("custom", path=Path("own.npz"), valid_share=share) for share in (0.1, 0.2)]
    assert len({mask_hash(module.cell_masks(Cell("la", "0.3"), 0)) for module in modules}) == 1
    assert len({mask_hash(module.cell_masks(Cell("la", "0.3"), 0, "train")) for module in modules}) == 2


def test_the_share_counts_in_the_hash_and_the_default_moves_none() -> None:
    def hashed(*words: str) -> str:
        return config_hash(resolve([CONFIG], [*words]))

    plain, share = hashed(), hashed("--data.valid_share=0.1")
    assert plain != share
    assert share == hashed("--data.valid_share=0.1", "--data.valid_seed=0")
    assert share != hashed("--data.valid_share=0.2")
    assert share != hashed("--data.valid_share=0.1", "--data.valid_seed=1")


def test_pickles_without_a_validation_split_are_shared_out_as_well() -> None:
    sizes = (12, 5, 7)
    steps, dims = dict.fromkeys(("text", "audio", "vision"), 6), {"text": 8, "audio": 3, "vision": 4}
    write_mmsa(Path("own.pkl"), sizes=sizes, steps=steps, dims=dims, change=lambda content: content.pop("valid"))
    assert "own.pkl has no validation split (valid); --data.valid_share 0.1 " in refused(path="own.pkl")
    corpus = opened("own.pkl", valid_share=0.25)
    assert corpus.split_sizes == (9, 3, 7)
    assert corpus.splits["valid"].tokens is not None
    assert torch.equal(corpus.splits["valid"].tokens[:, 1].sum(1), corpus.splits["valid"].lengths["text"])


# What is refused.


def test_one_sentence_each_and_nothing_is_left_behind() -> None:
    write()
    write_npz(Path("whole.npz"))

    def untested(content: Content) -> None:
        content["split"] = np.where(content["split"] == "test", "train", content["split"])

    def single(content: Content) -> None:
        conversations(content)
        content["id"] = np.array([f"{split}$_${row}" for row, split in enumerate(content["split"])])

    write_npz(Path("untested.npz"), change=untested)
    write_npz(Path("single.npz"), change=single)
    where = Path.cwd()
    assert refused() == (
        f"{where / 'own.npz'} has no validation split (valid); --data.valid_share 0.1 (--valid_share of verbs "
        "without a config) would take a tenth of the training clips for it, whole conversations at a time"
    )
    assert refused(path="whole.npz", valid_share=0.1) == (
        f"valid_share 0.1 is not allowed for {where / 'whole.npz'}, which has a validation split of 5 clips"
    )
    assert "npz/split names no clip 'test'; expected clips in each of train, valid, test" in refused(
        path="untested.npz", valid_share=0.1
    )
    assert refused(path="single.npz", valid_share=0.1).endswith(
        "valid_share 0.1 cannot be taken from 12 training clips of a single conversation; give the file a validation "
        "split"
    )
    for share in (0.0, 1.0, -0.1, float("nan")):
        assert "is not allowed; give a share of the training clips, such as 0.1" in refused(valid_share=share)
    assert refused(valid_seed=1) == "valid_seed 1 is of no use without valid_share; give both"
    assert "valid_seed -1 is not allowed; give a number from 0 on" in refused(valid_share=0.1, valid_seed=-1)
    with pytest.raises(MSABenchError, match=r"valid_share 0\.1 is not allowed for synth, which has a validation split"):
        open_corpus("synth", valid_share=0.1)
    with pytest.raises(MSABenchError, match=r"valid_share 1\.5 is not allowed"):
        MSADataModule("custom", path=Path("own.npz"), valid_share=1.5)


# Through the verbs.


def test_a_training_keeps_its_split_and_finds_it_again_in_a_moved_file() -> None:
    write("there/own.npz")
    words = ["--data.path=there/own.npz", "--data.valid_share=0.2", "--data.valid_seed=4", "--data.name=mine"]
    fit = ["fit", "--config", str(CONFIG), *words, "--trainer.max_epochs=1", "--trainer.accelerator=cpu"]
    assert dispatch(fit) == 0
    (checkpoint,) = Path("runs").rglob("best.ckpt")
    moved = Path("there/own.npz").rename("moved.npz")
    shown = evaluate_checkpoint(checkpoint, store=Path("store"), path=moved)
    assert "recorded: " in shown
    frame = ResultStore(Path("store")).frame()
    corpus = opened("moved.npz", valid_share=0.2, valid_seed=4)
    assert set(frame["revision"]) == {corpus.revision}
    assert corpus.revision.endswith("-valid0.2s4")
    assert set(frame["split_sizes"]) == {"/".join(map(str, corpus.split_sizes))}
    (job,) = ResultStore(Path("store")).jobs()
    assert (job.config["data"]["valid_share"], job.config["data"]["valid_seed"]) == (0.2, 4)
    # A suite would open the same data.
    data = {"dataset": "custom", "path": "moved.npz", "valid_share": 0.2, "valid_seed": 4}
    assert suite.open_data(data) == (corpus.revision, "custom", "")


def test_the_verbs_of_data_take_the_share(capsys: pytest.CaptureFixture[str]) -> None:
    write()
    path = Path("own.npz")
    sizes = opened(valid_share=0.2).split_sizes
    assert f"valid: {sizes[1]} clips" in data_verify("custom", path=path, valid_share=0.2)
    assert "as it was written" in data_verify("custom", path=path, valid_share=0.2)
    assert "/".join(map(str, sizes)) in data_convert("custom", path=path, valid_share=0.2)
    assert "-valid0.2\n" in data_describe("custom", path=path, valid_share=0.2)
    assert dispatch(["data", "describe", "custom", "--path", "own.npz", "--valid_share", "0.2"]) == 0
    assert "-valid0.2\n" in capsys.readouterr().out
