"""Checkpoints that are passed on: the same predictions and records, nothing of the exporter's machine, no tampering."""

from __future__ import annotations

import json
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import safetensors
import torch
import yaml
from huggingface_hub import constants

from msabench.__main__ import dispatch
from msabench.errors import MSABenchError
from msabench.evaluation.checkpoint_commands import checkpoint_info
from msabench.evaluation.clips import predict_clips
from msabench.evaluation.command import evaluate_checkpoint
from msabench.evaluation.export import export_checkpoint
from msabench.files import sha256_of
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.engine.exported import FILES, HELD, read_exported, write_exported
from msabench.methods.engine.located import located
from msabench.results.job_identity import job_key
from msabench.results.store import ResultStore
from tests.support.corpora import Content, write_npz
from tests.support.model_hub import model_hub
from tests.support.small_bert import save_small_bert

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
SYNTH = [*QUIET, "--data.size=[24,8,10]", "--data.length=8"]


def fitted(*words: str) -> Path:
    assert dispatch(["fit", *words]) == 0
    (best,) = Path.cwd().glob("runs/fit/**/best.ckpt")
    return best


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of a trained method and, beside it, what was exported from it as ``exported``."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        best = fitted("--config", str(CONFIGS / "lf_dnn_synth.yaml"), *SYNTH)
        export_checkpoint(best, folder / "exported")
    return best


@pytest.fixture
def exported(trained: Path, elsewhere: Path) -> Path:
    """A copy of the exported folder, in an empty working folder."""
    made = next(above for above in trained.parents if (above / "exported").is_dir())
    return shutil.copytree(made / "exported", elsewhere / "exported")


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(MSABenchError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_folder_has_no_pickle_and_no_path_of_the_exporter(exported: Path, trained: Path) -> None:
    assert sorted(path.name for path in exported.iterdir()) == sorted(FILES)
    for path in exported.iterdir():
        content = path.read_bytes()
        assert str(trained.parents[4]).encode() not in content
        assert str(Path.home()).encode() not in content
        assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((exported / "job.json").stat().st_mode)
    with safetensors.safe_open(exported / "model.safetensors", framework="pt") as stored:
        assert set(stored.keys()) == set(torch.load(trained, weights_only=True)["state_dict"])
    card = (exported / "README.md").read_text()
    assert "synth is a generated test bench" in card
    assert "No licence is stated" in card
    assert "F1" not in card


def test_weights_and_everything_else_come_back(exported: Path, trained: Path) -> None:
    (one, one_data), (other, other_data) = load_checkpoint(trained), load_checkpoint(exported)
    assert one.init_args == other.init_args
    assert one.spec == other.spec
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())
    assert one_data["revision"] == other_data["revision"]


def test_records_of_both_are_the_same(exported: Path, trained: Path) -> None:
    printed = [
        evaluate_checkpoint(checkpoint, store=Path(f"store{n}"), device="cpu")
        for n, checkpoint in enumerate((trained, exported))
    ]
    assert printed[0].partition("recorded")[0] == printed[1].partition("recorded")[0]
    (one,), (other,) = (list(Path(f"store{n}").rglob("*.jsonl")) for n in (0, 1))
    assert one.relative_to("store0") == other.relative_to("store1")
    lines = [[json.loads(line) for line in path.read_text().splitlines()] for path in (one, other)]
    for job, *cells in lines:
        # How long it took, and the checksum of the line that says so.
        del job["eval_seconds"], job["eval_processor_seconds"], job["checksums"]["job"]
        assert cells
    assert lines[0] == lines[1]
    (first,), (second,) = (list(Path(f"store{n}").rglob("*.parquet")) for n in (0, 1))
    assert first.read_bytes() == second.read_bytes()
    # And it is one job: the store that has one refuses the other.
    assert "is recorded already" in refused(lambda: evaluate_checkpoint(exported, store=Path("store0"), device="cpu"))


def test_predictions_of_both_are_the_same(exported: Path, trained: Path) -> None:
    clips = {"audio": np.random.default_rng(0).normal(size=(3, 8, 5))}
    both = [predict_clips(checkpoint, clips, device="cpu").preds for checkpoint in (trained, exported)]
    assert np.array_equal(*both)
    assert np.array_equal(predict_clips(str(exported / "model.safetensors"), clips, device="cpu").preds, both[0])


