"""Kernels on the rows of a batch, or of a whole network's gradient: a row's elements in lanes, the last ones masked.

Written in the language of `nnkernels.backends.numba.language`, whose functions need no import.
"""


def larger(top, value):
    """The larger one; NaN if one of them is."""
    return where(value > top, value, where(value == value, top, value))


def largest_of_row(z, start, n):
    """The largest element, in every lane."""
    top = splat(real(-1e400))
    for k in range(0, n - LANES + 1, LANES):
        top = larger(top, load(z, start + k))
    rest = n % LANES
    if rest > 0:
        top = larger(top, where(below(rest), load_first(z, start + n - rest, rest), -1e400))
    return largest(top)


def scale_row(out, start, n, factor):
    """Multiply a row."""
    for k in range(0, n - LANES + 1, LANES):
        store(out, start + k, load(out, start + k) * factor)
    rest = n % LANES
    if rest > 0:
        store_first(out, start + n - rest, load_first(out, start + n - rest, rest) * factor, rest)


def exponentials_of_row(z, out, start, n, top):
    """exp(z - top); returns their sum, in every lane."""
    sums = splat(real(0.0))
    for k in range(0, n - LANES + 1, LANES):
        e = exp_of_minus(top - load(z, start + k))
        store(out, start + k, e)
        sums = sums + e
    rest = n % LANES
    if rest > 0:
        e = exp_of_minus(top - load_first(z, start + n - rest, rest))
        store_first(out, start + n - rest, e, rest)
        sums = sums + where(below(rest), e, 0)
    return total(sums)


def softmax_forward_of_rows(z, out, n, first, last):
    """exp(z) / sum(exp(z)) of some rows."""
    for row in range(first, last):
        start = row * n
        top = largest_of_row(z, start, n)
        scale_row(out, start, n, 1 / exponentials_of_row(z, out, start, n, top))


def softmax_backward_of_rows(da, a, out, n, first, last):
    """a * (da - sum(da * a)) of some rows."""
    rest = n % LANES
    for row in range(first, last):
        start = row * n
        tail = start + n - rest
        sums = load_first(da, tail, rest) * load_first(a, tail, rest)
        for k in range(0, n - LANES + 1, LANES):
            sums = fma(load(da, start + k), load(a, start + k), sums)
        dot = total(sums)
        for k in range(0, n - LANES + 1, LANES):
            store(out, start + k, load(a, start + k) * (load(da, start + k) - dot))
        store_first(out, tail, load_first(a, tail, rest) * (load_first(da, tail, rest) - dot), rest)


def categorical_cross_entropy_forward_of_rows(p, t, weight, n, first, last):
    """Sum of weight * (log(sum(exp(p))) - p[label]), in double precision; the logarithms of LANES rows at a time.

    As log1p without the label's own 1 where it is the largest: a small loss keeps its digits.
    """
    sums = double(splat(real(0.0)))
    inner, labels = buffer(LANES), buffer(LANES)
    rest = n % LANES
    for block in range(first, last, LANES):
        count = min(LANES, last - block)
        for row in range(count):
            start = (block + row) * n
            tail = start + n - rest
            top = largest_of_row(p, start, n)
            others, label, shifted = splat(real(0.0)), splat(real(0.0)), splat(real(0.0))
            for k in range(0, n - LANES + 1, LANES):
                others, label, shifted = of_label(load(p, start + k) - top, load(t, start + k), others, label, shifted)
            if rest > 0:
                z = where(below(rest), load_first(p, tail, rest) - top, -1e4)
                others, label, shifted = of_label(z, load_first(t, tail, rest), others, label, shifted)
            three = totals(others, label, shifted)
            inner[row] = lane(three, 0) + (lane(three, 1) - 1)
            labels[row] = lane(three, 2)
        losses = load_first(weight, block, count) * (log1p(load(inner, 0)) - load(labels, 0))
        sums = sums + double(where(below(count), losses, 0))
    return lane(total(sums), 0)


def of_label(z, t, others, label, shifted):
    """Sums over a row: of exp(z) where the label is not, where it is, and of z there."""
    e = exp_of_minus(0 - z)
    return others + (1 - t) * e, label + t * e, shifted + t * z


def categorical_cross_entropy_backward_of_rows(p, t, weight, out, n, first, last):
    """weight * (softmax(p) - t) of some rows; at the label as minus the sum of the others, which does not cancel."""
    rest = n % LANES
    for row in range(first, last):
        start = row * n
        tail = start + n - rest
        top = largest_of_row(p, start, n)
        scale = 1 / exponentials_of_row(p, out, start, n, top)
        others = (1 - load_first(t, tail, rest)) * load_first(out, tail, rest)
        for k in range(0, n - LANES + 1, LANES):
            others = others + (1 - load(t, start + k)) * load(out, start + k)
        others = total(others) * scale
        for k in range(0, n - LANES + 1, LANES):
            a, label = load(out, start + k) * scale, load(t, start + k)
            store(out, start + k, weight[row] * (a * (1 - label) - label * others))
        a, label = load_first(out, tail, rest) * scale, load_first(t, tail, rest)
        store_first(out, tail, weight[row] * (a * (1 - label) - label * others), rest)


def clip_by_norm_of_rows(g, n, limit, first, last):
    """Scale some rows so that each one's norm is at most `limit`."""
    for row in range(first, last):
        clip_row_by_norm(g, row * n, n, limit)


def clip_row_by_norm(g, start, n, limit):
    """Scale g so that its norm is at most `limit`; relative to the largest element, whose square may overflow."""
    top = real(1.0)  # the square of a float32 does not overflow in double precision
    if not single():
        top = largest_magnitude(g, start, n)
        top = where(top == 0, 1.0, top)
    squares = double(splat(real(0.0)))
    for k in range(0, n - LANES + 1, LANES):
        ratio = double(load(g, start + k) / top)
        squares = fma(ratio, ratio, squares)
    rest = n % LANES
    if rest > 0:
        ratio = double(load_first(g, start + n - rest, rest) / top)
        squares = fma(ratio, ratio, squares)
    norm = lane(sqrt(total(squares)), 0)
    scale = min(limit / double(top) / where(norm == 0, limit / double(top), norm), 1) + (norm - norm)
    for k in range(0, n - LANES + 1, LANES):
        store(g, start + k, real(double(load(g, start + k)) * scale))
    if rest > 0:
        store_first(g, start + n - rest, real(double(load_first(g, start + n - rest, rest)) * scale), rest)


def largest_magnitude(g, start, n):
    """The largest |g|."""
    top = splat(real(0.0))
    for k in range(0, n - LANES + 1, LANES):
        top = larger(top, abs(load(g, start + k)))
    rest = n % LANES
    if rest > 0:
        top = larger(top, abs(load_first(g, start + n - rest, rest)))
    return lane(largest(top), 0)
