"""Methods that read BERT against official code that reads it: both get tokens, and both have the same small BERT.

Theirs is the official path from the tokens on, with what masks padding in it and what does not. Each method's own file
names the clones and compares all that lies behind BERT; CENET's, whose audio and vision enter inside of it, does both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.methods.base import MSAMethod
from msabench.methods.registry import method_class
from msabench.missingness.conditions import MODALITIES
from msabench.testing.corpora import tokens_of
from tests.parity import (
    test_parity_almt,
    test_parity_cubemlp,
    test_parity_dmd,
    test_parity_emoe,
    test_parity_lnln,
    test_parity_misa,
    test_parity_mmim,
    test_parity_mult,
    test_parity_self_mm,
    test_parity_tetfn,
    test_parity_tf_mamba,
    test_parity_tfr_net,
)
from tests.parity.clones import clone
from tests.parity.test_parity_dmd import official as official_dmd  # noqa: F401 (a fixture)
from tests.support.golden_cases import CASES, Case, build, numbers
from tests.support.small_bert import save_small_bert

MMSA = ("MSABENCH_PARITY_MMSA", "src/MMSA/models/subNets/BertTextEncoder.py")


@dataclass
class Setting:
    """What the official side is made of: the case, our method on given states with its weights, and a BERT."""

    case: Case
    ours: MSAMethod
    bert: nn.Module
    request: pytest.FixtureRequest

    @property
    def monkeypatch(self) -> pytest.MonkeyPatch:
        return self.request.getfixturevalue("monkeypatch")

    def encoder(self, variable: str, path: str) -> nn.Module:
        """What a clone reads text with, around our BERT."""
        import transformers

        spec = spec_from_file_location("their_encoder", clone(variable) / path)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        with self.monkeypatch.context() as patched:
            for name, found in (("BertModel", self.bert), ("BertTokenizer", None), ("BertConfig", None)):
                patched.setattr(getattr(transformers, name), "from_pretrained", lambda *_, found=found, **__: found)
            made: nn.Module = getattr(module, "BertTextEncoder", None) or module.LanguageEmbeddingLayer
            return made(None) if hasattr(module, "LanguageEmbeddingLayer") else made()


def _streams(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Audio and vision with their lengths."""
    return [(batch.features[m], batch.last[m] + 1) for m in MODALITIES[1:]]


def almt(of: Setting, batch: Batch) -> Tensor:
    theirs = test_parity_almt.official(of.case, of.monkeypatch)
    theirs.load_state_dict(test_parity_almt.renamed(of.ours.state_dict(), *test_parity_almt.PLACES))
    theirs.bertmodel = of.encoder("MSABENCH_PARITY_ALMT", "models/bert.py")
    return theirs(batch.vision, batch.audio, batch.tokens)


def almt_mmsa(of: Setting, batch: Batch) -> Tensor:
    theirs = test_parity_almt.mmsa(of.case, of.monkeypatch)
    places = (*test_parity_almt.PLACES, *test_parity_almt.MMSA_PLACES)
    theirs.load_state_dict(test_parity_almt.renamed(of.ours.state_dict(), *places))
    theirs.bertmodel = of.encoder(*MMSA)
    return theirs(batch.tokens, batch.audio, batch.vision)


def cubemlp(of: Setting, batch: Batch) -> Tensor:
    theirs = test_parity_cubemlp.official(of.case, of.ours)
    theirs.bertmodel = of.bert
    assert batch.tokens is not None
    ids, mask, types = batch.tokens.unbind(1)
    return theirs(ids, types, mask, batch.audio, batch.vision)[0]


def dmd(of: Setting, batch: Batch) -> Tensor:
    theirs, _, _ = test_parity_dmd.theirs_for(of.request.getfixturevalue("official_dmd"), of.case, of.ours)
    theirs.text_model = of.encoder("MSABENCH_PARITY_DMD", "trains/subNets/BertTextEncoder.py")
    return theirs(batch.tokens, batch.audio, batch.vision)["output_logit"]


