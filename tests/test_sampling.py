"""Every transform against transformers' own, every edge case as its docstring defines it, rollouts as statistics."""

import time

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import (
    ForcedEOSTokenLogitsProcessor,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from course_helpers import sampling
from course_helpers.rollouts import evaluation_mode, sample_rollouts
from course_helpers.sampling import SamplingSettings, distribution, stages

pytestmark = pytest.mark.usefixtures("one_thread")

INF = float("inf")
EOS = 3
quick = settings(deadline=None, derandomize=True, max_examples=60)
few = settings(deadline=None, derandomize=True, max_examples=6)

shapes = array_shapes(min_dims=1, max_dims=2, min_side=1, max_side=40)
floats32 = st.floats(-60, 60, width=32)
coarse = st.integers(-3, 3).map(float)  # ties everywhere


def logits_of(shape_strategy=shapes):
    """Smooth or tied logits, some tokens impossible, never a whole row of them."""
    dtypes = st.sampled_from([np.float32, np.float64])
    elements = st.sampled_from([floats32, coarse, coarse | st.just(-INF)])
    drawn = st.tuples(dtypes, elements).flatmap(lambda pair: arrays(pair[0], shape_strategy, elements=pair[1]))
    return drawn.map(possible)


def possible(logits):
    logits[..., -1] = np.maximum(logits[..., -1], -60)
    return logits


def large_logits(seed, dtype=np.float32, batch=2):
    return (np.random.default_rng(seed).standard_normal((batch, 50_257)) * 4).astype(dtype)


def reference(processor, logits, ids=None):
    """What a processor of transformers makes of the logits, as a NumPy array of their shape."""
    rows = torch.from_numpy(np.atleast_2d(logits).copy())
    ids = torch.zeros((len(rows), 1), dtype=torch.long) if ids is None else torch.as_tensor(ids).expand(len(rows), -1)
    return processor(ids, rows).numpy().reshape(logits.shape)


def agree(ours, logits, expected):
    """NumPy in, NumPy out; torch in, torch out; equal to the reference; input untouched."""
    before = logits.copy()
    from_numpy, from_torch = ours(logits), ours(torch.from_numpy(logits.copy()))
    np.testing.assert_array_equal(logits, before)
    assert type(from_numpy) is np.ndarray
    assert type(from_torch) is torch.Tensor
    assert from_numpy.dtype == logits.dtype
    assert from_torch.dtype == torch.from_numpy(logits).dtype
    np.testing.assert_array_equal(from_numpy, from_torch.numpy())
    np.testing.assert_allclose(from_numpy, expected, rtol=0, atol=1e-6)


# --------------------------------------------------------------------------- each transform against transformers' own


@quick
@given(logits_of(), st.lists(st.integers(0, 10**6), min_size=1, max_size=8), st.floats(0.2, 5))
def test_repetition_penalty_equals_transformers(logits, ids, penalty):
    ids = [i % logits.shape[-1] for i in ids]
    ours = lambda z: sampling.penalize_repetition(z, ids, penalty)  # noqa: E731
    agree(ours, logits, reference(RepetitionPenaltyLogitsProcessor(penalty), logits, ids))


@quick
@given(logits_of(array_shapes(min_dims=1, max_dims=2, min_side=2, max_side=9)), st.integers(0, 5), st.integers(0, 5))
def test_min_new_tokens_equals_transformers(logits, generated, minimum):
    context = torch.zeros(4 + generated, dtype=torch.long)
    ours = lambda z: sampling.require_min_new_tokens(z, generated, minimum, 0)  # noqa: E731
    agree(ours, logits, reference(MinNewTokensLengthLogitsProcessor(4, minimum, 0), logits, context))


@quick
@given(logits_of(), st.integers(1, 6), st.data())
def test_max_new_tokens_equals_transformers(logits, maximum, data):
    generated = data.draw(st.integers(0, maximum - 1))
    context = torch.zeros(4 + generated, dtype=torch.long)
    ours = lambda z: sampling.force_end_at_max_new_tokens(z, generated, maximum, 0)  # noqa: E731
    agree(ours, logits, reference(ForcedEOSTokenLogitsProcessor(4 + maximum, 0), logits, context))


@quick
@given(logits_of(), st.floats(1e-3, 1e3))
def test_temperature_equals_transformers(logits, temperature):
    ours = lambda z: sampling.apply_temperature(z, temperature)  # noqa: E731
    agree(ours, logits, reference(TemperatureLogitsWarper(temperature), logits))


@quick
@given(logits_of(), st.integers(1, 60))
def test_top_k_equals_transformers(logits, k):
    agree(lambda z: sampling.keep_top_k(z, k), logits, reference(TopKLogitsWarper(k), logits))


@quick
@given(logits_of(), st.floats(0, 1, exclude_min=True, exclude_max=True) | st.integers(1, 9).map(lambda n: n / 10))
@example(np.zeros(10, np.float32), 0.3)  # a border that only rounding decides
@example(np.zeros((3, 37), np.float64), 0.5)  # ties at the border, long enough for an unstable sort
@example(np.zeros(4, np.float32), 0.5)
@example(np.array([0.0, 1e-3, 2.0], np.float32), 5e-324)
def test_top_p_equals_transformers(logits, p):
    agree(lambda z: sampling.keep_top_p(z, p), logits, reference(TopPLogitsWarper(p), logits))


def chain(chosen, prompt_length):
    """The processors that transformers would build for these settings, in its order."""
    processors = LogitsProcessorList()
    if chosen.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(chosen.repetition_penalty))
    processors.append(MinNewTokensLengthLogitsProcessor(prompt_length, chosen.min_new_tokens, chosen.eos_token_id))
    if chosen.max_new_tokens:
        processors.append(ForcedEOSTokenLogitsProcessor(prompt_length + chosen.max_new_tokens, chosen.eos_token_id))
    processors.append(TemperatureLogitsWarper(chosen.temperature))
    if chosen.top_k:
        processors.append(TopKLogitsWarper(chosen.top_k))
    if chosen.top_p < 1:
        processors.append(TopPLogitsWarper(chosen.top_p))
    return processors


