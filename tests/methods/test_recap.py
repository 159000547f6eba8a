"""RECAP: every equation against a literal computation, what each turn and stage trains, and its variants."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from msabench.data.needs import Needs
from msabench.errors import MSABenchError
from msabench.losses.information import club, infonce
from msabench.methods.base import Output
from msabench.methods.checkpoint import load_checkpoint
from msabench.methods.recap import RECAP, ranking_loss
from msabench.missingness.conditions import MODALITIES, Cell
from msabench.missingness.config import MissingConfig
from msabench.testing.corpora import data_module, quiet_trainer, random_corpus

SMALL = {**RECAP.info.smoke, "layers": 2, "warmup": 0}
VARIANTS = ("default", *RECAP.info.variants)
WEIGHTS = {"text": 0.5, "audio": 0.2, "vision": 0.3}
PAIRS = {"lv": ("text", "vision"), "la": ("text", "audio"), "av": ("vision", "audio")}


def data(**settings):
    return data_module(random_corpus(), missing=MissingConfig(regime="lnln"), **settings)


def build(seed=0, stage="completion", turn=None, **arguments):
    torch.manual_seed(seed)
    method = RECAP(data().spec, **{**SMALL, **arguments})
    with torch.no_grad():  # leave no weight at a value that hides it
        for parameter in method.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    method.enter_stage(stage)
    if turn:
        method.turn = turn
    return method.eval()


def make_batch(rows=6, epoch=0, source=None, with_tokens=False):
    return (source or data()).training_batch(torch.arange(rows), epoch, needs=Needs(complete=True, tokens=with_tokens))


def embeddings(method, batch):
    """h, X and X' of each modality, by the method's own modules, one modality and version at a time."""
    embed = method.first_embed or method.embed
    h = {m: embed.tokens[m](batch.features[m]) for m in MODALITIES}
    x = {m: embed.tokens[m](batch.complete.features[m]) for m in MODALITIES}
    return h, x, {m: method.generators[m](h[m]) for m in MODALITIES}


def neighbours(method, h, real):
    """Pairs (s_t, s_{t+1}) at every granularity, as printed around (1)."""
    for n in method.segments:
        size = h.shape[1] // n
        for t in range(n - 1):
            yield h[:, t * size : (t + 1) * size], real[:, (t + 1) * size : (t + 2) * size]


def log_loss(probability, target):
    return -(probability.log() if target else (1 - probability).log())


def literal_hcag(method, h, real, *, generator=True, discriminator=True):
    """(1)-(7), pair by pair; the discriminator gives one probability per segment, or one per token."""
    total = 0
    for m, weight in WEIGHTS.items():
        for s_t, s_next in neighbours(method, h[m], real[m]):
            made = method.generators[m](s_t)  # (1)
            w = (1 + F.cosine_similarity(s_t, s_next, dim=-1).mean(1)) / 2  # (2)
            fake = torch.sigmoid(method.discriminators[m](made))
            true = torch.sigmoid(method.discriminators[m](s_next))
            if generator:
                w = w.mean() if method.official else w
                total = total + weight * (w * log_loss(fake, True).mean(1)).mean()  # (3)
            if discriminator:
                total = total + weight * (log_loss(true, True) + log_loss(fake, False)).mean() / 2  # (5)
    return total


@pytest.mark.parametrize("variant", ["default", "mlp_discriminator", "real_complete"])
def test_eq_1_2_3_6_7_generators_have_to_fool_the_discriminators(variant):
    method, batch = build(turn="generators", variant=variant), make_batch()
    h, x, _ = embeddings(method, batch)
    got = method.loss(method.training_forward(batch), batch)["hcag"]
    expected = literal_hcag(method, h, x if variant == "real_complete" else h, discriminator=False)
    torch.testing.assert_close(got, 0.01 * expected, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("variant", ["default", "mlp_discriminator", "real_complete"])
def test_eq_5_discriminators_have_to_tell_real_from_made(variant):
    method, batch = build(turn="discriminators", variant=variant), make_batch()
    h, x, _ = embeddings(method, batch)
    terms = method.loss(method.training_forward(batch), batch)
    expected = literal_hcag(method, h, x if variant == "real_complete" else h, generator=False)
    assert set(terms) == {"hcag"}
    torch.testing.assert_close(terms["hcag"], 0.01 * expected, atol=1e-7, rtol=1e-4)


def test_segments_are_as_many_as_their_granularities_have_neighbours():
    method, batch = build(turn="generators", tokens=8, segments=(8, 4, 2)), make_batch()
    out = method.training_forward(batch)
    assert out.aux["weight_text"].shape == out.aux["fooling_audio"].shape == (6, 7 + 3 + 1)
    assert ((out.aux["weight_text"] >= 0) & (out.aux["weight_text"] <= 1)).all()
    assert "discerning_text" not in out.aux
    assert not out.aux["weight_text"].requires_grad
    assert build(variant="code").training_forward(batch).aux["weight_text"].requires_grad


def literal_scores(critics, name, x, y):
    """Scores by tiling and concatenating, pair of clips by pair of clips."""
    n = len(x)
    critic, scores = critics.critics[name], torch.empty(n, n)
    for i in range(n):
        for j in range(n):
            hidden = torch.relu(critic.first(torch.cat([x[i], y[j]])))
            scores[i, j] = critic.last(torch.relu(critic.others[0](hidden))).squeeze()
    return scores


def standard(x):
    return (x - x.mean(0)) / (x.var(0, correction=0) + 1e-5).sqrt()


def literal_fid(method, x, g):
    """(8), (10) and (11), each estimate once per pair; per pair."""
    critics = method.critics
    ready = (lambda z: z.flatten(1)) if method.official else (lambda z: standard(z.flatten(1)))
    totals = []
    for first, second in method.pairs.values():
        x1, x2, g1, g2 = (ready(z) for z in (x[first], x[second], g[first], g[second]))
        a, b = (x1, x2) if method.official else (g1, g2)

        def f(name, left, right):
            heads = critics.heads[name]
            sides = (torch.cat([head(z) for z in part], 1) for head, part in ((heads[0], left), (heads[-1], right)))
            return literal_scores(critics, name, *sides)

        def has(name):
            return name in critics.estimates

        total = torch.zeros(())
        if has("nce_pair"):
            total = total - infonce(f("nce_pair", [a], [b]))  # (8)
        if has("club_given"):
            total = total + club(f("club_given", [x1, g1], [x2, g2]))  # (8), (9)
        if has("nce_first"):
            total = total - infonce(f("nce_first", [x1], [g1])) - infonce(f("nce_second", [x2], [g2]))  # (10)
            total = total + club(f("club_pair", [a], [b])) - infonce(f("nce_given", [x1, g1], [x2, g2]))
        totals.append(total)
    return torch.stack(totals)


@pytest.mark.parametrize(
    "variant", ["default", "wo_fid_lv", "wo_fid_la", "wo_fid_av", "wo_fid_shared", "wo_fid_unique"]
)
def test_eq_8_9_10_11_factorised_information(variant):
    method, batch = build(turn="generators", variant=variant, lambda_fid=0.7), make_batch(4)
    _, x, g = embeddings(method, batch)
    got = method.loss(method.training_forward(batch), batch)["fid"]
    torch.testing.assert_close(got, 0.7 * literal_fid(method, x, g).sum(), atol=1e-5, rtol=1e-4)


def test_ablations_of_factorised_information_drop_their_part():
    assert build().pairs == PAIRS
    assert list(build(variant="wo_fid_lv").pairs) == ["la", "av"]
    assert list(build(variant="wo_fid_la").pairs) == ["lv", "av"]
    assert list(build(variant="wo_fid_av").pairs) == ["lv", "la"]
    shared, unique = {"nce_pair", "club_given"}, {"nce_first", "nce_second", "club_pair", "nce_given"}
    assert set(build(variant="wo_fid_shared").critics.estimates) == unique
    assert set(build(variant="wo_fid_unique").critics.estimates) == shared
    assert set(build().critics.estimates) == shared | unique


def test_critics_are_fitted_by_infonce_alone():
    method, batch = build(turn="critics"), make_batch(4)
    out = method.training_forward(batch)
    assert not any(value.requires_grad for value in out.aux.values())
    scores = method._scores(out.aux)
    expected = -sum(infonce(f).sum() for f in scores.values())
    terms = method.loss(out, batch)
    assert set(terms) == {"fit"}
    torch.testing.assert_close(terms["fit"], expected)
    assert {f.shape for f in scores.values()} == {(3, 4, 4)}


def test_critics_learn_what_a_clip_and_its_completion_share():
    method = build(turn="critics", critic_width=32).train()
    optimizer = torch.optim.Adam(method.critics.parameters(), lr=5e-3)
    batch = make_batch(12)
    for _ in range(60):
        optimizer.zero_grad()
        out = method.training_forward(batch)
        method.loss(out, batch)["fit"].backward()
        optimizer.step()
    assert (infonce(method._scores(out.aux)["nce_first"]) > 0.7 * math.log(12)).all()


def test_eq_12_13_reconstruction():
    method, batch = build(turn="generators", lambda_reconstruction=0.3), make_batch()
    _, x, g = embeddings(method, batch)
    got = method.loss(method.training_forward(batch), batch)["rec"]
    errors = [(method.reconstructors[m](g[m]) - x[m]).square().mean() for m in MODALITIES]
    torch.testing.assert_close(got, 0.3 * sum(errors) / 3)


def test_reconstruction_targets_pass_no_gradient():
    method, batch = build(turn="generators"), make_batch()
    out = method.training_forward(batch)
    out.aux.update({f"complete_{m}": out.aux[f"complete_{m}"].detach().requires_grad_() for m in MODALITIES})
    method.loss(out, batch)["rec"].backward()
    assert all(out.aux[f"complete_{m}"].grad is None for m in MODALITIES)


def test_eq_14_terms_of_stage_one_by_turn():
    batch, seen = make_batch(), {}
    for turn in ("critics", "discriminators", "generators"):
        method = build(turn=turn)
        seen[turn] = set(method.loss(method.training_forward(batch), batch))
    assert seen == {"critics": {"fit"}, "discriminators": {"hcag"}, "generators": {"hcag", "fid", "rec"}}


def test_eq_15_ranking_loss_hand_computed():
    alpha = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])
    error = torch.tensor([[2.0, 1.0, 3.0], [1.0, 1.0, 0.5]])
    # Clip 0: a better than l: .5-.3+.1; a better than v: .2-.3+.1 = 0; l better than v: .2-.5+.1 < 0.
    # Clip 1: v better than l and a: .2-.6+.1 < 0; l and a tie.
    assert ranking_loss(alpha, error, 0.1).item() == pytest.approx(0.3 / 2 / 2)
    wide = ranking_loss(alpha, error, 1.0).item()
    first = (0.5 - 0.3 + 1) + (0.2 - 0.3 + 1) + (0.2 - 0.5 + 1)
    second = 2 * (0.2 - 0.6 + 1)
    assert wide == pytest.approx((first + second) / 2 / 2)


def test_eq_16_17_attention_over_modalities():
    method, batch = build(stage="task"), make_batch()
    with torch.no_grad():
        out = method(batch)
        h, _, g = embeddings(method, batch)
        (w_q, w_k), (b_q, b_k) = method.query_key.weight.chunk(2), method.query_key.bias.chunk(2)
        logits, values = [], []
        for m in MODALITIES:
            q, k = g[m] @ w_q.T + b_q, g[m] @ w_k.T + b_k  # token by token
            mu_q, mu_k = q.mean(1), k.mean(1)
            logits.append((mu_q * mu_k).sum(1) / math.sqrt(8))  # (16)
            values.append(method.value(g[m]).mean(1))
        alpha = torch.softmax(torch.stack(logits, 1), 1)
        fused = sum(alpha[:, [i]] * value for i, value in enumerate(values))  # (17)
        expected = method.head(fused).squeeze(1)
    torch.testing.assert_close(out.pred, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(out.aux["alpha"], alpha)
    torch.testing.assert_close(out.representation, fused)
    for m in MODALITIES:
        torch.testing.assert_close(out.aux[f"embedded_{m}"], h[m])
        torch.testing.assert_close(out.aux[f"generated_{m}"], g[m])


def stage_two_output():
    aux = {"alpha": torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]])}
    aux["unimodal_text"] = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    aux["unimodal_audio"] = torch.tensor([[2.0, 2.0], [1.0, 1.0]])
    aux["unimodal_vision"] = torch.tensor([[0.0, 0.0], [-1.0, -3.0]])
    return Output(torch.tensor([1.0, 0.0]), aux=aux)


def labelled(labels):
    batch = make_batch(len(labels))
    batch.labels = torch.tensor(labels)
    return batch


def test_eq_19_stage_two_hand_computed():
    method = build(stage="task", lambda_rank=0.5, margin=0.1)
    terms = method.loss(stage_two_output(), labelled([2.0, -1.0]))
    assert set(terms) == {"task", "mi", "rank"}
    assert terms["task"].item() == pytest.approx((1 + 1) / 2)
    # Errors, mean over tokens: clip 0: 1, 0, 4; clip 1: 1, 4, 2.
    assert terms["mi"].item() == pytest.approx((1 + 0 + 4 + 1 + 4 + 2) / 2)
    # Clip 0: a < l: .5-.3+.1, a < v: 0, l < v: -; clip 1: l < v: .6-.2+.1, l < a: .1, v < a: -.
    assert terms["rank"].item() == pytest.approx(0.5 * (0.3 + 0.5 + 0.1) / 2 / 2)


def test_official_ranking_loss_and_untrained_predictors():
    method = build(stage="task", variant="code", lambda_rank=1.0)
    terms = method.loss(stage_two_output(), labelled([2.0, -1.0]))
    assert set(terms) == {"task", "rank"}
    alpha, errors, total = stage_two_output().aux["alpha"], [[1, 0, 4], [1, 4, 2]], 0.0
    for clip in range(2):
        for i, j in itertools.permutations(range(3), 2):
            target = float(errors[clip][i] < errors[clip][j])
            total += max(0.0, -target * float(alpha[clip, i] - alpha[clip, j]) + 0.1)
    assert terms["rank"].item() == pytest.approx(total / 6 / 2)
    assert not any(p.requires_grad for p in method.predictors.parameters())


def test_predictors_train_on_detached_features():
    method, batch = build(stage="task"), make_batch()
    out = method.training_forward(batch)
    method.loss(out, batch)["mi"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.predictors.parameters())
    assert all(p.grad is None for p in method.embed.parameters())
    assert out.unimodal["text"].shape == (6,)


def test_embeddings_learn_through_the_frozen_generators():
    method, batch = build(stage="task"), make_batch()
    method.loss(method.training_forward(batch), batch)["task"].backward()
    assert all(p.grad.any() for p in method.embed.parameters())
    assert not any(p.requires_grad for p in method.generators.parameters())
    for part in (method.critics, method.discriminators, method.reconstructors):
        assert not any(p.requires_grad for p in part.parameters())


def test_prediction_reads_no_label_and_no_complete_clip():
    method, batch = build(stage="task"), make_batch()
    with torch.no_grad():
        torch.testing.assert_close(method(batch.for_inference()).pred, method.training_forward(batch).pred)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_gives_gradient_to_all_that_its_turn_trains(variant):
    method = build(variant=variant, critic_width=32).train()
    moved = set()
    for stage in method.stages:
        method.enter_stage(stage)
        for turn in method.turns:
            method.turn = turn
            trained = {id(p) for group in method.param_groups() for p in group["params"]}
            for epoch in range(2):
                batch = make_batch(11, epoch)
                torch.stack(list(method.loss(method.training_forward(batch), batch).values())).sum().backward()
            for name, p in method.named_parameters():
                if id(p) in trained and p.grad is not None and p.grad.any():
                    moved.add(name)
            method.zero_grad()
    still = set(dict(method.named_parameters())) - moved
    # What the released code leaves as it is; everything else is trained at some time.
    assert {name.split(".")[0] for name in still} == ({"predictors"} if variant == "code" else set())


def test_a_variant_builds_no_part_that_it_does_not_use():
    parts = {
        "wo_hcag": "discriminators",
        "wo_fid": "critics",
        "wo_reconstructor": "reconstructors",
        "wo_mir": "predictors",
    }
    for variant, part in parts.items():
        assert getattr(build(variant=variant), part) is None
        assert getattr(build(), part) is not None
    assert build(variant="wo_hcag").turns == ("critics", "generators")
    assert build(variant="wo_fid").turns == ("discriminators", "generators")
    assert build().turns == ("critics", "discriminators", "generators")
    assert build(variant="code").turns == ("main",)


def test_ablations_of_stage_one_drop_their_term():
    batch = make_batch()
    for variant, term in (("wo_hcag", "hcag"), ("wo_fid", "fid"), ("wo_reconstructor", "rec")):
        method = build(variant=variant, turn="generators")
        assert {"hcag", "fid", "rec"} - set(method.loss(method.training_forward(batch), batch)) == {term}


def test_wo_mir_weighs_modalities_equally():
    method, batch = build(stage="task", variant="wo_mir"), make_batch()
    out = method.training_forward(batch)
    assert set(method.loss(out, batch)) == {"task"}
    assert out.aux["alpha"].flatten().tolist() == pytest.approx([1 / 3] * 18)
    mean = torch.stack([method.value(out.aux[f"generated_{m}"]).mean(1) for m in MODALITIES]).mean(0)
    torch.testing.assert_close(out.representation, mean)


def test_code_variant_losses():
    method, batch = build(variant="code", lambda_fid=1.0), make_batch(4)
    h, x, g = embeddings(method, batch)
    terms = method.loss(method.training_forward(batch), batch)
    torch.testing.assert_close(terms["hcag"], 0.01 * literal_hcag(method, h, h), atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(terms["fid"], literal_fid(method, x, g).sum(), atol=1e-5, rtol=1e-4)
    errors = [(method.reconstructors[m](h[m]) - x[m]).square().mean() for m in MODALITIES]
    torch.testing.assert_close(terms["rec"], 0.1 * sum(errors) / 3)


def test_code_variant_floors_each_pair():
    method, batch = build(variant="code", lambda_fid=1.0), make_batch(4)
    method._scores = lambda aux: {"club_pair": torch.stack([torch.eye(4), -100 * torch.eye(4), torch.eye(4)])}
    got = method._completion_loss(method.training_forward(batch).aux)["fid"]
    assert got.item() == pytest.approx(0.75 - 5 + 0.75)


def gradient_reaches(method, batch, term, module):
    method.zero_grad()
    method.loss(method.training_forward(batch), batch)[term].backward()
    return any(p.grad is not None and p.grad.any() for p in module.parameters())


def test_what_code_trains_by_which_loss():
    batch = make_batch()
    ours, code = build(turn="generators"), build(variant="code")
    assert gradient_reaches(ours, batch, "rec", ours.generators)
    assert not gradient_reaches(code, batch, "rec", code.generators)
    assert gradient_reaches(code, batch, "hcag", code.discriminators)
    code.zero_grad()
    sum(code.training_forward(batch).aux[f"discerning_{m}"].sum() for m in MODALITIES).backward()
    assert all(p.grad is None for p in code.generators.parameters())
    assert any(p.grad is not None for p in code.first_embed.parameters())
    ours.turn = "discriminators"
    assert gradient_reaches(ours, batch, "hcag", ours.discriminators)
    assert not gradient_reaches(ours, batch, "hcag", ours.generators)
    assert not gradient_reaches(ours, batch, "hcag", ours.embed)


def test_code_variant_begins_stage_two_with_new_embeddings():
    method, batch = build(variant="code"), make_batch()
    first = method.training_forward(batch).aux["generated_text"]
    method.enter_stage("task")
    second = method(batch).aux["generated_text"]
    assert not torch.allclose(first, second)
    assert not any(p.requires_grad for p in method.first_embed.parameters())
    assert all(p.requires_grad for p in method.embed.parameters())


def test_training_without_the_complete_clips_is_refused():
    with pytest.raises(MSABenchError, match="complete version"):
        build().training_forward(make_batch().for_inference())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"segments": (3,)}, r"segments \[3\] of 4"),
        ({"segments": (4, 1)}, r"segments \[4, 1\]"),
        ({"segments": ()}, r"segments \[\]"),
        ({"completion_epochs": 0}, "completion_epochs 0"),
        ({"dim": 1}, "dim 1"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    with pytest.raises(MSABenchError, match=words):
        build(**arguments)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_clip_gives_finite_losses_and_gradients(variant):
    method, batch = build(variant=variant).train(), make_batch(1)
    for stage in method.stages:
        method.enter_stage(stage)
        for turn in method.turns:
            method.turn = turn
            terms = method.loss(method.training_forward(batch), batch)
            torch.stack(list(terms.values())).sum().backward()
            assert all(torch.isfinite(term) for term in terms.values())
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def fitted(folder, epochs=3, completion_epochs=2, watch=None, **arguments):
    source = data(batch_size=12)
    torch.manual_seed(0)
    method = RECAP(source.spec, **{**SMALL, "completion_epochs": completion_epochs, **arguments})
    if watch is not None:
        forward = method.training_forward

        def watched(batch):
            watch.append((method.stage, method.turn, {k: v.clone() for k, v in method.state_dict().items()}))
            return forward(batch)

        method.training_forward = watched
    fit = quiet_trainer(folder, epochs)
    fit.fit(method, datamodule=source)
    return source, method, fit


@pytest.mark.parametrize("variant", ["default", "wo_hcag", "wo_fid", "code"])
def test_each_turn_moves_its_own_parameters_only(tmp_path, variant):
    watch = []
    fitted(tmp_path, watch=watch, variant=variant)
    own = {
        ("completion", "critics"): {"critics"},
        ("completion", "discriminators"): {"discriminators"},
        ("completion", "generators"): {"embed", "generators", "reconstructors"},
        ("completion", "main"): {"first_embed", "generators", "reconstructors", "critics", "discriminators"},
        ("task", "main"): {"embed", "query_key", "value", "head", "predictors"},
    }
    if variant == "code":
        own["task", "main"] -= {"predictors"}
    seen = set()
    for (stage, turn, before), (_, _, after) in itertools.pairwise(watch):
        moved = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved == own[stage, turn], (stage, turn)
        seen.add((stage, turn))
    assert seen == {(stage, turn) for stage, turns in build(variant=variant).schedule.items() for turn in turns}


def test_stages_last_as_long_as_asked_and_the_last_one_is_evaluated(tmp_path):
    watch = []
    _, method, _ = fitted(tmp_path, epochs=4, completion_epochs=3, watch=watch)
    # 24 clips in batches of 12: two batches an epoch, three turns in stage completion.
    assert [stage for stage, _, _ in watch] == ["completion"] * 3 * 2 * 3 + ["task"] * 2
    assert method.in_last_stage


def test_learning_rate_warms_up_anew_in_each_stage():
    method = build(warmup=2)
    assert [method.lr_multiplier(epoch, 6) for epoch in range(6)] == pytest.approx(
        [0, 0.5, 1, 1, (1 + math.cos(math.pi / 4)) / 2, 0.5]
    )


def test_checkpoint_round_trip_with_its_stage(tmp_path):
    source, method, fit = fitted(tmp_path)
    fit.save_checkpoint(tmp_path / "a.ckpt")
    loaded, _ = load_checkpoint(tmp_path / "a.ckpt")
    assert loaded.stage == "task"
    assert {n for n, p in loaded.named_parameters() if not p.requires_grad} == {
        n for n, p in method.named_parameters() if not p.requires_grad
    }
    batch = next(source.cell_batches(Cell.parse("intra/0.5"), 0))
    with torch.no_grad():
        assert torch.equal(method.eval()(batch).pred, loaded(batch).pred)


def test_code_variant_survives_its_checkpoint(tmp_path):
    source, method, fit = fitted(tmp_path, variant="code")
    fit.save_checkpoint(tmp_path / "a.ckpt")
    loaded, _ = load_checkpoint(tmp_path / "a.ckpt")
    batch = next(source.cell_batches(Cell(), 0))
    with torch.no_grad():
        assert torch.equal(method.eval()(batch).pred, loaded(batch).pred)


def test_text_encoder_is_fine_tuned_at_its_own_rate(tmp_path):
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=200, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    BertModel(config).save_pretrained(tmp_path)
    method = build(text_encoder=str(tmp_path), finetune=True, text_lr=3e-5, turn="generators").train()
    encoder = list(method.embed.text.encoder.parameters())
    everything_else, text = method.param_groups()
    assert text["lr"] == 3e-5
    assert {id(p) for p in text["params"]} == {id(p) for p in encoder}
    assert not {id(p) for p in everything_else["params"]} & {id(p) for p in encoder}
    source = data_module(random_corpus(), missing=MissingConfig(regime="lnln", level="tokens"))
    batch = make_batch(source=source, with_tokens=True)
    torch.stack(list(method.loss(method.training_forward(batch), batch).values())).sum().backward()
    assert all(p.grad is not None for p in encoder)
    method.turn = "critics"
    assert not any(group["params"] for group in method.param_groups()[1:])
