"""TRL's trainer as it is set up here: the known first loss, the reference in memory, resuming, saving, bad settings."""

import json
import math
import os
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import PeftModel
from transformers import TrainerCallback, logging

from course_helpers.choices import Choice, ChoiceBook, Question, pairs_of, read_choices
from course_helpers.dpo import training
from course_helpers.dpo.losses import sequence_log_probs
from course_helpers.dpo.saving import load_adapter, merged, save_adapter, save_policy
from course_helpers.dpo.training import (
    PairCollator,
    dpo_config,
    lora_config,
    machine_settings,
    pair_dataset,
    sft_trainer,
)
from course_helpers.models import load_policy
from course_helpers.ppo.losses import log_probs_of
from course_helpers.preferences import Pair
from tests.dpo_runs import PAIRS, frozen_copy, small_policy, trainer_of

logging.set_verbosity_error()


def losses_of(trainer):
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def log_probs(model, tokenizer, text="The film was a joy from start to finish"):
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.no_grad():
        return log_probs_of(model(input_ids=ids).logits[:, :-1], ids[:, 1:])


def rank_four(model):
    return lora_config(model, rank=4)


# ------------------------------------------------------------------------------------------------------ known answers


@pytest.mark.parametrize("with_lora", [False, True], ids=["full", "LoRA"])
def test_the_first_loss_is_ln_2(tmp_path, with_lora):
    model, tokenizer = small_policy()
    trainer = trainer_of(tmp_path, model, tokenizer, lora=rank_four(model) if with_lora else None)
    trainer.train()
    assert losses_of(trainer)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_the_reference_is_the_model_in_memory_not_the_one_on_disk(tmp_path):
    # A model changed after loading: TRL on its own would read π_ref from the folder the model came from.
    model, tokenizer = small_policy(shift=0.05)
    reference = frozen_copy(model)
    trainer = trainer_of(tmp_path, model, tokenizer, batch_size=8)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        logits = reference(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = sequence_log_probs(logits, batch["input_ids"], batch["completion_mask"])
    found = torch.cat((batch["ref_chosen_logps"], batch["ref_rejected_logps"]))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    trainer.train()
    assert losses_of(trainer)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_training_learns_the_pairs(tmp_path):
    model, tokenizer = small_policy()
    trainer = trainer_of(
        tmp_path, model, tokenizer, lora=rank_four(model), epochs=8, learning_rate=3e-3, eval_pairs=PAIRS, batch_size=8
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert before["eval_rewards/accuracies"] == 0.0  # no margin is above 0 yet
    assert after["eval_rewards/accuracies"] == 1.0
    assert after["eval_loss"] < 0.5 < before["eval_loss"]
    assert after["eval_rewards/margins"] == pytest.approx(
        after["eval_rewards/chosen"] - after["eval_rewards/rejected"], abs=1e-5
    )


def test_a_trained_model_is_made_of_the_parts_it_was_made_of(tmp_path):
    """Training leaves them as they are, so that it answers as what is saved of it does."""
    model, tokenizer = small_policy()
    parts = list(map(type, model.modules()))
    trainer_of(tmp_path, model, tokenizer).train()
    assert list(map(type, model.modules())) == parts


def test_lora_trains_its_adapters_only(tmp_path):
    model, tokenizer = small_policy()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    trainer = trainer_of(tmp_path, model, tokenizer, lora=rank_four(model), learning_rate=1e-2)
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert moved
    assert all("lora_" in name for name in moved)
    base = {n.replace(".base_layer", ""): p for n, p in trainer.model.get_base_model().named_parameters()}
    assert all(torch.equal(base[name], weight) for name, weight in before.items())
    with trainer.model.disable_adapter():
        torch.testing.assert_close(log_probs(trainer.model, tokenizer), log_probs(small_policy()[0], tokenizer))


@pytest.mark.parametrize("rank", [1, 4, 16])
def test_the_number_of_lora_weights(tmp_path, rank):
    # per block: attention in 256 → 768 and out 256 → 256, MLP 256 → 1024 and back; rank (in + out) weights each
    model, tokenizer = small_policy()
    trainer = trainer_of(tmp_path, model, tokenizer, lora=lora_config(model, rank=rank))
    width = model.config.n_embd
    a_block = (width + 3 * width) + (width + width) + 2 * (width + 4 * width)
    expected = model.config.n_layer * rank * a_block
    assert sum(p.numel() for p in trainer.model.parameters() if p.requires_grad) == expected


# ---------------------------------------------------------------------------------------------------- ends of responses


def test_only_responses_that_ended_have_an_end_token(tmp_path):
    model, tokenizer = small_policy()
    pairs = [PAIRS[0] | {"chosen_ended": False}, PAIRS[1] | {"rejected_ended": False}]
    trainer = trainer_of(tmp_path, model, tokenizer, pairs, batch_size=2, data_seed=0)
    examples = [trainer.train_dataset[row] for row in (0, 1)]
    batch = trainer.data_collator(examples)
    counted = [
        tokenizer.decode(row[mask.bool()])
        for row, mask in zip(batch["input_ids"], batch["completion_mask"], strict=True)
    ]
    end = tokenizer.eos_token
    assert counted == [
        PAIRS[0]["chosen"],
        PAIRS[1]["chosen"] + end,
        PAIRS[0]["rejected"] + end,
        PAIRS[1]["rejected"],
    ]


def test_a_response_of_one_token_keeps_it():
    collator = PairCollator(pad_token_id=0)
    example = {"prompt_ids": [5], "chosen_ids": [7], "rejected_ids": [8, 9], "chosen_ended": False}
    assert collator([example])["input_ids"].tolist() == [[5, 7, 0], [5, 8, 9]]
    both = example | {"chosen_ids": [7, 6, 4], "rejected_ended": False}
    assert collator([both])["input_ids"].tolist() == [[5, 7, 6], [5, 8, 0]]
    unsaid = {name: both[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}  # as TRL's own rows are
    assert collator([unsaid])["input_ids"].tolist() == [[5, 7, 6, 4], [5, 8, 9, 0]]


# ------------------------------------------------------------------------------------------------------------- resuming


class Stop(TrainerCallback):
    """Ends training after some steps, as a crash would, with the checkpoint written."""

    def __init__(self, after):
        self.after = after

    def on_step_end(self, args, state, control, **others):
        control.should_training_stop = state.global_step >= self.after
        return control


@pytest.mark.parametrize("with_lora", [False, True], ids=["full", "LoRA"])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path, with_lora):
    def run(folder, callbacks=(), resume=False):
        model, tokenizer = small_policy()
        lora = rank_four(model) if with_lora else None
        saving = {"save_strategy": "steps", "save_steps": 3, "epochs": 4, "batch_size": 4}
        trainer = trainer_of(folder, model, tokenizer, lora=lora, callbacks=callbacks, **saving)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    assert whole.state.global_step == 8
    run(tmp_path / "parts", callbacks=[Stop(after=3)])
    resumed = run(tmp_path / "parts", resume=True)
    assert losses_of(resumed) == losses_of(whole)
    ours, theirs = resumed.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# --------------------------------------------------------------------------------------------------------------- saving


@pytest.fixture
def adapted(tmp_path):
    model, tokenizer = small_policy()
    trainer = trainer_of(tmp_path / "run", model, tokenizer, lora=rank_four(model), learning_rate=1e-2, epochs=2)
    trainer.train()
    return trainer.model.eval(), tokenizer


def test_merging_leaves_the_model_as_it_is(adapted):
    model, tokenizer = adapted
    before = log_probs(model, tokenizer)
    plain = merged(model)
    assert not isinstance(plain, PeftModel)
    torch.testing.assert_close(log_probs(plain, tokenizer), before, rtol=0, atol=1e-4)
    assert isinstance(model, PeftModel)
    assert torch.equal(log_probs(model, tokenizer), before)
    assert (before - log_probs(small_policy()[0], tokenizer)).abs().max() > 0.1  # it had learned something


def test_a_merged_copy_asks_its_own_weights(adapted):
    # TRL leaves a closure over the model as the model's forward; a deep copy still calls the original through it.
    model, tokenizer = adapted
    plain = merged(model)
    before = log_probs(plain, tokenizer)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert torch.equal(log_probs(plain, tokenizer), before)


def test_saved_whole_it_loads_anywhere(adapted, tmp_path):
    model, tokenizer = adapted
    folder = save_policy(model, tokenizer, tmp_path / "an other plâce")
    assert {file.suffix for file in folder.iterdir()} == {".json", ".safetensors"}
    again, its_tokenizer = load_policy(folder, "cpu")
    assert its_tokenizer("The film").input_ids == tokenizer("The film").input_ids
    torch.testing.assert_close(log_probs(again, tokenizer), log_probs(model, tokenizer), rtol=0, atol=1e-4)


def test_a_saved_adapter_names_its_base_and_no_path(adapted, tmp_path):
    model, tokenizer = adapted
    folder = save_adapter(model, tmp_path / "adapter")
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "small"
    written = "".join(f.read_text(errors="replace") for f in folder.iterdir() if f.suffix in (".json", ".md"))
    assert os.path.dirname(load_policy("small", "cpu")[0].name_or_path) not in written
    assert (folder / "adapter_model.safetensors").stat().st_size < 600_000
    again = load_adapter(folder)
    assert torch.equal(log_probs(again.eval(), tokenizer), log_probs(model, tokenizer))
    assert not any(p.requires_grad for p in again.parameters())
    assert any(p.requires_grad for p in load_adapter(folder, trainable=True).parameters())


def test_an_adapter_can_be_trained_on(adapted, tmp_path):
    # The reference of a second training is the policy at its start, adapter included: the first loss is ln 2 again.
    model, tokenizer = adapted
    again = load_adapter(save_adapter(model, tmp_path / "adapter"), trainable=True)
    trainer = trainer_of(tmp_path / "again", again, tokenizer)
    trainer.train()
    assert losses_of(trainer)[0] == pytest.approx(math.log(2), abs=1e-4)


def test_nothing_to_save_as_an_adapter(tmp_path):
    with pytest.raises(ValueError, match="trained without LoRA; use save_policy"):
        save_adapter(small_policy()[0], tmp_path)
    with pytest.raises(FileNotFoundError, match="give a folder that save_adapter wrote"):
        load_adapter(tmp_path)


# ------------------------------------------------------------------------------------------------------------- settings


def stand_in(device="cpu", **config):
    """What settings look at of a model: where it is, and what its configuration says."""
    return SimpleNamespace(device=torch.device(device), config=SimpleNamespace(**config))


def test_what_is_chosen_where_nothing_is_said_and_where_it_is(tmp_path):
    config = dpo_config(str(tmp_path), stand_in(max_position_embeddings=256))
    assert (config.output_dir, config.beta, config.learning_rate, config.seed) == (str(tmp_path), 0.1, 1e-4, 0)
    assert (config.per_device_train_batch_size, config.per_device_eval_batch_size) == (32, 64)
    assert (config.precompute_ref_batch_size, config.num_train_epochs, config.lr_scheduler_type) == (64, 1, "linear")
    assert (config.logging_steps, config.save_strategy, config.disable_tqdm) == (1, "no", True)
    assert (config.remove_unused_columns, config.dataloader_pin_memory) == (False, False)
    said = {"beta": 0.3, "loss_type": ["sigmoid", "sft"], "learning_rate": 0.5, "seed": 7}
    config = dpo_config(str(tmp_path), stand_in(), batch_size=6, epochs=2.5, **said)
    assert said == {name: getattr(config, name) for name in said}
    assert (config.per_device_train_batch_size, config.num_train_epochs, config.max_length) == (6, 2.5, None)


def test_settings_on_a_gpu(tmp_path, monkeypatch):
    for has_bf16 in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_bf16=has_bf16: has_bf16)
        gpu, cpu = machine_settings(stand_in("cuda"), 4, 1), machine_settings(stand_in(), 4, 1)
        assert (gpu["use_cpu"], gpu["bf16"], gpu["dataloader_pin_memory"]) == (False, has_bf16, True)
        assert (cpu["use_cpu"], cpu["bf16"], cpu["dataloader_pin_memory"]) == (True, False, False)
    with pytest.raises(ValueError, match=r"^bf16=True, but this GPU has no bfloat16: leave it out, or use fp16=True\."):
        dpo_config(str(tmp_path), stand_in("cuda"), bf16=True)
    assert dpo_config(str(tmp_path), stand_in(), bf16=True).bf16  # a CPU can, slowly


def test_several_processes_ask_the_reference_at_every_step(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "DPOConfig", lambda **settings: settings)
    for processes, precomputed in (("1", True), ("2", False)):
        monkeypatch.setenv("WORLD_SIZE", processes)
        assert dpo_config(str(tmp_path), stand_in())["precompute_ref_log_probs"] is precomputed
    monkeypatch.delenv("WORLD_SIZE")
    assert dpo_config(str(tmp_path), stand_in())["precompute_ref_log_probs"] is True


@pytest.mark.parametrize(
    "settings",
    [
        {"max_length": 256},
        {"max_length": 2},
        {"label_smoothing": 0.1, "loss_type": "robust"},
        {"label_smoothing": 0.1, "loss_type": ["sigmoid", "robust"]},
        {"label_smoothing": 0.0, "loss_type": "ipo"},
        {"epochs": 0.5},
    ],
)
def test_settings_at_the_border_are_taken(tmp_path, settings):
    given = dict(settings)
    config = dpo_config(str(tmp_path), stand_in(max_position_embeddings=256), **settings)
    epochs = given.pop("epochs", 1)
    assert config.num_train_epochs == epochs
    for name, value in given.items():
        assert getattr(config, name) in (value, [value])


def test_settings_on_a_cpu(tmp_path):
    config = dpo_config(str(tmp_path), small_policy()[0])
    assert config.use_cpu
    assert not config.bf16
    assert not config.activation_checkpointing
    assert config.max_length == 256
    assert config.precompute_ref_log_probs
    assert config.report_to == []
    assert config.loss_type == ["sigmoid"]


def test_the_learners_own_settings_win(tmp_path):
    config = dpo_config(str(tmp_path), small_policy()[0], max_length=64, logging_steps=5, weight_decay=0.1)
    assert (config.max_length, config.logging_steps, config.weight_decay) == (64, 5, 0.1)
    assert dpo_config(str(tmp_path), small_policy()[0], gradient_checkpointing=True).activation_checkpointing


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"beta": 0}, r"^beta is 0; it must be a finite number above 0"),
        ({"beta": -1}, "beta is -1"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"learning_rate": 0}, r"^learning_rate is 0; it must be a finite number above 0\."),
        ({"learning_rate": float("inf")}, "learning_rate is inf"),
        ({"batch_size": 0}, r"^batch_size is 0; it must be a whole number, at least 1\."),
        ({"batch_size": 2.5}, "batch_size is 2.5"),
        ({"epochs": 0}, r"^epochs is 0; it must be a number above 0\."),
        ({"epochs": float("nan")}, "epochs is nan"),
        ({"label_smoothing": 0.1}, r"^TRL ignores label_smoothing with loss_type='sigmoid'\. Use loss_type='robust'"),
        ({"label_smoothing": 0.1, "loss_type": "ipo"}, r"TRL .* corrects for turned-round labels, or leave label_smoo"),
        ({"label_smoothing": 0.1, "loss_type": ["hinge", "ipo", "sigmoid"]}, "TRL ignores label_smoothing"),
        ({"max_length": 257}, r"^max_length is 257, but the model's context holds 256 tokens, .* set at most 256\."),
        ({"max_length": 1}, r"^max_length is 1; it must be a whole number, at least 2\."),
        ({"loss_type": "dpo"}, r"^loss_type is 'dpo'; it must be one of sigmoid, ipo, hinge, exo_pair"),
        ({"loss_type": ["sft", "dpo"]}, r"^loss_type is 'dpo'"),
        ({"per_device_train_batch_size": 8}, "is called batch_size here: pass batch_size=8"),
        ({"num_train_epochs": 2}, "is called epochs here: pass epochs=2"),
    ],
)
def test_settings_that_cannot_work(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        dpo_config(str(tmp_path), small_policy()[0], **settings)


def test_a_name_that_does_not_exist(tmp_path):
    with pytest.raises(TypeError, match="learning_rat"):
        dpo_config(str(tmp_path), small_policy()[0], learning_rat=1e-4)


@pytest.mark.parametrize("with_lora", [False, True], ids=["full", "LoRA"])
def test_the_reference_may_also_be_asked_at_every_step(tmp_path, with_lora):
    def run(precompute):
        model, tokenizer = small_policy(shift=0.05)
        lora = rank_four(model) if with_lora else None
        settings = {"precompute_ref_log_probs": precompute, "epochs": 3, "learning_rate": 1e-3}
        trainer = trainer_of(tmp_path, model, tokenizer, lora=lora, **settings)
        trainer.train()
        return losses_of(trainer)

    assert run(False) == pytest.approx(run(True), abs=1e-4)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ([], r"^there are no pairs"),
        (
            [{"prompt": "a", "chosen": " b"}],
            r"^pair 0 has rejected = None; .* preferences\.validate_pairs finds",
        ),
        ([PAIRS[0], PAIRS[1] | {"chosen": ""}], "pair 1 has chosen = ''"),
        ([PAIRS[0] | {"prompt": ["a"]}], "pair 0 has prompt = "),
    ],
)
def test_pairs_that_cannot_be_used(pairs, words):
    with pytest.raises(ValueError, match=words):
        pair_dataset(pairs)