all_settings = st.builds(
    SamplingSettings,
    repetition_penalty=st.just(1.0) | st.floats(0.5, 3),
    min_new_tokens=st.integers(0, 3),
    max_new_tokens=st.none() | st.integers(3, 6),
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 30),
    top_p=st.floats(0.01, 1),
    eos_token_id=st.just(1),
)


@quick
@given(logits_of(array_shapes(min_dims=1, max_dims=2, min_side=3, max_side=40)), all_settings, st.integers(0, 2))
def test_the_whole_chain_equals_transformers(logits, chosen, generated):
    ids = [i % logits.shape[-1] for i in range(5 + generated)]
    expected = reference(chain(chosen, prompt_length=5), logits, ids)
    agree(lambda z: stages(z, chosen, ids, generated)[-1][1], logits, expected)
    probabilities = torch.from_numpy(expected.copy()).softmax(-1).numpy()
    agree(lambda z: distribution(z, chosen, ids, generated), logits, probabilities)


@few
@given(st.integers(0, 99), all_settings, st.sampled_from([np.float32, np.float64]))
def test_the_whole_chain_equals_transformers_on_gpt2s_vocabulary(seed, chosen, dtype):
    logits, ids = large_logits(seed, dtype), list(range(0, 50_000, 7000))
    expected = reference(chain(chosen, prompt_length=len(ids)), logits, ids)
    agree(lambda z: stages(z, chosen, ids)[-1][1], logits, expected)


@few
@given(st.integers(0, 99), st.floats(0.001, 0.999), st.sampled_from([np.float32, np.float64]))
def test_top_p_equals_transformers_on_gpt2s_vocabulary(seed, p, dtype):
    logits = large_logits(seed, dtype)
    agree(lambda z: sampling.keep_top_p(z, p), logits, reference(TopPLogitsWarper(p), logits))


def test_order_and_names_are_those_of_transformers():
    chosen = SamplingSettings(1.3, 1, 4, 0.7, 5, 0.9, eos_token_id=EOS)
    names = [name for name, _ in stages(np.arange(8.0), chosen, [1])]
    assert names == ["logits", "repetition penalty", "min/max new tokens", "temperature", "top-k", "top-p"]
    model = tiny_gpt2()
    model.generation_config.update(do_sample=True, max_length=9, forced_eos_token_id=EOS, eos_token_id=EOS)
    model.generation_config.update(repetition_penalty=1.3, min_new_tokens=1, temperature=0.7, top_k=5, top_p=0.9)
    model._prepare_special_tokens(model.generation_config, device="cpu")
    built = model._get_logits_processor(model.generation_config, input_ids_seq_length=5)
    assert [type(p) for p in built] == [type(p) for p in chain(chosen, 5)]


