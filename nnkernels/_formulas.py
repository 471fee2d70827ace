"""Every activation, loss and optimizer update, once, as a small formula. The backends print them.

The language is a subset of Python: one assignment a line, ``+ - * / **``, comparisons, numbers, and the functions of
`FUNCTIONS`. A formula is elementwise: it reads one element of each of its arrays and assigns one element of each of its
results. `python -m nnkernels.backends` prints the tables below as NumPy and Numba source, which is committed beside the
hand-written kernels, so that every kernel can be found, read and stepped through; a test holds the two together.

Accuracy is part of a formula. A sigmoid's slope is computed from ``e = exp(-|z|)`` as ``e / (1 + e)**2``, never as
``a * (1 - a)``, which is exactly 0 from z = 16.7 (float32) or 36.8 (float64) on; the true value at z = 50 is 1.93e-22.
"""

from __future__ import annotations

import ast
from typing import NamedTuple

FUNCTIONS = frozenset(["exp", "expm1", "log", "log1p", "tanh", "sqrt", "abs", "sign", "floor", "min", "max", "where"])


class Formula(NamedTuple):
    """An elementwise program: its meaning in one line, its statements, and the scalars it takes."""

    summary: str
    text: str
    scalars: tuple[str, ...] = ()  # keyword arguments of the kernel, Python floats
    state: tuple[str, ...] = ()  # optimizers: arrays that live from step to step
    once: str = ""  # optimizers: statements on scalars, in float64, once a call

    def statements(self) -> list[tuple[str, ast.expr]]:
        """The program as (name, expression) pairs, in order."""
        return parse(self.text)


def parse(text: str) -> list[tuple[str, ast.expr]]:
    """Split a formula's text into (name, expression) pairs."""
    pairs = []
    for line in text.strip().splitlines():
        name, expression = line.split("=", 1)
        pairs.append((name.strip(), ast.parse(expression.strip(), mode="eval").body))
    return pairs


# erfcx(x) = exp(x**2) erfc(x) on 0 <= x < infinity, as a polynomial in q = (x - 4) / (x + 4) divided by 1 + 2 x, after
# M. Shepherd and J. Laframboise, Math. Comp. 36 (1981) 249. Coefficients: Chebyshev interpolation in 60 digits.
ERFCX = (
    1.2329951186255526,
    -0.1396211168405625,
    0.015379652102610162,
    0.0680970542546862,
    -0.10103906603585294,
    0.09373283499865172,
    -0.06633036582050367,
    0.0371675155318432,
    -0.01619773397992426,
    0.005031970032548695,
    -0.0007577737141838885,
    -0.00019925700412184815,
    0.0001506231178516207,
    -2.439811794207995e-05,
    -1.1225140354449658e-05,
    5.707239573693257e-06,
    2.980596055322769e-07,
    -8.218020654813044e-07,
    7.111912428010423e-08,
    1.0683442926744586e-07,
    -1.6357383982124768e-08,
    -1.2544825403855518e-08,
    1.5712153638319064e-09,
    9.655408225482863e-10,
)


def _horner(result: str, variable: str, coefficients: tuple[float, ...]) -> str:
    """Statements that evaluate a polynomial, constant term first, by Horner's rule, four coefficients a line."""
    lines, nested = [], repr(coefficients[-1])
    for count, coefficient in enumerate(reversed(coefficients[:-1]), start=1):
        nested = f"({nested} * {variable} + {coefficient!r})"
        if count % 4 == 0 or count == len(coefficients) - 1:
            lines.append(f"{result} = {nested}")
            nested = result
    return "\n".join(lines)


# ---- activations: from z, the activation `a` and its slope da/dz -----------------------------------------------------

ACTIVATIONS = {
    # 1 * z, not z: a result is a new value, so that the slope can be written over z
    "identity": Formula(
        "a = z.",
        """
        a = 1 * z
        slope = 1
        """,
    ),
    "sigmoid": Formula(
        "a = 1 / (1 + exp(-z)).",
        """
        e = exp(-abs(z))
        r = 1 / (1 + e)
        a = where(z < 0, e * r, r)
        slope = e * r * r
        """,
    ),
    "tanh": Formula(
        "a = tanh(z); the slope as 4 e / (1 + e)**2 with e = exp(-2 |z|), since 1 - a**2 dies at |z| = 9 in float32.",
        """
        a = tanh(z)
        e = exp(-2 * abs(z))
        r = 1 / (1 + e)
        slope = 4 * e * r * r
        """,
    ),
    "relu": Formula(
        "a = max(z, 0); the slope at 0 is 0.",
        """
        a = max(z, 0)
        slope = where(z > 0, 1, 0)
        """,
    ),
    "leaky_relu": Formula(
        "a = z for z > 0, else 0.01 z.",
        """
        a = where(z > 0, z, 0.01 * z)
        slope = where(z > 0, 1, 0.01)
        """,
    ),
    "elu": Formula(
        "a = z for z > 0, else exp(z) - 1.",
        """
        m = min(z, 0)
        a = where(z > 0, z, expm1(m))
        slope = exp(m)
        """,
    ),
    "softplus": Formula(
        "a = log(1 + exp(z)).",
        """
        e = exp(-abs(z))
        a = max(z, 0) + log1p(e)
        r = 1 / (1 + e)
        slope = where(z < 0, e * r, r)
        """,
    ),
    "silu": Formula(
        "a = z sigmoid(z), also called swish.",
        """
        e = exp(-abs(z))
        r = 1 / (1 + e)
        s = where(z < 0, e * r, r)
        a = z * s
        c = where(z < 0, r, e * r)
        slope = s * (1 + z * c)
        """,
    ),
    # The normal density and tail lose z**2 ulp when exp(-z**2 / 2) is computed from a rounded z**2: h is |z| rounded to
    # sixteenths, whose square is exact.
    "gelu": Formula(
        "a = z Phi(z), with the normal distribution function itself, not its tanh approximation.",
        f"""
        y = min(abs(z), 40)
        h = floor(16 * y) / 16
        density = exp(-0.5 * h * h) * exp(-0.5 * (y - h) * (y + h))
        x = 0.7071067811865476 * y
        q = (x - 4) / (x + 4)
        {_horner("w", "q", ERFCX)}
        tail = 0.5 * density * w / (1 + 2 * x)
        cdf = where(z < 0, tail, 1 - tail)
        a = z * cdf
        slope = cdf + 0.3989422804014327 * z * density
        """,
    ),
}

