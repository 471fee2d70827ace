"""The whole run of any small network, with sizes that are read when it runs: rows in lanes.

Compiled once for each real type. `activate`, `loss_of` and `updated_by` choose among the formulas by their number; they
are printed by `nnkernels.backends.numba.codegen.generic`, which also says what `sizes`, `settings` and `schedule` hold.
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
        top = max(load(p, j * LANES), top)
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


def take_rows(x, t, weight, order, step, base, factor, sizes, workspace):
    """Bring a vector of rows together: inputs, targets, and their factor."""
    padded, n_out, n_in = sizes[3], sizes[9], sizes[10]
    inputs, targets = workspace + sizes[13], workspace + sizes[14]
    if sizes[7] == 1:
        for k in range(n_in):
            store(inputs, k * LANES, load(x, k * padded + base))
        for j in range(n_out):
            store(targets, j * LANES, load(t, j * padded + base))
        if sizes[8] == 1:
            factor = factor * load(weight, base)
    else:
        rows = load(order, step * padded + base)
        for k in range(n_in):
            store(inputs, k * LANES, gather(x, rows * n_in + k))
        for j in range(n_out):
            store(targets, j * LANES, gather(t, rows * n_out + j))
        if sizes[8] == 1:
            factor = factor * gather(weight, rows)
    return factor


def activate_rows(about, base, outputs, slopes, mask):
    """Turn a layer's z into its outputs and slopes, dropout included."""
    for j in range(about[1]):
        a, s = activate(about[2], load(outputs, j * LANES))
        if about[8] > 0:
            kept = gather(mask, (lanes() + base) * about[1] + j)
            a, s = a * kept, s * kept
        store(outputs, j * LANES, a)
        store(slopes, j * LANES, s)


def forward(parameters, workspace, sizes, base):
    """All layers, for a vector of rows; the last one's outputs are its z."""
    inputs_place = sizes[13]
    for layer in range(sizes[0]):
        about = sizes + (16 + layer * 10)
        outputs = workspace + about[6]
        inputs = workspace + inputs_place
        products(parameters, about[3], about[4], about[5], about[0], about[1], inputs, outputs)
        if layer < sizes[0] - 1:
            activate_rows(about, base, outputs, workspace + about[7], workspace + about[9])
        inputs_place = about[6]


def loss_of_rows(workspace, sizes, factor, delta):
    """The losses of a vector of rows, unweighted; the deltas go where the last layer's slopes would."""
    last = sizes + (16 + (sizes[0] - 1) * 10)
    p, e, t = workspace + last[6], workspace + last[7], workspace + sizes[14]
    row_loss = splat(real(0.0))
    if sizes[4] == -1:
        row_loss = cross_entropy(p, e, t, sizes[9], factor)
    else:
        row_loss = elementwise_loss(sizes[4], sizes[6], p, e, t, sizes[9], factor, delta)
    return row_loss


def backward(parameters, workspace, sizes):
    """Add a vector of rows to the gradient's sums, layer by layer from the last one."""
    sums = workspace + sizes[11]
    for back in range(sizes[0]):
        layer = sizes[0] - 1 - back
        about = sizes + (16 + layer * 10)
        deltas = workspace + about[7]
        inputs_place = sizes[13]
        if layer > 0:
            inputs_place = sizes[16 + layer * 10 - 4]  # the outputs of the layer before
        gradients(sums, about[3], about[4], about[5], about[0], about[1], workspace + inputs_place, deltas)
        if layer > 0:
            below = workspace + sizes[16 + layer * 10 - 3]
            deltas_below(parameters, about[3], about[0], about[1], deltas, below)


def update(parameters, workspace, sizes, settings, now):
    """Sum the gradient over lanes, penalize, clip, and update the parameters and the state."""
    size, sums, g = sizes[1], workspace + sizes[11], workspace + sizes[12]
    first, second = parameters + size, parameters + 2 * size
    for i in range(size):
        g[i] = lane(total(load(sums, i * LANES)), 0)
    if settings[7] > 0:
        for layer in range(sizes[0]):
            about = sizes + (16 + layer * 10)
            penalize(parameters, g, about[3], about[4], settings[8], settings[9])
    if settings[10] > 0:
        clip_by_value(g, size, settings[10])
    if settings[11] > 0:
        scale = clip_scale(g, size, settings[11])
        for i in range(0, size, LANES):
            store(g, i, load(g, i) * scale)
    for i in range(0, size, LANES):
        p, m, v = updated_by(sizes[5], load(parameters, i), load(g, i), load(first, i), load(second, i), now, settings)
        store(parameters, i, p)
        store(first, i, m)
        store(second, i, v)


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
    """Train for a number of steps, on one thread."""
    batch, size, sums = sizes[2], sizes[1], workspace + sizes[11]
    losses = double(0.0)
    for step in range(steps):
        for layer in range(sizes[0]):
            about = sizes + (16 + layer * 10)
            if about[8] > 0:
                mask = workspace + about[9]
                drop(seeds, layer, seeds[2] + step, about[8], settings[12 + layer], mask, batch * about[1])
        for i in range(0, size * LANES, LANES):
            store(sums, i, splat(0.0))
        for base in range(0, batch, LANES):
            inside = below(counts[step] - base)
            factor = where(inside, splat(schedule[step * 8 + 7]), 0.0)
            factor = take_rows(x, t, weight, order, step, base, factor, sizes, workspace)
            forward(parameters, workspace, sizes, base)
            row_loss = loss_of_rows(workspace, sizes, factor, settings[0])
            losses = losses + double(lane(total(where(inside, row_loss * factor, 0.0)), 0))
            backward(parameters, workspace, sizes)
        update(parameters, workspace, sizes, settings, schedule + step * 8)
        loss[1 + step] = losses
