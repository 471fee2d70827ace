"""Pieces of whole-run programs that are not elementwise: clipping by norm, the barrier between threads.

Written in the language of `nnkernels.backends.numba.language`, whose functions need no import.
"""


def clip_scale(g, size, limit):
    """The factor that scales g to a norm of at most `limit`; relative to its largest element: squares may overflow."""
    most = splat(real(0.0))
    for i in range(0, size, LANES):
        most = max(abs(load(g, i)), most)
    most = largest(most)
    unit = where(most > 0, most, 1.0)
    squares = splat(real(0.0))
    for i in range(0, size, LANES):
        ratio = load(g, i) / unit
        squares = fma(ratio, ratio, squares)
    return norm_scale(total(squares), unit, limit)


def norm_scale(squares, unit, limit):
    """The factor that scales a norm to at most `limit`, from the sum of the squares of its elements over `unit`."""
    norm = sqrt(squares)
    return min(where(norm > 0, limit / unit / norm, 1.0), 1.0)


def barrier(sync, meetings):
    """Wait until all threads have arrived: spin for a while, then let others have the core."""
    before = atomic_add(sync, 0, 1)
    turns = 0
    while atomic_load(sync, 0) < meetings:
        turns = turns + 1
        if turns > 2000:
            yield_thread()


def drop(seeds, layer, step, threshold, keep, mask, size):
    """Write a layer's dropout mask of one step."""
    dropout(seeds[0], seeds[1], 1, layer, step, size, threshold, keep, mask)


def dropped(seed, networks, layer, step, element, threshold, keep):
    """The factors that a mask has for one element of each lane's network: 0 where its word is below the threshold."""
    w0, w1, w2, w3 = philox(seed, 1, networks, layer, splat(step), element >> 2)
    place = element & 3
    low, high = where(place & 1 == 1, w1, w0), where(place & 1 == 1, w3, w2)
    return where(where(place > 1, high, low) < threshold, 0.0, keep)
