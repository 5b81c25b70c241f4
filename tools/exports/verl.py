"""An export in the form that verl 0.9.1 reads.

Prompts lie in parquet files, one row each, with the columns `RL_SCHEMA`; chosen responses, for supervised fine-tuning,
in another with `SFT_SCHEMA`; pairs with `PAIR_SCHEMA`. verl writes every prompt through the tokenizer's chat template,
and a base model has none: the export brings a copy of the policy's tokenizer with one that adds nothing.

Source of columns and settings: verl/utils/dataset/rl_dataset.py, multiturn_sft_dataset.py and rm_dataset.py,
verl/trainer/config, of https://github.com/verl-project/verl, release 0.9.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from course_helpers.preferences import Pair
from tools.exports.scripts import FOLDER, script, settings_words, write_script
from tools.exports.sizes import BETA, LEARNING_RATE, batch_size, longest_pair, place
from tools.exports.sources import DATA_SOURCE, Material, write_shared

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
RL_SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", MESSAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct([("split", pa.string()), ("index", pa.int64()), ("prompt", pa.string())])),
    ]
)
SFT_SCHEMA = pa.schema([("messages", MESSAGES)])
PAIR_SCHEMA = pa.schema([("prompt", pa.string()), ("chosen", pa.string()), ("rejected", pa.string())])
RL, SFT = "verl.trainer.main_ppo", "verl.trainer.sft_trainer"
# What a base model reads is the text itself: content alone, and an end token after a response where it did end.
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
END = "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"


def rl_rows(prompts: Sequence[str], split: str, label: str) -> list[dict[str, Any]]:
    """Prompts as verl's reinforcement learning reads them.

    Args:
        prompts: texts.
        split: "train" or "test".
        label: the judge's label whose log-odds is the reward.

    Returns:
        One row a prompt; the prompt stands in ``extra_info``, too, because the reward function sees only that.
    """
    return [
        {
            "data_source": DATA_SOURCE,
            "prompt": [{"role": "user", "content": prompt}],
            "ability": "sentiment",
            "reward_model": {"style": "rule", "ground_truth": label},
            "extra_info": {"split": split, "index": index, "prompt": prompt},
        }
        for index, prompt in enumerate(prompts)
    ]


def sft_rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """Each pair's prompt and chosen response as two messages, for fine-tuning on what was preferred."""
    return [
        {"messages": [{"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.chosen}]}
        for pair in pairs
    ]


def model_settings(at: str, material: Material) -> dict[str, object]:
    """Which model, and how: torch's own attention, which needs no further package, with padding."""
    return {
        f"{at}.path": place(material.policy, material.policy_folder),
        f"{at}.tokenizer_path": f"{FOLDER}/tokenizer",
        f"+{at}.override_config.attn_implementation": "sdpa",
        f"{at}.use_remove_padding": False,
        f"{at}.enable_gradient_checkpointing": True,
    }


def trainer_settings(name: str) -> dict[str, object]:
    """One machine, one pass over the prompts, nothing sent anywhere."""
    return {
        "trainer.nnodes": 1,
        "trainer.n_gpus_per_node": "$GPUS",
        "trainer.total_epochs": 1,
        "trainer.save_freq": 50,
        "trainer.test_freq": 10,
        "trainer.logger": "[console]",
        "trainer.project_name": "course",
        "trainer.experiment_name": name,
        "trainer.default_local_dir": f"{FOLDER}/{name}",
    }


def rl_settings(material: Material, name: str) -> dict[str, object]:
    """What PPO and GRPO have in common."""
    batch = batch_size(len(material.train))
    rollout, actor = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
    return {
        "data.train_files": f"{FOLDER}/train.parquet",
        "data.val_files": f"{FOLDER}/test.parquet",
        "data.train_batch_size": batch,
        "data.max_prompt_length": material.query_tokens,
        "data.max_response_length": material.response_tokens,
        **model_settings("actor_rollout_ref.model", material),
        f"{actor}.optim.lr": LEARNING_RATE,
        f"{actor}.ppo_mini_batch_size": max(batch // 4, 1),
        f"{actor}.ppo_micro_batch_size_per_gpu": min(16, max(batch // 4, 1)),
        f"{rollout}.name": "vllm",
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.gpu_memory_utilization": 0.4,
        f"{rollout}.temperature": 1.0,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": 32,
        f"{rollout}.val_kwargs.do_sample": True,
        f"{rollout}.val_kwargs.temperature": 1.0,
        "actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu": 32,
        "reward.custom_reward_function.path": f"{FOLDER}/reward.py",
        "reward.custom_reward_function.name": "compute_score",
        **trainer_settings(name),
    }


def ppo_settings(material: Material) -> dict[str, object]:
    """PPO with a value model of its own, and β KL taken off the reward, token by token."""
    micro_batch = min(16, max(batch_size(len(material.train)) // 4, 1))
    return {
        "algorithm.adv_estimator": "gae",
        "algorithm.lam": 0.95,
        "algorithm.use_kl_in_reward": True,
        "algorithm.kl_ctrl.kl_coef": BETA,
        **rl_settings(material, "ppo"),
        "actor_rollout_ref.actor.ppo_epochs": 4,
        "actor_rollout_ref.rollout.n": 1,
        **model_settings("critic.model", material),
        "critic.optim.lr": LEARNING_RATE,
        "critic.ppo_micro_batch_size_per_gpu": micro_batch,
    }


def grpo_settings(material: Material) -> dict[str, object]:
    """GRPO with groups of 8, and β KL in the loss, summed over a response's tokens as in the course's objective."""
    return {
        "algorithm.adv_estimator": "grpo",
        "algorithm.norm_adv_by_std_in_grpo": True,
        **rl_settings(material, "grpo"),
        "actor_rollout_ref.rollout.n": 8,
        "actor_rollout_ref.actor.use_kl_loss": True,
        "actor_rollout_ref.actor.kl_loss_type": "low_var_kl",
        "actor_rollout_ref.actor.kl_loss_coef": BETA,
        "actor_rollout_ref.actor.loss_agg_mode": "seq-mean-token-sum",
    }


def sft_settings(material: Material) -> dict[str, object]:
    """Supervised fine-tuning on the chosen responses."""
    return {
        "data.train_files": f"{FOLDER}/sft.parquet",
        "data.messages_key": "messages",
        "data.train_batch_size": batch_size(len(material.pairs), 128),
        "data.micro_batch_size_per_gpu": 1 if len(material.pairs) < 64 else 16,
        "data.max_length": longest_pair(material.pairs, material.tokenizer),
        "data.ignore_input_ids_mismatch": True,  # prompt and response are tokenized apart, as a rollout's are
        **model_settings("model", material),
        "optim.lr": 1e-5,
        **trainer_settings("sft"),
        "trainer.test_freq": -1,  # there is nothing kept apart
    }


def scripts(material: Material) -> dict[str, str]:
    """Each script's name and text."""
    run = f"python3 -m {RL}"
    written = {
        "run_ppo.sh": script("verl", "PPO", run, settings_words(RL, ppo_settings(material))),
        "run_grpo.sh": script("verl", "GRPO", run, settings_words(RL, grpo_settings(material))),
    }
    if material.pairs:
        run = f'torchrun --standalone --nnodes=1 --nproc_per_node="$GPUS" -m {SFT}'
        words = settings_words(SFT, sft_settings(material))
        written["run_sft.sh"] = script("verl", "Fine-tuning on the chosen responses", run, words)
    return written


def write_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write a parquet file whose columns have just these types."""
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


def write(material: Material, folder: Path) -> None:
    """Write the whole export into an empty folder."""
    write_shared(material, folder)
    material.tokenizer.chat_template = TEMPLATE.replace("{% endfor %}", END) if material.ends else TEMPLATE
    material.tokenizer.save_pretrained(folder / "tokenizer")
    for split, prompts in (("train", material.train), ("test", material.test)):
        write_rows(rl_rows(prompts, split, material.label), RL_SCHEMA, folder / f"{split}.parquet")
    if material.pairs:
        write_rows(sft_rows(material.pairs), SFT_SCHEMA, folder / "sft.parquet")
        write_rows([pair._asdict() for pair in material.pairs], PAIR_SCHEMA, folder / "pairs.parquet")
    for name, text in scripts(material).items():
        write_script(folder / name, text)
