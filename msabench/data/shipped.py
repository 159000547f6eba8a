"""The corpora that msabench knows, with their feature files. Free of torch."""

from __future__ import annotations

from msabench.data.info import DatasetInfo, FeatureFile

_MMSA = "https://github.com/thuiar/MMSA"
_MMSA_DRIVE = "https://drive.google.com/drive/folders/1A2S4pqCHryGmiqnNSPLv7rEg63WvjCSk"
_MULT_ARCHIVE = "https://www.dropbox.com/sh/hyzpgx1hp9nj37s/AADfY2s7gD_MkR76m03KS0K1a/Archive.zip?dl=1"

_CMU_PROCESSED = "http://immortal.multicomp.cs.cmu.edu/raw_datasets/processed_data"


def _modalities(text: int, audio: int, vision: int) -> dict[str, int]:
    return {"text": text, "audio": audio, "vision": vision}


def _mmsa(
    dataset: str, filename: str, dims: dict[str, int], lengths: dict[str, int], sha256: str, hub_file: str = ""
) -> FeatureFile:
    """A file of MMSA (Yu et al., AAAI 2021; Mao et al., ACL 2022), hashes as in its README."""
    folder = {"mosi": "MOSI", "mosei": "MOSEI", "sims": "SIMS"}[dataset]
    return FeatureFile(
        features="mmsa-" + filename.partition("_")[0],
        reader="mmsa",
        filename=f"{dataset}/{filename}",
        dims=dims,
        lengths=lengths,
        sha256=sha256,
        how_to_get=(
            f"1. Open the MMSA data folder {_MMSA_DRIVE} (or the Baidu link in the README of {_MMSA}).\n"
            f"2. Download {folder}/Processed/{filename}."
        ),
        hub_repo="Bluexxx/SemMSA-data" if hub_file else "",
        hub_files=(hub_file,) if hub_file else (),
    )


def _mult(dataset: str, filename: str, dims: dict[str, int], lengths: dict[str, int]) -> FeatureFile:
    """A file of MulT (Tsai et al., ACL 2019); no hashes were published."""
    return FeatureFile(
        features="mult-unaligned" if filename.endswith("_noalign.pkl") else "mult-aligned",
        reader="mult",
        filename=f"{dataset}/{filename}",
        dims=dims,
        lengths=lengths,
        how_to_get=(
            "1. Download the archive of https://github.com/yaohungt/Multimodal-Transformer:\n"
            f"     wget -O Archive.zip '{_MULT_ARCHIVE}'\n"
            f"   (the same files were at {_CMU_PROCESSED})\n"
            f"2. Take {filename} out of it:\n"
            f"     unzip -j Archive.zip '*{filename}'"
        ),
    )


_MOSI = _modalities(768, 5, 20)
_MOSEI = _modalities(768, 74, 35)
_MULT_MOSI = _modalities(300, 5, 20)
_MULT_MOSEI = _modalities(300, 74, 35)
_WORDS = _modalities(50, 50, 50)

