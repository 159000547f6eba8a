"""Hashes of configs, keys of jobs, and what is recorded of code and machine."""

import copy
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from msabench.errors import MSABenchError, first_difference
from msabench.results import job_identity, provenance
from msabench.results.record import JobRecord
from msabench.results.store import ResultStore

ROOT = Path(__file__).parents[2]
COMMITTED = (ROOT / "leaderboard/results", ROOT / "benchmarks/costs")
CONFIG = {
    "seed_everything": 1111,
    "early_stop": None,
    "wandb": False,
    "trainer": {"max_epochs": 8, "accelerator": "auto", "devices": "auto", "default_root_dir": "a", "callbacks": None},
    "data": {
        "dataset": "mosi",
        "features": None,
        "root": None,
        "cache": None,
        "path": None,
        "batch_size": 32,
        "missing": {"regime": "complete", "rate": [0.1, 0.9], "level": "vectors", "token_fill": "unk"},
        "mask_seed": 0,
        "normalise": None,
        "selection": "val",
        "grid": None,
    },
    "model": {"class_path": "msabench.methods.constant.Constant", "init_args": {"variant": "default", "lr": 0.001}},
}


def changed(path, value):
    config = copy.deepcopy(CONFIG)
    *sections, name = path.split("/")
    place = config
    for section in sections:
        place = place[section]
    place[name] = value
    return config


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed_everything", 7),
        ("wandb", True),
        ("ckpt_path", "runs/fit/best.ckpt"),
        ("weights_only", True),
        ("verbose", False),
        ("return_predictions", False),
        ("data/seed", 7),
        ("data/root", "/elsewhere"),
        ("data/cache", "/elsewhere"),
        ("data/path", "/elsewhere/file.pkl"),
        ("data/grid", ["inter"]),
        ("data/features", "mmsa-aligned"),
        ("data/normalise", "none"),
        ("data/missing/rate", [0.3, 0.3]),
        ("data/missing/token_fill", "zero_embedding"),
        ("data/an_option_of_tomorrow", None),
        ("trainer/accelerator", "gpu"),
        ("trainer/devices", 1),
        ("trainer/strategy", "ddp"),
        ("trainer/num_nodes", 2),
        ("trainer/logger", False),
        ("trainer/enable_progress_bar", False),
        ("trainer/default_root_dir", "b"),
        ("trainer/callbacks", [{"class_path": "lightning.pytorch.callbacks.RichProgressBar"}]),
        ("model/class_path", "Constant"),
        ("model/init_args/spec", {"task": "regression"}),
    ],
)
def test_what_does_not_change_the_training_does_not_change_the_hash(path, value):
    assert job_identity.config_hash(changed(path, value)) == job_identity.config_hash(CONFIG)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("early_stop", 3),
        ("trainer/max_epochs", 9),
        ("trainer/precision", "bf16-mixed"),
        ("trainer/callbacks", [{"class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging"}]),
        ("data/dataset", "mosei"),
        ("data/features", "mult-aligned"),
        ("data/batch_size", 16),
        ("data/normalise", "zscore"),
        # Validation masks select the checkpoint and lower the learning rate.
        ("data/mask_seed", 1),
        ("data/missing/regime", "mixed"),
        ("model/init_args/lr", 0.01),
        ("model/init_args/variant", "other"),
    ],
)
def test_what_changes_the_training_changes_the_hash(path, value):
    assert job_identity.config_hash(changed(path, value)) != job_identity.config_hash(CONFIG)


def test_a_rate_counts_where_the_regime_uses_it():
    intra = changed("data/missing/regime", "intra")
    fixed = copy.deepcopy(intra)
    fixed["data"]["missing"]["rate"] = [0.5, 0.5]
    assert job_identity.config_hash(intra) != job_identity.config_hash(fixed)


def test_job_key_takes_its_fields_from_the_config():
    config = changed("data/missing", {"regime": "inter", "level": "tokens", "lengths": "keep"})
    key = job_identity.job_key(config, "abc")
    assert (key.dataset, key.revision, key.method, key.variant, key.seed) == (
        "mosi",
        "abc",
        "constant",
        "default",
        1111,
    )
    assert (key.regime, key.level, key.lengths, key.token_fill) == ("inter(all)", "tokens", "keep", "unk")
    assert key.features == "mmsa-aligned"
    assert key.selection == "val"
    assert job_identity.job_key(CONFIG, "abc").token_fill == ""
    assert job_identity.job_key(CONFIG, "abc", "mult-aligned").features == "mult-aligned"


def test_committed_records_keep_their_hashes_and_their_form():
    jobs = [job for folder in COMMITTED for job in ResultStore(folder).jobs()]
    assert len(jobs) > 500
    for job in jobs:
        assert job_identity.config_hash(job.config) == job.key.config_hash, job.key
        assert job_identity.portable(job.config) == job.config, job.key


def test_an_unknown_method_class_is_named():
    with pytest.raises(MSABenchError, match=r"somewhere\.Net"):
        job_identity.config_hash(changed("model/class_path", "somewhere.Net"))


def test_records_keep_no_place_of_this_machine():
    config = changed("data/root", "/home/somebody")
    config["ckpt_path"] = "/home/somebody/runs/best.ckpt"
    kept = json.dumps(job_identity.portable(config))
    assert "/home/somebody" not in kept
    assert "default_root_dir" not in kept
    assert job_identity.portable(config)["model"] == config["model"]
    assert job_identity.portable(config)["data"]["grid"] is None


