"""Elementary functions, for scalars and vectors of both real types: within a few ulp, NaN for NaN, no branches.

Written in the language of `nnkernels.backends.numba.language`, whose functions need no import.
"""


def power_of_two(n):
    """2**n for a whole n of normal exponent: the bits of n + 1.5 * 2**(mantissa bits) end in those of n."""
    if single():
        exponent = (bits(n + 12582912.0) << 23) + 1065353216
    else:
        exponent = (bits(n + 6755399441055744.0) << 52) + 4607182418800017408
    return from_bits(exponent)


def exp_parts(x):
    """2**n, and e**x / 2**n - 1 to a relative error of 1e-8 or 1e-17, with n the whole number nearest to x / log(2).

    The difference of x / log(2) and n is rounded once: log(2)'s inverse in two parts. n is a normal exponent.
    """
    n = rint(x * 1.4426950408889634)
    s, m = exp2_parts(n, exp2_fraction(x, n))
    return s, m


def exp2_fraction(x, n):
    """x / log(2) - n."""
    if single():
        f = fma(x, 1.925963033500011079e-08, fma(x, 1.44269502162933349609375, -n))
    else:
        f = fma(x, 2.0355273740931033e-17, fma(x, 1.4426950408889634, -n))
    return f


def exp2_parts(n, f):
    """2**n and 2**f - 1; |f| is at most 1/2."""
    f2 = f * f
    f4 = f2 * f2
    if single():
        low = f2 * (f * 0.05550357114219078 + 0.24022650760568126) + f * 0.6931471880262288
        high = f2 * 0.0001545316294512069 + (f * 0.0013390863364671234 + 0.009618082557277852)
    else:
        f8 = f4 * f4
        low = f2 * (f * 0.0555041086648216 + 0.24022650695910097) + f * 0.6931471805599453
        middle = f2 * (f * 1.525273382983612e-05 + 0.0001540353044173605) + (
            f * 0.0013333558146416936 + 0.009618129107606888
        )
        top = f2 * (f * 4.4549605981865186e-10 + 7.072585949269223e-09) + (
            f * 1.0178062445845774e-07 + 1.321544258792169e-06
        )
        high = f4 * top + middle
    return power_of_two(n), f4 * high + low


def exp_limit():
    """The largest x for which e**x is a normal number, and so is its inverse."""
    limit = 708.3964185322641
    if single():
        limit = 87.33654475055310
    return limit


def exp(x):
    """e**x; scaled in two steps, so that it overflows to infinity and underflows gradually."""
    limit = 1.5 * exp_limit()
    x = min(max(x, -limit), limit)
    n = rint(x * 1.4426950408889634)
    half = rint(0.5 * n)
    s, m = exp2_parts(n - half, exp2_fraction(x, n))
    return fma(s, m, s) * power_of_two(half)


def exp_of_minus(x):
    """e**-x for vectors of x >= 0, where many of them follow each other; the few that underflow do so gradually.

    Those are made 2**64 or 2**512 too large at first.
    """
    n = rint(x * -1.4426950408889634)
    s, m = power_of_two(n), exp2_less_one(exp2_fraction(-x, n))
    e = fma(s, m, s)
    if any(x > exp_limit()):
        if single():
            x = min(x, 104.0)
            more, less = 64.0, 5.421010862427522e-20
        else:
            x = min(x, 746.0)
            more, less = 512.0, 7.458340731200207e-155
        n = rint(x * -1.4426950408889634)
        s, m = power_of_two(n + more), exp2_less_one(exp2_fraction(-x, n))
        e = fma(s, m, s) * less
    return e


def exp2_less_one(f):
    """2**f - 1 as `exp2_parts` has it, by Horner's rule: fewer steps, each of which waits for the one before."""
    if single():
        p = fma(f, 0.0001545316294512069, 0.0013390863364671234)
        p = fma(f, fma(f, p, 0.009618082557277852), 0.05550357114219078)
        p = fma(f, fma(f, p, 0.24022650760568126), 0.6931471880262288)
    else:
        p = fma(f, fma(f, 4.4549605981865186e-10, 7.072585949269223e-09), 1.0178062445845774e-07)
        p = fma(f, fma(f, p, 1.321544258792169e-06), 1.525273382983612e-05)
        p = fma(f, fma(f, p, 0.0001540353044173605), 0.0013333558146416936)
        p = fma(f, fma(f, p, 0.009618129107606888), 0.0555041086648216)
        p = fma(f, fma(f, p, 0.24022650695910097), 0.6931471805599453)
    return f * p


