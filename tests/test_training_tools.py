"""The tool behind the shipped models: no review on both sides, resumed runs equal whole ones, honest scores."""

import math

import numpy as np
import pytest
import torch
from transformers import BertConfig, DistilBertConfig, GPT2LMHeadModel

from tools.small_models import card, checkpoint, data, judge, policy, second_judge, teachers


@pytest.fixture
def tiny(monkeypatch):
    """The models as small as they go, so that training takes a second."""
    gpt2 = policy.config()  # no dropout, as there
    gpt2.update({"vocab_size": 64, "n_embd": 16, "n_layer": 1, "n_head": 2})
    bert = DistilBertConfig(vocab_size=64, dim=16, n_layers=1, n_heads=2, hidden_dim=32)
    bert.max_position_embeddings = judge.CONTEXT
    monkeypatch.setattr(policy, "config", lambda: gpt2)
    monkeypatch.setattr(judge, "config", lambda: bert)
    other = BertConfig(vocab_size=64, hidden_size=12, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24)
    other.update({"max_position_embeddings": 48, "type_vocab_size": 1, "pad_token_id": 1})
    monkeypatch.setattr(second_judge, "config", lambda: other)


def test_parts_are_whole_blocks():
    parts = np.array(data.split_names(25_000, 10)).reshape(-1, data.BLOCK)
    assert (parts == parts[:, :1]).all()
    assert [(parts[:, 0] == name).sum() for name in ("train", "calibration", "held_out")] == [80, 10, 10]


def test_tokenizer_is_lossless_and_of_the_asked_size():
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{i}" for i in rng.integers(5000, size=200)) for _ in range(200)]
    tokenizer = data.train_tokenizer(texts)
    assert tokenizer.token_to_id(data.END_OF_TEXT) == 0
    assert tokenizer.get_vocab_size() <= data.VOCAB_SIZE
    strange = "Größe\n漢字 \x00 🎬"
    assert tokenizer.decode(tokenizer.encode(strange).ids) == strange


def test_each_window_is_seen_once_an_epoch():
    recipe = policy.Recipe(batch_tokens=64, share_of_starts=0.0)
    tokens = np.arange(8 * 100, dtype=np.uint16)
    windows = policy.Windows(tokens, recipe)
    seen = [int(row[0]) for _ in range(12) for row in windows.batch(8)]  # 96 of about 99 windows
    assert len(set(seen)) == len(seen)
    assert len({first % 8 for first in seen}) == 1


def test_part_of_each_batch_begins_where_reviews_begin():
    recipe = policy.Recipe(batch_tokens=80, share_of_starts=0.3)
    tokens = np.where(np.arange(4000) % 37 == 0, 0, 5).astype(np.uint16)
    for _ in range(30):
        rows = policy.Windows(tokens, recipe).batch(8)
        assert (rows[:3, 0] == 0).all()


def test_policys_rate_rises_stays_and_falls_to_zero_in_each_cycle():
    cycles = policy.Cycle(1000, ((0.0, 8),), constant_until=0.5), policy.Cycle(2000, ((0.0, 8),), 0.5, peak=0.8)
    recipe = policy.Recipe(cycles, batch_tokens=10, warmup_steps=10)
    assert recipe.tokens == 3000
    assert [policy.rate(recipe, t) for t in (40, 400, 750, 999)] == pytest.approx([0.5, 1.0, 0.5, 0.002])
    assert [policy.rate(recipe, 1000 + t) for t in (40, 800, 1500, 1998)] == pytest.approx([0.4, 0.8, 0.4, 0.0016])
    with pytest.raises(ValueError, match="3000 tokens"):
        policy.rate(recipe, 3000)


def test_judges_rate_rises_and_falls_to_zero_in_each_cycle():
    recipe = judge.Recipe(cycles=(judge.Cycle(100, 1.0, 2, 0.5), judge.Cycle(50, 3.0, 4, 0.5)), warmup_steps=10)
    assert recipe.steps == 150
    assert [recipe.rate(step) for step in (4, 50, 100 + 4, 100 + 25)] == pytest.approx([0.5, 0.5, 1.5, 1.5])
    assert recipe.rate(99) == pytest.approx(0.01)
    with pytest.raises(IndexError):
        recipe.rate(150)


