"""HME against its official code.

MSABENCH_PARITY_HME: clone of https://github.com/YetZzzzzz/HME (6f0c9a7)
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.hme import HME
from msabench.missingness.conditions import MODALITIES, SUBSETS
from msabench.nn import crossmodal
from msabench.nn.crossmodal import position_codes
from msabench.testing.corpora import tokens_of
from msabench.training.config_files import config_of
from tests.parity.clones import clone, importing
from tests.support.golden_cases import CASES, Case, batch_of, build, kept, numbers
from tests.support.small_bert import save_small_bert

CONFIGS = Path(__file__).parents[2] / "configs"
SHAPES = {
    "golden": CASES["hme_official"],
    "mosi": Case("hme", (768, 5, 20), (50, 50, 50), settings={}),
    "mosei": Case("hme", (768, 74, 35), (50, 50, 50), settings={"layers": 2, "latent_layers": 3}),
}
LETTERS = dict(zip("lav", MODALITIES, strict=True))
CLIPS = 8
_SPLIT_HEADS = "b n (h d) -> (b h) n d"
_PATTERNS: dict[str, Callable[..., Tensor]] = {
    _SPLIT_HEADS: lambda x, h: x.unflatten(2, (h, -1)).transpose(1, 2).flatten(0, 1),
    "(b h) n d -> b n (h d)": lambda x, h: x.unflatten(0, (-1, h)).transpose(1, 2).flatten(2),
    "b ... d -> b (...) d": lambda x: x.reshape(len(x), -1, x.shape[-1]),
    "n d -> b n d": lambda x, b: x.repeat(b, 1, 1),
    "b n d -> b d": lambda x: x.mean(1),
}


class _Reduce(nn.Module):
    def __init__(self, pattern: str, how: str) -> None:
        super().__init__()
        assert how == "mean"
        self.pattern = pattern

    def forward(self, x: Tensor) -> Tensor:
        return _PATTERNS[self.pattern](x)


class Given(nn.Module):
    """In place of their BERT: what it is given, or what a BERT makes of it."""

    def __init__(self, *_: object) -> None:
        super().__init__()
        self.bert: nn.Module | None = None

    def forward(
        self, ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None, **_: object
    ) -> Tensor:
        if self.bert is None:
            return ids
        states: Tensor = self.bert(ids, attention_mask=attention_mask, token_type_ids=token_type_ids).last_hidden_state
        return states


@pytest.fixture(scope="module")
def official() -> Iterator[ModuleType]:
    folder = clone("MSABENCH_PARITY_HME") / "HME_MSA"
    einops: Any = ModuleType("einops")
    einops.rearrange = einops.repeat = lambda x, pattern, **sizes: _PATTERNS[pattern](x, **sizes)
    layers: Any = ModuleType("einops.layers")
    of_torch: Any = ModuleType("einops.layers.torch")
    of_torch.Reduce = _Reduce
    stand_ins = {"einops": einops, "einops.layers": layers, "einops.layers.torch": of_torch}
    with importing(folder):
        sys.modules.update(stand_ins)
        module = importlib.import_module("HME_model")
        module.BERT_TM = Given
        module.HME.all_tied_weights_keys = {}  # newer versions of transformers look for it
        positions: Any = importlib.import_module("modules.position_embedding")
        looked_up = positions.make_positions
        # Recent PyTorch wants the index contiguous before it is flattened.
        positions.make_positions = lambda *a: looked_up(*a).contiguous()
        yield module


def _layer(ours: str, theirs: tuple[str, str]) -> dict[str, str]:
    """Where the parts of one attention and of the feed-forward network behind it lie."""
    attention, forward = theirs
    names = {f"{ours}.attend.{name}.": f"{attention}.{name}." for name in ("norm", "norm_context")}
    names |= {f"{ours}.attend.{name}.": f"{attention}.fn.{name}." for name in ("to_q", "to_kv", "to_out")}
    places = {"0": "norm", "1": "fn.net.0", "3": "fn.net.2"}
    return names | {f"{ours}.feed_forward.{old}.": f"{forward}.{new}." for old, new in places.items()}


def _reader(ours: str, theirs: str, layers: int, *, latents: bool = False) -> dict[str, str]:
    names = {f"{ours}.norm.": f"{theirs}.to_embedds.1.", f"{ours}.tokens": f"{theirs}.latents"}
    for i in range(layers):
        at = f"{theirs}.layers.{i}"
        names |= _layer(f"{ours}.layers.{2 * i if latents else i}", (f"{at}.0", f"{at}.1"))
        if latents:
            names |= _layer(f"{ours}.layers.{2 * i + 1}", (f"{at}.2.0.0", f"{at}.2.0.1"))
    return names


def names_of(ours: HME) -> dict[str, str]:
    """Beginnings of our names -> of theirs."""
    latent, hyper, fusion = len(ours.whole.layers) // 2, len(ours.hyper["text"].layers), len(ours.fusion)
    names = _reader("whole", "latent_sample", latent, latents=True)
    long = {"text": "text", "audio": "audio", "vision": "video"}
    for letter, m in LETTERS.items():
        names |= {f"project.{m}.": f"proj_{letter}_1.", f"encoders.{m}.": f"{letter}2{letter}."}
        names |= _reader(f"alike.{m}", f"latent_{long[m]}", latent, latents=True)
        names |= _reader(f"hyper.{m}", f"hyper_{letter}", hyper)
        for o, other in LETTERS.items():
            if o != letter:
                names |= _reader(f"pairs.{m}_from_{other}", f"{letter}2{o}", hyper)
        names |= {
            f"bottlenecks.{m}.": f"VIB_estimate_{letter}_p.",
            f"scores.{m}.": f"VIB_estimate_{letter}_p.decode.0.",
        }
        mixture = f"ATTN_{long[m][0].upper()}"
        names |= {f"refine.{m}.weigh.0.": f"{mixture}.attention_mlp.attention_mlp."}
        names |= {f"refine.{m}.weigh.3.": f"{mixture}.fc_att."}
    names |= {
        "mix_hyper.weigh.0.": "ATTN_hyper.attention_mlp.attention_mlp.",
        "mix_hyper.weigh.3.": "ATTN_hyper.fc_att.",
    }
    names |= {f"fusion.{i}.": f"transformer_encoder_all.layers.{i}." for i in range(fusion)}
    return names | {"predict.0.": "fusion_all.fusion_layer_all.", "predict.3.": "fusion_all.fusion_layer_all_all."}


def their_name(name: str, names: dict[str, str]) -> str:
    (found,) = [(old, new) for old, new in names.items() if name.startswith(old)]
    return found[1] + name.removeprefix(found[0])


def made(official: ModuleType, ours: HME, monkeypatch: pytest.MonkeyPatch | None = None) -> Any:
    """The official network with our weights; what of it has no place there has no effect."""
    from transformers import BertConfig

    dim = ours.whole.norm.normalized_shape[0]
    args = SimpleNamespace(
        TEXT_DIM=ours.text.width,
        ACOUSTIC_DIM=ours.spec.feature_dims["audio"],
        VISUAL_DIM=ours.spec.feature_dims["vision"],
        d_l=dim,
        train_batch_size=256,
        num_heads=ours.encoders["text"].layers[0].self_attn.heads,
        layers=len(ours.encoders["text"].layers),
        **{f"attn_dropout{suffix}": 0.5 for suffix in ("", "_a", "_v")},
        relu_dropout=0.3,
        res_dropout=0.3,
        embed_dropout=0.2,
        dropout=0.1,
        latent_layers=len(ours.whole.layers) // 2,
        missing_rate=0.2,
        similarity_threshold=0.6,
        num_latents=len(ours.whole.tokens),
        hyper_depth=len(ours.hyper["text"].layers),
        output_dim=1,
        uncertainty_LB=0.2,
        uncertainty_UB=1.0,
    )
    theirs = official.HME(BertConfig(), args)
    names, state = names_of(ours), theirs.state_dict()
    left = set(state)
    for name, value in ours.state_dict().items():
        if name == "bank":
            continue
        other = their_name(name, names)
        left.discard(other)
        if name.startswith("project."):
            value = value.unsqueeze(2)
        if value.shape != state[other].shape:  # keys of a single-key attention, which have no effect
            value = torch.cat([state[other][: len(value)], value])
        state[other] = value
    theirs.load_state_dict(state)
    dead = re.compile(r"(latent_(text|audio|video)\.layers\.\d+\.0|[lav]2[lav]\.layers\.\d+\.0)\.(norm|fn\.to_q)\.\w+")
    assert all(dead.fullmatch(name) or name.endswith(("version", "_float_tensor")) for name in left)
    return theirs.eval()


def perturbed(case: Case, scale: float = 0.05) -> HME:
    """Ours as it is initialised, with weights moved a little: with large ones both sides amplify rounding."""
    torch.manual_seed(3)
    ours = HME(case.spec, **case.settings).eval()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return ours


def clips(case: Case, flags: Tensor) -> Batch:
    """Clips of unequal length, as their loader pads them; flags are ``(B, 3)``."""
    steps, features, observed, valid = case.spec.seq_lens, {}, {}, {}
    for key, (i, m) in enumerate(enumerate(MODALITIES), start=61):
        lengths = steps[m] - torch.arange(CLIPS) % max(steps[m] // 2, 1)
        valid[m] = torch.arange(steps[m]) < lengths[:, None]
        observed[m] = valid[m] & flags[:, [i]]
        x = numbers((CLIPS, steps[m], case.spec.feature_dims[m]), key)
        features[m] = x * 3 * observed[m].unsqueeze(2)
    last = {m: valid[m].sum(1) - 1 for m in MODALITIES}
    return Batch(features, valid, observed, last, labels=numbers((CLIPS,), 71) * 6)


def flags_of(pattern: str) -> Tensor:
    if pattern == "random":
        return (
            torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 0], [0, 1, 1], [1, 1, 1]]) > 0
        )
    return torch.tensor([letter in pattern for letter in LETTERS]).expand(CLIPS, 3)


def close(ours: Tensor, theirs: Tensor) -> float:
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    return float((ours - theirs).abs().max())


def their_loss(out: dict[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
    """As their training adds it up."""
    l1 = nn.L1Loss()
    own = [l1(out[f"logits_{letter}_p"].view(-1), labels) for letter in LETTERS]
    return {
        "task": l1(out["predictions"].view(-1), labels),
        "auxiliary": 0.8 * (sum(own) / 3.0),
        "information": 0.01 * out["info_losses"],
    }


@pytest.mark.parametrize("pattern", [*SUBSETS, "random"])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_features_and_losses_are_the_same(official: ModuleType, shape: str, pattern: str) -> None:
    """With neighbours from the batch and noise from one seed, as in their test and in our training."""
    case, flags = SHAPES[shape], flags_of(pattern)
    ours = perturbed(case)
    theirs = made(official, ours)
    batch = clips(case, flags)
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, __, out: seen.__setitem__(name, out))

    for letter, m in LETTERS.items():
        for name, module in (
            (f"h_{m}", ours.alike[m]),
            (f"hyper_{m}", ours.hyper[m]),
            (f"refined_{m}", ours.refine[m]),
        ):
            keep(name, module)
        long = {"text": "text", "audio": "audio", "vision": "video"}[m]
        keep(f"their h_{m}", getattr(theirs, f"latent_{long}"))
        keep(f"their hyper_{m}", getattr(theirs, f"hyper_{letter}"))
        keep(f"their refined_{m}", getattr(theirs, f"ATTN_{long[0].upper()}"))
    for name, module in (("g", ours.whole), ("mixed", ours.mix_hyper)):
        keep(name, module)
    keep("their g", theirs.latent_sample)
    keep("their mixed", theirs.ATTN_hyper)
    torch.manual_seed(11)
    out = ours.training_forward(batch)
    torch.manual_seed(11)
    text = numbers((CLIPS, case.spec.seq_lens["text"], case.dims[0]), 61) * 3 * batch.valid["text"].unsqueeze(2)
    answer = theirs.test(text, batch.vision, batch.audio, flags.float())
    torch.manual_seed(11)
    torch.testing.assert_close(
        theirs(text, batch.vision, batch.audio, flags.float())["predictions"], answer["predictions"]
    )
    print(f"{shape} {pattern}: pred {close(out.pred, answer['predictions'].squeeze(1)):.1e}", end=" ")
    for name in [name for name in seen if not name.startswith("their")]:
        found, expected = seen[name], seen[f"their {name}"]
        print(f"{name} {close(found, expected.view_as(found)):.1e}", end=" ")
    for i, letter in enumerate(LETTERS):
        close(out.aux["scores"][:, i], answer[f"logits_{letter}_p"])
    terms, expected_terms = ours.loss(out, batch), their_loss(answer, batch.labels)
    for name, value in expected_terms.items():
        print(f"{name} {close(terms[name], value):.1e}", end=" ")
    torch.stack(list(terms.values())).sum().backward()
    torch.stack(list(expected_terms.values())).sum().backward()
    gradients = dict(theirs.named_parameters())
    names = names_of(ours)
    worst = 0.0
    for name, parameter in ours.named_parameters():
        grad = gradients[their_name(name, names)].grad
        grad = grad.squeeze(2) if name.startswith("project.") else grad[len(grad) - len(parameter) :]
        scale = max(float(grad.abs().max()), 1e-3)
        worst = max(worst, float((parameter.grad - grad).abs().max()) / scale)
    print(f"gradients {worst:.1e}")
    assert worst < 1e-4
    assert out.pred.std() > 1e-4


def test_formulas_are_the_same_in_double_precision_with_large_weights(official: ModuleType) -> None:
    """Where float32 amplifies rounding; what of theirs stays in float32 is undone, or done here as well."""
    case, flags = SHAPES["golden"], flags_of("random")
    ours = perturbed(case, 0.3)
    theirs = made(official, ours).double()
    ours.double()
    batch = clips(case, flags)
    for m in MODALITIES:
        batch.features[m] = batch.features[m].double()

    def rounded(steps: int, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        return position_codes(steps, dim, device).to(dtype)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Tensor, "float", lambda self: self)  # attention weights
        patched.setattr(torch, "zeros", partial(torch.zeros, dtype=torch.float64))  # means of neighbours
        patched.setattr(crossmodal, "position_codes", rounded)
        torch.manual_seed(11)
        found = ours.training_forward(batch).pred
        torch.manual_seed(11)
        expected = theirs(batch.text, batch.vision, batch.audio, flags.double())["predictions"].squeeze(1)
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)


def test_kept_vectors_are_those_of_the_official_code(official: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation before any training: a clip is its own neighbour, and nothing is drawn."""
    case = CASES["hme_official"]
    ours = build(case)
    assert isinstance(ours, HME)
    theirs = made(official, ours)
    monkeypatch.setattr(theirs, "get_similar_embeddings", lambda e, alpha: e)
    for letter in LETTERS:
        monkeypatch.setattr(getattr(theirs, f"VIB_estimate_{letter}_p"), "reparametrize_n", lambda mu, std, n: mu)
    batch = batch_of(case)
    with torch.no_grad():
        answer = theirs(batch.text, batch.vision, batch.audio, torch.ones(4, 3))
        close(ours(batch).pred, answer["predictions"].squeeze(1))
    close(kept("hme_official")["pred"], answer["predictions"].squeeze(1))