def emoe(of: Setting, batch: Batch) -> Tensor:
    theirs = test_parity_emoe.official(of.case, of.ours).eval()
    theirs.text_model = of.encoder("MSABENCH_PARITY_EMOE", "trains/subNets/BertTextEncoder.py")
    return theirs(batch.tokens, batch.audio, batch.vision)["logits_c"]


def lnln(of: Setting, batch: Batch) -> Tensor:
    theirs, _ = test_parity_lnln.official(of.case, of.monkeypatch)
    theirs.load_state_dict(test_parity_lnln.renamed(of.ours.state_dict(), *test_parity_lnln.PLACES))
    theirs.bertmodel = of.encoder("MSABENCH_PARITY_LNLN", "models/bert.py")
    return theirs((None, None, None), (batch.vision, batch.audio, batch.tokens))["sentiment_preds"]


def misa(of: Setting, batch: Batch) -> Tensor:
    theirs = test_parity_misa.official(of.case, of.ours, of.bert, of.monkeypatch)
    assert batch.tokens is not None
    ids, mask, types = batch.tokens.unbind(1)
    time_first = batch.vision.transpose(0, 1), batch.audio.transpose(0, 1), batch.last["text"] + 1
    return theirs(None, *time_first, ids, types, mask.float())


def misa_mmsa(of: Setting, batch: Batch) -> Tensor:
    theirs: Any = test_parity_misa.mmsa(of.case, of.ours)
    theirs.bertmodel = of.encoder(*MMSA)
    assert batch.tokens is not None
    return theirs(batch.tokens.float(), batch.audio, batch.vision)["M"]


def mmim(of: Setting, batch: Batch) -> Tensor:
    theirs = test_parity_mmim.official(of.case, of.ours)
    theirs.text_enc = of.encoder("MSABENCH_PARITY_MMIM", "src/modules/encoders.py")
    assert batch.tokens is not None
    ids, mask, types = batch.tokens.unbind(1)
    streams = [batch.features[m].transpose(0, 1) for m in ("vision", "audio")]
    return theirs(None, *streams, *(batch.last[m] + 1 for m in ("vision", "audio")), ids, types, mask)[2]


def mmim_mmsa(of: Setting, batch: Batch) -> Tensor:
    theirs = test_parity_mmim.mmsa(of.case, of.ours)
    theirs.bertmodel = of.encoder(*MMSA)
    return theirs(batch.tokens, *_streams(batch))["M"]


def mult_mmsa(of: Setting, batch: Batch) -> Tensor:
    theirs: Any = test_parity_mult.mmsa(of.case, of.ours)
    theirs.use_bert, theirs.text_model = True, of.encoder(*MMSA)
    return theirs(batch.tokens, batch.audio, batch.vision)["M"]


def self_mm(of: Setting, batch: Batch) -> Tensor:
    theirs: Any = test_parity_self_mm.official(of.case, of.ours)
    theirs.text_model = of.encoder(*MMSA)
    return theirs(batch.tokens, *_streams(batch))["M"]


def tetfn(of: Setting, batch: Batch) -> Tensor:
    theirs: Any = test_parity_tetfn.official(of.case, of.ours)
    theirs.text_model = of.encoder(*MMSA)
    return theirs(batch.tokens, *_streams(batch))["M"]


def tf_mamba(of: Setting, batch: Batch) -> Tensor:
    official = test_parity_tf_mamba.Official(of.monkeypatch)
    settings = official.settings("", of.case)
    layers = {part: settings["model"][part]["num_layers"] for part in ("tc_mamba", "tq_mamba")}
    theirs = official.network.build_model(settings).eval()
    theirs.load_state_dict(test_parity_tf_mamba.official_names(of.ours.state_dict(), layers))
    theirs.bertmodel = of.encoder("MSABENCH_PARITY_TF_MAMBA", "models/bert.py")
    return theirs((None, None, None), (batch.vision, batch.audio, batch.tokens))["sentiment_preds"]


