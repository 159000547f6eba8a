"""Makes an npz of features from videos and their transcripts, for ``msabench predict`` or, with labels, for training.

    python examples/extract_features.py clip.mp4 --text-encoder bert-base-uncased --out clips.npz

The transcript of ``clip.mp4`` is ``clip.txt`` beside it. What a library is missing for is skipped with a reason, and is
then not in the file; ``pip install "msabench[features]"`` brings them all. A model predicts from these features only if
it was trained on features of this script: see docs/features.md.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

SECONDS = 0.1
"""Length of a step of audio."""

RATE = 16_000
"""Samples a second that audio is brought to."""

FRAMES = 5
"""Frames a second that are looked at."""

FACE = 32
"""Side of the picture that a face is scaled to."""

MODALITIES = ("text", "audio", "vision")


class SkippedError(Exception):
    """Why a modality is not extracted."""


def library(name: str) -> ModuleType:
    """Import a library of the extra ``features``.

    Raises:
        SkippedError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SkippedError(f'{error.name} is not installed (pip install "msabench[features]")') from error


def text_reader(encoder: str | None) -> Callable[[Path], tuple[Array, Array]]:
    """What reads transcripts: BERT's states (T, D) and its tokens (3, T), none for a clip without a transcript.

    Args:
        encoder: Folder or hub name of a BERT with its tokenizer, in the format of transformers.

    Raises:
        SkippedError: None is named, or a library or the model is not there.
    """
    if encoder is None:
        raise SkippedError("no --text-encoder is given")
    torch, transformers = library("torch"), library("transformers")
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
        bert = transformers.BertModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    except (OSError, ValueError) as error:
        raise SkippedError(
            f"the text encoder {encoder} cannot be loaded ({' '.join(str(error).split())[:100]})"
        ) from error

    def read(video: Path) -> tuple[Array, Array]:
        transcript = video.with_suffix(".txt")
        if not transcript.is_file():
            return np.zeros((0, bert.config.hidden_size), dtype=np.float32), np.zeros((3, 0), dtype=np.int64)
        words = transcript.read_text(encoding="utf-8").strip()
        most = bert.config.max_position_embeddings
        tokens = tokenizer(words, truncation=True, max_length=most, return_tensors="pt")
        with torch.no_grad():
            states = bert(**tokens).last_hidden_state[0].numpy()
        ids = tokens["input_ids"][0].numpy()
        return states, np.stack([ids, np.ones_like(ids), np.zeros_like(ids)])

    return read


def audio_reader() -> Callable[[Path], Array]:
    """What hears a video: for every tenth of a second 20 MFCC, pitch (Hz), energy, zero crossings, spectral centroid.

    Raises:
        SkippedError: A library is not installed.
    """
    av, librosa = library("av"), library("librosa")

    def read(video: Path) -> Array:
        with av.open(str(video)) as container:
            if not container.streams.audio:
                return np.zeros((0, 24), dtype=np.float32)
            resampler = av.AudioResampler(format="flt", layout="mono", rate=RATE)
            frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
            frames += resampler.resample(None)
        samples = np.concatenate([frame.to_ndarray().reshape(-1) for frame in frames])
        step = int(SECONDS * RATE)
        settings = {"y": samples, "hop_length": step}
        steps = [
            librosa.feature.mfcc(sr=RATE, n_mfcc=20, **settings),
            librosa.yin(fmin=65, fmax=500, sr=RATE, **settings)[None],
            librosa.feature.rms(**settings),
            librosa.feature.zero_crossing_rate(**settings),
            librosa.feature.spectral_centroid(sr=RATE, **settings),
        ]
        return np.concatenate(steps).T.astype(np.float32)

    return read