def test_pairs_from_a_data_set():
    rows = pair_dataset(Dataset.from_list(PAIRS))
    assert rows.column_names == ["prompt", "chosen", "rejected", "chosen_ended", "rejected_ended"]
    assert rows["chosen"][:] == [pair["chosen"] for pair in PAIRS]
    assert rows["chosen_ended"][:] == rows["rejected_ended"][:] == [True] * len(PAIRS)
    assert pair_dataset([Pair(**pair) for pair in PAIRS])[:] == rows[:]
    cut = pair_dataset([PAIRS[0] | {"chosen_ended": False}, PAIRS[1] | {"rejected_ended": 0}])
    assert (cut["chosen_ended"][:], cut["rejected_ended"][:]) == ([False, True], [True, False])


def test_lora_by_default_and_as_it_is_asked_for():
    found = lora_config(stand_in(model_type="gpt2"))
    assert (found.r, found.lora_alpha, found.lora_dropout, found.fan_in_fan_out) == (16, 32, 0.0, True)
    assert (found.target_modules, found.task_type) == ("all-linear", "CAUSAL_LM")
    found = lora_config(stand_in(model_type="llama"), 1, 0.5, lora_dropout=0.1)
    assert (found.r, found.lora_alpha, found.lora_dropout, found.fan_in_fan_out) == (1, 0.5, 0.1, False)


