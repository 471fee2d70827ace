"""NumPy arrays as compiled code sees them: the fields of NumPy's C structure, cut into what a thread does.

Written in the language of `nnkernels.backends.numba.language`, whose functions need no import. `call` is what
`nnkernels.backends.numba.vectorized` says about a call: what the type and the numbers of an array are compared with,
the part of it that is to be done.
"""


def dense(array, call, kind, flags):
    """1 for an array of such numbers that lie one after the other (flags 257) and can be written to (1281), else 0."""
    fits = 0
    if array[1] == call[0]:
        if array[7] == call[kind]:
            if (array[8] & flags) == flags:
                fits = 1
    return fits


def size_of(array):
    """Number of elements."""
    size = 1
    lengths = ints_at(array[4])
    for axis in range(array[3] & 0xFFFFFFFF):
        size = size * lengths[axis]
    return size


def last_length(array):
    """Length of the last axis; at least 1."""
    length, axes = 1, array[3] & 0xFFFFFFFF
    if axes > 0:
        length = max(ints_at(array[4])[axes - 1], 1)
    return length


def verdict(call, size):
    """0 for a call that is to be carried out, 2 for one of so many elements that it is to be made in parts."""
    return where(size < call[4], 0, where(call[7] == 0, 2, 0))


def cut(size, grain, call, end):
    """Where a part of so many elements or rows begins, and with `end` 1 where it ends; cut at multiples of `grain`."""
    parts = max(call[7], 1)
    whole = size * (call[6] + end) // parts
    return where(call[6] + end == parts, size, whole - whole % grain)


def streams(call, size, source, first, last):
    """Whether to write past the caches: not what was just read, nor what fits in them."""
    return (size >= call[5]) & (source[2] != first[2]) & (source[2] != last[2]) & ((first[2] - last[2]) % 64 == 0)


def until_aligned(array, first):
    """Elements from `first` on before one at a whole vector's address."""
    element = 8
    if single():
        element = 4
    return (0 - array[2] - first * element) % (LANES * element) // element