def test_a_job_of_a_suite_keeps_its_key_and_what_it_must_cover(trained: Path, elsewhere: Path) -> None:
    run = shutil.copytree(trained.parent, elsewhere / "run")
    config = yaml.safe_load((run / "config.yaml").read_text())
    revision = load_checkpoint(trained)[1]["revision"]
    key = job_key(config, revision, "synth")
    job = {"key": asdict(key), "config": config, "grid": ["inter/la", "inter/lav"], "mask_seeds": [4]}
    (run / "job.json").write_text(json.dumps({"job": job, "folder": str(run.absolute()), "store": "/somewhere"}))
    folder, _ = export_checkpoint(run / "best.ckpt")
    assert str(folder) == "synth_lf_dnn_seed_1111"
    assert "/somewhere" not in (folder / "job.json").read_text()
    evaluate_checkpoint(folder, ["inter/la", "inter/lav"], [4], Path("store"), device="cpu")
    (record,) = ResultStore(Path("store")).jobs()
    assert record.key == key
    assert "needs 2 cells" in refused(
        lambda: evaluate_checkpoint(folder, ["inter/la"], [4], Path("other"), device="cpu")
    )


@pytest.mark.parametrize("name", HELD)
def test_a_changed_file_is_refused_by_every_verb(name: str, exported: Path) -> None:
    content = bytearray((exported / name).read_bytes())
    place = len(content) // 2
    content[place] = content[place] ^ 1
    (exported / name).write_bytes(content)
    for call in (
        lambda: checkpoint_info(exported),
        lambda: evaluate_checkpoint(exported),
        lambda: predict_clips(exported, {"audio": np.ones((1, 8, 5))}),
    ):
        assert f"{exported / name} is not as it was exported (sha256 " in refused(call)
    (exported / name).unlink()
    assert f"there is no {exported / name}" in refused(lambda: checkpoint_info(exported))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"method_version": 2', '"method_version": 3', "is not as it was exported (its sha256 does not fit)"),
        ('"revision": "', '"revision": "x', "is not as it was exported (its sha256 does not fit)"),
        ('"model.safetensors"', '"../model.safetensors"', "is not as it was exported (its sha256 does not fit)"),
        ('"format": 1', '"format": 2', "has the format 2; this msabench reads 1"),
        ('"format": 1,', '"format": 1', "is damaged"),
    ],
)
def test_a_changed_manifest_is_refused(old: str, new: str, said: str, exported: Path) -> None:
    manifest = exported / "checkpoint.json"
    text = manifest.read_text()
    assert old in text
    manifest.write_text(text.replace(old, new, 1))
    assert said in refused(lambda: checkpoint_info(exported))
    assert said in refused(lambda: load_checkpoint(exported))


def test_nothing_is_overwritten_and_nothing_half_written(
    trained: Path, exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in exported.iterdir()}
    assert "exported is there already and is not overwritten" in refused(lambda: export_checkpoint(trained, exported))
    assert {path: path.read_bytes() for path in exported.iterdir()} == before
    assert "there is no folder none" in refused(lambda: export_checkpoint(trained, Path("none/here")))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        export_checkpoint(trained, Path("other"))
    assert [path.name for path in Path().iterdir() if path.name != "cache"] == ["exported"]


def test_a_checkpoint_whose_training_is_not_known_is_not_exported(trained: Path, elsewhere: Path) -> None:
    alone = Path(shutil.copy(trained, "best.ckpt"))
    assert "there is no finished.json beside best.ckpt" in refused(lambda: export_checkpoint(alone))
    shutil.copy(trained.parent / "finished.json", "finished.json")
    assert "there is no job.json or config.yaml beside best.ckpt" in refused(lambda: export_checkpoint(alone))


def test_info_says_what_either_form_is(exported: Path, trained: Path, elsewhere: Path) -> None:
    finished = json.loads((trained.parent / "finished.json").read_text())
    for checkpoint in (exported, trained):
        said = dict(line.split(":", 1) for line in checkpoint_info(checkpoint).splitlines())
        said = {name: text.strip() for name, text in said.items()}
        assert said["method"] == "lf_dnn, variant default, version 2"
        assert said["corpus"] == "synth, revision r1-24x8x10-T8, 24 training clips"
        assert said["features"] == "synth, as they are: text 8 x 768, audio 8 x 5, vision 8 x 20 (steps x features)"
        assert said["regime"].startswith("complete; ")
        assert said["seed"] == "1111"
        assert said["epoch"] == "0 of 1 (counted from 0)"
        assert said["val/task"] == f"{finished['val_task']:.4f}, on the split that selected it (val)"
        assert said["parameters"] == f"{finished['n_params']:,} trainable"
    assert "verified: every file is as it was exported" in checkpoint_info(exported)
    alone = Path(shutil.copy(trained, "alone.ckpt"))
    assert "there is no finished.json beside the checkpoint" in checkpoint_info(alone)


