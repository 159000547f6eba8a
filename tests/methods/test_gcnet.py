"""What is GCNet's own; what every method must hold is in test_methods.py."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.methods.gcnet import ConversationEncoder, GCNet, GraphBranch
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import data_module, random_corpus
from tests.support.golden_cases import CASES, assert_as_kept, batch_of, build, fill, numbers

CASE = CASES["gcnet_official"]
PLACES = ([2, 0, 3], [1])  # rows of the golden batch's two conversations, in order of time


def method(**settings: object) -> GCNet:
    built = build(replace(CASE, settings={**CASE.settings, **settings}))
    assert isinstance(built, GCNet)
    return built


def encoder_of(**settings: object) -> ConversationEncoder:
    encoder = ConversationEncoder(5, 6, **{"window_past": 1, "window_future": 2, **settings}).eval()
    fill(encoder)
    return encoder


def conversations(*lengths: int) -> tuple[Tensor, Tensor]:
    """Vectors ``(C, U, 5)`` and which of them exist."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return numbers((*mask.shape, 5), 1) * 3 * mask.unsqueeze(2), mask


def training_batch() -> Batch:
    """The golden batch with a complete version; nothing is known of the last clip's audio there, either."""
    batch = batch_of(CASE)
    observed = {m: mask.clone() for m, mask in batch.valid.items()}
    observed["audio"][3] = False
    batch.observed["audio"][3] = False
    batch.features["audio"][3] = 0
    features = {
        m: numbers(tuple(x.shape), key) * observed[m].unsqueeze(2)
        for key, (m, x) in enumerate(batch.features.items(), start=7)
    }
    return replace(batch, complete=replace(batch, features=features, observed=observed), labels=numbers((4,), 12) * 4)


@pytest.mark.parametrize("name", ["gcnet_official", "gcnet_official_padded"])
def test_outputs_are_those_of_the_official_code(name: str) -> None:
    assert_as_kept(name)


@pytest.mark.parametrize(("hidden", "official"), [(50, 3.72e6), (100, 10.63e6), (200, 34.02e6)])
def test_size_is_the_official_one_but_for_an_unused_gru(hidden: int, official: float) -> None:
    spec = replace(CASE.spec, feature_dims={"text": 1024, "audio": 512, "vision": 1024})
    with torch.device("meta"):
        ours = GCNet(spec, hidden=hidden, time_attention=True)
        unused = nn.GRU(2560, hidden, num_layers=2, bidirectional=True)
    size = sum(p.numel() for module in (ours, unused) for p in module.parameters())
    assert size == pytest.approx(official, abs=5e3)
    assert GCNet(CASE.spec).init_args["hidden"] == 200


def test_relations_say_who_came_first_and_who_speaks() -> None:
    encoder = encoder_of(n_speakers=2)
    edges = torch.ones(1, 4, 4, dtype=torch.bool)
    edges[0, 3] = False
    speakers = torch.tensor([[0, 1, 1, 0]])
    past, now, future = encoder._orders(edges)
    pairs = encoder._pairs(edges, speakers)
    assert past.dtype == pairs.dtype == torch.bool
    for listener in range(4):
        for speaker in range(4):
            there = listener != 3
            assert past[0, listener, speaker] == (there and speaker < listener)
            assert now[0, listener, speaker] == (there and speaker == listener)
            assert future[0, listener, speaker] == (there and speaker > listener)
            kind = 2 * int(speakers[0, listener]) + int(speakers[0, speaker])
            assert pairs[:, 0, listener, speaker].tolist() == [there and k == kind for k in range(4)]


@pytest.mark.parametrize("attention", [False, True])
def test_branch_follows_its_formulas_one_utterance_at_a_time(attention: bool) -> None:
    branch = GraphBranch(4, 2, 3, 0.5, attention).eval()
    fill(branch)
    u, c = 5, 2
    x, mask = numbers((c, u, 4), 3) * 3, torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    relations = (numbers((2, c, u, u), 4) > 0) & mask.unsqueeze(2) & mask.unsqueeze(1)
    relations[1] &= ~relations[0]
    got = branch(x, relations, mask, packed=True)
    for k, length in enumerate((5, 3)):
        z = []
        for i in range(length):
            z_i = x[k, i] @ branch.relational.root + branch.relational.bias
            for r in range(2):
                heard = [x[k, j] @ branch.relational.weight[r] for j in range(length) if relations[r, k, i, j]]
                z_i = z_i + (sum(heard, torch.zeros(3)) / max(len(heard), 1))
            z.append(z_i)
        nodes = []
        for i in range(length):
            total = sum((z[j] for j in range(length) if relations[:, k, i, j].any()), torch.zeros(3))
            y_i = branch.convolution.neighbours(total) + branch.convolution.own(z[i])
            nodes.append(torch.cat([x[k, i], y_i]))
        memory = branch.lstm(torch.stack(nodes).unsqueeze(0))[0][0]
        attended = memory
        if branch.query is not None:
            rows = []
            for step in memory:
                score = torch.stack([torch.tanh(other @ branch.query(step)) for other in memory]).exp()
                rows.append((score / score.sum()) @ memory)
            attended = torch.stack(rows)
        torch.testing.assert_close(got[k, :length], torch.relu(branch.narrow(attended)), atol=1e-6, rtol=1e-5)


