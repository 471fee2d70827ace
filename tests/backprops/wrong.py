"""Wrong gradients, each with the codes of its mistakes, in the styles that people post."""

import math

import numpy as np

from backprops import case, sigmoid, softmax

# ---- the sine, in scalar loops and otherwise -------------------------------------------------------------------------


def _hidden(W0, x):
    return sigmoid(x @ W0)


@case("sine", "sign", "slope_at_activation")
def the_posted_sine(W0, W1, x, t):
    def d_sigmoid(v):
        return (1 / (1 + math.exp(-v))) * (1 - 1 / (1 + math.exp(-v)))

    gW0, gW1 = np.zeros(10), np.zeros(10)
    for i in range(len(x)):
        hidden = [1 / (1 + math.exp(-x[i, 0] * W0[0, j])) for j in range(10)]
        output = sum(hidden[j] * W1[j, 0] for j in range(10))
        error = t[i, 0] - output
        for j in range(10):
            gW1[j] += error * hidden[j]
            gW0[j] += error * W1[j, 0] * d_sigmoid(hidden[j]) * x[i, 0]
    return {"dW0": gW0, "dW1": gW1}


@case("sine", "sign")
def target_minus_output(W0, W1, x, t):
    h = _hidden(W0, x)
    error = t - h @ W1
    return {"dW0": x.T @ (error @ W1.T * h * (1 - h)), "dW1": h.T @ error}


@case("sine", "slope_missing")
def hidden_slope_forgotten(W0, W1, x, t):
    h = _hidden(W0, x)
    error = h @ W1 - t
    return {"dW0": x.T @ (error @ W1.T), "dW1": h.T @ error}


@case("sine", "weights_not_used")
def error_straight_to_the_hidden_units(W0, W1, x, t):
    h = _hidden(W0, x)
    error = h @ W1 - t
    return {"dW0": x.T @ (error * h * (1 - h)), "dW1": h.T @ error}


@case("sine", "input_missing")
def hidden_gradient_without_x(W0, W1, x, t):
    gW0, gW1 = np.zeros((1, 10)), np.zeros((10, 1))
    for xi, ti in zip(x[:, 0], t[:, 0], strict=True):
        h = sigmoid(W0[0] * xi)
        error = h @ W1[:, 0] - ti
        gW1[:, 0] += error * h
        gW0[0] += error * W1[:, 0] * h * (1 - h)
    return {"dW0": gW0, "dW1": gW1}


@case("sine", "weights_updated_first")
def output_weights_changed_too_early(W0, W1, x, t):
    W1 = W1.copy()
    h = _hidden(W0, x)
    error = h @ W1 - t
    gW1 = h.T @ error
    W1 -= 0.05 * gW1
    return {"dW0": x.T @ (error @ W1.T * h * (1 - h)), "dW1": gW1}


@case("sine", "last_row_only")
def assigned_in_the_loop(W0, W1, x, t):
    for i in range(len(x)):
        h = sigmoid(x[i : i + 1] @ W0)
        error = h @ W1 - t[i]
        gW1 = h.T * error
        gW0 = x[i] * (error * W1.T * h * (1 - h))
    return {"dW0": gW0, "dW1": gW1}


@case("sine", "running_sum")
def a_running_total_added_each_time(W0, W1, x, t):
    running = {"dW0": np.zeros_like(W0), "dW1": np.zeros_like(W1)}
    total = {"dW0": np.zeros_like(W0), "dW1": np.zeros_like(W1)}
    for i in range(len(x)):
        h = sigmoid(x[i : i + 1] @ W0)
        error = h @ W1 - t[i]
        running["dW1"] += h.T * error
        running["dW0"] += x[i] * (error * W1.T * h * (1 - h))
        for name in total:
            total[name] += running[name]
    return total


@case("sine", "slope_formula_at_z")
def derivative_helper_given_z(W0, W1, x, t):
    def derivative(a):
        return a * (1 - a)

    z = x @ W0
    h = sigmoid(z)
    error = h @ W1 - t
    return {"dW0": x.T @ (error @ W1.T * derivative(z)), "dW1": h.T @ error}