def test_each_cycle_has_its_share_of_whole_reviews():
    recipe = judge.Recipe(cycles=(judge.Cycle(20, 1.0, 2, 0.5), judge.Cycle(20, 1.0, 5, 0.5)), fragments=4)
    reviews = [np.arange(1, 60, dtype=np.uint16)] * 4
    batches = batches_of(reviews, np.ones(4), np.arange(4) < 2, recipe)
    whole = [batches(step).ids.shape[1] == 60 for step in range(40)]
    assert (sum(whole[:20]), sum(whole[20:])) == (10, 4)


class KilledError(Exception):
    """Stands for a kill."""


def stop_after(monkeypatch, steps):
    clip = torch.nn.utils.clip_grad_norm_
    left = [steps]

    def counted(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            raise KilledError
        return clip(*arguments, **options)

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", counted)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_resumed_policy_equals_one_never_stopped(tiny, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    cycles = policy.Cycle(2048, ((0.0, 64), (0.5, 128)), 0.5), policy.Cycle(4096, ((0.0, 128), (0.5, 256)), 0.5, 0.8)
    recipe = policy.Recipe(cycles, batch_tokens=256)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
        for part in ("train", "calibration"):
            np.save(tmp_path / name / f"{part}.npy", rng.integers(0, 64, 4000).astype(np.uint16))
        rng = np.random.default_rng(0)
    whole = GPT2LMHeadModel.from_pretrained(policy.train(tmp_path / "whole", recipe, compiled=False, save_every=0))
    with monkeypatch.context() as patch:
        stop_after(patch, 13)
        with pytest.raises(KilledError):
            policy.train(tmp_path / "stopped", recipe, compiled=False, save_every=0)
    resumed = GPT2LMHeadModel.from_pretrained(policy.train(tmp_path / "stopped", recipe, compiled=False, save_every=0))
    assert torch.equal(weights(whole), weights(resumed))


def batches_of(reviews, targets, labelled, recipe, taught=0.5, context=judge.CONTEXT):
    """Batches whose fragment teacher always says `taught`, and whose tokens add their own ids to two margins."""
    contributions = [np.stack([ids, -ids.astype(float)], axis=1).astype(np.float16) for ids in reviews]
    teacher = lambda rows, texts: np.full(len(rows), taught)  # noqa: E731

    class Numbers:
        def decode_batch(self, rows):
            return [" ".join(map(str, row)) for row in rows]

    return judge.Batches(reviews, targets, labelled, contributions, recipe, Numbers(), teacher, context)


def test_a_fragments_target_is_partly_its_teachers_and_its_tokens_keep_their_contributions():
    recipe = judge.Recipe(cycles=(judge.Cycle(9, 1e-3, 9, 0.75),), fragments=8)
    reviews = [np.arange(10, 60, dtype=np.uint16), np.arange(100, 130, dtype=np.uint16)]
    batches = batches_of(reviews, np.array([0.0, 0.5]), np.array([True, False]), recipe, taught=1.0)
    whole, fragments = batches(8), batches(0)
    assert set(whole.target.tolist()) <= {0.0, 0.5}
    assert set(fragments.target.tolist()) == {0.75, 0.875}
    for batch in (whole, fragments):
        read = batch.mask.bool()
        read[:, 0] = False  # the token that was put first
        assert torch.equal(batch.contributions[read][:, 0], batch.ids[read].float())
        assert torch.equal(batch.contributions[read][:, 1], -batch.ids[read].float())
        assert batch.contributions[~read].isnan().all()


@pytest.mark.parametrize(("shape", "dim"), [(judge.SMALL, 16), (second_judge.SHAPE, 12)])
def test_resumed_judge_equals_one_never_stopped(tiny, tmp_path, monkeypatch, shape, dim):
    rng = np.random.default_rng(0)
    reviews = [rng.integers(1, 64, rng.integers(20, 90)).astype(np.uint16) for _ in range(300)]
    cycles = judge.Cycle(9, 1e-3, 2, 0.5), judge.Cycle(5, 2e-3, 3, 0.8)
    recipe = judge.Recipe(cycles, tokens_of_whole=512, fragments=8)
    batches = batches_of(reviews, rng.random(300), np.arange(300) < 100, recipe, context=48)
    embeddings = torch.randn(64, dim)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = judge.train(tmp_path / "whole", batches, recipe, embeddings, {}, save_every=0, shape=shape)
    with monkeypatch.context() as patch:
        stop_after(patch, 9)
        with pytest.raises(KilledError):
            judge.train(tmp_path / "stopped", batches, recipe, embeddings, {}, save_every=0, shape=shape)
    resumed = judge.train(tmp_path / "stopped", batches, recipe, embeddings, {}, save_every=0, shape=shape)
    assert (tmp_path / "stopped" / f"{shape.name}_recipe.json").exists()
    assert torch.equal(weights(whole), weights(resumed))


def test_contributions_of_all_tokens_add_up_to_the_teachers_margin():
    """A linear teacher's margin is the sum of its n-grams': here counted by hand, and across pieces of words."""
    table = {"not": 1.0, "good": 2.0, "not good": -4.0, "it is not": 0.5, "!": 0.25}
    text = "It is NOT good!"
    ends = np.array([2, 5, 9, 12, 14, 15])  # It| is| NOT| go|od|!
    said = teachers.contributions(text, ends, [(3, table), (1, table)])
    nan = np.nan
    assert said[:, 0] == pytest.approx([0, 0, 1.5, nan, -2, 0.25], nan_ok=True)
    assert said[:, 1] == pytest.approx([0, 0, 1.0, nan, 2, 0.25], nan_ok=True)
    assert teachers.contributions(text, ends[:3], [(3, table)])[:, 0] == pytest.approx([0, 0, 1.5])


def test_teachers_weights_give_back_their_margins():
    rng = np.random.default_rng(0)
    good, bad = "fine lovely superb", "dull awful boring"
    labels = rng.integers(0, 2, 400)
    texts = [" ".join(rng.permutation([*(good if label else bad).split(), "the", "film", "was"])) for label in labels]
    model = teachers.ReviewTeacher(texts, labels)
    assert ((model(texts) > 0.5) == labels).all()
    table = model.weights()
    for text, probability in zip(texts[:20], model(texts[:20]), strict=True):
        words = text.split()
        grams = {" ".join(words[i : i + n]) for n in (1, 2, 3) for i in range(len(words) - n + 1)} & table.keys()
        length = np.sqrt(sum(model.log_odds[model.words.vocabulary_[gram]] ** 2 for gram in grams))
        margin = sum(table[gram] for gram in grams) / length + model.model.intercept_[0]
        assert 1 / (1 + np.exp(-margin)) == pytest.approx(probability, abs=1e-5)
    openings = teachers.FragmentTeacher(texts, labels.astype(float))
    assert ((openings(np.arange(400), texts) > 0.5) == labels).all()
    assert all(table["lovely"] > 0 > table["awful"] for table in openings.weights())


def test_a_kill_while_saving_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 1)
    checkpoint.save(tmp_path / "c.safetensors", model, [], {"step": 1})
    before = weights(model).clone()
    with torch.no_grad():
        model.weight += 1

    def killed(*_):
        raise KilledError

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KilledError):
        checkpoint.save(tmp_path / "c.safetensors", model, [], {"step": 2})
    assert checkpoint.load(tmp_path / "c.safetensors", model, []) == {"step": 1}
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize("context", [8, 64])
def test_bits_per_byte_counts_every_token_once(tiny, context):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(policy.config()).eval()
    rng = np.random.default_rng(0)
    reviews = [rng.integers(1, 64, n).astype(np.uint16) for n in (3, 20, 31)]
    nats = 0.0
    for ids in reviews:  # token by token, each with the past that a half-overlapping window gives it
        sequence = [0, *ids.tolist(), 0]
        for t in range(1, len(sequence)):
            begin = 0 if t < context else ((t - context) // (context // 2) + 1) * (context // 2)
            past = torch.tensor([sequence[begin:t]])
            nats -= model(past).logits[0, -1].log_softmax(-1)[sequence[t]].item()
    expected = nats / math.log(2) / 100
    assert policy.bits_per_byte(model, reviews, [50, 30, 20], context) == pytest.approx(expected, rel=1e-5)


def test_uniform_model_needs_log2_of_the_vocabulary(tiny):
    model = GPT2LMHeadModel(policy.config()).eval()
    for parameter in model.parameters():
        parameter.data.zero_()
    tokens = torch.arange(640) % 64
    assert policy.nats_in_windows(model, tokens, 64) == pytest.approx(math.log(64), rel=1e-3)  # bf16
    assert policy.bits_per_byte(model, [np.ones(9, dtype=np.uint16)], [10], 64) == pytest.approx(6.0, rel=1e-5)


def test_calibration_error_of_known_cases():
    labels = np.array([1, 1, 0, 0] * 25)
    assert judge.expected_calibration_error(labels.astype(float), labels) == 0
    assert judge.expected_calibration_error(np.full(100, 0.5), labels) == 0
    assert judge.expected_calibration_error(np.full(100, 0.9), labels) == pytest.approx(0.4)
    assert judge.expected_calibration_error(1.0 - labels, labels) == 1


def test_calibration_finds_the_temperature_that_was_applied(tiny):
    from transformers import DistilBertForSequenceClassification

    rng = np.random.default_rng(0)
    true = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < 1 / (1 + np.exp(-true))).astype(int)
    model = DistilBertForSequenceClassification(judge.config())
    before = model.classifier.weight.clone()
    assert judge.calibrate(model, true * 2.5, labels) == pytest.approx(2.5, rel=0.05)
    assert torch.allclose(model.classifier.weight * 2.5, before, rtol=0.05)