# ------------------------------------------------------------------------------------------------------- definitions


def test_transforms_keep_their_names_and_those_of_their_arguments():
    assert (sampling.softmax.__name__, sampling.keep_top_k.__name__) == ("softmax", "keep_top_k")
    np.testing.assert_array_equal(sampling.keep_top_k(np.arange(3.0), k=1), [-INF, -INF, 2.0])


@quick
@given(logits_of())
def test_softmax_and_log_softmax(logits):
    p = sampling.softmax(logits)
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.exp(sampling.log_softmax(logits)), p, atol=1e-6)
    np.testing.assert_allclose(sampling.softmax(logits + 5), p, atol=1e-5)
    assert (p[logits == -INF] == 0).all()


def test_known_probabilities():
    np.testing.assert_allclose(sampling.softmax(np.log([1.0, 2.0, 5.0])), [0.125, 0.25, 0.625])
    assert sampling.log_softmax(np.array([0.0, -INF]))[1] == -INF


def test_known_entropies():
    assert sampling.entropy(np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert sampling.entropy(np.array([0.0, 1.0, 0.0])) == 0
    assert isinstance(sampling.entropy(np.array([0.5, 0.5])), float)
    assert sampling.entropy(np.array([0.5, 0.5005])) == pytest.approx(np.log(2), abs=1e-3)  # rounding is forgiven
    rows = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    torch.testing.assert_close(sampling.entropy(rows), torch.tensor([0.0, np.log(4)], dtype=torch.float32))


@quick
@given(logits_of())
def test_entropy_lies_between_certainty_and_chance(logits):
    h = sampling.entropy(sampling.softmax(logits))
    assert np.shape(h) == logits.shape[:-1]
    assert (h >= 0).all()
    assert (h <= np.log(logits.shape[-1]) + 1e-5).all()


@quick
@given(logits_of(), all_settings)
def test_defaults_change_nothing_and_stages_only_forbid(logits, chosen):
    for _, after in stages(logits, SamplingSettings()):
        np.testing.assert_array_equal(after, logits)
    p = distribution(logits, SamplingSettings(temperature=chosen.temperature, top_k=chosen.top_k, top_p=chosen.top_p))
    np.testing.assert_allclose(p.sum(-1), 1, rtol=1e-5)
    assert (p[logits == -INF] == 0).all()


def test_repeated_ids_are_penalised_once_and_signs_are_minded():
    z = np.array([2.0, -2.0, 0.0, 3.0])
    np.testing.assert_array_equal(sampling.penalize_repetition(z, [0, 1, 1, 0, 2, 0], 2.0), [1.0, -4.0, 0.0, 3.0])
    np.testing.assert_array_equal(sampling.penalize_repetition(z, [], 2.0), z)
    np.testing.assert_array_equal(sampling.penalize_repetition(z, [0, 1, 3], 1.0), z)


def test_each_row_can_have_its_own_context():
    z = np.array([[2.0, 4.0], [2.0, 4.0]])
    np.testing.assert_array_equal(sampling.penalize_repetition(z, [[0, 0], [1, 0]], 2.0), [[1.0, 4.0], [1.0, 2.0]])
    np.testing.assert_array_equal(sampling.penalize_repetition(z, np.array([1]), 2.0), [[2.0, 2.0], [2.0, 2.0]])


def test_nothing_has_been_generated_unless_said():
    chosen = SamplingSettings(min_new_tokens=1, eos_token_id=1)
    assert distribution(np.zeros(2), chosen)[1] == 0
    assert stages(np.zeros(2), chosen)[-1][1][1] == -INF


def test_new_tensors_are_made_where_the_logits_are():
    """On a GPU as on a CPU: PyTorch's own choice of device, here one without memory, is never taken."""
    z = torch.tensor([[2.0, 1.0, 1.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0, 3.0]])
    chosen = SamplingSettings(1.2, 2, None, 0.7, 4, 0.4, eos_token_id=0)  # a tie at the border
    with torch.device("meta"):
        found = distribution(z, chosen, [1, 2])
    assert torch.equal(found, distribution(z, chosen, [1, 2]))


def test_eos_is_forbidden_then_free_then_forced():
    chosen = SamplingSettings(min_new_tokens=2, max_new_tokens=4, eos_token_id=1)
    p = [distribution(np.zeros(4), chosen, generated=n)[1] for n in range(6)]
    assert p == pytest.approx([0, 0, 0.25, 1, 1, 1])


def test_without_an_eos_nothing_is_forbidden_or_forced():
    chosen = SamplingSettings(min_new_tokens=2, max_new_tokens=2)
    np.testing.assert_array_equal(stages(np.arange(3.0), chosen, generated=1)[2][1], np.arange(3.0))


def test_forced_end_wins_over_minimum():
    chosen = SamplingSettings(min_new_tokens=3, max_new_tokens=3, eos_token_id=0)
    assert distribution(np.zeros(4), chosen, generated=2)[0] == 1


def test_temperature_zero_takes_the_lowest_id_of_a_tie():
    z = np.array([[0.0, 5.0, 5.0], [-INF, -INF, -7.0]])
    for tau in (0, 0.0, 1e-320):
        np.testing.assert_array_equal(sampling.softmax(sampling.apply_temperature(z, tau)), [[0, 1, 0], [0, 0, 1]])
        np.testing.assert_array_equal(sampling.softmax(sampling.apply_temperature(z[0], tau)), [0, 1, 0])
    smallest = np.finfo(np.float64).tiny  # counts as what it is: a tie is shared
    np.testing.assert_array_equal(sampling.softmax(sampling.apply_temperature(z[0], smallest)), [0, 0.5, 0.5])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("tau", [1e-2, 1e-9, 1e-37])
@pytest.mark.parametrize("shift", [0, 1, -100])
def test_temperature_towards_zero_shares_ties_and_never_gives_nan(dtype, tau, shift):
    z = np.array([1.0, 3.0, 3.0, -INF, 2.0], dtype) + dtype(shift)
    p = sampling.softmax(sampling.apply_temperature(z, tau))
    np.testing.assert_allclose(p, [0, 0.5, 0.5, 0, 0], atol=1e-6)


def test_high_temperature_is_uniform_over_what_is_possible():
    p = sampling.softmax(sampling.apply_temperature(np.array([1.0, 9.0, -INF]), 1e12))
    np.testing.assert_allclose(p, [0.5, 0.5, 0])


def test_top_k_keeps_all_ties_with_the_kth():
    z = np.array([4.0, 2.0, 2.0, 2.0, 1.0])
    np.testing.assert_array_equal(sampling.keep_top_k(z, 2) > -INF, [True, True, True, True, False])
    np.testing.assert_array_equal(sampling.keep_top_k(z, 1) > -INF, [True, False, False, False, False])


@pytest.mark.parametrize("k", [0, None, 5, 6, 10**9])
def test_top_k_off_or_beyond_the_vocabulary(k):
    np.testing.assert_array_equal(sampling.keep_top_k(np.arange(5.0), k), np.arange(5.0))


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    z = np.log(np.array([0.1, 0.4, 0.2, 0.3]))
    for p, kept in ((0.01, [1]), (0.39, [1]), (0.41, [1, 3]), (0.69, [1, 3]), (0.71, [1, 2, 3]), (0.95, [0, 1, 2, 3])):
        assert np.flatnonzero(sampling.keep_top_p(z, p) > -INF).tolist() == kept
    np.testing.assert_array_equal(sampling.keep_top_p(z, 1), z)
    z = np.array([0.0, -1e4])  # a probability that rounds to 0 is possible nevertheless
    np.testing.assert_array_equal(sampling.keep_top_p(z, 1), z)


def test_top_p_splits_ties():
    kept = sampling.keep_top_p(np.zeros(8), 0.5) > -INF
    assert kept.sum() == 4


def test_all_mass_on_one_token_stays_there():
    z = np.array([-INF, 2.0, -INF])
    chosen = SamplingSettings(2.0, 0, 9, 0.3, 2, 0.1, eos_token_id=0)
    for _, after in stages(z, chosen, [1, 2]):
        np.testing.assert_array_equal(sampling.softmax(after), [0, 1, 0])


def test_other_kinds_of_arrays_are_taken_as_they_are():
    z = np.arange(12.0, dtype=np.float32).reshape(3, 4)[:, ::-1]
    z.flags.writeable = False
    half = torch.tensor([1.0, 2.0, 3.0], dtype=torch.bfloat16)
    chosen = SamplingSettings(1.2, temperature=0.5, top_k=2, top_p=0.9)
    assert distribution(z, chosen, [0]).shape == (3, 4)
    assert distribution(half, chosen, [0]).dtype == torch.bfloat16
    assert distribution(np.array([1, 2, 3], np.float16), chosen, [0]).dtype == np.float16
    scalars = SamplingSettings(np.float32(1.2), temperature=np.float64(0.5), top_k=np.int64(2), top_p=np.float32(0.9))
    assert distribution(np.arange(3.0), scalars, [0]) == pytest.approx(distribution(np.arange(3.0), chosen, [0]))


def test_gradients_flow_through_every_stage():
    z = torch.tensor([1.0, 2.0, 0.5, -1.0], requires_grad=True)
    distribution(z, SamplingSettings(1.2, temperature=0.5, top_k=3, top_p=0.99), [1])[1].backward()
    assert z.grad[1] > 0
    assert z.grad[3] == 0


# ------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        ([0.0, 1.0, np.nan], r"logits\[2\] is NaN"),
        ([[0.0, 1.0], [np.nan, INF]], r"logits\[1, 0\] is NaN"),
        ([[0.0, 1.0], [0.0, INF]], r"logits\[1, 1\] is \+inf"),
        ([-INF, -INF], "logits is -inf throughout"),
        ([[0.0, -INF], [-INF, -INF]], r"logits\[1\] is -inf throughout"),
        (np.zeros((2, 2, 2)), r"shape \(2, 2, 2\)"),
        (np.zeros((2, 0)), r"shape \(2, 0\)"),
        (5.0, r"shape \(\)"),
    ],
)
def test_logits_without_a_softmax_are_refused(logits, message):
    array = np.asarray(logits)
    calls = [
        sampling.softmax,
        sampling.log_softmax,
        lambda z: sampling.penalize_repetition(z, [0], 1.1),
        lambda z: sampling.require_min_new_tokens(z, 0, 0, 0),
        lambda z: sampling.force_end_at_max_new_tokens(z, 0, None, None),
        lambda z: sampling.apply_temperature(z, 1),
        lambda z: sampling.keep_top_k(z, 0),
        lambda z: sampling.keep_top_p(z, 1),
        lambda z: stages(z, SamplingSettings()),
        lambda z: distribution(z, SamplingSettings()),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=message):
            call(array)
        with pytest.raises(ValueError, match=message):
            call(torch.as_tensor(array))