# ---- losses: from the prediction p and the target t, the loss of one output and its slope d loss / d p ---------------
# n is the number of outputs of a row. `binary_cross_entropy` and `poisson` read the prediction before its sigmoid or
# exponential (the logit, the logarithm of the rate): that is their stable form.

LOSSES = {
    "half_squared_error": Formula(
        "(p - t)**2 / 2, summed over a row's outputs.",
        """
        d = p - t
        loss = 0.5 * d * d
        slope = d
        """,
    ),
    "mean_squared_error": Formula(
        "(p - t)**2, averaged over a row's outputs.",
        """
        d = p - t
        loss = d * d / n
        slope = 2 * d / n
        """,
    ),
    "absolute_error": Formula(
        "|p - t|, averaged over a row's outputs; the slope at 0 is 0.",
        """
        d = p - t
        loss = abs(d) / n
        slope = sign(d) / n
        """,
    ),
    "huber": Formula(
        "(p - t)**2 / 2 up to |p - t| = delta and linear beyond, averaged over a row's outputs.",
        """
        d = p - t
        q = min(abs(d), delta)
        loss = q * (abs(d) - 0.5 * q) / n
        slope = sign(d) * q / n
        """,
        scalars=("delta",),
    ),
    "poisson": Formula(
        "exp(p) - t p, averaged over a row's outputs: p is the logarithm of the rate.",
        """
        rate = exp(p)
        loss = (rate - t * p) / n
        slope = (rate - t) / n
        """,
    ),
    "poisson_rate": Formula(
        "p - t log(p), averaged over a row's outputs: p is the rate itself.",
        """
        loss = (p - t * log(p)) / n
        slope = (1 - t / p) / n
        """,
    ),
    # (1 - t) sigmoid(p) - t sigmoid(-p) keeps its relative accuracy where sigmoid(p) - t cancels.
    "binary_cross_entropy": Formula(
        "-t log(sigmoid(p)) - (1 - t) log(1 - sigmoid(p)), averaged over a row's outputs: p is the logit.",
        """
        e = exp(-abs(p))
        r = 1 / (1 + e)
        loss = (max(p, 0) - t * p + log1p(e)) / n
        slope = ((1 - t) * where(p < 0, e * r, r) - t * where(p < 0, r, e * r)) / n
        """,
    ),
}

# ---- optimizer updates: from the gradient g, the parameter p and the state, their new values -------------------------

_ADAM_ONCE = """
rest1 = 1 - beta1
rest2 = 1 - beta2
correction1 = 1 - beta1 ** (step + 1)
correction2 = 1 - beta2 ** (step + 1)
"""

OPTIMIZERS = {
    "sgd": Formula(
        "Gradient descent.",
        """
        p = p - lr * (g + weight_decay * p)
        """,
        scalars=("weight_decay",),
    ),
    "sgd_momentum": Formula(
        "Gradient descent with momentum (Polyak), dampening 0.",
        """
        v = momentum * v + (g + weight_decay * p)
        p = p - lr * v
        """,
        scalars=("momentum", "weight_decay"),
        state=("v",),
    ),
    "sgd_nesterov": Formula(
        "Gradient descent with Nesterov's momentum, as Sutskever et al. (2013) write it.",
        """
        d = g + weight_decay * p
        v = momentum * v + d
        p = p - lr * (d + momentum * v)
        """,
        scalars=("momentum", "weight_decay"),
        state=("v",),
    ),
    "adam": Formula(
        "Adam (Kingma and Ba, 2015); weight decay enters the gradient.",
        """
        d = g + weight_decay * p
        m = beta1 * m + rest1 * d
        v = beta2 * v + rest2 * d * d
        p = p - lr * (m / correction1) / (sqrt(v / correction2) + eps)
        """,
        scalars=("beta1", "beta2", "eps", "weight_decay"),
        state=("m", "v"),
        once=_ADAM_ONCE,
    ),
    "adamw": Formula(
        "Adam with decoupled weight decay (Loshchilov and Hutter, 2019).",
        """
        m = beta1 * m + rest1 * g
        v = beta2 * v + rest2 * g * g
        p = p - lr * weight_decay * p - lr * (m / correction1) / (sqrt(v / correction2) + eps)
        """,
        scalars=("beta1", "beta2", "eps", "weight_decay"),
        state=("m", "v"),
        once=_ADAM_ONCE,
    ),
    "rmsprop": Formula(
        "RMSprop (Tieleman and Hinton, 2012), not centered.",
        """
        d = g + weight_decay * p
        v = alpha * v + rest * d * d
        p = p - lr * d / (sqrt(v) + eps)
        """,
        scalars=("alpha", "eps", "weight_decay"),
        state=("v",),
        once="rest = 1 - alpha",
    ),
}