def test_official_code_gives_the_same_numbers_from_tokens(official: ModuleType, tmp_path: Path) -> None:
    """Clips of unequal length: BERT's states at padding are read, and nothing of a removed text is."""
    from transformers import BertModel

    case = CASES["hme_official"]
    folder = save_small_bert(tmp_path, case.dims[0])
    ours = HME(case.spec, **case.settings, text_encoder=folder).eval()
    plain = perturbed(case)
    missing, unexpected = ours.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert all("text.encoder." in key for key in missing)
    theirs = made(official, plain)
    theirs.bert.bert = BertModel.from_pretrained(folder).eval()
    flags = flags_of("random")
    batch = clips(case, flags)
    batch.tokens = tokens_of(batch.valid["text"].sum(1), case.spec.seq_lens["text"], torch.Generator().manual_seed(0))
    batch.text_level = "vectors"
    # The data module gives a removed text the full length.
    hidden = ~flags[:, 0]
    batch.valid["text"] = batch.valid["text"] | hidden[:, None]
    ids, mask, types = batch.tokens.unbind(1)
    with torch.no_grad():
        torch.manual_seed(11)
        out = ours.training_forward(batch)
        torch.manual_seed(11)
        answer = theirs.test(ids, batch.vision, batch.audio, flags.float(), attention_mask=mask, token_type_ids=types)
    print(f"{close(out.pred, answer['predictions'].squeeze(1)):.1e}")