def test_lists_and_integers_are_refused():
    with pytest.raises(TypeError, match=r"^logits are a list; pass a NumPy array"):
        sampling.softmax([1.0, 2.0])
    with pytest.raises(TypeError, match=r"^logits are a list; pass a NumPy array"):
        stages([1.0, 2.0], SamplingSettings())
    with pytest.raises(TypeError, match=r"^probabilities are a list; pass a NumPy array"):
        sampling.entropy([0.5, 0.5])
    with pytest.raises(TypeError, match="int64; they must be floating-point"):
        sampling.keep_top_k(np.array([1, 2]), 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[("repetition_penalty", v) for v in (0, -1.0, INF, np.nan, "1")],
        *[("min_new_tokens", v) for v in (-1, 1.5, True)],
        *[("max_new_tokens", v) for v in (0, -2, 2.0)],
        *[("temperature", v) for v in (-0.1, INF, np.nan, None)],
        *[("top_k", v) for v in (-1, 2.5)],
        *[("top_p", v) for v in (0, -0.5, 1.01, np.nan)],
        *[("eos_token_id", v) for v in (-1, 0.5)],
    ],
)
def test_settings_name_the_field_and_the_value(field, value):
    with pytest.raises(ValueError, match=f"^{field} is .*; it must be ") as caught:
        SamplingSettings(**{field: value})
    assert repr(value) in str(caught.value)