def vision_reader() -> Callable[[Path], tuple[Array, Array]]:
    """What watches a video: five times a second where the largest face is, how large, and its edges (HOG, 324).

    Raises:
        SkippedError: A library is not installed.
    """
    av, cv2 = library("av"), library("cv2")
    finder = cv2.CascadeClassifier(str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_default.xml"))
    edges = cv2.HOGDescriptor((FACE, FACE), (16, 16), (8, 8), (8, 8), 9)
    width = 3 + edges.getDescriptorSize()

    def describe(picture: Array) -> Array | None:
        faces = finder.detectMultiScale(picture, 1.1, 5)
        if not len(faces):
            return None
        x, y, w, h = max(faces, key=lambda face: face[2] * face[3])
        high, wide = picture.shape
        place = [(x + w / 2) / wide, (y + h / 2) / high, w / wide]
        face = cv2.resize(picture[y : y + h, x : x + w], (FACE, FACE))
        return np.concatenate([place, edges.compute(face).reshape(-1)])

    def read(video: Path) -> tuple[Array, Array]:
        rows, due = [], 0.0
        with av.open(str(video)) as container:
            for frame in container.decode(video=0) if container.streams.video else ():
                if frame.time is None or frame.time >= due:
                    rows.append(describe(frame.to_ndarray(format="gray")))
                    due += 1 / FRAMES
        seen = np.array([row is not None for row in rows], dtype=bool)
        values = np.array([np.zeros(width) if row is None else row for row in rows], dtype=np.float32)
        return values.reshape(len(rows), width), seen

    return read


def padded(rows: Sequence[Array]) -> Array:
    """Clips of different lengths in one array, zeros behind the shorter ones; at least one step."""
    steps = max(1, *(len(row) for row in rows))
    array = np.zeros((len(rows), steps, *rows[0].shape[1:]), dtype=rows[0].dtype)
    for place, row in enumerate(rows):
        array[place, : len(row)] = row
    return array


def extract(videos: Sequence[Path], encoder: str | None) -> dict[str, Array]:
    """The arrays of an npz; a modality that is skipped has none, and its reason goes to standard error.

    Args:
        videos: The clips, videos or sound files; their names are the ids.
        encoder: See ``text_reader``.
    """
    arrays: dict[str, Array] = {"id": np.array([video.stem for video in videos])}
    for modality in MODALITIES:
        try:
            if modality == "text":
                read = text_reader(encoder)
                states, tokens = zip(*map(read, videos), strict=True)
                arrays["text_bert"] = padded([part.T for part in tokens]).transpose(0, 2, 1)
            elif modality == "audio":
                states = tuple(map(audio_reader(), videos))
            else:
                states, seen = zip(*map(vision_reader(), videos), strict=True)
                arrays["vision_observed"] = padded(seen)
        except SkippedError as reason:
            print(f"{modality} is skipped: {reason}", file=sys.stderr)
            continue
        lengths = np.array([len(part) for part in states])
        if not lengths.any():
            print(f"{modality} is left out: no clip has any", file=sys.stderr)
            for key in ("text_bert",) if modality == "text" else (f"{modality}_observed",):
                arrays.pop(key, None)
            continue
        arrays |= {modality: padded(states), f"{modality}_lengths": lengths}
    return arrays


def labelled(arrays: dict[str, Array], path: Path) -> dict[str, Array]:
    """The arrays with split and label of every clip, from a CSV with the columns id, split, label."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = {row["id"]: row for row in csv.DictReader(stream)}
    ids = arrays["id"].tolist()
    if missing := [clip for clip in ids if clip not in rows]:
        raise SystemExit(f"{path} has no row for clip {missing[0]!r}")
    labels = np.array([float(rows[clip]["label"]) for clip in ids], dtype=np.float32)
    absent = [modality for modality in MODALITIES if modality not in arrays]
    arrays |= {"split": np.array([rows[clip]["split"] for clip in ids]), "regression_labels": labels}
    return arrays | ({"absent": np.array(absent)} if absent else {})


def main(words: Sequence[str] | None = None) -> None:
    """Read the command line, extract, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "videos", nargs="+", type=Path, help="videos or sound files; X.txt beside X.mp4 is its transcript"
    )
    parser.add_argument("--out", type=Path, required=True, help="the npz to write; nothing is overwritten")
    parser.add_argument("--text-encoder", help="folder or hub name of a BERT with its tokenizer")
    parser.add_argument("--labels", type=Path, help="CSV with id, split and label, for a file to train on")
    given = parser.parse_args(words)
    if given.out.exists():
        raise SystemExit(f"{given.out} is there already and is not overwritten; give another --out")
    if missing := [video for video in given.videos if not video.is_file()]:
        raise SystemExit(f"there is no file {missing[0]}")
    arrays = extract(given.videos, given.text_encoder)
    there = [modality for modality in MODALITIES if modality in arrays]
    if not there:
        raise SystemExit("no modality could be extracted, so nothing is written")
    if given.labels is not None:
        arrays = labelled(arrays, given.labels)
    unfinished = given.out.with_name(f".{given.out.name}.part")
    with unfinished.open("wb") as stream:
        np.savez(stream, **arrays)
    unfinished.rename(given.out)
    shapes = ", ".join(f"{modality} {'x'.join(map(str, arrays[modality].shape[1:]))}" for modality in there)
    print(f"{given.out}: {len(given.videos)} clips, {shapes} (steps x features)")


if __name__ == "__main__":
    main()
