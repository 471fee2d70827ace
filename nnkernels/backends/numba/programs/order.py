"""Counter-based random numbers over lanes, the order of rows, dropout masks: the bits of the NumPy reference.

Written in the language of `nnkernels.backends.numba.language`. What is drawn is explained where NumPy draws it, in
`nnkernels.backends.numpy.random`; `nnkernels.backends.numba.random` calls the functions with annotated arguments. Lanes
are elements of the output. Steps and items are followed by additions, for a division of lanes is slow.
"""

from __future__ import annotations


def philox(seed, stream, network, layer, step, item):
    """Philox4x32-10: four 32-bit words of each counter; step and item are vectors.

    Upper halves are cut off where a product needs it, which costs nothing: it is the product of lower halves.
    """
    c0, c1, c2, c3 = item, step, splat(network), (step >> 32) | (stream << 24 | layer << 16)
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        p0, p1 = (c0 & 0xFFFFFFFF) * 0xD2511F53, (c2 & 0xFFFFFFFF) * 0xCD9E8D57
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1, (p0 >> 32) ^ c3 ^ k1, p0
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0 & 0xFFFFFFFF, c1 & 0xFFFFFFFF, c2 & 0xFFFFFFFF, c3 & 0xFFFFFFFF


def pair(seed, stream, network, step, item):
    """Two 32-bit words of each item: items 2 i and 2 i + 1 share a counter."""
    first, second, third, fourth = philox(seed, stream, network, 0, step, item >> 1)
    odd = (item & 1) == 1
    return where(odd, third, first), where(odd, fourth, second)


def write(out, i, size, value):
    """Store lanes at i, those that are inside."""
    if i + LANES <= size:
        store(out, i, value)
    else:
        for k in range(size - i):
            out[i + k] = lane(value, k)


