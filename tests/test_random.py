"""Random numbers: the published generator, the same bits everywhere, and distributions that are what they say."""

import ctypes
from collections import Counter
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pytest
from conftest import load
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tolerances import P_VALUE

import nnkernels as nnk
from nnkernels.backends.numba import machine
from nnkernels.backends.numba import random as numba_random
from nnkernels.backends.numba.language import Target
from nnkernels.backends.numba.machine import Program
from nnkernels.backends.numpy import random as numpy_random

SEED_MAX = 2**64 - 1
SAMPLINGS = ("replacement", "permutation", "sequential")
STREAMS = {"rows": 0, "dropout": 1, "sort": 2}  # what a counter's highest byte says

# ---- the oracle: Philox4x32-10 in Python's integers ------------------------------------------------------------------

WORD = 2**32 - 1


def philox(counter, key):
    """Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): ten rounds on four words."""
    c, (k0, k1) = list(counter), key
    for _ in range(10):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [(second >> 32) ^ c[1] ^ k0, second & WORD, (first >> 32) ^ c[3] ^ k1, first & WORD]
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return tuple(c)


def words(seed, stream, network, layer, step, item):
    """The four words that nnkernels draws for one item."""
    counter = item, step & WORD, network, STREAMS[stream] << 24 | layer << 16 | step >> 32
    return philox(counter, (seed & WORD, seed >> 32))


def bits(seed, stream, network, step, item):
    """64 random bits: two items share a counter."""
    four = words(seed, stream, network, 0, step, item // 2)
    high, low = four[2:] if item % 2 else four[:2]
    return high << 32 | low


KNOWN_ANSWERS = {  # Random123, kat_vectors: counter, key, answer
    "zeros": ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi": ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
}


def numbers(text):
    return tuple(int(word, 16) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS)
def test_the_oracle_gives_the_published_answers(counter, key, answer):
    assert philox(numbers(counter), numbers(key)) == numbers(answer)


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN_ANSWERS.values(), ids=KNOWN_ANSWERS)
def test_numpys_philox_gives_the_published_answers(counter, key, answer):
    item, low, network, high = numbers(counter)
    seed = numbers(key)[1] << 32 | numbers(key)[0]
    stream, layer, step = high >> 24, high >> 16 & 0xFF, (high & 0xFFFF) << 32 | low
    got = numpy_random.philox(seed, stream, network, layer, step, item)
    assert tuple(int(word) for word in got) == numbers(answer)


@pytest.mark.parametrize("lanes", [2, 4, 8])
def test_the_compiled_philox_gives_the_published_answers_in_every_lane(lanes):
    source = """def apply(args: ints, out: ints):
        w0, w1, w2, w3 = philox(args[0], args[1], args[2], args[3], splat(args[4]), load(args, 5))
        store(out, 0, w0)
        store(out, LANES, w1)
        store(out, 2 * LANES, w2)
        store(out, 3 * LANES, w3)
    """
    program = Program(source, Target("float32", lanes))
    apply = program.function("apply", ctypes.c_void_p, ctypes.c_void_p)
    for counter, key, answer in KNOWN_ANSWERS.values():
        item, low, network, high = numbers(counter)
        seed = numbers(key)[1] << 32 | numbers(key)[0]
        arguments = seed, high >> 24, network, high >> 16 & 0xFF, (high & 0xFFFF) << 32 | low, *[item] * lanes
        given, got = np.array(arguments, np.uint64), np.empty((4, lanes), np.uint64)
        apply(given.ctypes.data, got.ctypes.data)
        assert got.T.tolist() == [list(numbers(answer))] * lanes


def test_rows_are_the_published_answer_of_counter_zero(kernels, arrays):
    """With 2**32 rows, a row is the upper half of its 64 bits."""
    rows = draw(kernels, arrays(), 0, 0, 0, "replacement", 2**32, (1, 2))
    assert rows.tolist() == [[0x6627E8D5, 0xBC57AC4C]]


# ---- the order of rows -----------------------------------------------------------------------------------------------


def draw(kernels, place, seed, network, first_step, sampling, n_rows, shape):
    """Draw the rows of shape (..., count, batch)."""
    out = place.blank(shape, np.int64)
    kernels.draw_indices(seed, network, first_step, sampling=sampling, n_rows=n_rows, out=out)
    return place.get(out)