def test_judge_starts_as_a_bag_of_tokens(tiny):
    from transformers import DistilBertForSequenceClassification

    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(judge.config()).eval()
    judge.start_as_bag(model, torch.randn(64, 16))
    model.distilbert.embeddings.position_embeddings.weight.data.zero_()
    piece = np.arange(1, 30, dtype=np.uint16)
    in_order, shuffled = judge.margins(model, [piece, np.random.default_rng(0).permutation(piece)])
    assert in_order == pytest.approx(shuffled, abs=1e-5)
    embedded = model.distilbert.embeddings(torch.arange(30)[None])
    attended = model.distilbert.transformer.layer[-1].attention(embedded)[0]
    assert torch.allclose(attended, embedded.mean(1, keepdim=True).expand_as(attended), atol=1e-5)


def test_margins_come_back_in_order_and_do_not_depend_on_padding(tiny):
    from transformers import DistilBertForSequenceClassification

    torch.manual_seed(0)
    model = DistilBertForSequenceClassification(judge.config()).eval()
    rng = np.random.default_rng(0)
    pieces = [rng.integers(1, 64, n).astype(np.uint16) for n in rng.integers(1, 40, 30)]
    together = judge.margins(model, pieces, tokens=200)
    alone = [judge.margins(model, [piece])[0] for piece in pieces]
    assert together == pytest.approx(np.array(alone), abs=1e-5)