def test_a_text_encoder_is_passed_on_without_its_folder(elsewhere: Path) -> None:
    def in_vocabulary(content: Content) -> None:
        content["text_bert"][:, 0] //= 20

    write_npz(Path("own.npz"), tokens=True, change=in_vocabulary)
    encoder = save_small_bert(elsewhere / "bert")
    words = [f"--model.init_args.text_encoder={encoder}", "--model.init_args.finetune=true", "--data.path=own.npz"]
    best = fitted("--config", str(CONFIGS / "lf_dnn_custom.yaml"), *QUIET, *words)
    folder, _ = export_checkpoint(best, Path("exported"))
    first = evaluate_checkpoint(best, ["inter"], store=None, device="cpu")
    record = evaluate_checkpoint(best, store=Path("store"), device="cpu")
    shutil.rmtree("bert")
    for path in folder.iterdir():
        assert str(elsewhere).encode() not in path.read_bytes()
    assert "the checkpoint does not say where the file of custom lies" in refused(
        lambda: evaluate_checkpoint(folder, ["inter"])
    )
    own = Path("own.npz").rename("moved.npz")
    assert evaluate_checkpoint(folder, ["inter"], path=own, device="cpu") == first
    again = evaluate_checkpoint(folder, path=own, store=Path("other"), device="cpu")
    assert again.rpartition("/")[2] == record.rpartition("/")[2], "the job keeps its name"


def test_a_backbone_is_needed_by_the_fit_alone(elsewhere: Path) -> None:
    small = ["--model.init_args.dim=8", "--model.init_args.heads=2", "--model.init_args.layers=1"]
    words = ["--config", str(CONFIGS / "mplmm_synth.yaml"), *SYNTH, *small]
    first = fitted(*words, "--trainer.max_epochs=2", "--model.init_args.pretrain_epochs=1")
    backbone = first.rename("theirs.ckpt").absolute()
    named = f"theirs.ckpt@{sha256_of(backbone)[:12]}"
    best = fitted(*words, f"--model.init_args.backbone={backbone}")
    whole = [evaluate_checkpoint(best, store=Path("before"), device="cpu"), export_checkpoint(best, Path("whole"))[1]]
    backbone.unlink()
    assert [
        evaluate_checkpoint(best, store=Path("after"), device="cpu").replace("after", "before"),
        export_checkpoint(best, Path("without"))[1],
    ] == whole
    clips = {"audio": np.random.default_rng(0).normal(size=(3, 8, 5))}
    assert np.isfinite(predict_clips(best, clips, device="cpu").preds).all()
    (job,) = ResultStore(Path("after")).jobs()
    assert job.config["model"]["init_args"]["backbone"] == named
    assert job.key == next(iter(ResultStore(Path("before")).jobs())).key
    again = evaluate_checkpoint(Path("without"), store=Path("passed_on"), device="cpu")
    assert again.replace("passed_on", "before") == whole[0]
    for path in Path("without").iterdir():
        assert str(elsewhere).encode() not in path.read_bytes()
    # Of an earlier version's training nobody knows what the file held.
    finished = best.parent / "finished.json"
    said = json.loads(finished.read_text())
    finished.write_text(json.dumps({name: value for name, value in said.items() if name != "weights"}))
    assert "theirs.ckpt of the training is no longer there, and finished.json does not say what it held" in refused(
        lambda: evaluate_checkpoint(best, store=Path("later"), device="cpu")
    )
    assert evaluate_checkpoint(best, device="cpu") == whole[0].rpartition("\n")[0]


def test_what_a_method_keeps_besides_its_weights_is_passed_on(elsewhere: Path) -> None:
    best = fitted("--config", str(CONFIGS / "prlf_synth.yaml"), *SYNTH)
    folder, _ = export_checkpoint(best, Path("exported"))
    one, other = load_checkpoint(best)[0], load_checkpoint(folder)[0]
    assert torch.equal(one.importance_history(), other.importance_history())


