"""A loop written for TRL 0.11.4, call by call as its users wrote it, on the shipped models."""

import pandas as pd
import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer, pipeline

from course_helpers.assets import asset
from course_helpers.ppo import AutoModelForCausalLMWithValueHead, LengthSampler, PPOConfig, PPOTrainer
from course_helpers.prompts import load_prompts

GENERATION = {"min_length": -1, "top_k": 0.0, "top_p": 1.0, "do_sample": True}


def collator(samples):
    return {key: [sample[key] for sample in samples] for key in samples[0]}


@pytest.fixture
def tokenizer():
    tokenizer = AutoTokenizer.from_pretrained(str(asset("policy")))
    tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def queries(tokenizer):
    cut = LengthSampler(2, 8)

    def tokenize(sample):
        sample["input_ids"] = tokenizer.encode(sample["review"])[: cut()]
        sample["query"] = tokenizer.decode(sample["input_ids"])
        return sample

    reviews = Dataset.from_dict({"review": load_prompts()[:24], "label": [0] * 24}).map(tokenize)
    reviews.set_format(type="torch")
    return reviews


@pytest.mark.filterwarnings("ignore:`log_with=wandb`")
def test_the_loop_of_the_old_notebook_runs(tokenizer, tmp_path):
    config = PPOConfig(
        model_name=str(asset("policy")), learning_rate=1.41e-5, log_with="wandb", batch_size=8, mini_batch_size=8
    )
    model = AutoModelForCausalLMWithValueHead.from_pretrained(config.model_name)
    reference = AutoModelForCausalLMWithValueHead.from_pretrained(config.model_name)
    dataset = queries(tokenizer)
    trainer = PPOTrainer(config, model, reference, tokenizer, dataset=dataset, data_collator=collator)
    judge = pipeline("sentiment-analysis", model=str(asset("judge")), device=trainer.accelerator.device)
    settings, length = GENERATION | {"pad_token_id": tokenizer.eos_token_id}, LengthSampler(4, 16)

    for batch in trainer.dataloader:
        assert set(batch) == {"label", "input_ids", "query"}
        responses = []
        for query in batch["input_ids"]:
            answer = trainer.generate(query, max_new_tokens=length(), **settings).squeeze()
            responses.append(answer[len(query) :])
        batch["response"] = [tokenizer.decode(response) for response in responses]
        texts = [query + response for query, response in zip(batch["query"], batch["response"], strict=True)]
        outputs = judge(texts, top_k=None, function_to_apply="none", batch_size=16)
        rewards = [torch.tensor(x["score"]) for output in outputs for x in output if x["label"] == "POSITIVE"]
        stats = trainer.step(batch["input_ids"], responses, rewards)
        trainer.log_stats(stats, batch, rewards, columns_to_log=["query", "response"])

    assert len(trainer.stats_all) == len(trainer.dataloader) == 3
    assert stats["objective/kl_k3"] >= 0.0
    assert stats["env/reward_mean"] == pytest.approx(torch.stack(rewards).mean().item())
    assert {"objective/kl", "ppo/loss/total"} <= set(pd.DataFrame(trainer.stats_all).columns)

    model.save_pretrained(tmp_path / "positive")
    tokenizer.save_pretrained(tmp_path / "positive")
    again = pipeline("text-generation", model=str(tmp_path / "positive"))
    assert again("This film", max_new_tokens=4, do_sample=False)[0]["generated_text"].startswith("This film")