def tfr_net(of: Setting, batch: Batch, code: str = "official") -> Tensor:
    theirs = test_parity_tfr_net.official(code, of.case, of.ours)
    if code == "official":
        theirs.text_model = of.encoder("MSABENCH_PARITY_TFR_NET", "models/subNets/BertTextEncoder.py")
    else:
        theirs.text_model = of.encoder(*MMSA)
    assert batch.tokens is not None
    valid = {m: mask.float() for m, mask in batch.valid.items()}
    others = ((batch.features[m], batch.features[m], valid[m], valid[m]) for m in MODALITIES[1:])
    return theirs((batch.tokens, batch.tokens, valid["text"]), *others)[0]


def tfr_net_mmsa(of: Setting, batch: Batch) -> Tensor:
    return tfr_net(of, batch, "mmsa")


OFFICIAL: dict[str, tuple[Case, Callable[[Setting, Batch], Tensor]]] = {
    "almt": (CASES["almt_official"], almt),
    "almt_mmsa": (replace(CASES["almt_mmsa"], dims=(16, 5, 7)), almt_mmsa),
    "cubemlp": (CASES["cubemlp_official"], cubemlp),
    "dmd": (CASES["dmd_official"], dmd),
    "emoe": (CASES["emoe_official"], emoe),
    "emoe_unaligned": (CASES["emoe_official_unaligned"], emoe),
    "lnln": (replace(CASES["lnln_official"], dims=(16, 5, 7)), lnln),
    "misa": (CASES["misa_official"], misa),
    "misa_mmsa": (CASES["misa_mmsa"], misa_mmsa),
    "mmim": (CASES["mmim_official"], mmim),
    "mmim_mmsa": (CASES["mmim_mmsa"], mmim_mmsa),
    "mult_mmsa": (CASES["mult_mmsa"], mult_mmsa),
    "self_mm": (CASES["self_mm_mmsa"], self_mm),
    "tetfn": (CASES["tetfn_mmsa"], tetfn),
    "tf_mamba": (CASES["tf_mamba_official"], tf_mamba),
    "tfr_net": (CASES["tfr_net_official"], tfr_net),
    "tfr_net_mmsa": (CASES["tfr_net_mmsa"], tfr_net_mmsa),
}


def padded_clips(case: Case) -> Batch:
    """Clips of unequal length, the longest first, with nothing missing."""
    steps, dims = case.spec.seq_lens, case.spec.feature_dims
    lengths = {m: torch.tensor([t, t - 2, (t + 1) // 2, t // 3]) for m, t in steps.items()}
    valid = {m: torch.arange(steps[m]) < lengths[m][:, None] for m in MODALITIES}
    features = {
        m: numbers((4, steps[m], dims[m]), key) * 3 * valid[m].unsqueeze(2)
        for key, m in enumerate(MODALITIES[1:], start=102)
    }
    return Batch(
        features=features,
        valid=valid,
        observed=valid,
        last={m: length - 1 for m, length in lengths.items()},
        tokens=tokens_of(lengths["text"], steps["text"], torch.Generator().manual_seed(0)),
        text_level="vectors",
    )


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_code_gives_the_same_numbers_from_tokens(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    from transformers import BertModel

    case, theirs = OFFICIAL[name]
    folder = save_small_bert(tmp_path, case.dims[0])
    given = build(case)
    ours = method_class(case.method)(case.spec, **case.settings, text_encoder=folder).eval()
    missing, unexpected = ours.load_state_dict(given.state_dict(), strict=False)
    assert not unexpected
    assert all("text.encoder." in key for key in missing)
    batch = padded_clips(case)
    with torch.no_grad():
        expected = theirs(Setting(case, given, BertModel.from_pretrained(folder).eval(), request), batch).flatten()
        found = ours(batch).pred
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    print(f"{name}: {float((found - expected).abs().max()):.1e}")
