"""Where a method's text comes from: precomputed features, or a BERT that reads the tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from msabench.data.batch import Batch
from msabench.data.info import DataSpec
from msabench.errors import MSABenchError


class TextInput(nn.Module):
    """Gives the text as a sequence of vectors, whatever it comes in as.

    At text level ``vectors`` the encoder's states are zeroed where they are not observed: at dropped words and, as in
    precomputed features, at padding. A method whose reference reads BERT's states over the padding, which are not
    zero, says so with ``keep_padding``, and its states at padding stay as the encoder gives them. At level ``tokens``
    the batch's tokens are already corrupted and all states are left as they are. A removed text comes out the same for
    every clip; at level ``vectors`` it is zero over the full length.

    Args:
        spec: What the data look like.
        text_encoder: Folder or hub name of a BERT in the format of transformers, e.g. ``bert-base-uncased``; None
            for the precomputed features of the file.
        finetune: Whether the encoder is trained; a frozen one also keeps its dropout off.
        keep_padding: Whether states at padding are those of the encoder; precomputed features are zero there.

    Attributes:
        width: Features D_l of the output.
        steps: Steps T_l of the output.
        layers: Layers of the encoder; 0 without one.
        reads_tokens: Whether batches must carry tokens.

    Raises:
        MSABenchError: The encoder cannot be loaded, is no BERT, or reads fewer tokens than the clips have.
    """

    def __init__(
        self,
        spec: DataSpec,
        text_encoder: str | None = None,
        *,
        finetune: bool = False,
        keep_padding: bool = False,
    ) -> None:
        super().__init__()
        self.steps = spec.seq_lens["text"]
        self.keep_padding = keep_padding
        self.finetune = finetune
        self.encoder: nn.Module | None = None
        self.layers = 0
        self.width = spec.feature_dims["text"]
        if text_encoder is not None:
            self.encoder = _load_bert(text_encoder).requires_grad_(finetune)
            config: Any = self.encoder.config
            self.width = config.hidden_size
            self.layers = config.num_hidden_layers
            if config.max_position_embeddings < self.steps:
                raise MSABenchError(
                    f"text_encoder {text_encoder!r} reads at most {config.max_position_embeddings} tokens, "
                    f"the clips have {self.steps}; choose an encoder that reads longer text"
                )
        self.train(self.training)

    @property
    def reads_tokens(self) -> bool:
        """Whether batches must carry tokens."""
        return self.encoder is not None

    def train(self, mode: bool = True) -> TextInput:
        """Set training mode; a frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self.encoder is not None and not self.finetune:
            self.encoder.eval()
        return self

    def forward(self, batch: Batch) -> Tensor:
        """Text of a batch.

        Returns:
            float32 ``(B, T_l, width)``.

        Raises:
            MSABenchError: Token ids are outside the encoder's vocabulary.
        """
        if self.encoder is None:
            return batch.text
        with torch.set_grad_enabled(self.finetune and torch.is_grad_enabled()):
            return self._dropped(self._states(self.encoder, batch), batch)

    def injected(self, batch: Batch, layer: int, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Text of a batch where something else enters the encoder at one of its layers.

        At text level ``vectors`` the states that ``change`` gets are those that are zeroed, as in ``forward``.
        What the encoder makes of them is left as it is: it holds more than text.

        Args:
            batch: A batch with tokens.
            layer: Layer of the encoder, counted from 0 and below ``layers``.
            change: From the layer's usual input, float32 ``(B, T_l, width)``, to what it gets instead. Gradients reach
                it through a frozen encoder too.

        Returns:
            float32 ``(B, T_l, width)``.

        Raises:
            MSABenchError: Token ids are outside the encoder's vocabulary.
        """
        assert self.encoder is not None

        def before_layer(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (change(self._dropped(inputs[0], batch)), *inputs[1:])

        hook = self.encoder.get_submodule(f"encoder.layer.{layer}").register_forward_pre_hook(before_layer)
        try:
            return self._states(self.encoder, batch)
        finally:
            hook.remove()

    @staticmethod
    def _states(encoder: nn.Module, batch: Batch) -> Tensor:
        """What the encoder makes of a batch's tokens."""
        assert batch.tokens is not None
        ids, attention, types = batch.tokens.unbind(1)
        embedding: Any = encoder.get_input_embeddings()  # type: ignore[operator]
        if int(ids.max()) >= embedding.num_embeddings:
            raise MSABenchError(
                f"token id {int(ids.max())} is outside the text encoder's vocabulary of {embedding.num_embeddings}; "
                "choose the encoder whose tokenizer made the file"
            )
        words: Tensor = embedding(ids)
        if batch.token_keep is not None:
            words = words * batch.token_keep.unsqueeze(2)
        states: Tensor = encoder(inputs_embeds=words, attention_mask=attention, token_type_ids=types).last_hidden_state
        return states

    def _dropped(self, states: Tensor, batch: Batch) -> Tensor:
        """States without those that are not observed, where text is dropped at level ``vectors``."""
        if batch.text_level != "vectors":
            return states
        observed = batch.observed["text"]
        gone = ~observed
        if self.keep_padding:
            # Of a removed text nothing stays, wherever it is said to end.
            gone &= batch.valid["text"] | ~observed.any(1, keepdim=True)
        return states.masked_fill(gone.unsqueeze(2), 0.0)


def parameter_groups(method: nn.Module, text_lr: float | None) -> list[dict[str, Any]]:
    """Trainable parameters for the optimiser, those of a fine-tuned text encoder at their own learning rate.

    Args:
        method: Holds at most one ``TextInput``.
        text_lr: Learning rate of the text encoder; None for that of everything else.

    Returns:
        One group for everything else, and one for the encoder (empty if it is frozen or absent); with ``text_lr`` None
        a single group.
    """
    trainable = [parameter for parameter in method.parameters() if parameter.requires_grad]
    if text_lr is None:
        return [{"params": trainable}]
    encoders = [part.encoder for part in method.modules() if isinstance(part, TextInput) and part.encoder is not None]
    in_encoder = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    return [
        {"params": [p for p in trainable if id(p) not in in_encoder]},
        {"params": [p for p in trainable if id(p) in in_encoder], "lr": text_lr},
    ]


HUB_SECONDS = 10.0
"""How long the hub may take to answer whether it has a model."""


def _hub_answers(name: str) -> bool:
    """Whether the hub can be asked for a model now, found out with one question."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except (HfHubHTTPError, HFValidationError):
        # It says what is wrong, and so will the download.
        return True
    except Exception:
        # No network, no answer in time, or told to stay offline: each client library has errors of its own.
        return False
    return True


_SIZES = (
    *("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act"),
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings", "type_vocab_size"),
    *("layer_norm_eps", "pad_token_id"),
)
"""What of a BERT's config decides what it computes with given weights; nothing that could name code or places."""

_size: ContextVar[Mapping[str, Any] | None] = ContextVar("size", default=None)


@contextmanager
def encoder_of_size(sizes: Mapping[str, Any]) -> Iterator[None]:
    """Build text encoders in the block from their sizes alone, whatever they are called: their weights follow.

    Args:
        sizes: As from ``sizes_of``; anything else in it is left out.
    """
    token = _size.set(sizes)
    try:
        yield
    finally:
        _size.reset(token)


def sizes_of(method: nn.Module) -> dict[str, Any] | None:
    """The sizes of a method's text encoder, plain values; None if it has none."""
    for part in method.modules():
        if isinstance(part, TextInput) and part.encoder is not None:
            config: Any = part.encoder.config
            return {name: getattr(config, name) for name in _SIZES}
    return None


def _load_bert(name: str) -> nn.Module:
    sizes = _size.get()
    if sizes is not None:
        from transformers import BertConfig, BertModel

        config = BertConfig(**{key: value for key, value in sizes.items() if key in _SIZES})
        return cast(nn.Module, BertModel(config, add_pooling_layer=False).float())
    # Importing transformers takes seconds; runs on precomputed features never need it.
    from safetensors import SafetensorError
    from transformers import AutoConfig, BertModel
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    # It reports the heads of pretraining, which nobody asked for, as unexpected; what matters is checked below.
    logging.set_verbosity_error()
    try:
        # Without an answer, transformers would ask five times more before it looks into the cache.
        here = Path(name).is_dir() or not _hub_answers(name)
        model_type = AutoConfig.from_pretrained(name, local_files_only=here).model_type
        if model_type != "bert":
            raise MSABenchError(
                f"text_encoder {name!r} is a {model_type}, but the token ids of the files are BERT's; "
                "choose a BERT such as bert-base-uncased"
            )
        loaded: Any = BertModel.from_pretrained(
            name, add_pooling_layer=False, dtype=torch.float32, output_loading_info=True, local_files_only=here
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise MSABenchError(
            f"text_encoder {name!r} cannot be loaded; give a local folder with config.json and the weights "
            "(--model.init_args.text_encoder=FOLDER), run on a machine with network or with the model in its hub "
            "cache, or take the file's precomputed features (--model.init_args.text_encoder=null "
            "--data.missing.level=vectors)"
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    encoder, report = loaded
    if report["missing_keys"]:
        raise MSABenchError(
            f"text_encoder {name!r} has no weights for {min(report['missing_keys'])}; give a complete model"
        )
    return cast(nn.Module, encoder)
