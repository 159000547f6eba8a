"""Parameter groups of parts, and the other small blocks of Self-MM and TETFN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from msabench.nn import text
from msabench.nn.branch_head import BranchHead
from msabench.nn.part_groups import Rates, groups_by_part
from msabench.nn.text import TextInput
from msabench.nn.text_vector import text_vector
from msabench.nn.window_mean import window_means
from msabench.testing.corpora import data_module, random_corpus


class Whole(nn.Module):
    def __init__(self, text_input: TextInput) -> None:
        super().__init__()
        self.text = text_input
        self.audio = nn.LSTM(2, 3)
        self.head = nn.Linear(3, 1)


@pytest.mark.parametrize("finetune", [True, False])
def test_every_parameter_is_in_the_group_of_its_part(finetune: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4)
    monkeypatch.setattr(text, "_load_bert", lambda name: BertModel(config, add_pooling_layer=False))
    whole = Whole(TextInput(data_module(random_corpus()).spec, "bert", finetune=finetune))
    decayed, kept, audio, rest = groups_by_part(whole, [(whole.text, Rates(0.1, 0.2)), (whole.audio, Rates(0.3, 0.4))])
    names = {id(p): name for name, p in whole.named_parameters()}
    assert {names[id(p)] for p in audio["params"]} == {f"audio.{name}" for name, _ in whole.audio.named_parameters()}
    assert {names[id(p)] for p in rest["params"]} == {"head.weight", "head.bias"}
    assert (decayed["lr"], decayed["weight_decay"]) == (0.1, 0.2)
    assert (kept["lr"], kept["weight_decay"]) == (0.1, 0.0)
    assert (audio["lr"], audio["weight_decay"]) == (0.3, 0.4)
    assert "lr" not in rest
    if not finetune:
        assert decayed["params"] == kept["params"] == []
        return
    # BERT's matrices have two axes; its biases and LayerNorm gains have one.
    assert {p.dim() for p in decayed["params"]} == {2}
    assert {p.dim() for p in kept["params"]} == {1}
    assert len(decayed["params"]) + len(kept["params"]) == len(list(whole.text.parameters()))


def test_a_biased_module_other_than_text_is_decayed_as_a_whole() -> None:
    whole = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    first, rest = groups_by_part(whole, [(whole[0], Rates(0.1, 0.2))])
    assert [p.dim() for p in first["params"]] == [2, 1]
    assert len(rest["params"]) == 2


def test_text_as_one_vector() -> None:
    states = torch.tensor([[[1.0], [3.0], [8.0]], [[2.0], [4.0], [6.0]], [[5.0], [0.0], [7.0]]])
    valid = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    assert text_vector(states, valid, "first").tolist() == [[1.0], [2.0], [5.0]]
    assert text_vector(states, valid, "mean").tolist() == [[2.0], [4.0], [0.0]]


def test_window_means() -> None:
    x = torch.arange(1.0, 6.0).view(1, 5, 1)
    # 5 steps as 2 windows of 3: the last step is repeated once.
    assert window_means(x, 2).flatten().tolist() == pytest.approx([2.0, 14 / 3])
    assert window_means(x, 5) is x
    assert window_means(x, 7).flatten().tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 5.0, 5.0]
    assert window_means(x, 1).flatten().tolist() == [3.0]
    assert [window_means(torch.zeros(2, steps, 3), 39).shape for steps in (400, 55)] == [(2, 39, 3)] * 2


def test_branch_head() -> None:
    head = BranchHead(2, 2, 1, 0.0)
    with torch.no_grad():
        for layer, weight in ((head.layer_1, [[1.0, 0.0], [0.0, 1.0]]), (head.layer_2, [[1.0, -1.0], [2.0, 1.0]])):
            layer.weight.copy_(torch.tensor(weight))
            layer.bias.zero_()
        head.layer_3.weight.copy_(torch.tensor([[1.0, 1.0]]))
        head.layer_3.bias.fill_(0.5)
    outputs, shared = head(torch.tensor([[1.0, 3.0], [-1.0, 2.0]]))
    assert shared.tolist() == [[1.0, 3.0], [0.0, 2.0]]
    # The second layer gives (-2, 5) and (-2, 2), of which the ReLU keeps 5 and 2.
    assert outputs.tolist() == [[5.5], [2.5]]


def test_dropout_of_a_branch_head_is_on_its_input() -> None:
    head = BranchHead(4, 3, 1, 0.999999).train()
    torch.manual_seed(0)
    _, shared = head(torch.ones(5, 4))
    assert torch.allclose(shared, torch.relu(head.layer_1.bias).expand(5, 3))
