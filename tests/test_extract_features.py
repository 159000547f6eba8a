"""The example that makes features of videos: what it writes, what it skips, and a training and a prediction from it."""

from __future__ import annotations

import importlib.util
import json
import sys
import wave
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from msabench.__main__ import dispatch
from msabench.data.read_clips import read_clips
from msabench.data.store import open_corpus
from tests.support.small_bert import HIDDEN, save_small_bert

SCRIPT = Path(__file__).parents[1] / "examples/extract_features.py"
WORDS = ("a", "fine", "film", "dull", "long", "not")

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("extract_features", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def encoder(elsewhere: Path) -> str:
    """A small BERT with a tokenizer of seven words."""
    folder = elsewhere / "bert"
    vocabulary = [f"[unused{number}]" for number in range(200)]
    vocabulary[0], vocabulary[100:104] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary[110 : 110 + len(WORDS)] = WORDS
    save_small_bert(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return str(folder)


@pytest.fixture
def no_media(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("av", "cv2", "librosa"):
        monkeypatch.setitem(sys.modules, name, None)


def clip(name: str, words: str | None) -> str:
    Path(f"{name}.mp4").write_bytes(b"no video at all")
    if words is not None:
        Path(f"{name}.txt").write_text(words)
    return f"{name}.mp4"


def stored(path: str = "clips.npz") -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


@pytest.mark.usefixtures("no_media")
def test_what_is_not_installed_is_skipped_with_its_reason(
    script: ModuleType, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = [clip("one", "a fine film"), clip("two", None)]
    script.main([*videos, "--text-encoder", encoder, "--out", "clips.npz"])
    out, err = capsys.readouterr()
    assert out == f"clips.npz: 2 clips, text 5x{HIDDEN} (steps x features)\n"
    for modality in ("audio", "vision"):
        assert f'{modality} is skipped: av is not installed (pip install "msabench[features]")' in err
    arrays = stored()
    assert sorted(arrays) == ["id", "text", "text_bert", "text_lengths"]
    assert arrays["text_bert"][0].tolist() == [[101, 110, 111, 112, 102], [1] * 5, [0] * 5]
    assert not arrays["text_bert"][1].any()
    assert arrays["text_lengths"].tolist() == [5, 0]
    read = read_clips(Path("clips.npz"))
    assert read.notes == ["clips/text: 1 clips have no frame"]
    with pytest.raises(SystemExit, match=r"clips\.npz is there already and is not overwritten"):
        script.main([*videos, "--out", "clips.npz"])


@pytest.mark.usefixtures("no_media")
def test_nothing_is_written_where_nothing_can_be_extracted(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("nowhere").mkdir()
    with pytest.raises(SystemExit, match="no modality could be extracted"):
        script.main([clip("one", "a film"), "--out", "clips.npz", "--text-encoder", "nowhere"])
    assert "text is skipped: the text encoder nowhere cannot be loaded" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"there is no file none\.mp4"):
        script.main(["none.mp4", "--out", "clips.npz"])
    assert not Path("clips.npz").exists()


@pytest.mark.usefixtures("no_media")
def test_a_model_is_trained_on_such_features_and_predicts_from_them(
    script: ModuleType, encoder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, videos = [], []
    for number, split in enumerate(["train"] * 8 + ["valid"] * 3 + ["test"] * 3):
        good = number % 2 == 0
        videos.append(clip(f"c{number}", "a fine film" if good else "a dull long film"))
        rows.append(f"c{number},{split},{2.0 if good else -2.0}")
    Path("labels.csv").write_text("\n".join(["id,split,label", *rows]))
    script.main([*videos, "--text-encoder", encoder, "--labels", "labels.csv", "--out", "mine.npz"])
    corpus = open_corpus("custom", path=Path("mine.npz"))
    assert corpus.unseen == ("audio", "vision")
    config = str(SCRIPT.parents[1] / "configs/lf_dnn_custom.yaml")
    quiet = ["--trainer.max_epochs=30", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    dispatch(["fit", "--config", config, "--data.path=mine.npz", "--model.init_args.lr=0.01", *quiet])
    (best,) = Path().glob("runs/**/best.ckpt")
    script.main([clip("new", "a fine film"), clip("old", "dull"), "--text-encoder", encoder, "--out", "clips.npz"])
    capsys.readouterr()
    dispatch(["predict", "--checkpoint", str(best), "--input", "clips.npz", "--format", "csv", "--device", "cpu"])
    _, new, old = capsys.readouterr().out.splitlines()
    assert float(new.split(",")[1]) > float(old.split(",")[1])
    with pytest.raises(SystemExit, match=r"labels\.csv has no row for clip 'new'"):
        script.main(["new.mp4", "--text-encoder", encoder, "--labels", "labels.csv", "--out", "other.npz"])


def tone(path: Path, hertz: float, seconds: float) -> None:
    times = np.arange(int(seconds * 8000)) / 8000
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes((np.sin(2 * np.pi * hertz * times) * 20000).astype("<i2").tobytes())


def test_pitch_of_a_tone_is_heard(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("av", "librosa"):
        pytest.importorskip(name)
    tone(Path("low.wav"), 110, 1.0)
    tone(Path("high.wav"), 220, 0.5)
    script.main(["low.wav", "high.wav", "--out", "clips.npz"])
    arrays = stored()
    assert arrays["audio_lengths"].tolist() == [11, 6]
    assert arrays["audio"].shape == (2, 11, 24)
    assert not arrays["audio"][1, 6:].any()
    np.testing.assert_allclose(np.median(arrays["audio"][0, 2:9, 20]), 110, rtol=0.02)
    np.testing.assert_allclose(np.median(arrays["audio"][1, 1:5, 20]), 220, rtol=0.02)
    assert "vision" not in arrays
    assert "text is skipped: no --text-encoder is given" in capsys.readouterr().err


def film(path: Path, seconds: int) -> None:
    """A silent film of a grey wall, ten frames a second."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.time_base = Fraction(1, 10)
        for _ in range(10 * seconds):
            wall = np.full((64, 96, 3), 120, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(wall, format="rgb24")))
        container.mux(stream.encode())


def test_frames_without_a_face_are_not_observed(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("av", "cv2"):
        pytest.importorskip(name)
    film(Path("wall.mp4"), 2)
    film(Path("short.mp4"), 1)
    script.main(["wall.mp4", "short.mp4", "--out", "clips.npz"])
    arrays = stored()
    assert arrays["vision"].shape == (2, 10, 327)
    assert arrays["vision_lengths"].tolist() == [10, 5]
    assert not arrays["vision_observed"].any()
    assert not arrays["vision"].any()
    assert read_clips(Path("clips.npz")).observed["vision"].shape == (2, 10)
    assert "audio" not in arrays
