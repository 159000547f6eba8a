"""A small split with ragged lengths, for tests of masks and batches."""

import torch

from msabench.data.corpus import SplitData, clip_uids

STEPS = {"text": 10, "audio": 13, "vision": 8}
DIMS = {"text": 6, "audio": 3, "vision": 4}
END = dict.fromkeys(STEPS, "end")
FRONT = dict.fromkeys(STEPS, "front")


def small_split(n=12, steps=None, padding="end", split="train", lengths=None):
    """Random contents; lengths cover 3 .. T_m unless given; features and tokens are 0 on padding."""
    steps = steps or STEPS
    generator = torch.Generator().manual_seed(n)
    lengths = lengths or {m: 3 + torch.arange(n) * 5 % (T - 2) for m, T in steps.items()}
    features = {}
    for modality, T in steps.items():
        exists = torch.arange(T) < lengths[modality][:, None]
        features[modality] = torch.randn(n, T, DIMS[modality], generator=generator) * exists[:, :, None]
    exists = torch.arange(steps["text"]) < lengths["text"][:, None]
    ids = torch.randint(1000, 30000, exists.shape, generator=generator)
    ids[:, 0] = 101
    ids[torch.arange(n), (lengths["text"] - 1).clamp(min=0)] = 102
    tokens = torch.stack([ids * exists, exists.long(), torch.zeros_like(ids)], dim=1)
    if padding == "front":
        features = {m: x.flip(1) for m, x in features.items()}
        tokens = tokens.flip(2)
    names = [f"clip{i}" for i in range(n)]
    labels = torch.linspace(-3, 3, n)
    return SplitData(features, lengths, labels, names, clip_uids("synth", split, names), tokens)