SHIPPED: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            name="mosi",
            title="CMU-MOSI",
            split_sizes=(1284, 229, 686),
            test_counts=(379, 30, 277),
            files=(
                _mmsa(
                    "mosi",
                    "aligned_50.pkl",
                    _MOSI,
                    _WORDS,
                    "d3994fd25681f9c7ad6e9c6596a6fe9b4beb85ff7d478ba978b124139002e5f9",
                ),
                _mmsa(
                    "mosi",
                    "unaligned_50.pkl",
                    _MOSI,
                    _modalities(50, 375, 500),
                    "78e0f8b5ef8ff71558e7307848fc1fa929ecb078203f565ab22b9daab2e02524",
                    "mosi_unaligned_50.pkl",
                ),
                _mult("mosi", "mosi_data.pkl", _MULT_MOSI, _WORDS),
                _mult("mosi", "mosi_data_noalign.pkl", _MULT_MOSI, _modalities(50, 375, 500)),
            ),
        ),
        DatasetInfo(
            name="mosei",
            title="CMU-MOSEI",
            split_sizes=(16326, 1871, 4659),
            test_counts=(1350, 1025, 2284),
            files=(
                _mmsa(
                    "mosei",
                    "aligned_50.pkl",
                    _MOSEI,
                    _WORDS,
                    "45eccfb748a87c80ecab9bfac29582e7b1466bf6605ff29d3b338a75120bf791",
                ),
                _mmsa(
                    "mosei",
                    "unaligned_50.pkl",
                    _MOSEI,
                    _modalities(50, 500, 500),
                    "ad8b23d50557045e7d47959ce6c5b955d8d983f2979c7d9b7b9226f6dd6fec1f",
                    "mosei_unaligned_50/",
                ),
                _mult("mosei", "mosei_senti_data.pkl", _MULT_MOSEI, _WORDS),
                _mult("mosei", "mosei_senti_data_noalign.pkl", _MULT_MOSEI, _modalities(50, 500, 500)),
            ),
        ),
        DatasetInfo(
            name="sims",
            title="CH-SIMS",
            language="zh",
            metric_set="sims",
            label_range=(-1.0, 1.0),
            split_sizes=(1368, 456, 457),
            default_metric="f1",
            # Yu et al. (ACL 2020), table of label counts: 151 + 97 negative, 69 neutral, 69 + 71 positive.
            test_counts=(248, 69, 140),
            files=(
                _mmsa(
                    "sims",
                    "unaligned_39.pkl",
                    _modalities(768, 33, 709),
                    _modalities(39, 400, 55),
                    "c9e20c13ec0454d98bb9c1e520e490c75146bfa2dfeeea78d84de047dbdd442f",
                    "sims_unaligned_39.pkl",
                ),
            ),
        ),
        DatasetInfo(
            name="iemocap",
            title="IEMOCAP",
            task="emotions",
            metric_set="emotions",
            label_range=(0.0, 1.0),
            split_sizes=(2717, 798, 938),
            default_metric="f1_mean",
            files=(
                _mult("iemocap", "iemocap_data.pkl", _MULT_MOSEI, _modalities(20, 20, 20)),
                _mult("iemocap", "iemocap_data_noalign.pkl", _MULT_MOSEI, _modalities(20, 400, 500)),
            ),
        ),
        DatasetInfo(
            name="mosei_video",
            title="MOSEI-video-898 (pooled)",
            caveat=(
                "MOSEI-video-898 (pooled) has one pooled vector per modality and video: sequence length 1, so dropping "
                "frames at rate p drops the whole modality with probability p. Its test split has 179 clips, so a "
                "correlation has a standard error of about .07. It shows that the whole path works on real input and "
                "that gross orderings hold; it cannot rank methods. It is not CMU-MOSEI and must not stand beside "
                "published CMU-MOSEI numbers."
            ),
            split_sizes=(634, 85, 179),
            test_counts=(50, 11, 118),
            normalise="zscore",
            files=(
                FeatureFile(
                    features="pooled",
                    reader="npz",
                    filename="mosei_video/mosei_video.npz",
                    dims=_modalities(768, 39, 33),
                    lengths=_modalities(1, 1, 1),
                    sha256="ebf3ad18778caeb7ebc491e7648627fc017eacd18bf9baa8fd4d75396cae8a5a",
                    how_to_get=(
                        "1. There is no public copy of this file; ask the maintainers for mosei_video.npz.\n"
                        "   Its features come from https://github.com/JugalGajjar/"
                        "Multimodal-Sentiment-Analysis-with-MOSEI-Dataset at 997fc161 (MIT licence), its labels and "
                        "splits from the public CMU-MOSEI segment table.\n"
                        "2. It is an npz with the arrays id, split, regression_labels, text, audio, vision."
                    ),
                ),
            ),
        ),
        DatasetInfo(
            name="synth",
            title="synth (generated)",
            caveat=(
                "synth is a generated test bench: it shows that methods train and that the protocol works, and is "
                "never evidence about CMU-MOSI or another real corpus."
            ),
            language="none",
            files=(
                FeatureFile(
                    features="synth",
                    reader="generator",
                    filename="",
                    dims=_MOSI,
                    lengths=_WORDS,
                    how_to_get="synth is generated when it is first used; there is nothing to get.",
                ),
            ),
        ),
        DatasetInfo(
            name="custom",
            title="custom file",
            language="none",
            normalise="zscore",
            files=(
                FeatureFile(
                    features="custom",
                    reader="npz",
                    filename="",
                    how_to_get=(
                        "custom reads your own file: name it with path. An .npz holds the arrays id, split, "
                        "regression_labels (or emotion_labels), text, audio and vision, and names in absent what it "
                        "has not; a .pkl is laid out as MMSA's, or as MulT's IEMOCAP files where the task is emotions."
                    ),
                ),
            ),
        ),
    )
}
"""The corpora that msabench knows of itself, by name; ``registry.corpora`` has those from outside, too."""