# ---- tanh regression, mean squared error -----------------------------------------------------------------------------


def _tanh(W0, b0, W1, b1, x, t):
    h = np.tanh(x @ W0 + b0)
    return h, h @ W1 + b1 - t


@case("sine with biases", "factor_half")
def the_two_of_the_square_forgotten(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = e / len(x)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("sine with biases", "not_divided_by_rows")
def summed_where_the_loss_is_a_mean(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("sine with biases", "divided_by_rows")
def biases_averaged_once_more(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.mean(0)}


@case("sine with biases", "slope_incomplete")
def square_forgotten_in_tanh(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * (1 - h)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("sine with biases", "slope_of_other_function")
def sigmoid_formula_for_tanh(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * h * (1 - h)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("sine with biases", "bias_not_summed")
def bias_gradient_a_row_each(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": d0, "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("sine with biases", "bias_times_bias")
def bias_treated_like_a_weight_of_itself(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": (d0 * b0).sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("sine with biases", "penalty")
def weight_decay_in_the_gradient(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0 + 0.01 * W0, "db0": d0.sum(0), "dW1": h.T @ d1 + 0.01 * W1, "db1": d1.sum(0)}


@case("sine with biases", "rounded")
def rounded_for_printing(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": np.round(h.T @ d1, 3), "db1": d1.sum(0)}


@case("sine", "integer_dtype")
def stored_in_an_integer_array(W0, W1, x, t):
    h = _hidden(W0, x)
    error = 3 + h @ W1 - (t + 3)
    gW1 = np.zeros(W1.shape, dtype=int)
    gW1[:] = h.T @ error
    return {"dW0": x.T @ (error @ W1.T * h * (1 - h)), "dW1": gW1}


@case("sine with biases", "zero")
def bias_never_computed(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e / len(x)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": np.zeros(8), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("sine with biases", "averaged_before_product")
def averages_multiplied(W0, b0, W1, b1, x, t):
    h, e = _tanh(W0, b0, W1, b1, x, t)
    d1 = 2 * e
    d0 = d1 @ W1.T * (1 - h**2)
    return {
        "dW0": x.mean(0, keepdims=True) * d0.mean(0),
        "db0": d0.mean(0),
        "dW1": h.T @ d1 / len(x),
        "db1": d1.mean(0),
    }


@case("sine with biases", "broadcast")
def a_column_minus_a_flat_array(W0, b0, W1, b1, x, t):
    y = t.ravel()
    h = np.tanh(x @ W0 + b0)
    difference = h @ W1 + b1 - y  # (rows, rows)
    d1 = (2 * difference / difference.size).sum(axis=1, keepdims=True)
    d0 = d1 @ W1.T * (1 - h**2)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


# ---- exclusive or ----------------------------------------------------------------------------------------------------


def _xor(W0, b0, W1, b1, x):
    h = sigmoid(x @ W0 + b0)
    return h, sigmoid(h @ W1 + b1)


@case("xor", "slope_missing")
def output_slope_forgotten(W0, b0, W1, b1, x, t):
    h, o = _xor(W0, b0, W1, b1, x)
    d1 = o - t
    d0 = d1.dot(W1.T) * h * (1 - h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "raw_error_back")
def error_and_not_delta_sent_back(W0, b0, W1, b1, x, t):
    h, o = _xor(W0, b0, W1, b1, x)
    error = o - t
    delta = error * o * (1 - o)
    hidden_delta = error.dot(W1.T) * h * (1 - h)
    return {"dW0": x.T.dot(hidden_delta), "db0": hidden_delta.sum(0), "dW1": h.T.dot(delta), "db1": delta.sum(0)}


@case("xor", "slope_at_activation")
def nonlin_of_the_output(W0, b0, W1, b1, x, t):
    def nonlin(v, deriv=False):
        return sigmoid(v) * (1 - sigmoid(v)) if deriv else sigmoid(v)

    h, o = _xor(W0, b0, W1, b1, x)
    d1 = (o - t) * nonlin(o, deriv=True)
    d0 = d1.dot(W1.T) * h * (1 - h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "slope_at_activation", "slope_at_activation")
def nonlin_of_both_outputs(W0, b0, W1, b1, x, t):
    def nonlin(v):
        return sigmoid(v) * (1 - sigmoid(v))

    h, o = _xor(W0, b0, W1, b1, x)
    d1 = (o - t) * nonlin(o)
    d0 = d1.dot(W1.T) * nonlin(h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "slope_twice")
def hidden_slope_applied_twice(W0, b0, W1, b1, x, t):
    h, o = _xor(W0, b0, W1, b1, x)
    d1 = (o - t) * o * (1 - o)
    d0 = d1.dot(W1.T) * h * (1 - h)
    d0 = d0 * h * (1 - h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "activation_not_slope")
def activation_for_its_derivative(W0, b0, W1, b1, x, t):
    h, o = _xor(W0, b0, W1, b1, x)
    d1 = (o - t) * o * (1 - o)
    d0 = d1.dot(W1.T) * h
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "preactivation")
def sums_and_not_outputs(W0, b0, W1, b1, x, t):
    z = x @ W0 + b0
    h, o = _xor(W0, b0, W1, b1, x)
    d1 = (o - t) * o * (1 - o)
    d0 = d1.dot(W1.T) * h * (1 - h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": z.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "target_missing")
def target_forgotten(W0, b0, W1, b1, x, t):
    h, o = _xor(W0, b0, W1, b1, x)
    d1 = o * o * (1 - o)
    d0 = d1.dot(W1.T) * h * (1 - h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "loss_not_slope")
def loss_for_its_slope(W0, b0, W1, b1, x, t):
    h, o = _xor(W0, b0, W1, b1, x)
    d1 = 0.5 * (o - t) ** 2 * o * (1 - o)
    d0 = d1.dot(W1.T) * h * (1 - h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


@case("xor", "sign", "slope_missing")
def two_at_once(W0, b0, W1, b1, x, t):
    h, o = _xor(W0, b0, W1, b1, x)
    d1 = t - o
    d0 = d1.dot(W1.T) * h * (1 - h)
    return {"dW0": x.T.dot(d0), "db0": d0.sum(0), "dW1": h.T.dot(d1), "db1": d1.sum(0)}


# ---- two outputs, a sample at a time ---------------------------------------------------------------------------------


@case("two outputs", "wrong_activation")
def own_output_for_the_input(W0, b0, W1, b1, x, t):
    grads = {"dW0": np.zeros_like(W0), "db0": np.zeros_like(b0), "dW1": np.zeros_like(W1), "db1": np.zeros_like(b1)}
    for xi, ti in zip(x, t, strict=True):
        h = sigmoid(xi @ W0 + b0)
        o = sigmoid(h @ W1 + b1)
        d1 = (o - ti) * o * (1 - o)
        d0 = (W1 @ d1) * h * (1 - h)
        grads["dW1"] += np.outer(h, d1)
        grads["dW0"] += np.outer(o, d0)
        grads["db1"] += d1
        grads["db0"] += d0
    return grads


@case("two outputs", "bias_over_units")
def bias_summed_over_everything(W0, b0, W1, b1, x, t):
    h = sigmoid(x @ W0 + b0)
    o = sigmoid(h @ W1 + b1)
    d1 = (o - t) * o * (1 - o)
    d0 = d1 @ W1.T * h * (1 - h)
    return {"dW0": x.T @ d0, "db0": np.full(3, d0.sum()), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("two outputs", "weights_not_used")
def error_summed_over_the_outputs(W0, b0, W1, b1, x, t):
    h = sigmoid(x @ W0 + b0)
    o = sigmoid(h @ W1 + b1)
    d1 = (o - t) * o * (1 - o)
    d0 = d1.sum(axis=1, keepdims=True) * h * (1 - h)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("two outputs", "first_row_only")
def only_the_first_sample(W0, b0, W1, b1, x, t):
    h = sigmoid(x[0] @ W0 + b0)
    o = sigmoid(h @ W1 + b1)
    d1 = (o - t[0]) * o * (1 - o)
    d0 = (W1 @ d1) * h * (1 - h)
    return {"dW0": np.outer(x[0], d0), "db0": d0, "dW1": np.outer(h, d1), "db1": d1}


# ---- cross-entropies -------------------------------------------------------------------------------------------------


def _logistic(W0, b0, W1, b1, x):
    z = x @ W0 + b0
    return z, np.maximum(z, 0), sigmoid(np.maximum(z, 0) @ W1 + b1)


@case("logistic", "slope_twice")
def slope_again_although_cross_entropy_cancels_it(W0, b0, W1, b1, x, t):
    z, h, p = _logistic(W0, b0, W1, b1, x)
    d1 = (p - t) * p * (1 - p) / len(x)
    d0 = d1 @ W1.T * (z > 0)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("logistic", "slope_missing")
def cross_entropy_for_the_output_alone(W0, b0, W1, b1, x, t):
    z, h, p = _logistic(W0, b0, W1, b1, x)
    d1 = (p - t) / (p * (1 - p)) / len(x)
    d0 = d1 @ W1.T * (z > 0)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("logistic", "slope_missing")
def relu_mask_forgotten(W0, b0, W1, b1, x, t):
    _, h, p = _logistic(W0, b0, W1, b1, x)
    d1 = (p - t) / len(x)
    d0 = d1 @ W1.T
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("logistic", "output_activation_missing")
def logits_minus_labels(W0, b0, W1, b1, x, t):
    z, h, _ = _logistic(W0, b0, W1, b1, x)
    d1 = (h @ W1 + b1 - t) / len(x)
    d0 = d1 @ W1.T * (z > 0)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": h.T @ d1, "db1": d1.sum(0)}


@case("digits", "softmax_diagonal")
def jacobian_reduced_to_its_diagonal(W0, b0, W1, b1, x, t):
    a = sigmoid(x @ W0 + b0)
    p = softmax(a @ W1 + b1)
    d1 = (-t / p) * p * (1 - p) / len(x)
    d0 = d1 @ W1.T * a * (1 - a)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": a.T @ d1, "db1": d1.sum(0)}


@case("digits", "softmax_over_rows")
def softmax_along_the_batch(W0, b0, W1, b1, x, t):
    a = sigmoid(x @ W0 + b0)
    e = np.exp(a @ W1 + b1)
    d1 = (e / e.sum(axis=0) - t) / len(x)
    d0 = d1 @ W1.T * a * (1 - a)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": a.T @ d1, "db1": d1.sum(0)}


@case("digits", "not_divided_by_rows", "sign")
def summed_and_uphill_in_columns(W0, b0, W1, b1, x, t):
    X, Y = x.T, t.T
    A = sigmoid(W0.T @ X + b0[:, None])
    Z = W1.T @ A + b1[:, None]
    P = np.exp(Z) / np.exp(Z).sum(axis=0)
    D1 = Y - P
    D0 = (W1 @ D1) * A * (1 - A)
    return {"dW0": D0 @ X.T, "db0": D0.sum(1), "dW1": D1 @ A.T, "db1": D1.sum(1)}


# ---- two hidden layers -----------------------------------------------------------------------------------------------


def _deep(W0, b0, W1, b1, W2, b2, x):
    a0 = np.tanh(x @ W0 + b0)
    a1 = sigmoid(a0 @ W1 + b1)
    return a0, a1, a1 @ W2 + b2


def _collect(x, a0, a1, d0, d1, d2):
    return {"dW0": x.T @ d0, "dW1": a0.T @ d1, "dW2": a1.T @ d2, "db0": d0.sum(0), "db1": d1.sum(0), "db2": d2.sum(0)}


@case("regression, deep", "weight_not_transposed")
def weight_as_on_the_way_forward(W0, b0, W1, b1, W2, b2, x, t):
    a0, a1, p = _deep(W0, b0, W1, b1, W2, b2, x)
    d2 = 2 * (p - t) / t.size
    d1 = d2 @ W2.T * a1 * (1 - a1)
    d0 = d1 @ W1 * (1 - a0**2)
    return _collect(x, a0, a1, d0, d1, d2)


@case("square", "wrong_weight")
def weights_of_the_wrong_layer(W0, b0, W1, b1, W2, b2, W3, b3, x, t):
    a0 = np.tanh(x @ W0 + b0)
    a1 = np.tanh(a0 @ W1 + b1)
    a2 = np.tanh(a1 @ W2 + b2)
    d3 = a2 @ W3 + b3 - t
    d2 = d3 @ W3.T * (1 - a2**2)
    d1 = d2 @ W1.T * (1 - a1**2)  # an index too low
    d0 = d1 @ W1.T * (1 - a0**2)
    pairs = [(x, d0), (a0, d1), (a1, d2), (a2, d3)]
    return {f"dW{i}": a.T @ d for i, (a, d) in enumerate(pairs)} | {
        f"db{i}": d.sum(0) for i, (_, d) in enumerate(pairs)
    }


@case("regression, deep", "layer_skipped")
def output_delta_sent_to_the_first_layer(W0, b0, W1, b1, W2, b2, x, t):
    a0, a1, p = _deep(W0, b0, W1, b1, W2, b2, x)
    d2 = 2 * (p - t) / t.size
    d1 = d2 @ W2.T * a1 * (1 - a1)
    d0 = d2 @ W2.T * (1 - a0**2)
    return _collect(x, a0, a1, d0, d1, d2)


@case("regression, deep", "slope_of_other_layer")
def slopes_of_the_next_layer(W0, b0, W1, b1, W2, b2, x, t):
    a0, a1, p = _deep(W0, b0, W1, b1, W2, b2, x)
    d2 = 2 * (p - t) / t.size
    d1 = d2 @ W2.T * a1 * (1 - a1)
    d0 = d1 @ W1.T * a1 * (1 - a1)
    return _collect(x, a0, a1, d0, d1, d2)


@case("regression, deep", "transposed")
def outer_product_the_other_way_round(W0, b0, W1, b1, W2, b2, x, t):
    a0, a1, p = _deep(W0, b0, W1, b1, W2, b2, x)
    d2 = 2 * (p - t) / t.size
    d1 = d2 @ W2.T * a1 * (1 - a1)
    d0 = d1 @ W1.T * (1 - a0**2)
    return _collect(x, a0, a1, d0, d1, d2) | {"dW1": d1.T @ a0}


@case("regression, deep", "slope_of_other_function", "divided_by_outputs")
def one_prime_for_all_layers(W0, b0, W1, b1, W2, b2, x, t):
    a0, a1, p = _deep(W0, b0, W1, b1, W2, b2, x)
    d2 = (p - t) / t.size
    d1 = d2 @ W2.T * a1 * (1 - a1)
    d0 = d1 @ W1.T * a0 * (1 - a0)
    return _collect(x, a0, a1, d0, d1, d2)


@case("digits, deep", "slope_of_other_function")
def relu_prime_everywhere(W0, b0, W1, b1, W2, b2, x, t):
    z0 = x @ W0 + b0
    a0 = np.maximum(z0, 0)
    z1 = a0 @ W1 + b1
    a1 = np.tanh(z1)
    d2 = (softmax(a1 @ W2 + b2) - t) / len(x)
    d1 = d2 @ W2.T * (z1 > 0)
    d0 = d1 @ W1.T * (z0 > 0)
    return _collect(x, a0, a1, d0, d1, d2)


@case("softmax, squared", "slope_missing")
def softmax_jacobian_forgotten(W0, b0, W1, b1, x, t):
    a = np.tanh(x @ W0 + b0)
    d1 = (softmax(a @ W1 + b1) - t) / len(x)
    d0 = d1 @ W1.T * (1 - a * a)
    return {"dW0": x.T @ d0, "db0": d0.sum(0), "dW1": a.T @ d1, "db1": d1.sum(0)}


@case("one row", "sign", "raw_error_back")
def column_vectors_of_one_row(W0, b0, W1, b1, x, t):
    x, t = x.reshape(-1, 1), t.reshape(-1, 1)
    h = sigmoid(W0.T @ x + b0[:, None])
    o = sigmoid(W1.T @ h + b1[:, None])
    e = t - o
    d1 = e * o * (1 - o)
    d0 = (W1 @ e) * h * (1 - h)
    return {"dW0": d0 @ x.T, "db0": d0, "dW1": d1 @ h.T, "db1": d1}