def test_settings_refuse_a_minimum_above_the_maximum():
    with pytest.raises(ValueError, match="max_new_tokens is 3; it must be a whole number, at least 5"):
        SamplingSettings(min_new_tokens=5, max_new_tokens=3)
    assert SamplingSettings(min_new_tokens=np.int64(3), max_new_tokens=3, temperature=np.float32(1), top_k=None)
    assert SamplingSettings(max_new_tokens=1).max_new_tokens == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z: sampling.penalize_repetition(z, [0], 0), r"is 0; it must be a finite number above 0 \(1 turns it"),
        (lambda z: sampling.penalize_repetition(z, [0, 4], 1.1), "previous_ids hold 4; ids run from 0 to 3"),
        (lambda z: sampling.penalize_repetition(z, [-1], 1.1), "previous_ids hold -1"),
        (lambda z: sampling.penalize_repetition(z, [[0], [1]], 1.1), r"previous_ids have shape \(2, 1\)"),
        (lambda z: sampling.penalize_repetition(z, [[0], [1], [2], [3]], 1.1), r"previous_ids have shape \(4, 1\)"),
        (lambda z: sampling.penalize_repetition(z[None], [[[0, 1]]], 1.1), r"previous_ids have shape \(1, 1, 2\)"),
        (lambda z: sampling.require_min_new_tokens(z, -1, 1, 0), "^generated is -1"),
        (lambda z: sampling.require_min_new_tokens(z, 0, -1, 0), "^min_new_tokens is -1"),
        (lambda z: sampling.require_min_new_tokens(z, 0, 1, 4), "eos_token_id is 4; .* from 0 to 3"),
        (lambda z: sampling.force_end_at_max_new_tokens(z, -1, 1, 0), "^generated is -1"),
        (lambda z: sampling.force_end_at_max_new_tokens(z, 0, 0, 0), "max_new_tokens is 0"),
        (lambda z: sampling.force_end_at_max_new_tokens(z, 0, 1, -1), "eos_token_id is -1"),
        (lambda z: sampling.apply_temperature(z, -1), r"is -1; it must be a finite number, 0 \(greedy\) or more"),
        (lambda z: sampling.keep_top_k(z, -1), "top_k is -1"),
        (lambda z: sampling.keep_top_p(z, 0), r"^top_p is 0; it must be above 0 and at most 1 \(1 turns it off\)"),
        (lambda z: sampling.keep_top_p(z, 1.5), "top_p is 1.5"),
        (lambda z: sampling.entropy(z - 1), "^some probability is negative or NaN"),
        (lambda z: sampling.entropy(z), "^probabilities sum to 6.0"),
        (lambda z: sampling.entropy(z / 5.9), "^probabilities sum to 1.01"),
    ],
)
def test_transforms_check_their_own_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.arange(4.0))


