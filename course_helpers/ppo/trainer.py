"""The classic loop's trainer: rollouts are rewarded outside, `step` learns from them.

Read `PPOTrainer.step` first: it is one page, and everything it calls is a pure function of `losses` or one of the short
methods below it.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, broadcast, broadcast_object_list, gather_object, set_seed
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase
from transformers.modeling_layers import GradientCheckpointingLayer

from course_helpers.memory import enough_memory_for, keep_freed_memory
from course_helpers.models import best_device
from course_helpers.onednn import OneDNNProducts, onednn_is_faster
from course_helpers.ppo import frozen, inputs, losses, state, stats
from course_helpers.ppo.batches import ShuffledBatches
from course_helpers.ppo.config import PPOConfig, refuse_later_names
from course_helpers.ppo.controllers import AdaptiveKLController, FixedKLController, RunningMoments
from course_helpers.ppo.rollout import (
    Batch,
    RolloutMemory,
    check_generation,
    forward_inputs,
    generate_responses,
    like_widths,
    one_pass_a_token,
    put_together,
    response_outputs,
    until_end,
    without_adapter,
)
from course_helpers.ppo.value_head import AutoModelForCausalLMWithValueHead, accepts, create_reference_model
from course_helpers.rollouts import evaluation_mode, without_dropout

# Positions of padding that make another pass through a model worth its overhead, and how many a pass has at most.
WORTH_A_PASS, WORTH_A_PASS_ELSEWHERE = {"cpu": 128}, 16_384
MOST_POSITIONS, MOST_POSITIONS_ELSEWHERE = {"cpu": 2048}, 65_536

LATER_TRAINER_NAMES = {
    "args": "config=",
    "processing_class": "tokenizer=",
    "train_dataset": "dataset=",
    "eval_dataset": "a second data set in your own loop",
    "reward_model": "a reward of your own: score the responses and pass the scores to step()",
    "reward_funcs": "a reward of your own: score the responses and pass the scores to step()",
    "value_model": "the value head of AutoModelForCausalLMWithValueHead",
    "policy": "model=",
    "ref_policy": "ref_model=",
    "optimizers": "optimizer= and lr_scheduler=",
    "peft_config": "AutoModelForCausalLMWithValueHead.from_pretrained(..., peft_config=)",
}


class PPOTrainer:
    """PPO for language models with the API of TRL 0.11.4 (Ziegler et al. 2019 on top of Schulman et al. 2017).

    Args:
        config: see `PPOConfig`.
        model: π_θ with its value head.
        ref_model: π_ref, with a value head or without. None: a frozen copy of `model`, or, with a peft adapter, the
            model with its adapter off.
        tokenizer: pads and finds the EOS.
        dataset: samples for `dataloader`; None if the queries come from elsewhere.
        optimizer: over the parameters to train; Adam when None.
        data_collator: list of samples → batch, for `dataloader`.
        num_shared_layers: see `create_reference_model`; only without `ref_model`.
        lr_scheduler: stepped once at the end of every step.
        training_data_collator: not used, rows are aligned by `Batch`.
        **later_names: none; keywords of TRL's later API are refused with the classic name.

    Attributes:
        dataloader: shuffled, complete batches of `dataset`.
        kl_ctl: holds β as `value`.
        stats_all: the numbers of every step so far, ready for ``pandas.DataFrame``.

    Raises:
        ValueError: an argument of the wrong kind.
        TypeError: a keyword of TRL's later API.
    """

    def __init__(
        self,
        config: PPOConfig | None = None,
        model: AutoModelForCausalLMWithValueHead | None = None,
        ref_model: torch.nn.Module | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        dataset: Any = None,
        optimizer: torch.optim.Optimizer | None = None,
        data_collator: Callable | None = None,
        num_shared_layers: int | None = None,
        lr_scheduler: Any = None,
        training_data_collator: Callable | None = None,
        **later_names: Any,
    ):
        """Check everything, then seed the generators."""
        refuse_later_names("PPOTrainer", later_names, LATER_TRAINER_NAMES)
        if later_names:
            raise TypeError(f"PPOTrainer has no argument {', '.join(later_names)}.")
        _check_kind("config", config, PPOConfig, "a PPOConfig")
        _check_kind("model", model, AutoModelForCausalLMWithValueHead, "an AutoModelForCausalLMWithValueHead")
        _check_kind("tokenizer", tokenizer, PreTrainedTokenizerBase, "a tokenizer of transformers")
        if tokenizer.pad_token_id is None:
            raise ValueError("the tokenizer has no pad token: set tokenizer.pad_token = tokenizer.eos_token.")
        if training_data_collator is not None:
            warnings.warn("training_data_collator is not used: the trainer aligns rows itself.", stacklevel=2)
        self.config, self.tokenizer, self.dataset = config, tokenizer, dataset
        self.accelerator = self._accelerator()
        self.model = model.to(self.accelerator.device)
        self.is_peft_model = config.is_peft_model = model.is_peft_model
        config.is_encoder_decoder = False
        self.batches, self.dataloader = self._dataloader(dataset, data_collator)
        self._agree_on_weights()
        self.ref_model = self._reference(ref_model, num_shared_layers)
        if self.accelerator.device.type == "cpu":
            self._suit_cpu()
        set_seed(config.seed)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        self.trained = [p for p in model.parameters() if p.requires_grad]
        fused = self.accelerator.device.type in ("cpu", "cuda")
        self.optimizer = optimizer or torch.optim.Adam(self.trained, lr=config.learning_rate, fused=fused)
        self.lr_scheduler = lr_scheduler
        self.kl_ctl = (
            AdaptiveKLController(config.init_kl_coef, config.target, config.horizon)
            if config.adap_kl_ctrl
            else FixedKLController(config.init_kl_coef)
        )
        self.running = RunningMoments()
        self.current_step, self.stats_all = 0, []
        self._memory, self._negative_kl = RolloutMemory(), 0
        self._frozen = frozen.frozen_below(model)
        self._shared = self.ref_model is not None and frozen.shares_layers(model, self.ref_model, self._frozen)

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _accelerator(self) -> Accelerator:
        config = self.config
        device = {"cpu": True} if best_device().type == "cpu" else {}  # COURSE_DEVICE=cpu holds for training, too
        accelerator = Accelerator(
            log_with=config.log_with,
            project_config=ProjectConfiguration(**config.project_kwargs),
            **(device | config.accelerator_kwargs),
        )
        config.world_size = accelerator.num_processes
        config.global_batch_size = config.batch_size * config.world_size
        config.global_backward_batch_size = config.backward_batch_size * config.world_size
        if config.log_with:
            facts = {"trl_ppo_trainer_config": config.to_dict()} if config.log_with == "wandb" else config.to_dict()
            accelerator.init_trackers(config.tracker_project_name, config=facts, init_kwargs=config.tracker_kwargs)
        return accelerator

    def _suit_cpu(self) -> None:
        """Without what only costs time on a CPU: pages cleared at every step, and in bf16 the fused attention."""
        if self.config.keep_freed_memory:
            keep_freed_memory()
        models = [m for m in (self.model, self.ref_model) if m is not None and self.config.bf16]
        for model in (getattr(m, "pretrained_model", m) for m in models):
            if getattr(model.config, "_attn_implementation", None) == "sdpa":
                model.set_attn_implementation("eager")

    def _reference(self, ref_model: torch.nn.Module | None, num_shared_layers: int | None) -> torch.nn.Module | None:
        if ref_model is None and self.is_peft_model:
            return None
        if ref_model is None:
            return create_reference_model(self.model, num_shared_layers)
        _check_kind("ref_model", ref_model, torch.nn.Module, "a model, or None")
        if num_shared_layers is not None:
            warnings.warn("num_shared_layers is ignored, because there is a ref_model.", stacklevel=3)
        if ref_model is self.model:
            raise ValueError(
                "ref_model is the model itself and would move with it: pass create_reference_model(model)."
            )
        if self._vocabulary(ref_model) != self._vocabulary(self.model):
            raise ValueError("model and ref_model have vocabularies of different sizes: their KL is not defined.")
        return ref_model.to(self.accelerator.device).eval()

    def _agree_on_weights(self) -> None:
        """Every process begins with the weights of the first: a fresh value head differs from one to another."""
        if self.accelerator.num_processes > 1:
            with torch.no_grad():
                for parameter in self.model.parameters():
                    parameter.copy_(broadcast(parameter.detach()))

    def _dataloader(self, dataset: Any, data_collator: Callable | None) -> tuple[ShuffledBatches | None, Any]:
        if dataset is None:
            return None, None
        if self.config.remove_unused_columns and hasattr(dataset, "remove_columns"):
            used = {"label", "query", "response"}
            unused = [n for n in dataset.column_names if n not in used and not accepts(self.model.pretrained_model, n)]
            dataset = dataset.remove_columns(unused)
        accelerator, config = self.accelerator, self.config
        batches = ShuffledBatches(
            len(dataset), config.batch_size, config.seed, accelerator.process_index, accelerator.num_processes
        )
        return batches, DataLoader(
            dataset, batch_sampler=batches, collate_fn=data_collator, generator=torch.Generator()
        )

    @staticmethod
    def _vocabulary(model: torch.nn.Module) -> int:
        return model.config.get_text_config().vocab_size

    # --- rollouts -----------------------------------------------------------------------------------------------------

    def generate(
        self,
        query_tensor: Tensor | Sequence[Tensor],
        length_sampler: Callable[[], int] | None = None,
        batch_size: int | None = None,
        return_prompt: bool = True,
        generate_ref_response: bool = False,
        remove_padding: bool = True,
        darts: Tensor | None = None,
        **generation_kwargs: Any,
    ) -> Any:
        """Draw responses from the policy, in eval mode.

        Args:
            query_tensor: one query (q,), or a list of them.
            length_sampler: draws `max_new_tokens`: for each query, or with `batch_size` once for each part, as in TRL.
            batch_size: queries to generate for together; all when None.
            return_prompt: leave the query in front of what is returned.
            generate_ref_response: draw responses from the reference, too.
            remove_padding: end each response with its first EOS; only for a list.
            darts: (queries, longest response) random numbers from 0 up to 1 to draw with, so that what is drawn does
                not depend on how many processes share the work; from torch's global generator when None.
            **generation_kwargs: for transformers' `generate`.

        Returns:
            For one query (1, length); for a list, a list of (length,) tensors. With `generate_ref_response` a pair of
            that: the policy's and the reference's.

        Raises:
            ValueError: a query that `step` would refuse, or settings that do not draw from the policy itself.
        """
        single = isinstance(query_tensor, Tensor)
        if single and query_tensor.ndim != 1:
            raise ValueError(
                f"query_tensor has shape {tuple(query_tensor.shape)}: pass one query (length,), or a list of them."
            )
        given = [query_tensor] if single else query_tensor
        queries = [inputs.token_row("query", i, q, self._vocabulary(self.model)) for i, q in enumerate(given)]
        if not queries:
            raise ValueError("query_tensor is an empty list: pass at least one query.")
        for index, query in enumerate(queries):
            inputs.check_unpadded(index, query, self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        check_generation(self.model.pretrained_model, generation_kwargs, self.config.generation_check)
        lengths = self._lengths(length_sampler, len(queries), batch_size)

        def draw(model: torch.nn.Module) -> list[Tensor]:
            rows = self._draw(model, queries, lengths, batch_size or len(queries), darts, generation_kwargs)
            if remove_padding and not single:
                rows = [until_end(row, self.tokenizer.eos_token_id) for row in rows]
            if return_prompt:
                rows = [torch.cat((query.to(row.device), row)) for query, row in zip(queries, rows, strict=True)]
            return rows[0][None] if single else rows

        responses = draw(self.model)
        if not generate_ref_response:
            return responses
        with without_adapter(self.model) if self.ref_model is None else nullcontext():
            return responses, draw(self.ref_model or self.model)

    @staticmethod
    def _lengths(length_sampler: Callable[[], int] | None, count: int, batch_size: int | None) -> list[int] | None:
        if length_sampler is None:
            return None
        if batch_size is None:
            return [int(length_sampler()) for _ in range(count)]
        drawn = [int(length_sampler()) for _ in range(0, count, batch_size)]
        return [drawn[index // batch_size] for index in range(count)]

    def _draw(
        self,
        model: torch.nn.Module,
        queries: list[Tensor],
        lengths: list[int] | None,
        size: int,
        darts: Tensor | None,
        settings: dict,
    ) -> list[Tensor]:
        """Responses, drawn `size` at a time; those of the policy are remembered for `step`."""
        eos, rows = self.tokenizer.eos_token_id, []
        pad = settings.get("pad_token_id", self.tokenizer.pad_token_id)
        settings = {name: value for name, value in settings.items() if name != "pad_token_id"}
        reference = model is not self.model or (self.ref_model is None and self._adapter_is_off())
        remember = self._can_reuse() and not reference and one_pass_a_token(model.pretrained_model, settings)
        for begin in range(0, len(queries), size):
            part = slice(begin, begin + size)
            if lengths is not None:
                settings["max_new_tokens"] = max(lengths[part])
            with self._memory.listen(self.model) if remember else nullcontext() as keep, self._arithmetic():
                thrown = None if darts is None else darts[part]
                drawn = generate_responses(model, queries[part], pad, thrown, **settings)
                cut = list(drawn)
                if lengths is not None:
                    cut = [row[:length] for row, length in zip(drawn, lengths[part], strict=True)]
                if keep is not None:
                    keep(queries[part], [until_end(row, eos) for row in cut], drawn[:, -1])
            rows += cut
        return rows

    def _adapter_is_off(self) -> bool:
        return self.is_peft_model and any(
            getattr(module, "disable_adapters", False) is True for module in self.model.pretrained_model.modules()
        )

    def _can_reuse(self) -> bool:
        # under autocast the pass with a cache and the one without differ by more than rounding
        return self.config.reuse_rollouts and not self.config.bf16 and self.config.kl_penalty != "full"

    # --- the step -----------------------------------------------------------------------------------------------------

    @enough_memory_for(
        "this step",
        "The updates before stand, and no half of one: lower mini_batch_size, or build the trainer with "
        "PPOConfig(gradient_checkpointing=True), and call step again.",
    )
    def step(
        self,
        queries: Sequence[Tensor],
        responses: Sequence[Tensor],
        scores: Sequence[float | Tensor] | Tensor | np.ndarray,
        response_masks: Sequence[Tensor] | None = None,
    ) -> dict[str, Any]:
        """Learn from one batch of rollouts.

        Args:
            queries: `batch_size` tensors (q,) of token ids, unpadded.
            responses: `batch_size` tensors (r,) of token ids, EOS included where it came.
            scores: r(X, Y), one number a sample.
            response_masks: `batch_size` tensors (r,), 0 for tokens the policy did not write; None if it wrote all.

        Returns:
            What `stats.STATS` defines.

        Raises:
            ValueError: bad input, with the sample named, before anything is changed.
            FloatingPointError: log-probabilities, values or losses that are not finite, before they reach the weights.
            NotEnoughMemoryError: the memory does not suffice; the updates before stand.
        """
        clock = _Clock()
        config, beta = self.config, self.kl_ctl.value
        batch, scores = self._take_in(queries, responses, scores, response_masks)
        mask = batch.response_mask

        seen = self._look_at(batch)
        clock.tick("forward_pass")

        scores = self._scaled(scores)
        rewards = losses.token_rewards(scores, seen.kl, beta, mask)
        old_values = seen.values * mask
        if config.whiten_rewards:
            rewards, old_values = losses.whiten_rewards(rewards, old_values, mask, self._columns_after(batch))
        clock.tick("compute_rewards")

        advantages, returns = losses.advantages_and_returns(rewards, old_values, config.gamma, config.lam)
        old_values, advantages, returns = (x[:, : mask.shape[1]] for x in (old_values, advantages, returns))
        advantages = losses.masked_whiten(advantages, mask)
        clock.tick("compute_advantages")

        old = SimpleNamespace(log_probs=seen.log_probs, values=old_values, advantages=advantages, returns=returns)
        records = self._optimise(batch, old, seen.frozen_states)
        clock.tick("optimize_step")

        seen = SimpleNamespace(**vars(seen), batch=batch, scores=scores, kl_coef=beta)
        result = stats.objective_statistics(seen, self.tokenizer.padding_side)
        result |= stats.training_statistics(records, config.vf_coef)
        result["ppo/learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self._warn(result, scores)
        self.kl_ctl.update(result["objective/kl"], config.global_batch_size)
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        if config.optimize_device_cache and self.accelerator.device.type == "cuda":
            torch.cuda.empty_cache()
        clock.tick("calc_stats")
        result |= clock.times()
        self.current_step += 1
        self.stats_all.append(stats.scalars(result))
        return result

    def _take_in(
        self, queries: Sequence, responses: Sequence, scores: Sequence, masks: Sequence | None
    ) -> tuple[Batch, Tensor]:
        """Everything that was given, checked, of all processes, as one batch; scores (B,)."""
        config, tokenizer = self.config, self.tokenizer
        parts = [("queries", queries), ("responses", responses), ("scores", scores)]
        parts += [("response_masks", masks)] if masks is not None else []
        if config.world_size > 1:
            parts = [(name, gather_object(list(given))) for name, given in parts]
        for name, given in parts:
            inputs.check_count(name, given, config.global_batch_size)
        given = dict(parts)
        vocabulary = self._vocabulary(self.model)
        context = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        rows = {
            name: [inputs.token_row(name, i, row, vocabulary) for i, row in enumerate(given[name])]
            for name in ("queries", "responses")
        }
        for index, (query, response) in enumerate(zip(*rows.values(), strict=True)):
            inputs.check_unpadded(index, query, tokenizer.pad_token_id, tokenizer.eos_token_id)
            inputs.check_fits(index, query, response, context)
        numbers = inputs.score_row(given["scores"], torch.get_default_dtype())
        if masks is not None:
            pairs = zip(given["response_masks"], rows["responses"], strict=True)
            masks = [inputs.mask_row(index, *pair) for index, pair in enumerate(pairs)]
        device = self.accelerator.device
        return Batch.of(*rows.values(), masks, tokenizer.pad_token_id, device), numbers.to(device)

    def _look_at(self, batch: Batch) -> SimpleNamespace:
        """Log-probabilities under π_old and π_ref, KL penalty and values of the whole batch, each (B, R)."""
        config, count = self.config, len(batch.input_ids)
        share = count // config.world_size
        mine = range(self.accelerator.process_index * share, (self.accelerator.process_index + 1) * share)
        names = ("log_probs", "ref_log_probs", "kl", "values")
        found = {name: torch.zeros_like(batch.response_mask) for name in names}
        states = []
        with evaluation_mode(self.model), self._arithmetic():
            for rows in torch.arange(mine.start, mine.stop, device=batch.input_ids.device).split(
                config.mini_batch_size
            ):
                states.append(self._frozen_states(batch, rows))
                for part, lower, places in self._parts(batch, rows, states[-1]):
                    width = part.response_mask.shape[1]
                    for name, x in zip(names, self._look_at_part(part, lower), strict=True):
                        found[name][rows[places], :width] = x.to(found[name].dtype)
        found = {name: self._of_all(x[mine.start : mine.stop]) for name, x in found.items()}
        for name, x in found.items():
            inputs.check_finite(name, x, batch.response_mask)
        return SimpleNamespace(**found, frozen_states=self._of_all(torch.cat(states)) if self._frozen else None)

    def _look_at_part(self, part: Batch, lower: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tokens = part.responses
        remembered = self._memory.recall(self.model, part) if self._can_reuse() else None
        if remembered is None:
            with frozen.handed_in(self.model, self._frozen, lower):
                logits, values = response_outputs(self.model, part)
            log_probs = losses.log_probs_of(logits, tokens)
        else:
            log_probs, values = remembered
        reference = self.ref_model or self.model
        handed = lower if self._shared or self.ref_model is None else None
        adapter_off = without_adapter(self.model) if self.ref_model is None else nullcontext()
        with adapter_off, frozen.handed_in(reference, self._frozen, handed):
            ref_logits, _ = response_outputs(reference, part)
        ref_log_probs = losses.log_probs_of(ref_logits, tokens)
        if self.config.kl_penalty == "full":
            kl = losses.kl_penalty(logits.log_softmax(-1), ref_logits.log_softmax(-1), "full")
        else:
            kl = losses.kl_penalty(log_probs, ref_log_probs, self.config.kl_penalty)
        return log_probs, ref_log_probs, kl, values

    def _columns_after(self, batch: Batch) -> Tensor:
        """(B,) columns from a response's first token to the end of its row, as the classic layout pads it."""
        left = self.tokenizer.padding_side == "left"
        return batch.response_lengths if left else batch.longest - batch.query_lengths

    def _frozen_states(self, batch: Batch, rows: Tensor) -> Tensor | None:
        """What the frozen lower layers give, for whole columns; None if there are none."""
        if not self._frozen:
            return None
        whole = Batch(*(getattr(batch, name)[rows] for name in batch.__dataclass_fields__))
        return frozen.frozen_states(self.model, self._frozen, **forward_inputs(self.model, whole))

    def _scaled(self, scores: Tensor) -> Tensor:
        config = self.config
        if config.use_score_scaling:
            self.running.update(scores)
            scores = self.running.scale(scores, shift_mean=config.use_score_norm)
        return scores if config.score_clip is None else scores.clamp(-config.score_clip, config.score_clip)

    def _optimise(self, batch: Batch, old: SimpleNamespace, states: Tensor | None) -> list[stats.MiniBatchRecord]:
        """All epochs over the batch; an interrupt leaves whole updates behind."""
        config, count = self.config, len(batch.input_ids)
        records = []
        try:
            for _ in range(config.ppo_epochs):
                order = self._permutation(count).to(batch.input_ids.device)
                for rows_of_update in order.split(config.global_backward_batch_size):
                    new = []
                    for rows in rows_of_update.split(config.mini_batch_size * config.world_size):
                        with self._training_pass():  # the backward pass, too: it may recompute the forward pass
                            new.append(self._mini_batch(batch, old, rows, states))
                    records += new
                    if not all(record.skipped for record in new):
                        self._update()
                if config.early_stopping and records[-1].means["policy/policykl"] > 1.5 * config.target_kl:
                    break
        finally:
            self.optimizer.zero_grad(set_to_none=True)
        return records

    def _mini_batch(
        self, batch: Batch, old: SimpleNamespace, rows: Tensor, states: Tensor | None
    ) -> stats.MiniBatchRecord:
        """Forward, loss, gradients. Each process takes its share of the rows; token means are over all of them."""
        config, size = self.config, self.config.mini_batch_size
        mine = rows[self.accelerator.process_index * size :][:size]
        part = batch.take(mine)
        width, mask = part.response_mask.shape[1], part.response_mask
        old_log_probs, old_values, advantages, returns = (
            getattr(old, name)[mine, :width] for name in ("log_probs", "values", "advantages", "returns")
        )
        tokens_of_all = batch.response_mask[rows].sum()
        states = None if states is None else states[mine]
        earlier = self._take_gradients()
        log_probs, values, entropy = self._forward_and_backward(batch, old, mine, states, tokens_of_all)
        policy = losses.policy_losses(log_probs, old_log_probs, advantages, config.cliprange)
        value = losses.value_losses(values, old_values, returns, config.cliprange_value)

        with torch.no_grad():
            per_token = stats.token_statistics(log_probs, old_log_probs, values, returns, entropy, policy, value)
            sums = torch.stack([(x * mask).sum() for x in per_token.values()])
            means = dict(zip(per_token, (self._sum_of_all(sums) / tokens_of_all).tolist(), strict=True))
        if not np.isfinite(means["loss/policy"] + config.vf_coef * means["loss/value"]) and np.isfinite(means["ratio"]):
            raise FloatingPointError("the loss is not finite: the weights keep their last values. Lower learning_rate.")
        if skipped := not means["ratio"] <= config.ratio_threshold:
            self._warn_of_ratio(per_token["ratio"], mask, mine, means["ratio"])
            self._take_gradients()
        for parameter, gradient in zip(self.trained, earlier, strict=True):
            if gradient is not None:
                parameter.grad = gradient if parameter.grad is None else gradient.add_(parameter.grad)
        means |= stats.batch_statistics(
            *(getattr(old, name)[rows] for name in ("advantages", "returns", "values")), batch.response_mask[rows]
        )
        log_ratio, advantages = (
            self._of_all(part.classic_columns(x, self.tokenizer.padding_side, batch.longest))
            for x in ((log_probs - old_log_probs), advantages)
        )
        return stats.MiniBatchRecord(means, log_ratio.exp(), advantages, skipped)

    def _forward_and_backward(
        self, batch: Batch, old: SimpleNamespace, rows: Tensor, states: Tensor | None, tokens_of_all: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of the loss over some rows, one part after the other: only one part's graph is ever kept.

        Returns:
            ln π_θ of the responses' tokens, values and entropy, each (rows, R).
        """
        found, order = [], []
        for part, lower, places in self._parts(batch, rows, states):
            with self._arithmetic(), frozen.handed_in(self.model, self._frozen, lower):
                logits, values = response_outputs(self.model, part)
            log_probs = losses.log_probs_of(logits, part.responses)
            loss = self._loss(log_probs, values, old, rows[places], part.response_mask) / tokens_of_all
            found.append((log_probs.detach(), values.detach(), losses.entropy(logits)))
            order.append(places)
            del logits, log_probs, values  # the graph is the loss's alone, and goes as it is walked
            (loss / self.config.gradient_accumulation_steps).backward()
        width = int(batch.response_lengths[rows].max())
        log_probs, values, entropy = (put_together(x, order, width) for x in zip(*found, strict=True))
        return log_probs, values, entropy

    def _take_gradients(self) -> list[Tensor | None]:
        """Gradients so far, which are none after this."""
        gradients = [parameter.grad for parameter in self.trained]
        for parameter in self.trained:
            parameter.grad = None
        return gradients

    def _loss(self, log_probs: Tensor, values: Tensor, old: SimpleNamespace, rows: Tensor, mask: Tensor) -> Tensor:
        """Loss of the policy and, weighted, of the value head, summed over the tokens of some rows."""
        old_log_probs, old_values, advantages, returns = (
            getattr(old, name)[rows, : mask.shape[1]] for name in ("log_probs", "values", "advantages", "returns")
        )
        policy = losses.policy_losses(log_probs, old_log_probs, advantages, self.config.cliprange)
        value = losses.value_losses(values, old_values, returns, self.config.cliprange_value)
        return ((policy.tokens + self.config.vf_coef * value.tokens) * mask).sum()

    def _parts(
        self, batch: Batch, rows: Tensor, states: Tensor | None
    ) -> Iterator[tuple[Batch, Tensor | None, Tensor]]:
        """Rows of like width, the frozen layers' states in their columns, and their places in `rows`."""
        device = self.accelerator.device.type
        worth = WORTH_A_PASS.get(device, WORTH_A_PASS_ELSEWHERE)
        most = MOST_POSITIONS.get(device, MOST_POSITIONS_ELSEWHERE)
        for places in like_widths(batch, rows, worth, most):
            first, end = batch.span(rows[places])
            kept = None if states is None else states[places, first : end - 1]  # `take` keeps these columns
            yield batch.take(rows[places]), kept, places

    def _update(self) -> None:
        """Gradients of all processes together, clipped; one step of the optimizer."""
        gradients = [p.grad for p in self.trained if p.grad is not None]
        if self.accelerator.num_processes > 1:
            for gradient in gradients:
                gradient.copy_(self._sum_of_all(gradient))
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_grad_norm)
        self.optimizer.step()
        self._memory = RolloutMemory()  # torch's fused Adam does not count its writes
        self.optimizer.zero_grad(set_to_none=True)

    @contextmanager
    def _training_pass(self) -> Iterator[None]:
        """Without dropout, so that the ratio of an unchanged policy is 1; checkpointed if the config says so."""
        layers = [m for m in self.model.modules() if isinstance(m, GradientCheckpointingLayer)]
        layers = layers if self.config.gradient_checkpointing else []
        before = [layer._gradient_checkpointing_func for layer in layers]
        with without_dropout(self.model):
            try:
                for layer, function in zip(layers, before, strict=True):
                    layer.training = True  # what makes transformers recompute a layer
                    layer._gradient_checkpointing_func = partial(_recomputed, layer, function)
                yield
            finally:
                for layer, function in zip(layers, before, strict=True):
                    layer.training = False
                    layer._gradient_checkpointing_func = function

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """How a forward pass is to be computed: in bfloat16 or not, and by which library."""
        autocast = torch.autocast(self.accelerator.device.type, dtype=torch.bfloat16, enabled=self.config.bf16)
        faster = self.config.onednn_products and onednn_is_faster()
        with autocast, OneDNNProducts() if faster else nullcontext():
            yield

    def _permutation(self, count: int) -> Tensor:
        order = [np.random.permutation(count).tolist()]  # noqa: NPY002 - the classic order of draws
        if self.accelerator.num_processes > 1:
            broadcast_object_list(order)
        return torch.tensor(order[0])

    def _of_all(self, x: Tensor) -> Tensor:
        return x if self.accelerator.num_processes == 1 else self.accelerator.gather(x.contiguous())

    def _sum_of_all(self, x: Tensor) -> Tensor:
        return x if self.accelerator.num_processes == 1 else self.accelerator.reduce(x, "sum")

    # --- what a learner should know -----------------------------------------------------------------------------------

    def _warn(self, result: dict[str, Any], scores: Tensor) -> None:
        kl = result["objective/kl"]
        self._negative_kl = self._negative_kl + 1 if kl < 0 else 0
        if self._negative_kl >= 3:
            warnings.warn(
                f"the KL has been negative for {self._negative_kl} steps, now {kl:.2f} nats, and the adaptive "
                "controller lowers β on it. The responses were not drawn from this policy: look for top_k, top_p, "
                "temperature or min_length in generation, for dropout, or for responses cut, or decoded and encoded "
                "again.",
                stacklevel=3,
            )
        if len(scores) > 1 and scores.std() < 1e-6:
            warnings.warn(
                "all scores of this batch are the same: only the KL is learned from it. Is the reward a constant?",
                stacklevel=3,
            )
        if kl > 2 * self.config.target:
            warnings.warn(
                f"the KL is {kl:.1f} nats a response, over twice the target of {self.config.target}: read some "
                "responses; raise init_kl_coef or lower learning_rate if they have stopped making sense.",
                stacklevel=3,
            )

    def _warn_of_ratio(self, ratio: Tensor, mask: Tensor, rows: Tensor, mean: float) -> None:
        worst = int((ratio * mask).argmax())
        row, token = divmod(worst, mask.shape[1])
        warnings.warn(
            f"a mini-batch was skipped: its mean importance ratio is {mean:.3g}, over ratio_threshold "
            f"{self.config.ratio_threshold}; the largest, {ratio[row, token].item():.3g}, is at token {token} of "
            f"sample {int(rows[row])}. Lower learning_rate; responses of one or two tokens move far in one update.",
            stacklevel=2,
        )

    def log_stats(
        self,
        stats: dict[str, Any],
        batch: dict[str, Any],
        rewards: Sequence[float | Tensor],
        columns_to_log: Sequence[str] = ("query", "response"),
    ) -> None:
        """Send a step's numbers, the rewards and (to wandb) a table of texts to the tracker, if there is one.

        Args:
            stats: what `step` returned; ``env/reward_mean``, ``_std`` and ``_dist`` are added to it.
            batch: texts under the names of `columns_to_log`.
            rewards: one number a sample.
            columns_to_log: columns of the table.
        """
        values = inputs.score_row(rewards, torch.float32)
        texts = [name for name in columns_to_log if name in batch]
        if len(texts) < len(columns_to_log):
            missing = ", ".join(name for name in columns_to_log if name not in batch)
            warnings.warn(f"the batch has no {missing}: that column is not logged.", stacklevel=2)
        stats["env/reward_mean"] = values.mean().item()
        stats["env/reward_std"] = values.std().item() if len(values) > 1 else float("nan")
        stats["env/reward_dist"] = values.numpy()
        if not self.accelerator.trackers or not self.accelerator.is_main_process:
            return
        sent = dict(stats)
        if self.config.log_with == "wandb" and texts:
            import wandb

            columns = [*texts, "reward"]
            table = [list(row) for row in zip(*(batch[name] for name in texts), values.tolist(), strict=True)]
            sent["game_log"] = wandb.Table(columns=columns, rows=table)
        self.accelerator.log(sent, step=self.current_step)

    # --- keeping ------------------------------------------------------------------------------------------------------

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write model, value head and tokenizer: what is needed to use the policy, not to go on training."""
        if self.accelerator.is_main_process:
            self.model.save_pretrained(save_directory)
            self.tokenizer.save_pretrained(save_directory)

    def save_state(self, path: str | Path) -> None:
        """Write everything a later process needs to go on as if this one had never stopped.

        Call it after `step`. The file is replaced in one step; the trainer is then built as it was before, and
        `load_state` called.

        Args:
            path: of one safetensors file.
        """
        randoms = [state.random_state()]
        if self.accelerator.num_processes > 1:
            randoms = gather_object(randoms)
        if not self.accelerator.is_main_process:
            return
        tensors, optimizer = state.optimizer_tensors(self.optimizer)
        tensors |= {f"model/{name}": p for name, p in self.model.named_parameters() if p.requires_grad}
        facts = {
            "optimizer": optimizer,
            "scheduler": self.lr_scheduler.state_dict() if self.lr_scheduler is not None else None,
            "kl_coef": self.kl_ctl.value,
            "running": vars(self.running),
            "batches": self.batches.state_dict() if self.batches else None,
            "random": randoms,
            "current_step": self.current_step,
            "negative_kl": self._negative_kl,
            "stats_all": self.stats_all,
        }
        state.write(path, tensors, facts)

    def load_state(self, path: str | Path) -> None:
        """Go on where `save_state` was called.

        Args:
            path: of the file.

        Raises:
            FileNotFoundError: there is none.
            ValueError: damaged, or of another model or another number of processes; nothing is changed then.
        """
        tensors, facts = state.read(path)
        trained = {f"model/{name}": p for name, p in self.model.named_parameters() if p.requires_grad}
        saved = {name: tensor for name, tensor in tensors.items() if name.startswith("model/")}
        shapes = [{name: tuple(x.shape) for name, x in side.items()} for side in (trained, saved)]
        if shapes[0] != shapes[1]:
            odd = next(iter(dict(shapes[0].items() ^ shapes[1].items())))
            raise ValueError(f"{os.fspath(path)!r} is of another model ({odd} differs): build the trainer as it was.")
        if len(facts["random"]) != self.accelerator.num_processes:
            raise ValueError(f"{os.fspath(path)!r} was saved by {len(facts['random'])} processes: start as many.")
        if (facts["scheduler"] is None) != (self.lr_scheduler is None):
            raise ValueError(f"{os.fspath(path)!r} and this trainer differ in having an lr_scheduler.")
        state.restore_optimizer(self.optimizer, tensors, facts["optimizer"])
        with torch.no_grad():
            for name, parameter in trained.items():
                parameter.copy_(tensors[name])
        if self.lr_scheduler is not None:
            self.lr_scheduler.load_state_dict(facts["scheduler"])
        self.kl_ctl.value = facts["kl_coef"]
        vars(self.running).update(facts["running"])
        if self.batches and facts["batches"]:
            self.batches.load_state_dict(facts["batches"])
        self.current_step, self._negative_kl = facts["current_step"], facts["negative_kl"]
        self.stats_all[:] = facts["stats_all"]
        state.restore_random_state(facts["random"][self.accelerator.process_index])


def _recomputed(layer: torch.nn.Module, checkpoint: Callable, function: Callable, *args: Any) -> Any:
    """Checkpoint a layer whose own dropout (OPT has one) stays off, now and when it is recomputed."""

    def without_its_dropout(*args: Any) -> Any:
        layer.training = False
        try:
            return function(*args)
        finally:
            layer.training = True

    return checkpoint(without_its_dropout, *args)


class _Clock:
    """Seconds of each part of a step."""

    def __init__(self) -> None:
        self.start = self.last = time.perf_counter()
        self.parts: dict[str, float] = {}

    def tick(self, part: str) -> None:
        now = time.perf_counter()
        self.parts[part], self.last = now - self.last, now

    def times(self) -> dict[str, float]:
        parts = {f"time/ppo/{name}": seconds for name, seconds in self.parts.items()}
        return parts | {"time/ppo/total": self.last - self.start}


def _check_kind(name: str, given: Any, kind: type, words: str) -> None:
    if not isinstance(given, kind):
        raise ValueError(f"{name} is {type(given).__name__}; it must be {words}.")
