"""What a PPO run is set up with: the classic names and defaults of TRL 0.11.4, checked when they are given."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from course_helpers.checks import check_whole, is_finite, require

KL_PENALTIES = ("kl", "abs", "mse", "full")

# Names of TRL's second PPO API, and what the same thing is called here.
LATER_CONFIG_NAMES = {
    "num_ppo_epochs": "ppo_epochs",
    "num_mini_batches": "mini_batch_size (samples in a mini-batch, not how many mini-batches)",
    "per_device_train_batch_size": "batch_size",
    "total_episodes": "steps",
    "num_train_epochs": "a loop over trainer.dataloader",
    "kl_coef": "init_kl_coef",
    "kl_estimator": "kl_penalty",
    "response_length": "max_new_tokens, given to trainer.generate",
    "stop_token": "eos_token_id, given to trainer.generate",
    "temperature": "temperature, given to trainer.generate",
    "missing_eos_penalty": "a reward of your own: step() takes any scores",
    "reward_model_path": "a reward of your own: step() takes any scores",
    "sft_model_path": "ref_model, given to PPOTrainer",
    "output_dir": "trainer.save_pretrained(folder) and trainer.save_state(file)",
}


def refuse_later_names(owner: str, given: Iterable[str], known: dict[str, str]) -> None:
    """Raise a TypeError that says what a keyword of TRL's second PPO API is called here."""
    for name in given:
        if name in known:
            raise TypeError(f"{owner} has no {name}=, a name of TRL's later API; here it is {known[name]}.")