def expm1(x):
    """e**x - 1, accurate near 0."""
    limit = exp_limit()
    s, m = exp_parts(min(max(x, -limit), limit))
    return where(x > 0.75 * limit, exp(x), fma(s, m, s - 1))


def exp2_clipped(t):
    """2**rint(t), kept in the range of normal numbers, and 2**(t - rint(t)) - 1. What is clipped is off the path."""
    n = rint(t)
    limit = 1022.0
    if single():
        limit = 126.0
    s, m = exp2_parts(min(max(n, -limit), limit), t - n)
    return s, m


def sigmoid_forward(z):
    """1 / (1 + e) and its slope e / (1 + e)**2, e = exp(-z), for whole runs: z rounded once more, NaN if infinite."""
    a, slope = sigmoid_of_exponent(z * -1.4426950408889634)
    return a, slope


def sigmoid_of_exponent(t):
    """The same of t = -z / log(2), a factor that a whole run can move to where time is not short."""
    s, m = exp2_clipped(t)
    a = 1 / fma(s, m, s + 1)
    return a, fma(s, m, s) * a * a


def tanh_forward(z):
    """-expm1(-2 |z|) / (2 + expm1(-2 |z|)) with the sign of z, and its slope 4 e / (1 + e)**2 with e = exp(-2 |z|)."""
    s, m = exp2_clipped(abs(z) * -2.8853900817779268)
    less = fma(s, m, s - 1)
    r = 1 / (2 + less)
    ratio = less * r
    return where(z < 0, ratio, -ratio), 4 * fma(s, m, s) * (r * r)


def tanh(z):
    """Hyperbolic tangent."""
    s, m = exp_parts(max(-2 * abs(z), -exp_limit()))
    less = fma(s, m, s - 1)
    ratio = less / (2 + less)
    return where(z < 0, ratio, -ratio)


def log(x):
    """Natural logarithm, after fdlibm: x = 2**k (1 + f), log(1 + f) by a series in s = f / (2 + f)."""
    if single():
        tiny = 1.1754943508222875e-38
        small = x < tiny
        u = bits(where(small, x * 8388608.0, x)) + 4913933
        k = reals(u >> 23) - where(small, 150.0, 127.0)
        f = from_bits((u & 8388607) + 1060439283) - 1
    else:
        tiny = 2.2250738585072014e-308
        small = x < tiny
        u = bits(where(small, x * 18014398509481984.0, x)) + 2638147582215219
        k = reals(u >> 52) - where(small, 1077.0, 1023.0)
        f = from_bits((u & 4503599627370495) + 4604544271217802189) - 1
    s = f / (2 + f)
    z = s * s
    w = z * z
    half_square = 0.5 * f * f
    if single():
        series = z * (w * 0.28498786688 + 0.66666662693) + w * (w * 0.24279078841 + 0.40000972152)
        high, low = 0.693138122559, 9.0580006145e-06
    else:
        odd = w * (w * (w * 0.14798198605116586 + 0.1818357216161805) + 0.2857142874366239) + 0.6666666666666735
        even = w * (w * 0.15313837699209373 + 0.22222198432149784) + 0.3999999999940942
        series = z * odd + w * even
        high, low = 0.6931471803691238, 1.9082149292705877e-10
    result = s * (half_square + series) + k * low - half_square + f + k * high
    result = where(x == 0, -1e400, result)
    result = where(x == 1e400, x, result)
    return where(x < 0, 1e400 - x + x - 1e400, where(x == x, result, x))


def log1p(x):
    """log(1 + x), with the rounding of 1 + x put right; not where that is no number, at -1 and infinity."""
    u = 1 + x
    lost = (x - (u - 1)) / u
    return log(u) + where(lost == lost, lost, 0)