def replacement(
    seed: int, network: int, networks: int, first_step: int, count: int, batch: int, n_rows: int, out: ints
):
    """Independent uniform rows; out (networks, count, batch)."""
    size = count * batch
    for i in range(networks):
        step, item = lanes() // batch + first_step, lanes() % batch
        for e in range(0, size, LANES):
            high, low = pair(seed, 0, network + i, step, item)
            write(out + i * size, e, size, (high * n_rows + (low * n_rows >> 32)) >> 32)
            item = item + LANES % batch
            over = item >= batch
            step = step + where(over, LANES // batch + 1, LANES // batch)
            item = where(over, item - batch, item)


def sequential(networks: int, first_step: int, count: int, batch: int, n_rows: int, out: ints):
    """0, 1, ... cut into batches; out (networks, count, batch)."""
    size, per_epoch = count * batch, (n_rows + batch - 1) // batch
    span = per_epoch * batch
    for i in range(networks):
        position = (lanes() + first_step % per_epoch * batch) % span
        for e in range(0, size, LANES):
            write(out + i * size, e, size, where(position < n_rows, position, -1))
            position = position + LANES % span
            position = where(position >= span, position - span, position)


def sort_keys(seed: int, network: int, networks: int, first_epoch: int, epochs: int, n_rows: int, keys: ints):
    """The upper 52 bits of a row's key, then the row: once sorted, a permutation; keys (networks, epochs, n_rows)."""
    size = epochs * n_rows
    for i in range(networks):
        epoch, row = lanes() // n_rows + first_epoch, lanes() % n_rows
        for e in range(0, size, LANES):
            high, low = pair(seed, 2, network + i, epoch, row)
            write(keys + i * size, e, size, ((high << 32) | (low & 0xFFFFF000)) | row)
            row = row + LANES % n_rows
            over = row >= n_rows
            epoch = epoch + where(over, LANES // n_rows + 1, LANES // n_rows)
            row = where(over, row - n_rows, row)


def ties(n: int, keys: ints, found: ints):
    """Whether the upper 52 bits of a sorted key are those of the next one, whose row may then be out of its place."""
    some = lanes() < 0
    for e in range(0, n - LANES, LANES):
        some = some | ((load(keys, e) >> 12) == (load(keys, e + 1) >> 12))
    found[0] = 0
    if any(some):
        found[0] = 1
    for e in range(max(n - LANES - 1, 0), n - 1):
        if (keys[e] >> 12) == (keys[e + 1] >> 12):
            found[0] = 1


def permuted(networks: int, first_step: int, count: int, batch: int, n_rows: int, epochs: int, table: ints, out: ints):
    """The rows at the end of a table's keys; table (networks, epochs, n_rows), out (networks, count, batch)."""
    size, per_epoch = count * batch, (n_rows + batch - 1) // batch
    span = per_epoch * batch
    for i in range(networks):
        flat = lanes() + first_step % per_epoch * batch
        position, start = flat % span, flat // span * n_rows
        for e in range(0, size, LANES):
            inside = position < n_rows
            rows = gather(table + i * epochs * n_rows, start + where(inside, position, 0)) & 0xFFF
            write(out + i * size, e, size, where(inside, rows, -1))
            position = position + LANES % span
            over = position >= span
            start = start + where(over, LANES // span + 1, LANES // span) * n_rows
            position = where(over, position - span, position)


def mix(value, key):
    """Round function: 32 well mixed bits of a half and a round key."""
    mixed = (value ^ key) * 0x9E3779B97F4A7C15
    return ((mixed ^ (mixed >> 32)) * 0xD6E8FEB86659FD93) >> 32


def round_keys(seed, network, epoch, keys):
    """Write the 24 round keys of an epoch."""
    for block in range(0, 6, LANES):
        w0, w1, w2, w3 = philox(seed, 3, network, 0, splat(epoch), lanes() + block)
        for k in range(min(LANES, 6 - block)):
            keys[4 * (block + k)], keys[4 * (block + k) + 1] = lane(w0, k), lane(w1, k)
            keys[4 * (block + k) + 2], keys[4 * (block + k) + 3] = lane(w2, k), lane(w3, k)


def rounds(value, bits, keys):
    """A keyed bijection of the numbers of so many bits."""
    right_bits = bits - (bits >> 1)
    left_mask, right_mask = (1 << (bits >> 1)) - 1, (1 << right_bits) - 1
    left, right = value >> right_bits, value & right_mask
    for k in range(0, 24, 2):
        left = left ^ (mix(right, keys[k]) & left_mask)
        right = right ^ (mix(left, keys[k + 1]) & right_mask)
    return left << right_bits | right


def walk(out, n, n_rows, bits, keys, todo):
    """Take those of n numbers that are no row through the bijection until they are.

    The few that are left are brought together first: lanes that wait for one of them would idle. `todo` has room for n
    places and LANES.
    """
    left = 0
    for e in range(n):
        todo[left] = e
        left += where(out[e] >= n_rows, 1, 0)
    store(todo, left, 0)  # lanes beyond the last place read the first number
    while left > 0:
        for e in range(0, left, LANES):
            places = load(todo, e)
            values = rounds(gather(out, places), bits, keys)
            for k in range(min(LANES, left - e)):
                out[lane(places, k)] = lane(values, k)
        before = left
        left = 0
        for e in range(before):
            place = todo[e]
            todo[left] = place
            left += where(out[place] >= n_rows, 1, 0)


def feistel(
    seed: int,
    network: int,
    networks: int,
    first_step: int,
    count: int,
    batch: int,
    n_rows: int,
    bits: int,
    scratch: ints,
    out: ints,
):
    """Permutations as a keyed bijection of 2**bits >= n_rows numbers; out (networks, count, batch).

    `scratch` has room for 24 keys, 1024 places and LANES.
    """
    size, per_epoch = count * batch, (n_rows + batch - 1) // batch
    span = per_epoch * batch
    for i in range(networks):
        done = 0
        while done < size:  # at most 1024 elements, of one epoch, at a time
            flat = first_step % per_epoch * batch + done
            start, n = flat % span, min(size - done, 1024)
            n = min(n, span - start)
            rows = out + i * size + done
            round_keys(seed, network + i, first_step // per_epoch + flat // span, scratch)
            for e in range(0, n, LANES):
                position = lanes() + (start + e)
                write(rows, e, n, where(position < n_rows, rounds(position, bits, scratch), -1))
            walk(rows, n, n_rows, bits, scratch, scratch + 24)
            done += n


def dropout(
    seed: int,
    network: int,
    networks: int,
    layer: int,
    step: int,
    size: int,
    threshold: int,
    keep: real,
    out: reals,
):
    """0 where a word is below the threshold, else `keep`; out (networks, size), four elements to a counter."""
    for i in range(networks):
        for e in range(0, size, 4 * LANES):
            w0, w1, w2, w3 = philox(seed, 1, network + i, layer, splat(step), lanes() + (e >> 2))
            even0, even1 = interleave(where(w0 < threshold, 0.0, keep), where(w2 < threshold, 0.0, keep))
            odd0, odd1 = interleave(where(w1 < threshold, 0.0, keep), where(w3 < threshold, 0.0, keep))
            first, second = interleave(even0, odd0)
            third, fourth = interleave(even1, odd1)
            row = out + i * size
            write(row, e, size, first)
            write(row, e + LANES, size, second)
            write(row, e + 2 * LANES, size, third)
            write(row, e + 3 * LANES, size, fourth)