def test_lora_needs_a_rank():
    with pytest.raises(ValueError, match=r"^rank is 0; it must be a whole number, at least 1"):
        lora_config(small_policy()[0], rank=0)


def test_it_says_nothing_while_it_works(tmp_path, capfd):
    model, tokenizer = small_policy()
    trainer = trainer_of(tmp_path, model, tokenizer)
    trainer.train()
    out, err = capfd.readouterr()
    assert out == ""
    assert "it/s" not in err
    assert os.environ.get("TQDM_DISABLE") is None


# ------------------------------------------------------------------------------------------------ the learner's choices


def test_thirty_choices_of_a_learner_can_be_trained_on(tmp_path):
    # a learner who likes films to be praised, as the labelling panel keeps it: sides, ties, a question asked twice
    book = ChoiceBook(tmp_path / "my_choices.jsonl")
    book.open()
    for number in range(30):
        pair = PAIRS[number % len(PAIRS)]
        sides = (pair["chosen"], pair["rejected"])[:: 1 if number % 3 else -1]
        question = Question(f"{number}. {pair['prompt']}", *sides)
        liked = "A" if sides[0] == pair["chosen"] else "B"
        book.put(Choice.of(question, "tie" if number == 7 else liked))
    pairs = pairs_of(read_choices(tmp_path / "my_choices.jsonl"))
    assert len(pairs) == 29
    assert all(pair["chosen"] == PAIRS[int(pair["prompt"].split(".")[0]) % len(PAIRS)]["chosen"] for pair in pairs)
    model, tokenizer = small_policy()
    settings = {"batch_size": 10, "epochs": 10, "learning_rate": 1e-3}
    trainer = trainer_of(tmp_path / "run", model, tokenizer, pairs, PAIRS, lora=rank_four(model), **settings)
    trainer.train()
    assert losses_of(trainer)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert trainer.evaluate()["eval_rewards/accuracies"] == 1.0  # the same taste, for prompts without a number


