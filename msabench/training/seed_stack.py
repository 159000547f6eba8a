"""The weights of a method under several seeds, side by side: one pass gives the losses of all, each its own gradients.

Nothing is shared between seeds. Losses are summed only so that one backward pass serves all; limits on gradients,
factors on learning rates and steps are of each seed alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from msabench.data.batch import Batch
from msabench.methods.base import MSAMethod
from msabench.nn.positions import SinusoidalPositions
from msabench.training.seed_streams import SeedStreams


class SeedStack:
    """S trainings of one method.

    Args:
        methods: The method as each seed has initialised it, all of one form; the first goes to the device.
            ``write_back`` changes their weights.
        generators: What each seed draws dropout from, on ``device``.
        device: Where to compute.
        gradient_clip: Limit of a seed's gradient in a step; None for none.
        clip_by: Whether it limits the norm of all of the seed's gradients, the size of each, or the norm of each group.
        epochs: Epochs of the training, for schedules.

    Attributes:
        parameters: Name -> ``(S, ...)``.
        buffers: Likewise.
    """

    def __init__(
        self,
        methods: Sequence[MSAMethod],
        generators: Sequence[torch.Generator],
        *,
        device: torch.device,
        gradient_clip: float | None,
        clip_by: Literal["norm", "value", "group"],
        epochs: int,
    ) -> None:
        self.methods = list(methods)
        self.generators = list(generators)
        self.device = device
        self.gradient_clip, self.clip_by = gradient_clip, clip_by
        self._method = methods[0].to(device)
        self.parameters = {
            name: _stacked(parameter, [dict(method.named_parameters()) for method in methods], name, device)
            for name, parameter in self._method.named_parameters()
        }
        own = [own_buffers(method) for method in methods]
        self.buffers = {name: torch.stack([buffers[name] for buffers in own]).to(device) for name in own[0]}
        self._names = {id(parameter): name for name, parameter in self._method.named_parameters()}
        self.optimizers: dict[str, torch.optim.Adam] = {}
        self._schedules: list[LambdaLR] = []
        for turn in self._method.turns:
            self._add_optimizer(turn, epochs)
        self._plateaus = [self._plateaus_of_seed() for _ in methods]

    def __len__(self) -> int:
        return len(self.generators)

    # Losses and steps.

    def losses(self, batch: Batch, turn: str) -> dict[str, Tensor]:
        """Terms of the loss of a turn, each ``(S,)``; draws from the generators.

        Args:
            batch: As ``joined`` makes it.
            turn: The turn.
        """
        self._method.train()
        self._method.turn = turn
        leaves, form = _taken_apart(batch)

        def of_one(weights: dict[str, Tensor], leaves: list[Tensor], place: Tensor) -> dict[str, Tensor]:
            with SeedStreams(self.generators, place):
                terms: dict[str, Tensor] = torch.func.functional_call(
                    _Losses(self._method), weights, (_put_together(leaves, form),)
                )
                return terms

        found: dict[str, Tensor] = torch.vmap(of_one)(self._weights, leaves, self._places)
        return found

    def predictions(self, batch: Batch) -> Tensor:
        """What each seed predicts of the same clips: ``(S, B)`` scores or ``(S, B, 4, 2)`` logits, without gradients.

        Args:
            batch: B clips without anything that a deployed model would not see.
        """
        self._method.eval()
        leaves, form = _taken_apart(batch)

        def of_one(weights: dict[str, Tensor], place: Tensor) -> Tensor:
            with SeedStreams(self.generators, place):
                pred: Tensor = torch.func.functional_call(
                    _Predictions(self._method), weights, (_put_together(leaves, form),)
                )
                return pred

        with torch.no_grad():
            return torch.vmap(of_one)(self._weights, self._places)

    def add_gradients(self, batch: Batch, turn: str, *, first: bool) -> dict[str, Tensor]:
        """Gradients of every seed's loss, limited, added to those since the last step.

        Args:
            batch: As ``joined`` makes it.
            turn: The turn, whose weights alone get gradients.
            first: Whether what has added up is forgotten before.

        Returns:
            The terms of the loss, each ``(S,)``, and their sum under an empty name; without gradients.
        """
        trained = [p for group in self.optimizers[turn].param_groups for p in group["params"]]
        if first:
            self.optimizers[turn].zero_grad()
        terms = self.losses(batch, turn)
        total = torch.stack(list(terms.values())).sum(0)
        for parameter, gradient in zip(
            trained, torch.autograd.grad(total.sum(), trained, allow_unused=True), strict=True
        ):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient
        if self.gradient_clip is not None:
            groups = [group["params"] for group in self.optimizers[turn].param_groups]
            for part in groups if self.clip_by == "group" else [trained]:
                reached = [p.grad for p in part if p.grad is not None]
                if reached:
                    limit(reached, self.gradient_clip, "value" if self.clip_by == "value" else "norm")
        return {"": total.detach(), **{name: term.detach() for name, term in terms.items()}}

    def step(self, turn: str) -> None:
        """A step of a turn's optimiser, under each seed's own learning rate."""
        optimizer = self.optimizers[turn]
        factors = self._factors[turn]
        if all(factor == 1 for factor in factors):
            optimizer.step()
            return
        # Adam's step is proportional to the learning rate, decoupled weight decay included.
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        before = [p.detach().clone() for p in trained]
        optimizer.step()
        share = torch.tensor(factors, device=self.device)
        with torch.no_grad():
            for parameter, old in zip(trained, before, strict=True):
                parameter.copy_(old + (parameter - old) * by_seed(share, parameter))

    def end_epoch(self, val_tasks: Sequence[float]) -> None:
        """Move the learning rates on.

        Args:
            val_tasks: ``val/task`` of each seed.
        """
        for plateaus, val_task in zip(self._plateaus, val_tasks, strict=True):
            for plateau in plateaus.values():
                plateau.step(val_task)
        for schedule in self._schedules:
            schedule.step()

    # Seeds come apart again.

    def write_back(self, place: int) -> MSAMethod:
        """The method of a seed, on its own device, with the weights that it has by now."""
        method = self.methods[place]
        with torch.no_grad():
            for found, stacked in (
                (method.named_parameters(), self.parameters),
                (own_buffers(method).items(), self.buffers),
            ):
                for name, tensor in found:
                    tensor.copy_(stacked[name][place])
        return method

    def keep(self, places: Sequence[int]) -> None:
        """Go on with some of the seeds alone.

        Args:
            places: Their places, in order.
        """
        index = torch.tensor(list(places), device=self.device)
        with torch.no_grad():
            for optimizer in self.optimizers.values():
                for state in optimizer.state.values():
                    state |= {name: value[index] for name, value in state.items() if name != "step"}
            for parameter in self.parameters.values():
                parameter.data, parameter.grad = parameter.detach()[index], None
        self.buffers = {name: buffer[index] for name, buffer in self.buffers.items()}
        self.methods = [self.methods[place] for place in places]
        self.generators = [self.generators[place] for place in places]
        self._plateaus = [self._plateaus[place] for place in places]

    @property
    def _weights(self) -> dict[str, Tensor]:
        return {f"method.{name}": tensor for name, tensor in {**self.parameters, **self.buffers}.items()}

    @property
    def _places(self) -> Tensor:
        return torch.arange(len(self), device=self.device)

    @property
    def _factors(self) -> dict[str, list[float]]:
        """Turn -> each seed's factor on the learning rate."""
        return {
            turn: [
                plateaus[turn].optimizer.param_groups[0]["lr"] if turn in plateaus else 1.0
                for plateaus in self._plateaus
            ]
            for turn in self.optimizers
        }

    def _add_optimizer(self, turn: str, epochs: int) -> None:
        method = self._method
        method.turn = turn
        groups = [
            {**group, "params": [self.parameters[self._names[id(p)]] for p in group["params"]]}
            for group in method.param_groups()
            if group["params"]
        ]
        optimizer = method.optimizer_of(groups)
        self.optimizers[turn] = optimizer
        if method.lr_patience is None and type(method).lr_multiplier is not MSAMethod.lr_multiplier:
            self._schedules.append(LambdaLR(optimizer, lambda epoch: method.lr_multiplier(epoch, epochs)))

    def _plateaus_of_seed(self) -> dict[str, ReduceLROnPlateau]:
        """Turn -> what lowers a factor of 1, as it would lower the learning rate of the seed alone."""
        method = self._method
        if method.lr_patience is None:
            return {}
        return {
            turn: ReduceLROnPlateau(
                # The smallest change that counts is of the learning rate itself.
                torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1.0),
                mode="min",
                factor=method.lr_factor,
                patience=method.lr_patience,
                eps=1e-8 / method.lr if method.lr else 0.0,
            )
            for turn in self.optimizers
        }


