"""The gated multi-view memory of MFN and the encoder around it, against a step-by-step reference."""

import pytest
import torch
from torch import nn

from msabench.nn.multi_view_memory import Hidden, MemoryFusion, MultiViewMemory, TwoLayers


def memory_of(x, memory):
    """All memories ``(B, T, M)``, gates read from the whole of [x; u] at each step."""
    u, kept = x.new_zeros(len(x), memory.width), []
    for t in range(x.shape[1]):
        both = torch.cat([x[:, t], u], dim=1)
        proposal = torch.tanh(memory.propose(x[:, t]))
        u = torch.sigmoid(memory.retain(both)) * u + torch.sigmoid(memory.update(both)) * proposal
        kept.append(u)
    return torch.stack(kept, dim=1)


def small_memory(dropout=0.0):
    return MultiViewMemory(
        5, 4, propose=Hidden(3, dropout), retain=Hidden(6, dropout), update=Hidden(2, dropout)
    ).double()


def test_two_layers_against_the_formula():
    torch.manual_seed(0)
    net, x = TwoLayers(4, Hidden(3, 0.5), 2).eval(), torch.randn(5, 4)
    hidden = (x @ net.fc1.weight.T + net.fc1.bias).clamp(min=0)
    torch.testing.assert_close(net(x), hidden @ net.fc2.weight.T + net.fc2.bias)
    dropped = TwoLayers(4, Hidden(3, 1.0), 2).train()
    torch.testing.assert_close(dropped(x), dropped.fc2.bias.expand(5, 2))


def test_memory_by_hand():
    """Gates of 1/2 whatever comes in: the memory halves and takes in half of each proposal."""
    memory = MultiViewMemory(1, 1, propose=Hidden(1, 0.0), retain=Hidden(1, 0.0), update=Hidden(1, 0.0))
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.zero_()
        memory.propose.fc1.weight.fill_(1.0)
        memory.propose.fc2.weight.fill_(1.0)
    x = torch.tensor([[[1.0], [-1.0], [2.0]]])  # ReLU takes the second step's proposal to 0
    expected = (torch.tensor(1.0).tanh() / 8 + torch.tensor(2.0).tanh() / 2).reshape(1, 1)
    torch.testing.assert_close(memory(x), expected)


@pytest.mark.parametrize("steps", [1, 7])
def test_memory_against_the_loop(steps):
    torch.manual_seed(0)
    memory, x = small_memory(), torch.randn(3, steps, 5, dtype=torch.float64)
    expected = memory_of(x, memory)[:, -1]
    torch.testing.assert_close(memory(x), expected)
    parameters = list(memory.parameters())
    ours = torch.autograd.grad(memory(x).square().sum(), parameters, allow_unused=True, materialize_grads=True)
    theirs = torch.autograd.grad(expected.square().sum(), parameters, allow_unused=True, materialize_grads=True)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_dropout_is_drawn_anew_at_each_step():
    """With the proposal's units dropped by halves, a mask common to all steps would leave few sums of proposals."""
    torch.manual_seed(0)
    memory = MultiViewMemory(1, 1, propose=Hidden(1, 0.5), retain=Hidden(1, 0.0), update=Hidden(1, 0.0)).train()
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.fill_(0.1)
        memory.propose.fc1.weight.fill_(1.0)
        memory.propose.fc2.weight.fill_(1.0)
    assert len(memory(torch.ones(200, 4, 1)).unique()) == 2**4


def test_fusion_against_cells_attention_and_memory():
    torch.manual_seed(0)
    features, hidden = (4, 2, 3), (3, 2, 4)
    fusion = MemoryFusion(
        features,
        hidden,
        5,
        attend=Hidden(6, 0.3),
        propose=Hidden(3, 0.3),
        retain=Hidden(4, 0.3),
        update=Hidden(2, 0.3),
    ).eval()
    sequences = [torch.randn(3, 6, d) for d in features]
    states = [(torch.zeros(3, h), torch.zeros(3, h)) for h in hidden]
    attended = []
    for t in range(6):
        before = [c for _, c in states]
        states = [cell(x[:, t], state) for cell, x, state in zip(fusion.lstms, sequences, states, strict=True)]
        pair = torch.cat([*before, *(c for _, c in states)], dim=1)
        attended.append(torch.softmax(fusion.attend(pair), dim=1) * pair)
    memory = memory_of(torch.stack(attended, dim=1), fusion.memory)[:, -1]
    found = fusion(sequences)
    assert found.shape == (3, fusion.width) == (3, 14)
    torch.testing.assert_close(found, torch.cat([*(h for h, _ in states), memory], dim=1))


def test_lstms_are_torchs():
    """Only the last hidden states enter the output directly; they are those of ``nn.LSTM``."""
    torch.manual_seed(0)
    small = dict.fromkeys(("attend", "propose", "retain", "update"), Hidden(2, 0.0))
    fusion = MemoryFusion((4, 2), (3, 2), 1, **small)
    sequences = [torch.randn(3, 6, d) for d in (4, 2)]
    found = fusion(sequences)[:, :5].split([3, 2], dim=1)
    for cell, x, state in zip(fusion.lstms, sequences, found, strict=True):
        lstm = nn.LSTM(cell.input_size, cell.hidden_size, batch_first=True)
        lstm.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
        torch.testing.assert_close(state, lstm(x)[1][0][0])