@pytest.fixture(scope="module")
def parted():
    """Reviews in the order and number of the real ones, with row numbers for texts."""
    labels = np.repeat([0, 1, -1], [12_500, 12_500, 50_000])
    part = data.split_names(25_000, 10) + data.split_names(50_000, 50)
    return data.Reviews([str(row) for row in range(75_000)], labels, np.array(part))


def test_second_judge_has_no_label_that_the_first_ones_training_saw(parted):
    rows = second_judge.own_rows(parted)
    assert [len(some) for some in rows] == [4000, 50_000, 1000]
    of_first = np.concatenate([parted.rows("train", labelled=True), parted.rows("train", labelled=False)])
    assert not np.isin(of_first, np.concatenate([rows.labelled, rows.validation])).any()
    assert not np.isin(rows.labelled, rows.validation).any()
    assert (parted.labels[rows.unlabelled] == -1).all()
    for some in (rows.labelled, rows.validation):
        assert parted.labels[some].mean() == 0.5
        assert (some.reshape(-1, data.BLOCK) % data.BLOCK == np.arange(data.BLOCK)).all()  # whole blocks
    assert [(parted.part[rows.validation] == name).sum() for name in ("held_out", "calibration")] == [500, 500]


def test_second_judge_learns_each_rows_own_label(parted, monkeypatch):
    """Its teachers are fitted on its own labelled reviews alone, and a labelled review keeps its label."""
    fitted = {}

    class Teacher:
        def __init__(self, texts, labels):
            fitted["texts"], fitted["labels"] = texts, labels

        def __call__(self, texts):
            return np.full(len(texts), 0.25)

    monkeypatch.setattr(teachers, "ReviewTeacher", Teacher)
    monkeypatch.setattr(teachers, "FragmentTeacher", lambda openings, targets: None)
    monkeypatch.setattr(teachers, "contributions_of_all", lambda *_: [np.zeros((1, 2))])
    tokenizer = second_judge.train_tokenizer([str(row) for row in range(1000)])
    rows = second_judge.own_rows(parted)
    rows = rows._replace(unlabelled=rows.unlabelled[:500])
    batches = second_judge.make_batches(parted, rows, tokenizer, second_judge.RECIPE)
    assert fitted["texts"] == [str(row) for row in rows.labelled]
    assert (fitted["labels"] == parted.labels[rows.labelled]).all()
    assert (batches.targets == np.concatenate([parted.labels[rows.labelled], np.full(500, 0.25)])).all()
    assert [len(group) for group in batches.groups] == [4000, 500]
    words = tokenizer.decode_batch([batches.reviews[i].tolist() for i in (0, 4000)])
    assert [word.replace(" ", "") for word in words] == [str(rows.labelled[0]), str(rows.unlabelled[0])]