# ------------------------------------------------------------------------------------------------------------ SFT first


def test_supervised_training_makes_the_chosen_likely(tmp_path):
    model, tokenizer = small_policy()

    def of_chosen():
        ids = [tokenizer(pair["prompt"] + pair["chosen"]).input_ids for pair in PAIRS]
        begins = [len(tokenizer(pair["prompt"]).input_ids) for pair in PAIRS]
        with torch.no_grad():
            rows = [model(input_ids=torch.tensor([row])).logits for row in ids]
        masks = [torch.tensor([[0] * begin + [1] * (len(row) - begin)]) for begin, row in zip(begins, ids, strict=True)]
        parts = zip(rows, ids, masks, strict=True)
        return sum(sequence_log_probs(logits, torch.tensor([row]), mask).item() for logits, row, mask in parts)

    before = of_chosen()
    trainer = sft_trainer(model, tokenizer, tmp_path, PAIRS, epochs=5, learning_rate=1e-3, batch_size=8)
    trainer.train()
    assert of_chosen() > before + 20
    assert losses_of(trainer)[-1] < losses_of(trainer)[0]


def test_only_the_chosen_tokens_count(tmp_path):
    model, tokenizer = small_policy()
    trainer = sft_trainer(model, tokenizer, tmp_path, PAIRS, batch_size=2)
    batch = next(iter(trainer.get_train_dataloader()))
    texts = {tokenizer.decode(row[row >= 0]) for row in batch["labels"]}
    assert texts <= {pair["chosen"] + tokenizer.eos_token for pair in PAIRS}