def test_configs_are_the_published_settings() -> None:
    folder = clone("MSABENCH_PARITY_HME")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    source = (folder / "HME_MSA/HME_main.py").read_text(encoding="utf-8")
    defaults = dict(re.findall(r"add_argument\(['\"]--(\w+)['\"][^)]*?default=([^,)\s]+)", source))
    for dataset in ("mosi", "mosei"):
        (line,) = [line for line in readme.splitlines() if f"--dataset='{dataset}'" in line]
        command = {**defaults, **dict(re.findall(r"--(\w+)=(\S+)", line))}
        config = config_of(CONFIGS / f"hme_{dataset}.yaml")
        init = config["model"]["init_args"]
        assert config["data"]["missing"]["rate"] == [float(command["missing_rate"])] * 2
        assert config["data"]["batch_size"] == int(command["train_batch_size"])
        assert config["trainer"]["max_epochs"] == int(command["n_epochs"])
        ours = ("dim", "layers", "hyper_layers", "latent_layers", "heads", "tokens")
        names = ("d_l", "layers", "hyper_depth", "latent_layers", "num_heads", "num_latents")
        assert [init[name] for name in ours] == [int(command[name]) for name in names]
        rates = ("attn_dropout", "relu_dropout", "res_dropout", "embed_dropout")
        assert [init[name] for name in rates] == [float(command[name]) for name in rates]
        assert init["fusion_dropout"] == float(command["dropout"])
        assert init["similarity"] == float(command["similarity_threshold"])
        assert init["least_trust"] == float(command["uncertainty_LB"])
        assert float(command["uncertainty_UB"]) == 1
        assert init["lr"] == init["text_lr"] == float(command["learning_rate"])
        assert init["gradient_clip"] == float(command["clip"])
        assert init["restart_optimizer"]
    assert re.search(r"'--wd', '--weight-decay', default=1e-4", source)
    assert init["weight_decay"] == 1e-4
    assert re.search(r"patience = 10\b", source)
    assert config["early_stop"] == 10