seeds = st.one_of(st.sampled_from((0, 1, 2**32 - 1, 2**32, 2**63, SEED_MAX)), st.integers(0, SEED_MAX))
first_steps = st.one_of(st.integers(0, 50), st.sampled_from((2**31 - 2, 2**32 - 2, 2**32, 2**47)))
sizes = st.one_of(st.integers(1, 40), st.sampled_from((4095, 4096, 4097, 8192, 8193, 100_003)))
PAIRS = tuple(combinations(("numpy", "numba", "cuda"), 2))
pair = pytest.mark.parametrize(("one", "other"), PAIRS, ids=map("=".join, PAIRS))


@pair
@pytest.mark.parametrize("sampling", SAMPLINGS)
@given(seed=seeds, network=st.integers(0, 10_000), first_step=first_steps, n_rows=sizes, data=st.data())
def test_every_device_draws_the_same_rows(one, other, sampling, seed, network, first_step, n_rows, data):
    shape = data.draw(st.sampled_from(((4, 3), (1, 1), (2, 3, 7), (2, 2, 2, 5))))
    results = []
    for backend in (one, other):
        kernels = load(backend)
        out = kernels.from_host(np.zeros(shape, np.int64))
        kernels.draw_indices(seed, network, first_step, sampling=sampling, n_rows=n_rows, out=out)
        results.append(kernels.to_host(out))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("register", [16, 32, 64], ids="{} bytes".format)
def test_registers_of_any_width_draw_the_same_numbers(monkeypatch, register):
    monkeypatch.setattr(machine, "vector_bytes", lambda: register)
    orders = {np.dtype(name): numba_random._Order(np.dtype(name)) for name in ("float32", "float64")}
    monkeypatch.setattr(numba_random, "_order", lambda dtype=numba_random._FLOAT64: orders[dtype])
    one, other = nnk.backends.load("numpy"), nnk.backends.load("numba")
    for sampling, n_rows, shape in product(SAMPLINGS, (3, 600, 5000), ((2, 7, 5), (40, 1), (1, 1500), (3, 1, 1))):
        results = np.empty(shape, np.int64), np.empty(shape, np.int64)
        for kernels, out in zip((one, other), results, strict=True):
            kernels.draw_indices(SEED_MAX, 3, 2**33 + 1, sampling=sampling, n_rows=n_rows, out=out)
        np.testing.assert_array_equal(*results)
    for dtype, shape in product(orders, ((2, 7, 5), (1, 1), (3, 50, 11))):
        results = np.empty(shape, dtype), np.empty(shape, dtype)
        for kernels, out in zip((one, other), results, strict=True):
            kernels.dropout_mask(SEED_MAX, 3, 1, np.array(2**33 + 1), 0.3, out=out)
        np.testing.assert_array_equal(*results)


@given(
    seed=seeds,
    network=st.integers(0, 1000),
    first_step=first_steps,
    n_rows=sizes | st.sampled_from((3 * 2**30 + 1, 2**32 - 1, 2**32)),
)
def test_rows_with_replacement_are_the_high_half_of_bits_times_rows(kernels, arrays, seed, network, first_step, n_rows):
    rows = draw(kernels, arrays(), seed, network, first_step, "replacement", n_rows, (2, 3, 5))
    for i, step, row in np.ndindex(2, 3, 5):
        expected = bits(seed, "rows", network + i, first_step + step, row) * n_rows >> 64
        assert rows[i, step, row] == expected


