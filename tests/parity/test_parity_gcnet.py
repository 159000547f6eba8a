"""GCNet against its official code, whose graph convolutions are those of PyTorch Geometric.

MSABENCH_PARITY_GCNET: clone of https://github.com/zeroQiaoba/GCNet (8cce4a0)
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.gcnet import ConversationEncoder, GCNet, GraphBranch
from tests.parity.clones import clone, importing
from tests.support.golden_cases import CASES, Case, batch_of, build, fill, kept, numbers

SHAPES = {
    "golden": CASES["gcnet_official"],
    "golden_padded": CASES["gcnet_official_padded"],
    "mosi": Case("gcnet", (768, 5, 20), (50, 375, 500), settings={"hidden": 50}),
    "sims": Case(
        "gcnet", (768, 33, 709), (39, 400, 55), settings={"hidden": 50, "mask_padding": False, "time_attention": True}
    ),
}
KINDS = {"temporal": ("past", "now", "future"), "speaker": ("00", "01", "10", "11")}


@pytest.fixture(scope="module")
def official() -> Iterator[dict[str, ModuleType]]:
    folder = clone("MSABENCH_PARITY_GCNET") / "gcnet"
    pytest.importorskip("torch_geometric", reason="needs torch_geometric, of the extra parity")
    with importing(folder):
        yield {name: importlib.import_module(name) for name in ("model", "graph", "loss")}


def made(official: dict[str, ModuleType], encoder: ConversationEncoder, heads: list[nn.Linear], **sizes: int) -> Any:
    """The official model with our weights."""
    branch = next(iter(encoder.graphs.values()))
    assert isinstance(branch, GraphBranch)
    hidden = encoder.lstm.hidden_size
    windows = dict(zip(("window_past", "window_future"), encoder.windows, strict=True))
    theirs = (
        official["model"]
        .GraphModel(
            "LSTM",
            D_e=hidden,
            graph_hidden_size=hidden // 2,
            n_speakers=encoder.n_speakers,
            n_classes=heads[0].out_features,
            time_attn=branch.query is not None,
            no_cuda=True,
            **windows,
            **sizes,
        )
        .eval()
    )
    theirs.lstm.load_state_dict(encoder.lstm.state_dict())
    theirs.smax_fc.load_state_dict(heads[0].state_dict())
    theirs.linear_rec.load_state_dict(heads[1].state_dict())
    for graph, ours in encoder.graphs.items():
        assert isinstance(ours, GraphBranch)
        there = getattr(theirs, f"graph_net_{graph}")
        # Their relations are numbered as a set of strings happens to be ordered in this process.
        dummy = torch.zeros(1, 1, 1, 1), torch.zeros(1, 1), [1], encoder.n_speakers, 1, 1, graph, True
        number = official["graph"].batch_graphify(*dummy)[3]
        there.conv1.load_state_dict(ours.relational.state_dict())
        with torch.no_grad():
            for weight, kind in zip(ours.relational.weight, KINDS[graph], strict=False):
                there.conv1.weight[number[kind]] = weight
        lin_rel, lin_root = ours.convolution.neighbours, ours.convolution.own
        there.conv2.lin_rel.load_state_dict(lin_rel.state_dict())
        there.conv2.lin_root.load_state_dict(lin_root.state_dict())
        there.grufusion.load_state_dict(ours.lstm.state_dict())
        there.linear.load_state_dict(ours.narrow.state_dict())
        if ours.query is not None:
            there.matchatt.transform.load_state_dict(ours.query.state_dict())
    return theirs


def close(ours: Tensor, theirs: Tensor) -> float:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    return float((ours - theirs).abs().max())


@pytest.mark.parametrize("attention", [False, True])
@pytest.mark.parametrize(
    ("full", "windows"), [(False, (2, 2)), (False, (2, 1)), (False, (-1, 1)), (False, (0, -1)), (True, (2, 1))]
)
@pytest.mark.parametrize("speakers", [1, 2])
def test_the_network_gives_the_same_numbers(
    official: dict[str, ModuleType], attention: bool, full: bool, windows: tuple[int, int], speakers: int
) -> None:
    """Logits, reconstruction and H of ragged conversations; at padding, too, where the LSTMs run into it."""
    dims = (512, 1024, 1024) if full else (5, 16, 7)
    hidden = 200 if full else 6
    settings = {"n_speakers": speakers, "time_attention": attention, "packed": False}
    names = dict(zip(("window_past", "window_future"), windows, strict=True))
    encoder = ConversationEncoder(sum(dims), hidden, **names, **settings).eval()
    heads = [nn.Linear(encoder.width, size) for size in (4, sum(dims))]
    for module in (encoder, *heads):
        fill(module)
    theirs = made(official, encoder, heads, **dict(zip(("adim", "tdim", "vdim"), dims, strict=True)))
    lengths = [7, 5, 1]
    mask = torch.arange(7) < torch.tensor(lengths).unsqueeze(1)
    x = numbers((7, 3, sum(dims)), 3) * mask.T.unsqueeze(2)
    who = (numbers((3, 7), 4) > 0).long() * mask * (speakers - 1)
    with torch.no_grad():
        logits, (rebuilt,), h = theirs([x], who, mask.float(), lengths)
        ours = encoder(x.transpose(0, 1), mask, who).transpose(0, 1)
        print(f"H {close(ours, h):.1e}", end=" ")
        print(f"logits {close(heads[0](ours), logits):.1e} rebuilt {close(heads[1](ours), rebuilt):.1e}")
        encoder.packed = True
        packed = encoder(x.transpose(0, 1), mask, who).transpose(0, 1)
        for c, length in enumerate(lengths):  # each by itself, without padding
            one = slice(c, c + 1)
            alone = theirs([x[:length, one]], who[one, :length], mask[one, :length].float(), [length])[2]
            close(packed[:length, one], alone)
    assert (packed[:5, 1] - ours[:5, 1]).abs().max() > 1e-3
    assert h.std() > 0.01


def places(batch: Batch) -> list[list[int]]:
    """Clips of each conversation, written down by hand for the golden batch."""
    assert batch.size == 4
    return [[2, 0, 3], [1]]


def joined(batch: Batch) -> Tensor:
    """Their utterance vectors ``(B, A + T + V)``, in their order of modalities."""
    order = ("audio", "text", "vision")
    counts = {m: batch.observed[m].sum(1, keepdim=True).clamp(min=1) for m in order}
    return torch.cat([batch.features[m].sum(1) / counts[m] for m in order], dim=1)


def as_theirs(ours: GCNet) -> tuple[ConversationEncoder, list[nn.Linear]]:
    """Our network for features in their order of modalities, which is audio, text, vision."""
    text, audio, vision = torch.arange(sum(ours.widths)).split(ours.widths)
    order = torch.cat([audio, text, vision])
    names = dict(zip(("window_past", "window_future"), ours.encoder.windows, strict=True))
    attention = ours.encoder.graphs["temporal"].query is not None
    encoder = ConversationEncoder(sum(ours.widths), ours.encoder.lstm.hidden_size, time_attention=attention, **names)
    state = ours.encoder.state_dict()
    for suffix in ("", "_reverse"):
        state[f"lstm.weight_ih_l0{suffix}"] = state[f"lstm.weight_ih_l0{suffix}"][:, order]
    encoder.load_state_dict(state)
    assert ours.rebuild is not None
    rebuild = nn.Linear(ours.encoder.width, len(order))
    rebuild.load_state_dict({name: value[order] for name, value in ours.rebuild.state_dict().items()})
    return encoder, [ours.predict, rebuild]


def padded(rows: Tensor, batch: Batch) -> Tensor:
    return nn.utils.rnn.pad_sequence([rows[place] for place in places(batch)])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_method_gives_the_same_numbers(official: dict[str, ModuleType], shape: str) -> None:
    case = SHAPES[shape]
    ours, batch = build(case), batch_of(case)
    assert isinstance(ours, GCNet)
    sizes = {"adim": case.dims[1], "tdim": case.dims[0], "vdim": case.dims[2]}
    theirs = made(official, *as_theirs(ours), **sizes)
    with torch.no_grad():
        out = ours(batch)
        together = padded(joined(batch), batch)
        mask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
        if ours.encoder.packed:
            for c, place in enumerate(places(batch)):
                u = len(place)
                logits, _, h = theirs([together[:u, c : c + 1]], torch.zeros(1, u), torch.ones(1, u), [u])
                print(f"{shape}: {close(out.pred[place], logits[:, 0, 0]):.1e}")
                close(out.representation[place], h[:, 0])
        else:
            logits, _, h = theirs([together], torch.zeros(2, 3), mask, [3, 1])
            for c, place in enumerate(places(batch)):
                print(f"{shape}: {close(out.pred[place], logits[: len(place), c, 0]):.1e}")
                close(out.representation[place], h[: len(place), c])
    if shape.startswith("golden"):
        name = shape.replace("golden", "gcnet_official")
        for key, values in {"pred": out.pred, "representation": out.representation}.items():
            torch.testing.assert_close(kept(name)[key], values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("recon_mask", ["aligned", "official"])
def test_the_losses_give_the_same_numbers(official: dict[str, ModuleType], recon_mask: str) -> None:
    """Of our batch, with what its clips miss; for padding, their mask gets our share of the clips that miss it."""
    case = CASES["gcnet_official_padded"]
    ours, batch = build(case), batch_of(case)
    assert isinstance(ours, GCNet)
    ours.recon_mask = recon_mask
    whole = {m: numbers(tuple(x.shape), key) for key, (m, x) in enumerate(batch.features.items(), start=7)}
    complete = replace(batch, features=whole, observed=batch.valid)
    labels = numbers((4,), 12) * 4
    seen = replace(batch, complete=complete, labels=labels)
    theirs = made(official, *as_theirs(ours), adim=case.dims[1], tdim=case.dims[0], vdim=case.dims[2])
    umask = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]])
    exists = torch.stack([batch.observed[m].all(1).float() for m in ("audio", "text", "vision")], dim=1)
    availability = padded(exists, batch)
    availability[1:, 1] = exists.mean(0)
    with torch.no_grad():
        terms = ours.loss(ours.training_forward(seen), seen)
        logits, rebuilt, _ = theirs([padded(joined(batch), batch)], torch.zeros(2, 3), umask, [3, 1])
        target, mask = [padded(joined(complete), batch)], umask if recon_mask == "official" else umask.T
        scores, truth = (x.T.contiguous() for x in (logits.squeeze(2), padded(labels, batch)))
        task = official["loss"].MaskedMSELoss()(scores, truth, umask)
        rec = official["loss"].MaskedReconLoss()(
            rebuilt, target, [availability], mask, case.dims[1], case.dims[0], case.dims[2]
        )
    print(f"{recon_mask}: task {close(terms['task'], task):.1e} rec {close(terms['rec'], rec):.1e}")