def test_second_tokenizer_reads_no_capitals_and_puts_its_first_token_first(tmp_path):
    from transformers import AutoTokenizer

    from tools.small_models import pack

    tokenizer = second_judge.train_tokenizer(["a fine film and a dull film"] * 4)
    tokenizer.save(str(tmp_path / "raw.json"))
    pack.save_second_tokenizer(tokenizer, tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("A FINE Film").input_ids == loaded("a fine film").input_ids
    assert loaded("film").input_ids[0] == judge.CLS == loaded.cls_token_id
    assert loaded.pad_token_id == second_judge.config().pad_token_id
    assert loaded("\U0001f3ac").input_ids == [judge.CLS, loaded.unk_token_id]


def test_cut_gives_what_was_asked_for():
    tokenizer = data.train_tokenizer([" ".join(map(str, range(300)))])
    texts = [" ".join(map(str, range(first, first + 200))) for first in range(0, 400, 4)]
    first, some = (second_judge.cut(tokenizer, texts, 10, 24, anywhere) for anywhere in (False, True))
    assert all(text.startswith(piece) for text, piece in zip(texts, first, strict=True))
    assert all(piece in text for text, piece in zip(texts, some, strict=True))
    assert sum(text.startswith(piece) for text, piece in zip(texts, some, strict=True)) < 20
    lengths = {len(tokenizer.encode(piece).ids) for piece in first}
    assert min(lengths) >= 10
    assert max(lengths) <= 24
    assert second_judge.cut(tokenizer, ["1"], 10, 24, anywhere=True) == ["1"]


def test_second_judge_starts_as_a_bag_of_tokens(tiny):
    torch.manual_seed(0)
    model = second_judge.SHAPE.build().eval()
    second_judge.start_as_bag(model, torch.randn(64, 12))
    model.bert.embeddings.position_embeddings.weight.data.zero_()
    piece = np.arange(1, 30, dtype=np.uint16)
    in_order, shuffled = judge.margins(model, [piece, np.random.default_rng(0).permutation(piece)])
    assert in_order == pytest.approx(shuffled, abs=1e-5)


def test_agreement_of_judges_whose_likeness_is_known():
    rng = np.random.default_rng(0)
    truth, noise = rng.normal(size=(2, 20_000))
    labels = (truth > 0).astype(int)
    half = card.agreement(truth, np.where(labels == 1, noise, -1.0), labels)
    assert half["accuracy_both"] == [1, pytest.approx(0.75, abs=0.01)]
    mixed = card.agreement(truth, 0.6 * truth + 0.8 * noise, labels)
    assert mixed["r_interval"][0] < 0.6 < mixed["r_interval"][1]
    assert mixed["r_interval"][1] - mixed["r_interval"][0] == pytest.approx(
        2 * 1.96 * 0.64 / math.sqrt(20_000), rel=0.05
    )
    # signs of two normal variables agree with probability 1/2 + arcsin(r) / π
    assert mixed["same_verdict"] == pytest.approx(0.5 + math.asin(0.6) / math.pi, abs=0.01)
    assert mixed["deviations"] == pytest.approx([1, 1], rel=0.03)


def test_samples_cannot_act_as_markup():
    hostile = "<b>bold</b> [link](x) | # title\n`code` *star* $x$"
    line = card.as_markdown(hostile)
    assert "\n" not in line
    assert line.replace("\\", "") == " ".join(hostile.split())
    for character in "<>[]()|#`*$":
        assert all(line[i - 1] == "\\" for i, c in enumerate(line) if c == character)
