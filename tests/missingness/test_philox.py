import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from msabench.errors import MSABenchError
from msabench.missingness import philox
from msabench.missingness.philox import blocks24, draws24, philox4x32

KNOWN_ANSWERS = [  # Random123, kat_vectors, philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
words = st.integers(0, 2**32 - 1)
FRAMES = {"text": 7, "audio": 9, "vision": 4}


def reference(counter, key, rounds=10):
    """Philox in Python's unbounded integers, straight from section 5.3 of the paper."""
    c, k = list(counter), list(key)
    for _ in range(rounds):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return tuple(c)


def tensors(counter):
    return tuple(torch.tensor(word) for word in counter)


def uids(n, seed=0):
    return torch.randint(0, 2**32, (n, 2), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS)
def test_known_answers(counter, key, answer):
    assert tuple(int(word) for word in philox4x32(tensors(counter), key)) == answer
    assert reference(counter, key) == answer


@given(st.tuples(words, words, words, words), st.tuples(words, words), st.integers(0, 10))
def test_agrees_with_unbounded_integers(counter, key, rounds):
    drawn = philox4x32(tensors(counter), key, rounds)
    assert tuple(int(word) for word in drawn) == reference(counter, key, rounds)


@pytest.mark.parametrize("rounds", [0, 1, 2, 10])
def test_counters_broadcast(rounds):
    rows, columns = torch.arange(3)[:, None] + 2**31, torch.arange(5)[None]
    drawn = philox4x32((rows, rows * 2 % 2**32, columns, torch.tensor(9)), (1, 2), rounds)
    assert all(word.shape == (3, 5) and word.dtype == torch.int64 for word in drawn)
    for i in range(3):
        for j in range(5):
            expected = reference((2**31 + i, (2**31 + i) * 2 % 2**32, j, 9), (1, 2), rounds)
            assert tuple(int(word[i, j]) for word in drawn) == expected


@given(
    seed=st.integers(0, 2**64 - 1),
    purpose=st.integers(0, 15),
    epoch=st.integers(0, 2**24 - 1),
    uid=st.tuples(words, words),
)
def test_layout_of_counter_and_key(seed, purpose, epoch, uid):
    drawn = draws24(seed, purpose, epoch, torch.tensor([uid]), FRAMES)
    for number, (modality, length) in enumerate(FRAMES.items()):
        assert drawn[modality].shape == (1, length)
        for frame in range(length):
            counter = (*uid, frame >> 2, purpose << 28 | number << 24 | epoch)
            word = reference(counter, (seed % 2**32, seed >> 32))[frame & 3]
            assert int(drawn[modality][0, frame]) == word >> 8


@pytest.mark.parametrize(
    ("seed", "purpose", "epoch"), [(-1, 0, 0), (2**64, 0, 0), (0, 16, 0), (0, -1, 0), (0, 0, 2**24), (0, 0, -1)]
)
def test_numbers_out_of_range_are_refused(seed, purpose, epoch):
    with pytest.raises(MSABenchError, match="is not allowed"):
        draws24(seed, purpose, epoch, uids(1), FRAMES)


@settings(max_examples=20)
@given(st.integers(1, 40), st.permutations(range(11)))
def test_chunks_order_and_batches_do_not_matter(budget, order):
    uid = uids(11)
    expected = draws24(3, 4, 5, uid, FRAMES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(philox, "_CPU_BLOCKS", budget)
        shuffled = draws24(3, 4, 5, uid[list(order)], FRAMES)
    one_by_one = [draws24(3, 4, 5, row[None], FRAMES) for row in uid]
    for modality, drawn in expected.items():
        assert torch.equal(shuffled[modality], drawn[list(order)])
        assert torch.equal(torch.cat([part[modality] for part in one_by_one]), drawn)


def test_longer_sequences_begin_like_shorter_ones():
    long = draws24(1, 2, 3, uids(4), {"audio": 50})["audio"]
    for length in (1, 3, 4, 7, 49):
        assert torch.equal(draws24(1, 2, 3, uids(4), {"audio": length})["audio"], long[:, :length])


def test_no_clips():
    assert draws24(1, 2, 3, uids(0), FRAMES)["text"].shape == (0, 7)


def test_thread_count_and_process_do_not_matter():
    program = (
        "import torch; from msabench.missingness.philox import draws24;"
        "torch.set_num_threads(3); uid = torch.arange(40000).reshape(-1, 2);"
        "print(int(draws24(7, 1, 2, uid, {'text': 50})['text'].sum()), torch.get_num_threads())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ}
    )
    here = draws24(7, 1, 2, torch.arange(40000).reshape(-1, 2), {"text": 50})["text"]
    assert run.stdout.split() == [str(int(here.sum())), "3"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_devices_agree():
    on_cpu = draws24(2**63 + 5, 3, 9, uids(300), {"audio": 130})["audio"]
    on_gpu = draws24(2**63 + 5, 3, 9, uids(300).cuda(), {"audio": 130})["audio"]
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_draws_are_uniform():
    drawn = draws24(1, 0, 0, uids(2000), {"text": 50})["text"].numpy().ravel()
    assert drawn.min() >= 0
    assert drawn.max() < 2**24
    counts = np.bincount(drawn >> 16, minlength=256)
    chi2 = ((counts - drawn.size / 256) ** 2 / (drawn.size / 256)).sum()
    assert abs(chi2 - 255) < 5 * np.sqrt(2 * 255)


def test_streams_are_uncorrelated():
    base = {"seed": 1, "purpose": 3, "epoch": 4}
    uid, frames = uids(2000), {"text": 50, "audio": 50, "vision": 50}
    reference_draws = draws24(**base, uid=uid, n_frames=frames)
    streams = [reference_draws[m].ravel() for m in frames]
    for change in ({"seed": 2}, {"seed": 1 + 2**32}, {"purpose": 0}, {"epoch": 5}):
        streams.append(draws24(**{**base, **change}, uid=uid, n_frames=frames)["text"].ravel())
    streams.append(draws24(**base, uid=uids(2000, seed=1), n_frames=frames)["text"].ravel())
    streams.append(reference_draws["text"].roll(1, dims=0).ravel())
    streams.append(reference_draws["text"].roll(1, dims=1).ravel())
    off_diagonal = np.corrcoef(torch.stack(streams).numpy()) - np.eye(len(streams))
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(streams[0].numel())


@pytest.mark.parametrize("seed", [0, 7, 2**64 - 1])
def test_draws_are_the_words_of_the_generator(seed):
    uid = torch.tensor([[1, 2], [0xFFFFFFFF, 0], [0x12345678, 0xFFFFFFFF]])
    block = torch.arange(5).unsqueeze(0)
    label = torch.full_like(block, 6 << 28 | 2 << 24 | 9)
    words = philox4x32((uid[:, :1], uid[:, 1:], block, label), (seed & 0xFFFFFFFF, seed >> 32))
    expected = torch.stack(words, dim=2).flatten(1) >> 8
    assert torch.equal(draws24(seed, 6, 9, uid, {"vision": 18})["vision"], expected[:, :18])
    rows = torch.tensor([[4, 0], [1, 1], [3, 2]])
    found = blocks24(seed, 6, 9, uid, "vision", rows)
    assert torch.equal(found.view(3, 2, 4), torch.stack([expected.view(3, 5, 4)[i, k] for i, k in enumerate(rows)]))
