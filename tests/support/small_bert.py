"""A small random BERT in a folder, for tests that read text through an encoder."""

from __future__ import annotations

from pathlib import Path

import torch

HIDDEN = 16


def save_small_bert(folder: Path, hidden: int = HIDDEN, steps: int = 32) -> str:
    """Write config and weights of one that reads so many tokens; returns the folder as a name to load it by."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=200,
        hidden_size=hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=steps,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    return str(folder)