def test_h_is_the_sum_of_both_graphs() -> None:
    x, mask = conversations(4, 2)
    both = encoder_of()
    total = torch.zeros(())
    for graph in ("temporal", "speaker"):
        one = encoder_of(graphs=(graph,))
        one.load_state_dict({key: both.state_dict()[key] for key in one.state_dict()})
        total = total + one(x, mask)
    torch.testing.assert_close(both(x, mask), total)
    assert both.width == 2 * 6 + 3


@pytest.mark.parametrize("packed", [True, False])
def test_only_the_official_way_lets_a_conversation_depend_on_the_longest_one(packed: bool) -> None:
    encoder = encoder_of(packed=packed)
    (x, mask), (longer, longer_mask) = conversations(4, 2), conversations(6, 2)
    longer[1, :2] = x[1, :2]
    same = torch.allclose(encoder(x, mask)[1, :2], encoder(longer, longer_mask)[1, :2], atol=1e-6)
    assert same is packed


def test_a_clip_hears_its_own_conversation_only() -> None:
    ours, batch = method(), batch_of(CASE)
    changed = replace(batch, features={**batch.features, "text": batch.text.clone()})
    changed.text[0] += 3
    with torch.no_grad():
        moved = (ours(batch).representation != ours(changed).representation).any(1)
    assert moved.tolist() == [True, False, True, True]


def test_without_context_every_clip_is_a_conversation_of_its_own() -> None:
    ours, batch = method(context=False), batch_of(CASE)
    assert not ours.data_needs.conversations
    assert method().data_needs.conversations
    with torch.no_grad():
        together = ours(batch).pred
        alone = method()(replace(batch, conversation=torch.arange(4), turn=torch.zeros(4, dtype=torch.int64))).pred
        in_context = method()(batch).pred
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, in_context, atol=1e-4)


def test_order_in_time_matters() -> None:
    ours, batch = method(), batch_of(CASE)
    assert batch.turn is not None
    with torch.no_grad():
        assert not torch.allclose(ours(batch).pred, ours(replace(batch, turn=2 - batch.turn)).pred, atol=1e-5)


def test_a_clip_is_the_mean_of_its_observed_frames_and_what_was_removed_is_zero() -> None:
    batch = batch_of(CASE)
    vectors = method()._vectors(batch).split([16, 5, 7], dim=1)
    for m, vector in zip(MODALITIES, vectors, strict=True):
        for row in range(4):
            kept = batch.features[m][row, batch.observed[m][row]]
            expected = kept.mean(0) if len(kept) else torch.zeros(kept.shape[1])
            torch.testing.assert_close(vector[row], expected)
    assert not vectors[2][2].any()


def test_text_can_be_its_first_state_and_a_removed_one_is_zero_whatever_stands_there() -> None:
    ours, batch = method(text_vector="first"), batch_of(CASE)
    torch.testing.assert_close(ours._vectors(batch)[:, :16], batch.text[:, 0])
    without = replace(batch, observed={**batch.observed, "text": torch.zeros_like(batch.observed["text"])})
    for which in ("first", "mean"):  # as when an encoder read [UNK] throughout
        assert not method(text_vector=which)._vectors(without)[:, :16].any()


def by_hand(ours: GCNet, batch: Batch, rows: list[int], asked: dict[str, list[int]]) -> Tensor:
    """Squared errors over features of what is asked of some clips, each modality divided by its features, summed."""
    assert batch.complete is not None
    assert ours.rebuild is not None
    rebuilt = ours.rebuild(ours(batch).representation).split(ours.widths, dim=1)
    target = ours._vectors(batch.complete).split(ours.widths, dim=1)
    total = torch.zeros(())
    for m, guess, truth in zip(MODALITIES, rebuilt, target, strict=True):
        for row in rows:
            if row in asked[m]:
                total = total + ((guess[row] - truth[row]) ** 2).sum() / guess.shape[1]
    return total


