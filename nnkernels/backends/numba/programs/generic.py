"""The whole run of any small network, with sizes that are read when it runs: rows in lanes.

Compiled once for each real type. `activate`, `loss_of` and `updated_by` choose among the formulas by their number; they are
printed by `nnkernels.backends.numba.codegen.generic`, which also says what `sizes`, `settings` and `schedule` hold.
"""

from __future__ import annotations


def product(w, base, n_in, n_out, j, inputs, z0):
    """One output's z for a vector of rows: z0 plus the inputs times its weights."""
    even = z0
    odd = splat(real(0.0))
    for k in range(0, n_in - 1, 2):
        even = fma(w[base + k * n_out + j], load(inputs, k * LANES), even)
        odd = fma(w[base + (k + 1) * n_out + j], load(inputs, (k + 1) * LANES), odd)
    if n_in % 2 == 1:
        even = fma(w[base + (n_in - 1) * n_out + j], load(inputs, (n_in - 1) * LANES), even)
    return even + odd


def products(w, base, bias, biased, n_in, n_out, inputs, out):
    """Every output's z for a vector of rows, four outputs at a time."""
    for j in range(0, n_out - 3, 4):
        z0 = splat(real(0.0))
        z1 = z0
        z2 = z0
        z3 = z0
        if biased == 1:
            z0 = splat(w[bias + j])
            z1 = splat(w[bias + j + 1])
            z2 = splat(w[bias + j + 2])
            z3 = splat(w[bias + j + 3])
        for k in range(n_in):
            place = base + k * n_out + j
            x = load(inputs, k * LANES)
            z0 = fma(w[place], x, z0)
            z1 = fma(w[place + 1], x, z1)
            z2 = fma(w[place + 2], x, z2)
            z3 = fma(w[place + 3], x, z3)
        store(out, j * LANES, z0)
        store(out, (j + 1) * LANES, z1)
        store(out, (j + 2) * LANES, z2)
        store(out, (j + 3) * LANES, z3)
    for j in range(n_out // 4 * 4, n_out):
        z = splat(real(0.0))
        if biased == 1:
            z = splat(w[bias + j])
        store(out, j * LANES, product(w, base, n_in, n_out, j, inputs, z))


def gradients(sums, base, bias, biased, n_in, n_out, inputs, deltas):
    """Add a vector of rows to the sums of a layer's gradient."""
    for k in range(n_in):
        x = load(inputs, k * LANES)
        for j in range(n_out):
            place = (base + k * n_out + j) * LANES
            store(sums, place, fma(x, load(deltas, j * LANES), load(sums, place)))
    if biased == 1:
        for j in range(n_out):
            place = (bias + j) * LANES
            store(sums, place, load(sums, place) + load(deltas, j * LANES))


def deltas_below(w, base, n_in, n_out, deltas, below):
    """Turn the slopes of the layer below into its deltas."""
    for k in range(n_in):
        even = splat(real(0.0))
        odd = even
        for j in range(0, n_out - 1, 2):
            even = fma(w[base + k * n_out + j], load(deltas, j * LANES), even)
            odd = fma(w[base + k * n_out + j + 1], load(deltas, (j + 1) * LANES), odd)
        if n_out % 2 == 1:
            even = fma(w[base + k * n_out + n_out - 1], load(deltas, (n_out - 1) * LANES), even)
        store(below, k * LANES, (even + odd) * load(below, k * LANES))


def exponentials(p, e, n):
    """e = exp(p - the largest p), and the largest p and the sum of e, over the outputs of each row."""
    top = load(p, 0)
    for j in range(1, n):
        v = load(p, j * LANES)
        top = where(v > top, v, where(v == v, top, v))
    whole = splat(real(0.0))
    for j in range(n):
        v = exp(load(p, j * LANES) - top)
        whole = whole + v
        store(e, j * LANES, v)
    return top, whole


def cross_entropy(p, e, t, n, factor):
    """Write the deltas to e and return the losses: nothing cancels, as in the reference."""
    top, whole = exponentials(p, e, n)
    others = splat(real(0.0))
    label = splat(real(-1.0))
    shift = splat(real(0.0))
    for j in range(n):
        v = load(e, j * LANES)
        target = load(t, j * LANES)
        others = others + v * (1 - target)
        label = label + v * target
        shift = shift + where(target > 0, target * (load(p, j * LANES) - top), 0.0)
    scale = factor / whole
    for j in range(n):
        v = load(e, j * LANES)
        target = load(t, j * LANES)
        store(e, j * LANES, scale * (v * (1 - target) - target * others))
    return log1p(others + label) - shift


def elementwise_loss(kind, squashing, p, e, t, n, factor, delta):
    """Write the deltas to e and return the losses, summed over outputs; squashing -1 is softmax."""
    if squashing == -1:
        top, whole = exponentials(p, e, n)
        for j in range(n):
            store(p, j * LANES, load(e, j * LANES) / whole)
    losses = splat(real(0.0))
    dot = splat(real(0.0))
    for j in range(n):
        a = load(p, j * LANES)
        s = splat(real(1.0))
        if squashing > 0:
            a, s = activate(squashing, a)
        loss, slope = loss_of(kind, a, load(t, j * LANES), real(n), delta)
        slope = slope * s * factor
        losses = losses + loss
        dot = fma(slope, a, dot)
        store(e, j * LANES, slope)
    if squashing == -1:
        for j in range(n):
            store(e, j * LANES, load(p, j * LANES) * (load(e, j * LANES) - dot))
    return losses


def clip_by_value(g, size, limit):
    """Clip a gradient to [-limit, limit]."""
    for i in range(0, size, LANES):
        store(g, i, min(max(load(g, i), -limit), limit))


def penalize(p, g, start, stop, l1, l2):
    """Add the penalties' slopes to a gradient."""
    for i in range(start, stop, LANES):
        w = load(p, i)
        store(g, i, load(g, i) + (l1 * sign(w) + l2 * w))


def run(
    parameters: reals,
    workspace: reals,
    x: reals,
    t: reals,
    weight: reals,
    order: ints,
    counts: ints,
    schedule: reals,
    settings: reals,
    sizes: ints,
    loss: doubles,
    seeds: ints,
    steps: int,
    sync: ints,
    thread: int,
    threads: int,
):
    n_layers = sizes[0]
    size = sizes[1]
    batch = sizes[2]
    padded = sizes[3]
    loss_kind = sizes[4]
    optimizer = sizes[5]
    squashing = sizes[6]
    whole = sizes[7]
    weighted = sizes[8]
    n_out = sizes[9]
    n_in = sizes[10]
    sums = workspace + sizes[11]
    g = workspace + sizes[12]
    inputs0 = workspace + sizes[13]
    targets = workspace + sizes[14]
    first = parameters + size
    second = parameters + 2 * size
    losses = loss[0]
    last = 16 + (n_layers - 1) * 10
    for step in range(steps):
        now = schedule + step * 8
        share = now[7]
        for layer in range(n_layers):
            about = sizes + (16 + layer * 10)
            if about[8] > 0:
                drop(
                    seeds,
                    layer,
                    seeds[2] + step,
                    about[8],
                    settings[12 + layer],
                    workspace + about[9],
                    batch * about[1],
                )
        for i in range(0, size * LANES, LANES):
            store(sums, i, splat(0.0))
        for base in range(0, batch, LANES):
            count = counts[step] - base
            inside = below(count)
            factor = where(inside, splat(share), 0.0)
            if whole == 1:
                for k in range(n_in):
                    store(inputs0, k * LANES, load(x, k * padded + base))
                for j in range(n_out):
                    store(targets, j * LANES, load(t, j * padded + base))
                if weighted == 1:
                    factor = factor * load(weight, base)
            else:
                rows = load(order, step * padded + base)
                for k in range(n_in):
                    store(inputs0, k * LANES, gather(x, rows * n_in + k))
                for j in range(n_out):
                    store(targets, j * LANES, gather(t, rows * n_out + j))
                if weighted == 1:
                    factor = factor * gather(weight, rows)
            from_place = sizes[13]
            for layer in range(n_layers):
                about = sizes + (16 + layer * 10)
                outputs = workspace + about[6]
                slopes = workspace + about[7]
                products(parameters, about[3], about[4], about[5], about[0], about[1], workspace + from_place, outputs)
                if layer < n_layers - 1:
                    mask = workspace + about[9]
                    for j in range(about[1]):
                        a, s = activate(about[2], load(outputs, j * LANES))
                        if about[8] > 0:
                            kept = gather(mask, (lanes() + base) * about[1] + j)
                            a = a * kept
                            s = s * kept
                        store(outputs, j * LANES, a)
                        store(slopes, j * LANES, s)
                from_place = about[6]
            predictions = workspace + sizes[last + 6]
            deltas = workspace + sizes[last + 7]
            row_loss = splat(real(0.0))
            if loss_kind == -1:
                row_loss = cross_entropy(predictions, deltas, targets, n_out, factor)
            else:
                row_loss = elementwise_loss(
                    loss_kind, squashing, predictions, deltas, targets, n_out, factor, settings[0]
                )
            losses = losses + double(lane(total(where(inside, row_loss * factor, 0.0)), 0))
            for back in range(n_layers):
                layer = n_layers - 1 - back
                about = sizes + (16 + layer * 10)
                own = workspace + about[7]
                if layer > 0:
                    before = about + -10
                    gradients(sums, about[3], about[4], about[5], about[0], about[1], workspace + before[6], own)
                    deltas_below(parameters, about[3], about[0], about[1], own, workspace + before[7])
                else:
                    gradients(sums, about[3], about[4], about[5], about[0], about[1], inputs0, own)
        for i in range(size):
            g[i] = lane(total(load(sums, i * LANES)), 0)
        if settings[7] > 0:
            for layer in range(n_layers):
                about = sizes + (16 + layer * 10)
                penalize(parameters, g, about[3], about[4], settings[8], settings[9])
        if settings[10] > 0:
            clip_by_value(g, size, settings[10])
        if settings[11] > 0:
            scale = clip_scale(g, size, settings[11])
            for i in range(0, size, LANES):
                store(g, i, load(g, i) * scale)
        for i in range(0, size, LANES):
            p, m, v = updated_by(
                optimizer, load(parameters, i), load(g, i), load(first, i), load(second, i), now, settings
            )
            store(parameters, i, p)
            store(first, i, m)
            store(second, i, v)
    loss[0] = losses