@given(seed=seeds, network=st.integers(0, 1000), epoch=st.integers(0, 2**40), n_rows=st.integers(1, 30))
def test_a_permutation_of_few_rows_is_the_order_of_their_random_keys(kernels, arrays, seed, network, epoch, n_rows):
    rows = draw(kernels, arrays(), seed, network, 2 * epoch, "permutation", n_rows, (2, 4, -(-n_rows // 2)))
    if n_rows == 1:  # one batch is the epoch
        assert (rows == 0).all()
        return
    for i, later in np.ndindex(2, 2):
        keys = [bits(seed, "sort", network + i, epoch + later, row) for row in range(n_rows)]
        expected = sorted(range(n_rows), key=keys.__getitem__)
        got = rows[i, 2 * later : 2 * later + 2].ravel()
        assert got[got >= 0].tolist() == expected


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n_rows", [10, 5000], ids=["sorted keys", "bijection"])
@given(cuts=st.lists(st.integers(0, 12), max_size=5))
def test_blocks_of_any_length_draw_the_same_rows(kernels, arrays, sampling, n_rows, cuts):
    whole = draw(kernels, arrays(), 5, 2, 3, sampling, n_rows, (2, 12, 4))
    edges = [0, *sorted(cuts), 12]
    blocks = [
        draw(kernels, arrays(), 5, 2, 3 + first, sampling, n_rows, (2, last - first, 4))
        for first, last in pairwise(edges)
    ]
    np.testing.assert_array_equal(np.concatenate(blocks, axis=1), whole)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_each_network_draws_what_it_draws_alone(kernels, arrays, sampling):
    n_rows = 9
    together = draw(kernels, arrays(), 5, 4, 3, sampling, n_rows, (2, 3, 6, 4))
    for i, index in enumerate(np.ndindex(2, 3)):
        alone = draw(kernels, arrays(), 5, 4 + i, 3, sampling, n_rows, (6, 4))
        np.testing.assert_array_equal(together[index], alone)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n_rows", [10, 5000], ids=["sorted keys", "bijection"])
def test_rows_may_be_written_to_any_strides(kernels, arrays, sampling, n_rows):
    place = arrays((2, -2, 3))
    strided = draw(kernels, place, 5, 2, 3, sampling, n_rows, (2, 7, 4))
    np.testing.assert_array_equal(strided, draw(kernels, arrays(), 5, 2, 3, sampling, n_rows, (2, 7, 4)))
    assert place.gaps_are_intact()


@pytest.mark.parametrize("n_rows", [2, 9, 500, 4096])
def test_compiled_permutations_are_the_same_where_whole_keys_must_decide(n_rows):
    """Keys are sorted by their upper 52 bits; where two of these agree, the permutations come from the reference."""
    order, arguments = numba_random._order(), (5, 7, 2, 3, 4, n_rows)
    usual = numba_random._order_of_keys(order, *arguments) & np.uint64(0xFFF)
    np.testing.assert_array_equal(usual, numba_random._order_of_whole_keys(*arguments))


@given(n=st.integers(1, 100), data=st.data())
def test_keys_whose_upper_bits_agree_are_noticed_wherever_they_are(n, data):
    keys = (np.arange(n, dtype=np.uint64) << np.uint64(12)) + np.uint64(7)
    place = data.draw(st.none() | st.integers(1, n - 1)) if n > 1 else None
    if place is not None:
        keys[place:] -= np.uint64(1 << 12)
    found = np.array([-1])
    numba_random._order().ties(n, keys.ctypes.data, found.ctypes.data)
    assert found[0] == (place is not None)


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("n_rows", [10, 5000], ids=["sorted keys", "bijection"])
def test_seed_network_and_step_may_be_numpy_integers(kernels, arrays, sampling, n_rows):
    numbers = np.uint64(SEED_MAX), np.int64(2), np.int32(3)
    rows = draw(kernels, arrays(), *numbers, sampling, n_rows, (2, 7, 4))
    np.testing.assert_array_equal(rows, draw(kernels, arrays(), SEED_MAX, 2, 3, sampling, n_rows, (2, 7, 4)))


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (0, 3, 4)])
def test_no_rows_are_drawn_into_an_empty_array(kernels, arrays, sampling, shape):
    assert draw(kernels, arrays(), 5, 2, 3, sampling, 10, shape).shape == shape


@pytest.mark.parametrize("n_rows", [1, 2, 17, 4096, 4097, 8192, 10_001])
@pytest.mark.parametrize("batch", [1000, 20_000], ids=["batches", "one batch"])
def test_every_epoch_is_a_fresh_permutation_with_its_short_batch_padded(kernels, arrays, n_rows, batch):
    per_epoch = -(-n_rows // batch)
    rows = draw(kernels, arrays(), 1, 0, 5 * per_epoch, "permutation", n_rows, (3 * per_epoch, batch))
    epochs = rows.reshape(3, per_epoch * batch)
    assert (epochs[:, n_rows:] == -1).all()
    np.testing.assert_array_equal(np.sort(epochs[:, :n_rows]), np.tile(np.arange(n_rows), (3, 1)))
    if n_rows > 10:
        assert len({tuple(epoch) for epoch in epochs.tolist()}) == 3


def test_sequential_rows_start_over_every_epoch_with_the_short_batch_padded(kernels, arrays):
    rows = draw(kernels, arrays(), 1, 0, 2, "sequential", 5, (5, 2))
    assert rows.tolist() == [[4, -1], [0, 1], [2, 3], [4, -1], [0, 1]]


@pytest.mark.parametrize("sampling", ["replacement", "permutation"])
@pytest.mark.parametrize("n_rows", [50, 5000], ids=["sorted keys", "bijection"])
def test_another_seed_network_or_epoch_is_another_order(kernels, arrays, sampling, n_rows):
    def order(seed, network, step):
        return tuple(draw(kernels, arrays(), seed, network, step, sampling, n_rows, (1, n_rows)).ravel())

    cases = [(1, 2, 3), (2, 2, 3), (1 + 2**32, 2, 3), (1, 3, 3), (1, 2, 4), (1, 2, 3 + 2**32)]
    assert len({order(*case) for case in cases}) == len(cases)


# ---- their distribution ----------------------------------------------------------------------------------------------


def assert_uniform(counts, cells):
    """A chi-square test that `counts` of outcomes are uniform over a number of cells."""
    observed = np.zeros(cells)
    observed[: len(counts)] = list(counts)
    assert stats.chisquare(observed).pvalue > P_VALUE


def assert_all_orders_are_equally_likely(orders, n):
    """A chi-square test over all permutations of n."""
    counts = Counter(map(tuple, orders.tolist()))
    assert set(counts) <= set(permutations(range(n)))
    assert_uniform(counts.values(), len(list(permutations(range(n)))))


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_all_orders_of_few_rows_are_equally_likely(kernels, arrays, n):
    orders = draw(kernels, arrays(), 17, 0, 0, "permutation", n, (20_000, n))
    assert_all_orders_are_equally_likely(orders, n)


def orders_by_the_bijection(n, vary, count=20_000):
    many, zero = np.arange(count)[:, None], np.zeros((1, 1), np.int64)
    network, epoch = (zero, many) if vary == "epoch" else (many, zero)
    return numpy_random._feistel(17, network, epoch, np.arange(n)[None, :], n).astype(np.int64)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("vary", ["epoch", "network"])
def test_all_orders_by_the_bijection_are_equally_likely(n, vary):
    assert_all_orders_are_equally_likely(orders_by_the_bijection(n, vary), n)


@pytest.fixture(scope="module")
def long_orders(kernels):
    """200 epochs of 5,000 rows by the bijection."""
    out = kernels.from_host(np.zeros((200, 5000), np.int64))
    kernels.draw_indices(99, 0, 0, sampling="permutation", n_rows=5000, out=out)
    return kernels.to_host(out)


def test_every_row_is_equally_likely_at_every_position_of_the_bijection(long_orders):
    positions = np.broadcast_to(np.arange(5000), long_orders.shape)
    table = np.histogram2d(positions.ravel(), long_orders.ravel(), bins=20, range=[[0, 5000]] * 2)[0]
    assert stats.chi2_contingency(table).pvalue > P_VALUE


@pytest.mark.parametrize("distance", [1, 2, 50, 2500])
def test_rows_near_each_other_in_the_bijection_know_nothing_of_each_other(long_orders, distance):
    """The cyclic difference of two rows of a random permutation is uniform over 1, ..., n - 1."""
    difference = (long_orders - np.roll(long_orders, distance, axis=1)) % 5000
    starts = np.arange(5000) // distance % 2 == 0  # no row in two pairs
    counts = np.bincount(difference[:, starts].ravel(), minlength=5000)
    assert counts[0] == 0
    assert_uniform(counts[1:4991].reshape(499, 10).sum(0), 10)
    assert_uniform(counts[1:4991].reshape(10, 499).sum(1), 10)


@pytest.mark.parametrize("position", [0, 1, 4999])
def test_a_position_of_the_bijection_takes_every_row_over_the_epochs(position):
    epochs = np.arange(40_000)[:, None]
    rows = numpy_random._feistel(3, np.zeros((1, 1), np.int64), epochs, np.array([[position]]), 5000)
    assert_uniform(np.bincount(rows.ravel().astype(np.int64) // 10, minlength=500), 500)


@pytest.mark.parametrize("n_rows", [2, 7, 1000])
def test_rows_with_replacement_are_uniform(kernels, arrays, n_rows):
    rows = draw(kernels, arrays(), 23, 0, 0, "replacement", n_rows, (1000, 100))
    assert_uniform(np.bincount(rows.ravel(), minlength=n_rows), n_rows)


def test_rows_with_replacement_are_independent_within_and_across_steps(kernels, arrays):
    rows = draw(kernels, arrays(), 29, 0, 0, "replacement", 6, (4000, 10))
    assert_uniform(np.bincount((6 * rows[:, ::2] + rows[:, 1::2]).ravel(), minlength=36), 36)
    assert_uniform(np.bincount((6 * rows[::2] + rows[1::2]).ravel(), minlength=36), 36)


# ---- dropout ---------------------------------------------------------------------------------------------------------


def mask(kernels, place, shape, *, rate, dtype=np.float32, seed=3, network=0, layer=0, step=0):
    out = place.blank(shape, dtype)
    kernels.dropout_mask(seed, network, layer, place.put(np.array(step)), rate, out=out)
    return place.get(out)


@pair
@given(seed=seeds, network=st.integers(0, 10_000), layer=st.integers(0, 255), step=first_steps, rate=st.floats(0, 0.99))
def test_every_device_drops_the_same_units(one, other, seed, network, layer, step, rate):
    results = []
    for backend in (one, other):
        kernels = load(backend)
        out = kernels.empty((2, 3, 7), np.float32)
        kernels.dropout_mask(seed, network, layer, kernels.from_host(np.array(step)), rate, out=out)
        results.append(kernels.to_host(out))
    np.testing.assert_array_equal(*results)


@given(seed=seeds, network=st.integers(0, 1000), layer=st.integers(0, 255), step=first_steps, rate=st.floats(0, 0.99))
def test_a_unit_is_dropped_where_its_word_is_below_the_rate(kernels, arrays, seed, network, layer, step, rate):
    shape = 2, 3, 5
    result = mask(kernels, arrays(), shape, rate=rate, seed=seed, network=network, layer=layer, step=step)
    for i in range(2):
        for element in range(15):
            word = words(seed, "dropout", network + i, layer, step, element // 4)[element % 4]
            expected = np.float32(0 if word < round(rate * 2**32) else 1 / (1 - rate))
            assert result[i].ravel()[element] == expected


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_drops_at_its_rate_and_scales_the_rest(kernels, arrays, dtype, rate):
    result = mask(kernels, arrays(), (1, 400, 50), rate=rate, dtype=dtype)
    assert set(np.unique(result)) == {dtype(0), dtype(1 / (1 - rate))}
    dropped = int((result == 0).sum())
    assert stats.binomtest(dropped, result.size, rate).pvalue > P_VALUE


def test_dropout_at_rate_zero_keeps_everything(kernels, arrays, dtype):
    assert (mask(kernels, arrays(), (2, 30, 5), rate=0.0, dtype=dtype) == 1).all()


def test_neighbouring_units_and_rows_are_dropped_independently(kernels, arrays):
    dropped = (mask(kernels, arrays(), (1, 500, 40), rate=0.5)[0] == 0).astype(int)
    assert_uniform(np.bincount((2 * dropped[:, ::2] + dropped[:, 1::2]).ravel(), minlength=4), 4)
    assert_uniform(np.bincount((2 * dropped[::2] + dropped[1::2]).ravel(), minlength=4), 4)


def test_another_seed_network_layer_or_step_drops_other_units(kernels, arrays):
    more = {"seed": 3 + 2**32}, {"layer": 255}, {"step": 2**32}
    changes = ({}, {"seed": 4}, {"network": 1}, {"layer": 1}, {"step": 1}, *more)
    masks = {mask(kernels, arrays(), (1, 10, 10), rate=0.5, **change).tobytes() for change in changes}
    assert len(masks) == len(changes)


def test_each_network_drops_what_it_drops_alone(kernels, arrays):
    together = mask(kernels, arrays(), (2, 3, 5, 3), rate=0.4, network=7)
    for i, index in enumerate(np.ndindex(2, 3)):
        np.testing.assert_array_equal(together[index], mask(kernels, arrays(), (1, 5, 3), rate=0.4, network=7 + i)[0])


def test_the_first_rows_of_a_mask_do_not_depend_on_the_later_ones(kernels, arrays):
    whole = mask(kernels, arrays(), (1, 9, 5), rate=0.4)
    np.testing.assert_array_equal(whole[:, :4], mask(kernels, arrays(), (1, 4, 5), rate=0.4))


def test_no_rows_have_an_empty_mask(kernels, arrays):
    assert mask(kernels, arrays(), (2, 0, 5), rate=0.4).shape == (2, 0, 5)


def test_a_mask_may_be_written_to_any_strides(kernels, arrays):
    place = arrays((2, -3, 2))
    np.testing.assert_array_equal(
        mask(kernels, place, (2, 4, 5), rate=0.4), mask(kernels, arrays(), (2, 4, 5), rate=0.4)
    )
    assert place.gaps_are_intact()
