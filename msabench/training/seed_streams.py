"""What differs between seeds that are trained in one pass: what they draw, and what no kernel computes for all at once.

Under ``torch.vmap`` one call stands for all seeds. Dropout and noise must come from each seed's own stream all the
same, call by call as in a training of that seed alone; and recurrent networks have kernels for one set of weights only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from msabench.nn.packed import run_packed

ONE_AT_A_TIME = ("lstm", "gru", "lstm_cell", "gru_cell", "multi_head_attention_forward")
"""Functions of torch that are called once for each seed: they have no batched kernel, or draw where nobody sees it."""


class SeedStreams(TorchFunctionMode):
    """Within ``torch.vmap`` over seeds, lets each seed draw from its own generator.

    What draws in other ways than dropout, attention, ``randn_like`` and ``rand_like`` is refused by ``torch.vmap``.

    Args:
        generators: One for each seed, on the device of the training; they are drawn from.
        seed: int64 scalar that ``torch.vmap`` cut from ``(S,)``; there is something to go over where nothing else is.
    """

    def __init__(self, generators: Sequence[torch.Generator], seed: Tensor) -> None:
        super().__init__()
        self._generators = generators
        self._seed = seed

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Take over what draws, and what has no batched kernel."""
        kwargs = kwargs or {}
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention and (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)):
            return self._attention(*args, **kwargs)
        if func in (torch.randn_like, torch.rand_like):
            return self._drawn(torch.randn if func is torch.randn_like else torch.rand, args[0])
        if func is run_packed:
            return self._packed(*args, **kwargs)
        if getattr(func, "__name__", "") in ONE_AT_A_TIME:
            return self._one_at_a_time(func, *args, **kwargs)
        return func(*args, **kwargs)

    def _each(self, function: Callable[..., Any], *tensors: Tensor) -> Any:
        """Call ``function(place, *tensors)`` for each seed with its share of the tensors; results are stacked."""
        return _EachSeed.apply(lambda place, _, *rest: function(place, *rest), self._seed, *tensors)  # type: ignore[no-untyped-call]

    def _drawn(self, draw: Callable[..., Tensor], like: Tensor) -> Any:
        kind = {"dtype": like.dtype, "device": like.device}
        return self._each(lambda place: draw(like.shape, generator=self._generators[place], **kind))

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0.0:
            return x
        # Laid out as the seed's own values are: what is drawn is written in the order of memory.
        kept: Tensor = self._each(
            lambda place, x: torch.empty_like(x).bernoulli_(1 - p, generator=self._generators[place]), x.detach()
        )
        return x * (kept / (1 - p) if p < 1 else kept)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if is_causal or enable_gqa:
            raise NotImplementedError("attention with dropout that is causal or grouped")
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            is_choice = attn_mask.dtype == torch.bool
            scores = scores.masked_fill(~attn_mask, -torch.inf) if is_choice else scores + attn_mask
        return self._dropout(scores.softmax(dim=-1), dropout_p) @ value

    def _packed(self, rnn: nn.LSTM | nn.GRU, inputs: Tensor, lengths: Tensor) -> Any:
        names = [f"rnn.{name}" for name, _ in rnn.named_parameters()]

        def alone(place: int, inputs: Tensor, lengths: Tensor, *weights: Tensor) -> Any:
            own = dict(zip(names, weights, strict=True))
            with _drawing_from(self._generators[place]):
                return torch.func.functional_call(_Packed(rnn), own, (inputs, lengths))

        return self._each(alone, inputs, lengths, *rnn.parameters())

    def _one_at_a_time(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        given, form = tree_flatten((args, kwargs))
        places = [place for place, leaf in enumerate(given) if isinstance(leaf, Tensor)]
        returned: list[Any] = []

        def alone(place: int, *tensors: Tensor) -> Any:
            own = dict(zip(places, tensors, strict=True))
            words, named = tree_unflatten([own.get(number, leaf) for number, leaf in enumerate(given)], form)
            with _drawing_from(self._generators[place]):
                leaves, what = tree_flatten(func(*words, **named))
            returned[:] = [leaves, what]
            return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

        stacked = iter(self._each(alone, *(given[place] for place in places)))
        leaves, what = returned
        return tree_unflatten([next(stacked) if isinstance(leaf, Tensor) else leaf for leaf in leaves], what)


class _EachSeed(torch.autograd.Function):
    """Calls a function once for each seed, within ``torch.vmap``."""

    @staticmethod
    def forward(function: Callable[..., Any], *tensors: Tensor) -> Any:
        return function(0, *tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        # Within torch.vmap the calls themselves are differentiated.
        pass

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], function: Callable[..., Any], *tensors: Tensor) -> Any:
        dims = in_dims[1:]
        results = [
            function(seed, *(x if dim is None else x.select(dim, seed) for x, dim in zip(tensors, dims, strict=True)))
            for seed in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)


class _Packed(nn.Module):
    """``run_packed`` as a module, so that it can be called with other weights."""

    def __init__(self, rnn: nn.LSTM | nn.GRU) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, inputs: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return run_packed(self.rnn, inputs, lengths)


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let what draws from the global generator of a device draw from another one."""
    device = generator.device
    default = torch.default_generator if device.type == "cpu" else torch.cuda.default_generators[device.index or 0]
    before = default.get_state()
    default.set_state(generator.get_state())
    try:
        yield
    finally:
        generator.set_state(default.get_state())
        default.set_state(before)
