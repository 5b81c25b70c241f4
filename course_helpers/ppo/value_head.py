"""A causal language model with a value head: π_θ and V in one network, and the frozen copy that is π_ref."""

from __future__ import annotations

import copy
import inspect
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.activations import NewGELUActivation
from transformers.utils import logging

from course_helpers.files import whole_folder
from course_helpers.models import LoadError, locate, sentences

HEAD_OPTIONS = ("summary_dropout_prob", "v_head_init_strategy", "v_head_initializer_range")
LAYER_NAMES = (
    "transformer.h.{layer}",
    "model.decoder.layers.{layer}",
    "gpt_neox.layers.{layer}",
    "model.layers.{layer}",
)
HEAD_FILE, ADAPTER_FILE = "v_head.safetensors", "adapter_config.json"


class ValueHead(nn.Module):
    """V(X, ω_<t): one linear layer on the last hidden state, the reward still to be expected from there.

    Args:
        config: the language model's; gives the width, and the dropout if it has `summary_dropout_prob`.
        summary_dropout_prob: dropout before the layer, where the config says nothing.
        v_head_init_strategy: ``"normal"`` for weights from N(0, range²) and bias 0; torch's default when None.
        v_head_initializer_range: standard deviation of the normal weights.
    """

    def __init__(
        self,
        config: Any,
        summary_dropout_prob: float | None = 0.1,
        v_head_init_strategy: str | None = None,
        v_head_initializer_range: float = 0.2,
    ):
        """Fresh weights."""
        super().__init__()
        probability = getattr(config, "summary_dropout_prob", summary_dropout_prob)
        self.dropout = nn.Dropout(probability) if probability else nn.Identity()
        width = getattr(config, "word_embed_proj_dim", None) or config.get_text_config().hidden_size
        self.summary = nn.Linear(width, 1)
        if v_head_init_strategy == "normal":
            nn.init.normal_(self.summary.weight, std=v_head_initializer_range)
            nn.init.zeros_(self.summary.bias)
        elif v_head_init_strategy not in (None, "random"):
            raise ValueError(f"v_head_init_strategy {v_head_init_strategy!r} is not known: choose 'normal' or None.")

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, width) → (B, T, 1), in the head's own precision."""
        return self.summary(self.dropout(hidden_states).to(self.summary.weight.dtype))