def test_a_text_encoder_counts_by_its_weights_and_not_by_its_place(tmp_path):
    def encoder(place, weights):
        folder = tmp_path / place / "tiny-bert"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(weights)
        (folder / "README.md").write_text(place)
        return str(folder)

    configs = [changed("model/init_args/text_encoder", encoder(*of)) for of in (("a", b"1"), ("b", b"1"), ("c", b"2"))]
    hashes = [job_identity.config_hash(config) for config in configs]
    assert hashes[0] == hashes[1] != hashes[2]
    kept = job_identity.portable(configs[0])
    assert str(tmp_path) not in json.dumps(kept)
    name, _, digest = kept["model"]["init_args"]["text_encoder"].partition("@")
    assert (name, len(digest)) == ("tiny-bert", 12)
    assert job_identity.portable(kept) == kept
    assert configs[0]["model"]["init_args"]["text_encoder"].startswith(str(tmp_path)), "the config itself must load"
    for value in ("bert-base-uncased", None):
        config = changed("model/init_args/text_encoder", value)
        assert job_identity.portable(config)["model"] == config["model"]
    # Weights that change where they lie are seen.
    (tmp_path / "a/tiny-bert/model.safetensors").write_bytes(b"31")
    found = job_identity.config_hash(configs[0])
    assert found not in hashes
    weights, other = tmp_path / "a/tiny-bert/model.safetensors", tmp_path / "other"
    other.write_bytes(b"32")
    os.utime(other, ns=(weights.stat().st_mtime_ns,) * 2)
    other.replace(weights)
    assert job_identity.config_hash(configs[0]) not in (found, *hashes), "of the same size and time"


def test_a_backbone_counts_by_the_sha256_of_its_file(tmp_path):
    def backbone(place, weights):
        (tmp_path / place).mkdir()
        (tmp_path / place / "pretrain.ckpt").write_bytes(weights)
        return changed("model/init_args/backbone", str(tmp_path / place / "pretrain.ckpt"))

    configs = [backbone(*of) for of in (("a", b"1"), ("b", b"1"), ("c", b"2"))]
    hashes = [job_identity.config_hash(config) for config in configs]
    assert hashes[0] == hashes[1] != hashes[2]
    kept = job_identity.portable(configs[0])
    named = f"pretrain.ckpt@{hashlib.sha256(b'1').hexdigest()[:12]}"
    assert kept["model"]["init_args"]["backbone"] == named
    assert job_identity.portable(kept) == kept
    assert job_identity.config_hash(kept) == hashes[0], "the record's own config has the record's hash"
    assert job_identity.config_hash(changed("model/init_args/backbone", None)) == job_identity.config_hash(CONFIG)
    (tmp_path / "a/pretrain.ckpt").write_bytes(b"3")
    assert job_identity.config_hash(configs[0]) not in hashes, "weights that change where they lie"


def test_clipped_labels_make_another_job_and_their_absence_none():
    plain = job_identity.config_hash(CONFIG)
    assert job_identity.config_hash(changed("data/clip_labels", None)) == plain
    assert job_identity.config_hash(changed("data/clip_labels", False)) == plain
    assert job_identity.config_hash(changed("data/clip_labels", True)) != plain


def test_collect_is_plain_data():
    found = provenance.collect()
    assert json.loads(json.dumps(found)) == found
    assert {"git_commit", "git_dirty", "versions", "python", "platform", "cpu", "device", "threads", "date"} <= set(
        found
    )
    assert found["versions"]["numpy"]
    assert found["date"].endswith("Z")


def test_provenance_does_not_load_torch():
    code = "import sys; from msabench.results import provenance; provenance.collect(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_git_state_is_that_of_the_folder(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    assert provenance._git_state(package) == (None, None)
    git("init")
    # Not tracked: an installed copy inside somebody else's checkout.
    assert provenance._git_state(package) == (None, None)
    git("add", "package")
    git("commit", "-m", "first")
    commit, dirty = provenance._git_state(package)
    assert (len(commit), dirty) == (40, False)
    (tmp_path / "results.txt").write_text("beside the package")
    assert provenance._git_state(package) == (commit, False)
    (package / "__init__.py").write_text("x = 1")
    assert provenance._git_state(package) == (commit, True)


def test_first_difference_of_plain_values():
    same = {"a": [1, (2, 3)], "b": {"c": None}}
    assert first_difference(same, {"a": (1, [2, 3]), "b": {"c": None}}) is None
    assert first_difference(same, {"a": [1, [2, 4]], "b": {"c": None}}) == ("a", [1, (2, 3)], [1, [2, 4]])
    assert first_difference(same, {"a": [1, [2, 3]], "b": {"c": 0}}) == ("b.c", None, 0)
    assert first_difference({}, {"x": 1}) == ("x", None, 1)
    assert first_difference([1], [1, 2]) == ("", [1], [1, 2])


def test_committed_records_are_written_back_as_they_are():
    """Fields that came later are left out where a record does not have them."""
    count = 0
    for path in (path for store in COMMITTED for path in store.rglob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            line = json.loads(next(lines))
        again = JobRecord.from_json(line).to_json()
        for stored in (line, again):
            stored.pop("checksums", None)
            del stored["schema_version"]
        assert list(again.items()) == list(line.items()), path
        count += 1
    assert count >= 500