LOST = {"text": [1, 3], "audio": [1], "vision": [1, 2, 3]}  # of clip 3's audio the complete version has nothing either
KNOWN = {"text": [0, 1, 2, 3], "audio": [0, 1, 2], "vision": [0, 1, 2, 3]}


@pytest.mark.parametrize(("reconstruct", "asked"), [("missing", LOST), ("all", KNOWN)])
def test_what_lost_a_frame_is_rebuilt(reconstruct: str, asked: dict[str, list[int]]) -> None:
    ours, batch = method(reconstruct=reconstruct, lambda_reconstruction=0.5), training_batch()
    with torch.no_grad():
        out = ours.training_forward(batch)
        terms = ours.loss(out, batch)
        shares = [by_hand(ours, batch, place, asked) for place in PLACES]
    torch.testing.assert_close(terms["rec"], 0.5 * (shares[0] + shares[1]) / 4)
    torch.testing.assert_close(out.aux["rec"], torch.stack([shares[0] / 3, shares[1], shares[0] / 3, shares[0] / 3]))
    torch.testing.assert_close(terms["task"], ((out.pred - batch.labels) ** 2).mean())


def test_official_mask_counts_padding_and_leaves_out_clips() -> None:
    """Three clips and one: (U, C) in order of time is [2, 1, 0, -, 3, -], weighed with [1, 1, 1, 1, 0, 0]."""
    ours, batch = method(recon_mask="official", mask_padding=False), training_batch()
    assert ours.rebuild is not None
    with torch.no_grad():
        rec = ours.loss(ours.training_forward(batch), batch)["rec"]
        counted = by_hand(ours, batch, [2, 1, 0], LOST)
        x = nn.utils.rnn.pad_sequence([ours._vectors(batch)[place] for place in PLACES], batch_first=True)
        h = ours.encoder(x, torch.tensor([[True, True, True], [True, False, False]]))
        padding = ours.rebuild(h[1, 1]).split(ours.widths)
        for m, guess in zip(MODALITIES, padding, strict=True):
            counted = counted + len(LOST[m]) / 4 * (guess**2).mean()
        aligned = method(mask_padding=False)
        assert not torch.allclose(rec, aligned.loss(aligned.training_forward(batch), batch)["rec"], rtol=1e-2)
    torch.testing.assert_close(rec, counted / 4)


def test_nothing_is_rebuilt_of_complete_data() -> None:
    batch = training_batch()
    assert batch.complete is not None
    complete = replace(batch.complete, complete=batch.complete, labels=batch.labels)
    ours = method()
    terms = ours.loss(ours.training_forward(complete), complete)
    torch.stack(list(terms.values())).sum().backward()
    assert ours.rebuild is not None
    assert terms["rec"] == 0
    assert not ours.rebuild.weight.grad.any()
    assert ours.predict.weight.grad.any()


def test_variants_drop_what_they_are_named_after() -> None:
    batch = training_batch()
    for variant, graphs in (("wo_temporal", ["speaker"]), ("wo_speaker", ["temporal"]), ("default", None)):
        assert list(method(variant=variant).encoder.graphs) == (graphs or ["temporal", "speaker"])
    without = method(variant="wo_reconstruction")
    assert set(without.loss(without.training_forward(batch), batch)) == {"task"}
    assert not any("rebuild" in key for key in without.state_dict())
    assert set(without.loss(without.training_forward(replace(batch, complete=None)), batch)) == {"task"}


def test_a_training_batch_holds_whole_conversations() -> None:
    data = data_module(random_corpus(), batch_size=2)
    ours = GCNet(data.spec, hidden=4)
    with pytest.raises(MSABenchError, match="trains on complete clips"):
        ours.training_forward(data.validation_batch(torch.arange(8)))
    batch = data.training_batch(torch.arange(24), 0, needs=Needs(complete=True))
    assert batch.conversation is not None
    assert batch.conversation.unique().numel() == 3
    assert torch.isfinite(ours.loss(ours.training_forward(batch), batch)["rec"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 7}, "hidden 7 is not allowed"),
        ({"window_past": -2}, "windows of -2 and 0 utterances are not allowed"),
        ({"reconstruct": "some"}, "unknown reconstruct"),
        ({"recon_mask": "none"}, "unknown recon_mask"),
        ({"text_vector": "last"}, "unknown text_vector"),
    ],
)
def test_arguments_outside_their_range_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MSABenchError, match=message):
        method(**settings)