def test_plain_values_tensors_and_tied_weights_survive(tmp_path: Path) -> None:
    tied = torch.randn(3, 2)
    extra = {"pages": [torch.arange(3), (1, "two", None, 0.1)], "on": True}
    given: dict[str, Any] = {"data": {}, "scale": {}, "text_encoder": None, "version": "0"}
    texts = dict.fromkeys(("finished.json", "job.json", "README.md"), "{}")
    method = {"init_args": {"kernel": (1, 2)}}
    state = {"a": tied, "b": tied, "t": tied.T}
    write_exported(tmp_path / "x", method=method, extra=extra, state=state, texts=texts, **given)
    manifest, found, restored = read_exported(tmp_path / "x" / "model.safetensors")
    assert manifest["method"] == method
    assert isinstance(manifest["method"]["init_args"]["kernel"], tuple)
    assert all(torch.equal(found[name], value) for name, value in state.items())
    assert set(found) == set(state)
    assert torch.equal(restored["pages"][0], torch.arange(3))
    assert restored["pages"][1] == (1, "two", None, 0.1)
    assert restored["on"] is True
    given |= {"method": method, "state": state, "texts": texts}
    wrong = {"a": {"b": object()}}
    said = refused(lambda: write_exported(tmp_path / "y", extra=wrong, **given))
    assert "extra.a.b of the checkpoint is a object, which cannot be exported" in said
    said = refused(lambda: write_exported(tmp_path / "y", extra={"a": float("inf")}, **given))
    assert "a value that JSON does not have" in said
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_method_from_outside_has_to_be_on_the_path(tmp_path: Path) -> None:
    method = {"method": "net", "class_path": "nowhere.net.Net", "method_version": 1, "init_args": {}, "spec": {}}
    texts = dict.fromkeys(("finished.json", "job.json", "README.md"), "{}")
    settings: dict[str, Any] = {"data": {}, "scale": {}, "extra": {}, "text_encoder": None, "version": "0"}
    write_exported(tmp_path / "x", method=method, state={"a": torch.ones(1)}, texts=texts, **settings)
    said = refused(lambda: load_checkpoint(tmp_path / "x"))
    assert "is of method net, class nowhere.net.Net, which is not on the path; name its file or module with" in said


@pytest.fixture
def hub_cache(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(elsewhere / "hub"))
    return elsewhere / "hub"


def test_a_hub_name_with_its_revision_is_a_checkpoint(
    exported: Path, trained: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (exported / "notes.bin").write_bytes(b"not ours")
    np.savez("clips.npz", audio=np.ones((2, 8, 5)))
    expected = predict_clips(trained, "clips.npz", device="cpu").preds
    with model_hub("lab/lf-dnn", "v1", exported) as (address, asked):
        # What HF_ENDPOINT says is read once, when the client is imported.
        real = huggingface_hub.snapshot_download
        there = lambda *words, **options: real(*words, **{**options, "endpoint": address})  # noqa: E731
        monkeypatch.setattr(huggingface_hub, "snapshot_download", there)
        assert np.array_equal(predict_clips("lab/lf-dnn@v1", "clips.npz", device="cpu").preds, expected)
        assert sorted(asked) == sorted(FILES), "nothing else of the repository is taken"
        words = ["--checkpoint", "lab/lf-dnn@v1"]
        assert dispatch(["evaluate", *words, "--grid", "inter/la", "--device", "cpu"]) == 0
        assert dispatch(["predict", *words, "--input", "clips.npz"]) == 0
        assert dispatch(["checkpoint", "info", "lab/lf-dnn@v1"]) == 0
        assert len(asked) == len(FILES), "and nothing twice"
        assert "verified" in capsys.readouterr().out
        assert "has no revision 'v2'" in refused(lambda: located(Path("lab/lf-dnn@v2")))
        assert "the hub has no repository other/thing" in refused(lambda: located(Path("other/thing@v1")))


def test_a_repository_without_a_checkpoint_is_refused(hub_cache: Path, elsewhere: Path) -> None:
    (elsewhere / "files").mkdir()
    (elsewhere / "files/README.md").write_text("nothing")
    with model_hub("lab/other", "main", elsewhere / "files") as (address, _):
        call = lambda: located(Path("lab/other@main"), endpoint=address)  # noqa: E731
        assert "lab/other@main on the hub has no checkpoint.json" in refused(call)


def test_what_is_no_checkpoint_is_one_sentence(elsewhere: Path) -> None:
    assert "there is no checkpoint none/here;" in refused(lambda: located(Path("none/here")))
    assert ". is a folder without checkpoint.json" in refused(lambda: located(Path()))
    Path("model.safetensors").write_bytes(b"x")
    said = refused(lambda: load_checkpoint(Path("model.safetensors")))
    assert "there is no checkpoint.json beside model.safetensors" in said
