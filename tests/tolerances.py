"""How close is close: the one table of tolerances, by dtype and operation. Every test reads it."""

import numpy as np

# Units in the last place of the exact result: the accuracy that the Protocol promises for an elementwise kernel.
ULP = {
    ("float32", "activation"): 6,
    ("float64", "activation"): 6,
    ("float32", "slope"): 6,
    ("float64", "slope"): 6,
    ("float32", "loss_slope"): 6,
    ("float64", "loss_slope"): 6,
    # softmax rounds z - max(z) first; the test adds that rounding, |z - max(z)| / 2 ulp of the result, to these
    ("float32", "softmax"): 6,
    ("float64", "softmax"): 6,
    # the compiler's own functions; the test adds 1.5 |z| for an exponential of z, which rounds z / log(2) first
    ("float32", "elementary"): 6,
    ("float64", "elementary"): 6,
}

# A slope that crosses zero is a difference of two terms, and no fixed number of its own ulp can hold there. In these
# ranges of z the unit is the last place of the larger term: of s and z s (1 - s) for silu with s = sigmoid(z), of Phi
# and z phi for gelu. Elsewhere it is the last place of the slope itself.
CANCELLATION = {
    "silu": (-3.0, -0.5),  # zero at z = -1.278
    "gelu": (-2.5, -0.3),  # zero at z = -0.7518
}

# Relative to the sum of the magnitudes of the terms, so that a sum that cancels is judged fairly.
RELATIVE = {
    # a dot product of n terms is off by at most n / 2 ulp; the tests have n < 40
    ("float32", "matmul"): 2e-6,
    ("float64", "matmul"): 4e-15,
    # a sum over a few dozen weighted terms, each a few ulp off
    ("float32", "loss"): 4e-6,
    ("float64", "loss"): 1e-14,
    # 20 updates of a parameter of order 1, and betas near 1 rounded to the dtype: 1 - 0.999 has lost three digits
    ("float32", "optimizer"): 2e-5,
    ("float64", "optimizer"): 1e-13,
    # one multiply by a factor that is itself a few ulp off
    ("float32", "clip"): 5e-7,
    ("float64", "clip"): 1e-15,
    # complex-step derivatives of definitions that lose a few digits themselves
    ("float32", "complex_step"): 1e-5,
    ("float64", "complex_step"): 1e-11,
    # learning rates are computed in float64 and rounded once
    ("float32", "schedule"): 1.2e-7,
    ("float64", "schedule"): 1e-14,
    # a pass forward and back through a few layers, each rounding what the one before it made
    ("float32", "gradient"): 2e-5,
    ("float64", "gradient"): 1e-11,
    # the parameters after 1,000 steps on different devices, which sum in different orders
    ("float32", "trajectory"): 1e-4,
    ("float64", "trajectory"): 1e-9,
    # at most 40 steps of random networks, relative to one plus the largest parameter
    ("float32", "short trajectory"): 1e-4,
    ("float64", "short trajectory"): 1e-11,
}

# A chi-square test with a fixed seed fails below this probability of a worse outcome.
P_VALUE = 1e-4


def ulp(dtype, operation):
    """Return the allowed error in units in the last place."""
    return ULP[np.dtype(dtype).name, operation]


def relative(dtype, operation):
    """Return the allowed error relative to the magnitude of the terms."""
    return RELATIVE[np.dtype(dtype).name, operation]