def test_ids_must_be_whole_and_eos_must_leave_something():
    with pytest.raises(TypeError, match=r"previous_ids hold torch\.float32"):
        sampling.penalize_repetition(np.zeros(3), [0.5], 1.1)
    with pytest.raises(ValueError, match=r"EOS \(id 1\) was the only possible token"):
        sampling.require_min_new_tokens(np.array([-INF, 0.0]), 0, 1, 1)
    with pytest.raises(ValueError, match=r"EOS \(id 1\) .* lower min_new_tokens \(now 2\)"):
        sampling.require_min_new_tokens(np.array([[0.0, 0.0], [-INF, 0.0]]), 0, 2, 1)


# ----------------------------------------------------------------------------------------------------------- rollouts


def tiny_gpt2(vocabulary=60, spread=0.35):
    """Random GPT-2 whose distributions are peaked enough to differ, with dropout to be switched off."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        sizes = {"vocab_size": vocabulary, "n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 2}
        ends = {"bos_token_id": EOS, "eos_token_id": EOS}
        return GPT2LMHeadModel(GPT2Config(**sizes, **ends, initializer_range=spread)).train()


@pytest.fixture(scope="module")
def tiny():
    return tiny_gpt2()


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def chi_square_p_value(counts, p):
    """How often chance alone strays so far from p; rare outcomes are pooled, as the test needs 5 of each expected."""
    expected = p / p.sum() * counts.sum()
    rare = expected < 5
    counts, expected = (np.array([*a[~rare], a[rare].sum()]) for a in (counts, expected))
    counts, expected = counts[expected > 0], expected[expected > 0]
    assert len(counts) > 2
    statistic = ((counts - expected) ** 2 / expected).sum()
    half_df = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    return torch.special.gammaincc(half_df, torch.tensor(statistic / 2)).item()


def forward_logits(model, rollout):
    """Logits of every position of the response, by one plain forward pass."""
    with evaluation_mode(model):
        logits = model(torch.tensor([rollout.prompt_ids + rollout.token_ids])).logits[0]
    return logits[len(rollout.prompt_ids) - 1 : -1]


ROLLOUT_SETTINGS = SamplingSettings(1.3, 2, 12, 0.8, 20, 0.95, eos_token_id=EOS)


def test_log_probs_are_those_of_a_plain_forward_pass(tiny):
    for rollout in sample_rollouts(tiny, [5, 9, 5], 6, ROLLOUT_SETTINGS, seeded(0)):
        logits = forward_logits(tiny, rollout)
        for t, token in enumerate(rollout.token_ids):
            context = rollout.prompt_ids + rollout.token_ids[:t]
            p = distribution(logits[t], ROLLOUT_SETTINGS, context, t)
            assert rollout.log_probs[t] == pytest.approx(p[token].log().item(), abs=1e-4)
            assert rollout.policy_log_probs[t] == pytest.approx(logits[t].log_softmax(-1)[token].item(), abs=1e-4)


def test_first_tokens_follow_the_distribution(tiny):
    chosen = SamplingSettings(temperature=0.7, top_p=0.9)
    rollouts = sample_rollouts(tiny, [5, 9], 4000, chosen, seeded(0), length_limit=1)
    with evaluation_mode(tiny):
        p = distribution(tiny(torch.tensor([[5, 9]])).logits[0, -1], chosen).double().numpy()
    counts = np.bincount([r.token_ids[0] for r in rollouts], minlength=60)
    assert counts[p == 0].sum() == 0
    assert chi_square_p_value(counts, p) > 0.01
    assert chi_square_p_value(counts, p**0.8 / (p**0.8).sum()) < 1e-6  # the test would see a wrong temperature


def test_second_tokens_follow_the_distribution_given_the_first(tiny):
    chosen = SamplingSettings(temperature=0.7, top_k=3)
    rollouts = sample_rollouts(tiny, [5, 9], 3000, chosen, seeded(2), length_limit=2)
    first = max({r.token_ids[0] for r in rollouts}, key=lambda token: sum(r.token_ids[0] == token for r in rollouts))
    seconds = [r.token_ids[1] for r in rollouts if r.token_ids[0] == first]
    with evaluation_mode(tiny):
        p = distribution(tiny(torch.tensor([[5, 9, first]])).logits[0, -1], chosen).double().numpy()
    counts = np.bincount(seconds, minlength=60)
    assert counts[p == 0].sum() == 0
    assert chi_square_p_value(counts, p) > 0.01


def test_same_seed_same_rollouts_and_the_global_generator_is_left_alone(tiny):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (sample_rollouts(tiny, [5, 9], 5, ROLLOUT_SETTINGS, seeded(s)) for s in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == again
    assert first != other
    without = [sample_rollouts(tiny, [5, 9], 5, ROLLOUT_SETTINGS)]
    torch.manual_seed(0)
    assert without == [sample_rollouts(tiny, [5, 9], 5, ROLLOUT_SETTINGS)]


def test_eos_stops_and_is_included(tiny):
    chosen = SamplingSettings(eos_token_id=EOS, temperature=2.0)
    rollouts = sample_rollouts(tiny, [5], 200, chosen, seeded(0), length_limit=20)
    assert {r.ended for r in rollouts} == {True, False}
    for r in rollouts:
        assert len(r.token_ids) == len(r.log_probs) == len(r.policy_log_probs) <= 20
        assert (EOS in r.token_ids) == r.ended
        assert r.token_ids.index(EOS) + 1 == len(r.token_ids) if r.ended else len(r.token_ids) == 20


def test_lengths_keep_to_min_and_max(tiny):
    chosen = SamplingSettings(min_new_tokens=3, max_new_tokens=6, eos_token_id=EOS, temperature=3.0)
    rollouts = sample_rollouts(tiny, [5], 200, chosen, seeded(0))
    assert all(r.ended and 4 <= len(r.token_ids) <= 6 for r in rollouts)
    forced = [r for r in rollouts if len(r.token_ids) == 6]
    assert all(r.log_probs[-1] == 0 and r.policy_log_probs[-1] < 0 for r in forced)


def test_without_an_eos_every_rollout_runs_to_the_limit(tiny):
    rollouts = sample_rollouts(tiny, torch.tensor([[5]]), 3, SamplingSettings(), seeded(0))
    assert [(len(r.token_ids), r.ended) for r in rollouts] == [(24, False)] * 3
    assert all(r.log_probs == r.policy_log_probs for r in rollouts)


@pytest.mark.parametrize("prompt", [[5], [9, 2, 11], [40, 41, 42, 43]])
@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_temperature_zero_is_generates_greedy_search_tiny(tiny, prompt, penalty):
    chosen = SamplingSettings(penalty, 1, 15, 0, eos_token_id=EOS)
    options = {"repetition_penalty": penalty, "min_new_tokens": 1, "forced_eos_token_id": EOS}
    assert_greedy(tiny.eval(), prompt, chosen, options, EOS)


def test_temperature_zero_is_generates_greedy_search_small(small):
    model, tokenizer = small
    for text in ("This movie", "I have never seen", "The"):
        chosen = SamplingSettings(max_new_tokens=20, temperature=0, eos_token_id=tokenizer.eos_token_id)
        options = {"forced_eos_token_id": tokenizer.eos_token_id}
        assert_greedy(model, tokenizer(text).input_ids, chosen, options, tokenizer.eos_token_id)


def assert_greedy(model, prompt, chosen, options, eos):
    (rollout,) = sample_rollouts(model, prompt, 1, chosen, seeded(0))
    ids = torch.tensor([prompt])
    expected = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=chosen.max_new_tokens,
        eos_token_id=eos,
        pad_token_id=eos,
        **options,
    )
    assert rollout.token_ids == expected[0, len(prompt) :].tolist()
    assert rollout.log_probs == [0.0] * len(rollout.token_ids)


def test_modes_are_restored_even_after_an_error(tiny):
    tiny.train()
    tiny.transformer.h[0].eval()
    before = [m.training for m in tiny.modules()]
    sample_rollouts(tiny, [5], 2, SamplingSettings(), seeded(0), length_limit=2)
    assert [m.training for m in tiny.modules()] == before
    with pytest.raises(RuntimeError), evaluation_mode(tiny):
        raise RuntimeError
    assert [m.training for m in tiny.modules()] == before
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "at least one token"),
        ([[1], [2]], {}, "pass one prompt"),
        ([60], {}, "from 0 to 59"),
        ([1] * 41, {}, "41 prompt tokens and 24 new ones make 65, but .* holds 64: .* at most 23 new"),
        ([1], {"settings": SamplingSettings(eos_token_id=60)}, "eos_token_id is 60; it must be a token id below 60"),
        ([1], {"count": 0}, "count is 0"),
        ([1], {"length_limit": 0}, "length_limit is 0"),
    ],
)
def test_rollouts_refuse_what_does_not_fit(tiny, prompt, options, message):
    with pytest.raises(ValueError, match=message):
        sample_rollouts(tiny, prompt, **{"count": 1, "settings": SamplingSettings(), **options})


def test_the_whole_context_can_be_used(tiny):
    (rollout,) = sample_rollouts(tiny, [1] * 40, 1, SamplingSettings(), seeded(0))
    assert len(rollout.token_ids) == 24


# -------------------------------------------------------------------------------------------------------------- speed


def fastest(call, times):
    """Seconds of the fastest of some calls: the one least disturbed by other programs."""
    took = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        took.append(time.perf_counter() - start)
    return min(took)


@pytest.mark.parametrize("top_k", [0, 50])
def test_a_slider_can_call_distribution(top_k):
    logits = large_logits(0)[0]
    chosen = SamplingSettings(1.2, 1, 9, 0.8, top_k, 0.95, eos_token_id=EOS)
    ids = list(range(0, 100, 7))
    assert fastest(lambda: distribution(logits, chosen, ids), 20) < 0.015  # 2 ms on the machine this was written on


def test_64_rollouts_of_24_tokens_are_quick(small):
    model, tokenizer = small
    chosen = SamplingSettings(1.1, 0, None, 0.9, 50, 0.95)
    prompt = tokenizer("This movie was").input_ids
    assert fastest(lambda: sample_rollouts(model, prompt, 64, chosen, seeded(0)), 1) < 10