class AutoModelForCausalLMWithValueHead(nn.Module):
    """A causal language model, as `pretrained_model`, and a value head, as `v_head`.

    Args:
        pretrained_model: a causal language model of transformers, or a peft model around one.
        **head_options: see `ValueHead`.
    """

    def __init__(self, pretrained_model: nn.Module, **head_options: Any):
        """Put a fresh value head on a model."""
        super().__init__()
        if getattr(pretrained_model.config, "is_encoder_decoder", False):
            raise ValueError(f"{type(pretrained_model).__name__} is an encoder-decoder; give a causal language model.")
        if any(p.dtype == torch.float16 for p in pretrained_model.parameters()):
            raise ValueError(
                "the weights are float16, which overflows in training: load them with dtype=torch.float32."
            )
        self.pretrained_model = pretrained_model
        self.v_head = ValueHead(pretrained_model.config, **head_options).to(self.device)
        self.is_peft_model = hasattr(pretrained_model, "peft_config")
        if self._lm_head() is None:
            raise ValueError(f"{type(pretrained_model).__name__} has no output embeddings (lm_head or embed_out).")
        fuse_gelu(pretrained_model)

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.pretrained_model.config

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return next(self.pretrained_model.parameters()).device

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path | nn.Module,
        *model_args: Any,
        peft_config: Any = None,
        is_trainable: bool = True,
        **kwargs: Any,
    ) -> AutoModelForCausalLMWithValueHead:
        """Load a model and its value head, or put a fresh one on it.

        Args:
            pretrained_model_name_or_path: a model in memory; or ``"small"``, a Hub id, or a folder: of a plain model,
                of what `save_pretrained` or TRL 0.11.4 wrote, or of an adapter.
            *model_args: for transformers' `from_pretrained`.
            peft_config: a `peft.LoraConfig` or the like: a fresh adapter is put on the model, which is frozen.
            is_trainable: whether a loaded adapter can be trained on.
            **kwargs: options of the value head (see `ValueHead`); the others are for `from_pretrained`.

        Returns:
            The model with its value head.

        Raises:
            LoadError, FileNotFoundError: there is no such model; see `course_helpers.models`.
        """
        head_options = {name: kwargs.pop(name) for name in HEAD_OPTIONS if name in kwargs}
        source = pretrained_model_name_or_path
        if isinstance(source, nn.Module):
            return cls(add_adapter(source, peft_config), **head_options)
        place, local = locate(source, "policy")
        kwargs = {"local_files_only": local, "dtype": torch.float32, "use_safetensors": True} | kwargs
        kwargs.setdefault("trust_remote_code", False)  # left open, transformers would ask whether to run it
        with _quiet(), sentences(place, local):
            if (Path(place) / ADAPTER_FILE).exists():
                model = _load_adapter(Path(place), is_trainable, *model_args, **kwargs)
            else:
                model = AutoModelForCausalLM.from_pretrained(place, *model_args, **kwargs)
        model = cls(add_adapter(model, peft_config), **head_options)
        if head := read_value_head(Path(place)):
            model.v_head.load_state_dict(head)
        elif model.is_peft_model and peft_config is None:
            warnings.warn(f"{place} holds an adapter but no value head: the head starts fresh.", stacklevel=2)
        return model

    def _lm_head(self) -> nn.Module | None:
        return self.pretrained_model.get_output_embeddings()

    def forward(
        self,
        input_ids: Tensor | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        return_past_key_values: bool = False,
        **kwargs: Any,
    ) -> tuple:
        """Logits, loss and values.

        Args:
            input_ids: (B, T).
            past_key_values: cache of what came before.
            attention_mask: (B, T), 0 for padding.
            return_past_key_values: append the cache to what is returned.
            **kwargs: for the language model; with `logits_to_keep` only the last positions are returned.

        Returns:
            Logits (B, T, V) in float32 (float64 stays), the language model's loss or None, values (B, T).
        """
        if past_key_values is not None:
            kwargs["past_key_values"] = past_key_values
        with reads_of(self._lm_head()) as hidden_states:
            output = self.pretrained_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        values = self.v_head(hidden_states[-1]).squeeze(-1)
        logits = output.logits.float() if output.logits.dtype == torch.bfloat16 else output.logits
        parts = logits, output.loss, values
        return (*parts, output.past_key_values) if return_past_key_values else parts

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The language model's own `generate`."""
        return self.pretrained_model.generate(*args, **kwargs)

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recompute activations in the backward pass."""
        self.pretrained_model.activation_checkpointing_enable(**kwargs)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Names as in the language model's own, ``v_head.`` before those of the head; of a peft model only the head."""
        head = {f"v_head.{name}": value for name, value in self.v_head.state_dict(*args, **kwargs).items()}
        return head if self.is_peft_model else self.pretrained_model.state_dict(*args, **kwargs) | head

    def load_state_dict(self, state_dict: dict[str, Tensor], strict: bool = True, assign: bool = False) -> None:
        """Read what `state_dict` gave back."""
        head = {name.removeprefix("v_head."): x for name, x in state_dict.items() if name.startswith("v_head.")}
        rest = {name: x for name, x in state_dict.items() if not name.startswith("v_head.")}
        self.v_head.load_state_dict(head, strict, assign)
        if rest or not self.is_peft_model:
            self.pretrained_model.load_state_dict(rest, strict, assign)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Write model and value head so that `from_pretrained` reads both, and plain transformers or peft the model.

        Files are written beside their place and moved there one by one, so an older save is not lost to an interrupt.

        Args:
            save_directory: made if it is not there.
            **kwargs: for the language model's `save_pretrained`.

        Raises:
            WriteError: the disk is full, or the folder cannot be written to.
        """
        folder = Path(save_directory)
        with _quiet(), whole_folder(folder) as unfinished:
            if self.is_peft_model:
                self.pretrained_model.save_pretrained(unfinished, **kwargs)
                save_file(self.v_head.state_dict(), unfinished / HEAD_FILE)
            else:
                self.pretrained_model.save_pretrained(unfinished, state_dict=self.state_dict(), **kwargs)
            written = sorted(unfinished.iterdir())
        if not self.is_peft_model:  # what an older save left would be read instead of this one
            for path in [*folder.glob("model*.safetensors*"), folder / ADAPTER_FILE, folder / HEAD_FILE]:
                if path.name not in {new.name for new in written}:
                    path.unlink(missing_ok=True)


@contextmanager
def reads_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is given while the block runs: the value head reads the very states that the LM head reads."""
    inputs: list[Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    try:
        yield inputs
    finally:
        hook.remove()


def fuse_gelu(model: nn.Module) -> None:
    """Swap GPT-2's GELU, eight small operations, for torch's single one; the values are the same to rounding."""
    for module in model.modules():
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, nn.GELU(approximate="tanh"))