def own_buffers(method: MSAMethod) -> dict[str, Tensor]:
    """The buffers of a method by name, without tables of positions, which all have and make anew where too short."""
    tables = {f"{name}.table" for name, module in method.named_modules() if isinstance(module, SinusoidalPositions)}
    return {name: buffer for name, buffer in method.named_buffers() if name not in tables}


def joined(batches: Sequence[Batch], *, conversations: bool = False) -> Batch:
    """Batches of several seeds as one, whose tensors have the seed as their first axis.

    Args:
        batches: One for each seed, of the same number of clips.
        conversations: Whether to keep the numbers of conversations, which say nothing where clips come one by one.
    """
    bare = list(batches) if conversations else [_without_conversations(batch) for batch in batches]
    leaves = [_taken_apart(batch)[0] for batch in bare]
    stacked = [torch.stack(parts) for parts in zip(*leaves, strict=True)]
    return _put_together(stacked, bare[0])


def limit(gradients: Sequence[Tensor], most: float, by: Literal["norm", "value"]) -> None:
    """Limit the gradients of each seed, in place.

    Args:
        gradients: Each ``(S, ...)``.
        most: The limit.
        by: Whether it is of the norm of all gradients of a seed, or of the size of each value.
    """
    if by == "value":
        for gradient in gradients:
            gradient.clamp_(-most, most)
        return
    norms = torch.stack(
        [gradient.flatten(1).norm(dim=1) if gradient.ndim > 1 else gradient.abs() for gradient in gradients]
    )
    share = (most / (norms.norm(dim=0) + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(by_seed(share, gradient))


def by_seed(values: Tensor, like: Tensor) -> Tensor:
    """``(S,)`` as ``(S, 1, ...)``, to go with ``(S, ...)``."""
    return values.view(-1, *[1] * (like.ndim - 1))


class _Losses(nn.Module):
    """What a training step computes, as a module that can be called with other weights."""

    def __init__(self, method: MSAMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        return self.method.loss(self.method.training_forward(batch), batch)


class _Predictions(nn.Module):
    """Likewise what an evaluation does."""

    def __init__(self, method: MSAMethod) -> None:
        super().__init__()
        self.method = method

    def forward(self, batch: Batch) -> Tensor:
        pred: Tensor = self.method(batch).pred
        return pred


def _stacked(parameter: nn.Parameter, seeds: Sequence[Mapping[str, Tensor]], name: str, device: torch.device) -> Tensor:
    values = torch.stack([own[name].detach() for own in seeds]).to(device)
    return nn.Parameter(values, requires_grad=parameter.requires_grad)


def _without_conversations(batch: Batch) -> Batch:
    first, second = batch.views or (None, None)
    return replace(
        batch,
        conversation=None,
        turn=None,
        complete=batch.complete and _without_conversations(batch.complete),
        views=(_without_conversations(first), _without_conversations(second)) if first and second else None,
    )


def _taken_apart(batch: Batch) -> tuple[list[Tensor], Batch]:
    """The tensors of a batch, and a batch to put others in their places."""
    leaves: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        leaves.append(tensor)
        return tensor

    return leaves, batch.mapped(take)


def _put_together(leaves: Sequence[Tensor], form: Batch) -> Batch:
    rest = iter(leaves)
    return form.mapped(lambda _: next(rest))