@dataclass
class PPOConfig:
    """Settings of `PPOTrainer`.

    Names, meanings and defaults are those of TRL 0.11.4, but for the last four fields.

    Attributes:
        exp_name: name of the run; the script's by default.
        seed: for Python's, NumPy's and torch's generators, which building a trainer resets.
        log_with: an accelerate tracker (``"wandb"``, ``"tensorboard"`` ...), or None: nothing leaves the machine.
        task_name: for the tracker only.
        model_name: for the tracker only.
        query_dataset: for the tracker only.
        reward_model: for the tracker only.
        remove_unused_columns: drop columns of the data set that neither the model nor the loop uses.
        tracker_kwargs: options of the tracker.
        accelerator_kwargs: options of `accelerate.Accelerator`.
        project_kwargs: options of accelerate's `ProjectConfiguration`.
        tracker_project_name: the project's name at the tracker.
        push_to_hub_if_best_kwargs: only the empty default is accepted; push what `save_pretrained` wrote.
        steps: samples in the whole run; used for `total_ppo_epochs` alone, the loop decides when to stop.
        learning_rate: of Adam.
        adap_kl_ctrl: adapt β to reach `target`, or keep `init_kl_coef`.
        init_kl_coef: β, what a nat of KL costs, at the start. High β keeps the policy near its reference.
        kl_penalty: how a token's distance to the reference is measured (see `losses.kl_penalty`).
        target: KL the adaptive controller steers to, in nats a response.
        horizon: of the adaptive controller, in samples.
        gamma: γ, discount per token.
        lam: λ of generalised advantage estimation.
        cliprange: ε, how far the importance ratio may move before the policy loss is clipped.
        cliprange_value: how far a value may move, in units of reward, before the value loss is clipped.
        vf_coef: weight of the value loss.
        batch_size: samples in a step, in each process.
        forward_batch_size: old name of `mini_batch_size`.
        mini_batch_size: samples that go through the model together.
        gradient_accumulation_steps: mini-batches for one step of the optimizer.
        world_size: processes; set by the trainer.
        ppo_epochs: how often a batch is gone through.
        max_grad_norm: longest gradient, clipped to it at every step of the optimizer; None leaves it alone.
        optimize_cuda_cache: old name of `optimize_device_cache`.
        optimize_device_cache: give cached memory back to the accelerator after a step.
        early_stopping: end a step after the first epoch whose KL is over 1.5 `target_kl`.
        target_kl: for early stopping, in nats a token.
        compare_steps: for the tracker only.
        ratio_threshold: a mini-batch whose mean importance ratio is larger is skipped.
        use_score_scaling: divide scores by the running standard deviation of all so far.
        use_score_norm: with `use_score_scaling`, subtract their running mean first.
        score_clip: clip scores to ± this, after scaling.
        whiten_rewards: divide rewards of tokens by their standard deviation.
        gradient_checkpointing: recompute activations in the backward pass, to save memory.
        is_encoder_decoder: set by the trainer; encoder-decoder models are refused.
        is_peft_model: set by the trainer.
        backward_batch_size: ``mini_batch_size * gradient_accumulation_steps``, set here.
        global_backward_batch_size: the same over all processes; set by the trainer.
        global_batch_size: `batch_size` over all processes; set by the trainer.
        dataset_num_proc: processes that prepare a data set; unused, as in the original.
        bf16: run the models under bfloat16 autocast; weights, losses and log-probabilities stay float32.
        reuse_rollouts: take log-probabilities and values of rollouts from the pass that generated them, when nothing
            changed since; off, they are computed again.
        keep_freed_memory: on a CPU, let the process keep large freed blocks for the next step (`memory`).
        onednn_products: on a CPU where oneDNN is the faster one, let it multiply float32 matrices (`onednn`).
        generation_check: what to do about generation settings that make the KL wrong: ``"error"`` or ``"warn"``.

    Raises:
        ValueError: a value that cannot work; the message names it and what is allowed.
        TypeError: a name of TRL's second PPO API.
    """

    exp_name: str = field(default_factory=lambda: os.path.basename(sys.argv[0]).removesuffix(".py"))
    seed: int = 0
    log_with: str | None = None
    task_name: str | None = None
    model_name: str | None = "gpt2"
    query_dataset: str | None = "stanfordnlp/imdb"
    reward_model: str | None = "sentiment-analysis:lvwerra/distilbert-imdb"
    remove_unused_columns: bool = True
    tracker_kwargs: dict = field(default_factory=dict)
    accelerator_kwargs: dict = field(default_factory=dict)
    project_kwargs: dict = field(default_factory=dict)
    tracker_project_name: str = "trl"
    push_to_hub_if_best_kwargs: dict = field(default_factory=dict)
    steps: int = 20000
    learning_rate: float = 1.41e-5
    adap_kl_ctrl: bool = True
    init_kl_coef: float = 0.2
    kl_penalty: Literal["kl", "abs", "mse", "full"] = "kl"
    target: float = 6.0
    horizon: float = 10000.0
    gamma: float = 1.0
    lam: float = 0.95
    cliprange: float = 0.2
    cliprange_value: float = 0.2
    vf_coef: float = 0.1
    batch_size: int = 128
    forward_batch_size: int | None = None
    mini_batch_size: int = 128
    gradient_accumulation_steps: int = 1
    world_size: int | None = None
    ppo_epochs: int = 4
    max_grad_norm: float | None = None
    optimize_cuda_cache: bool | None = None
    optimize_device_cache: bool = False
    early_stopping: bool = False
    target_kl: float = 1.0
    compare_steps: int = 1
    ratio_threshold: float = 10.0
    use_score_scaling: bool = False
    use_score_norm: bool = False
    score_clip: float | None = None
    whiten_rewards: bool = False
    gradient_checkpointing: bool = False
    is_encoder_decoder: bool | None = None
    is_peft_model: bool | None = None
    backward_batch_size: int | None = None
    global_backward_batch_size: int | None = None
    global_batch_size: int | None = None
    dataset_num_proc: int | None = None
    bf16: bool = False
    reuse_rollouts: bool = True
    keep_freed_memory: bool = True
    onednn_products: bool = True
    generation_check: Literal["error", "warn"] = "error"

    def __new__(cls, *args: Any, **given: Any) -> PPOConfig:
        """Refuse names of the later API before the dataclass calls them merely unexpected."""
        refuse_later_names(cls.__name__, given, LATER_CONFIG_NAMES)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Check every value, and derive the sizes."""
        if self.forward_batch_size is not None:
            warnings.warn("forward_batch_size is now called mini_batch_size", FutureWarning, stacklevel=3)
            self.mini_batch_size = self.forward_batch_size
        if self.optimize_cuda_cache is not None:
            warnings.warn("optimize_cuda_cache is now called optimize_device_cache", FutureWarning, stacklevel=3)
            self.optimize_device_cache = self.optimize_cuda_cache
        for name in ("batch_size", "mini_batch_size", "gradient_accumulation_steps", "ppo_epochs", "steps"):
            check_whole(name, getattr(self, name), at_least=1)
        for name in ("learning_rate", "target", "horizon", "ratio_threshold", "target_kl"):
            self._check(name, lambda x: x > 0, "a number above 0")
        for name in ("cliprange", "cliprange_value", "vf_coef"):
            self._check(name, lambda x: x >= 0, "a number, at least 0")
        for name in ("gamma", "lam"):
            self._check(name, lambda x: 0 <= x <= 1, "between 0 and 1")
        self._check("init_kl_coef", lambda x: True, "a finite number")
        for name in ("max_grad_norm", "score_clip"):
            if getattr(self, name) is not None:
                self._check(name, lambda x: x > 0, "a number above 0, or None")
        require(self.kl_penalty in KL_PENALTIES, "kl_penalty", self.kl_penalty, f"one of {', '.join(KL_PENALTIES)}")
        choices = ("error", "warn")
        require(self.generation_check in choices, "generation_check", self.generation_check, "'error' or 'warn'")
        if self.push_to_hub_if_best_kwargs:
            raise ValueError("push_to_hub_if_best_kwargs is not supported: push the folder save_pretrained() wrote.")
        self.backward_batch_size = self._backward_batch_size()
        self.total_ppo_epochs = math.ceil(self.steps / self.batch_size)

    def _check(self, name: str, allowed: Any, words: str) -> None:
        value = getattr(self, name)
        require(is_finite(value) and allowed(value), name, value, words)

    def _backward_batch_size(self) -> int:
        backward = self.mini_batch_size * self.gradient_accumulation_steps
        if self.batch_size % backward:
            below = self.batch_size // backward * backward
            near = f"{below} or {below + backward}" if below else str(backward)
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of mini_batch_size {self.mini_batch_size} times "
                f"gradient_accumulation_steps {self.gradient_accumulation_steps} = {backward}: "
                f"the nearest batch_size is {near}."
            )
        return backward

    def to_dict(self) -> dict[str, Any]:
        """All settings on one level; names inside a dictionary are joined with ``/``."""
        return dict(_flat(asdict(self)))


def _flat(nested: dict, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in nested.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value