def add_adapter(model: nn.Module, peft_config: Any) -> nn.Module:
    """A peft model around `model`, or `model` itself without a config."""
    if peft_config is None:
        return model
    from peft import get_peft_model

    if hasattr(model, "peft_config"):
        raise ValueError("the model has an adapter already: leave peft_config out to train that one.")
    return get_peft_model(model, peft_config)


def _load_adapter(folder: Path, is_trainable: bool, *model_args: Any, **kwargs: Any) -> nn.Module:
    """An adapter from a folder, on the model its config names."""
    from peft import PeftModel

    base = json.loads((folder / ADAPTER_FILE).read_text())["base_model_name_or_path"]
    try:
        place, _ = locate(base, "policy")
    except (FileNotFoundError, LoadError) as error:
        raise LoadError(
            f"{folder} holds an adapter for {base!r}, which cannot be loaded ({error}): load that model yourself, "
            "put the adapter on it with peft.PeftModel.from_pretrained, and pass the result."
        ) from None
    if not (folder / "adapter_model.safetensors").is_file():  # PEFT would go on to a pickle
        raise LoadError(f"{folder} holds no adapter_model.safetensors, and pickled weights are not read: save it anew.")
    model = AutoModelForCausalLM.from_pretrained(place, *model_args, **kwargs)
    return PeftModel.from_pretrained(model, folder, is_trainable=is_trainable, use_safetensors=True)


def read_value_head(folder: Path) -> dict[str, Tensor] | None:
    """Weights of a value head that were saved in a folder, if there are any.

    They stand in `v_head.safetensors`, or beside the model's own weights in its safetensors files. TRL 0.11.4 put those
    of a peft model into `pytorch_model.bin`; that is read with torch's weights-only reader, which gives tensors or an
    error.
    """
    if (folder / HEAD_FILE).exists():
        return load_file(folder / HEAD_FILE)
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, framework="pt") as file:
            if names := [name for name in file.keys() if name.startswith("v_head.")]:  # noqa: SIM118
                return {name.removeprefix("v_head."): file.get_tensor(name) for name in names}
    old = folder / "pytorch_model.bin"
    if (folder / ADAPTER_FILE).exists() and old.exists():
        try:
            tensors = torch.load(old, map_location="cpu", weights_only=True)
        except UnpicklingError:
            raise LoadError(
                f"{old} holds more than tensors, or is damaged; torch's weights-only reader ran no code of it. Take "
                "that file away, and the value head starts fresh."
            ) from None
        return {name.removeprefix("v_head."): tensor for name, tensor in tensors.items() if name.startswith("v_head.")}
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' remark that it does not know the value head's weights, and without progress bars."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def create_reference_model(
    model: nn.Module, num_shared_layers: int | None = None, pattern: str | None = None
) -> nn.Module:
    """A frozen copy of a model: π_ref.

    Args:
        model: with a value head or without.
        num_shared_layers: freeze the embeddings and this many of the lowest layers in `model`, and share them with the
            copy instead of copying them: half the memory, and their activations are the same for both models.
        pattern: name of a layer, ``{layer}`` for its number, where the usual ones do not match.

    Returns:
        The copy, in eval mode, no parameter of it taking gradients.

    Raises:
        ValueError: a peft model (switch its adapter off instead), or no layer of that name.
    """
    if getattr(model, "is_peft_model", hasattr(model, "peft_config")):
        raise ValueError("the reference of a peft model is that model with its adapter off: pass ref_model=None.")
    shared = shared_parameters(model, num_shared_layers, pattern) if num_shared_layers else []
    for parameter in shared:
        parameter.requires_grad_(False)
    # what deepcopy finds in its memo it takes as it is
    reference = copy.deepcopy(model, memo={id(parameter): parameter for parameter in shared})
    return reference.requires_grad_(False).eval()


def shared_parameters(model: nn.Module, num_shared_layers: int, pattern: str | None = None) -> list[nn.Parameter]:
    """The parameters before layer `num_shared_layers`, in the model's own order: embeddings and lower layers."""
    names = [name for name, _ in model.named_parameters()]
    for candidate in [pattern] if pattern else LAYER_NAMES:
        layer = candidate.format(layer=num_shared_layers) + "."
        found = next((index for index, name in enumerate(names) if layer in name), None)
        if found is not None:
            return [parameter for _, parameter in list(model.named_parameters())[:found]]
    raise ValueError(
        f"no parameter belongs to layer {num_shared_layers} under the names {', '.join(LAYER_NAMES)}: "
        "give fewer num_shared_layers, or the model's own name for a layer as pattern='...{layer}'."
    )


def accepts(model: nn.Module, name: str) -> bool:
    """Whether a model's forward has a parameter of this name."""
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return name in inspect.signature(model.forward).parameters
