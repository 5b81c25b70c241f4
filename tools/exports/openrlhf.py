"""An export in the form that OpenRLHF 0.11.2 reads.

Prompts and pairs lie in files of JSON lines: ``prompt``, ``label`` and ``datasource`` of a prompt; ``prompt``,
``chosen`` and ``rejected`` of a pair. The texts are the texts: no chat template, and no "User:" before a prompt.

OpenRLHF puts " <|endoftext|>" after every response of a pair, also where a rollout was cut off before its end, and
takes line ends off before it. A policy trained on such pairs learns to stop where they stop.

Source of columns and flags: openrlhf/datasets/prompts_dataset.py, reward_dataset.py and sft_dataset.py,
openrlhf/utils/agent.py, openrlhf/cli, of https://github.com/OpenRLHF/OpenRLHF, release 0.11.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.exports.scripts import FOLDER, flag_words, script, write_script
from tools.exports.sizes import BETA, LEARNING_RATE, batch_size, longest_pair, place
from tools.exports.sources import DATA_SOURCE, Material, write_json_lines, write_shared

PPO, DPO, REWARD, SFT = (f"openrlhf.cli.train_{name}" for name in ("ppo_ray", "dpo", "rm", "sft"))


def prompt_rows(prompts: Sequence[str], label: str) -> list[dict[str, str]]:
    """Prompts as OpenRLHF's PPO reads them; the label reaches the reward function."""
    return [{"datasource": DATA_SOURCE, "prompt": prompt, "label": label} for prompt in prompts]


def common_flags(name: str, batch: int) -> dict[str, object]:
    """What every command has: bf16 weights, states shared out (ZeRO 2), torch's own attention."""
    return {
        "--train.batch_size": batch,
        "--train.micro_batch_size": min(16, batch),
        "--ds.zero_stage": 2,
        "--ds.param_dtype": "bf16",
        "--ds.attn_implementation": "sdpa",
        "--logger.logging_steps": 10,
        "--ckpt.path": f"{FOLDER}/checkpoints_{name}",
        "--ckpt.output_dir": f"{FOLDER}/{name}",
    }


def pair_flags(material: Material, name: str) -> dict[str, object]:
    """What the commands that read pairs have in common."""
    return {
        "--model.model_name_or_path": place(material.policy, material.policy_folder),
        "--data.dataset": f"{FOLDER}/pairs.jsonl",
        "--data.input_template": "",  # SFT would else write "User: ... Assistant: " around each prompt
        "--data.max_len": longest_pair(material.pairs, material.tokenizer),
        **common_flags(name, batch_size(len(material.pairs), 128)),
    }


def preference_flags(material: Material, name: str) -> dict[str, object]:
    """The columns of a pair."""
    keys = {f"--data.{column}_key": column for column in ("prompt", "chosen", "rejected")}
    return pair_flags(material, name) | keys


def sft_flags(material: Material) -> dict[str, object]:
    """Fine-tuning on the chosen responses."""
    flags = {"--data.input_key": "prompt", "--data.output_key": "chosen", "--train.max_epochs": 1, "--adam.lr": 1e-5}
    return pair_flags(material, "sft") | flags


def reward_flags(material: Material) -> dict[str, object]:
    """A reward model from the policy's own weights."""
    return preference_flags(material, "reward") | {"--train.max_epochs": 1, "--adam.lr": 9e-6}


def dpo_flags(material: Material) -> dict[str, object]:
    """DPO against the policy as it came."""
    reference = {"--ref.model_name_or_path": place(material.policy, material.policy_folder)}
    settings = {"--model.beta": BETA, "--train.max_epochs": 1, "--adam.lr": 1e-6}
    return preference_flags(material, "dpo") | reference | settings


def rl_flags(material: Material, name: str) -> dict[str, object]:
    """What PPO and GRPO have in common: every model on every GPU, asleep while another works."""
    batch = batch_size(len(material.train))
    return {
        "--actor.model_name_or_path": place(material.policy, material.policy_folder),
        "--reward.remote_url": f"{FOLDER}/reward.py",
        "--data.prompt_dataset": f"{FOLDER}/prompts.jsonl",
        "--data.input_key": "prompt",
        "--data.label_key": "label",
        "--data.max_len": material.query_tokens + material.response_tokens,
        "--rollout.max_new_tokens": material.response_tokens,
        "--rollout.batch_size": batch,
        "--rollout.micro_batch_size": min(32, max(batch // 8, 1)),
        "--train.colocate_all": None,
        "--actor.num_gpus_per_node": "$GPUS",
        "--ref.num_gpus_per_node": "$GPUS",
        "--vllm.num_engines": "$GPUS",
        "--vllm.tensor_parallel_size": 1,
        "--vllm.gpu_memory_utilization": 0.4,
        "--vllm.enable_sleep": None,
        "--ds.enable_sleep": None,
        "--actor.gradient_checkpointing_enable": None,
        "--actor.adam.lr": LEARNING_RATE,
        "--algo.kl.init_coef": BETA,
        "--train.num_episodes": 1,
        **common_flags(name, max(batch // 4, 1)),
    }


def ppo_flags(material: Material) -> dict[str, object]:
    """PPO with a value model, and β KL taken off the reward."""
    return rl_flags(material, "ppo") | {
        "--algo.advantage.estimator": "gae",
        "--algo.advantage.lambd": 0.95,
        "--train.max_epochs": 4,
        "--critic.model_name_or_path": place(material.policy, material.policy_folder),
        "--critic.num_gpus_per_node": "$GPUS",
        "--critic.adam.lr": LEARNING_RATE,
    }


def grpo_flags(material: Material) -> dict[str, object]:
    """GRPO with groups of 8, and β KL in the loss."""
    return rl_flags(material, "grpo") | {
        "--algo.advantage.estimator": "group_norm",
        "--rollout.n_samples_per_prompt": 8,
        "--algo.kl.use_loss": None,
        "--algo.kl.estimator": "k3",
    }


def scripts(material: Material) -> dict[str, str]:
    """Each script's name and text."""
    commands = {
        "run_ppo.sh": ("PPO", f"python3 -m {PPO}", PPO, ppo_flags),
        "run_grpo.sh": ("GRPO", f"python3 -m {PPO}", PPO, grpo_flags),
    }
    if material.pairs:
        start = 'deepspeed --num_gpus "$GPUS" --module'
        commands |= {
            "run_sft.sh": ("Fine-tuning on the chosen responses", f"{start} {SFT}", SFT, sft_flags),
            "run_rm.sh": ("A reward model", f"{start} {REWARD}", REWARD, reward_flags),
            "run_dpo.sh": ("DPO", f"{start} {DPO}", DPO, dpo_flags),
        }
    return {
        name: script("openrlhf", title, start, flag_words(command, flags(material)))
        for name, (title, start, command, flags) in commands.items()
    }


def write(material: Material, folder: Path) -> None:
    """Write the whole export into an empty folder."""
    write_shared(material, folder)
    write_json_lines(prompt_rows(material.train, material.label), folder / "prompts.jsonl")
    write_json_lines(prompt_rows(material.test, material.label), folder / "prompts_test.jsonl")
    if material.pairs:
        write_json_lines([pair._asdict() for pair in material.pairs], folder / "pairs.jsonl")
    for name, text in scripts(material).items():
        write_script(folder / name, text)
