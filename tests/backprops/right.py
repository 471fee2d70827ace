"""Right gradients, in a dozen styles: nothing may be said against them."""

import math

import numpy as np

from backprops import case, sigmoid, softmax


@case("sine")
def scalar_loops(W0, W1, x, t):
    gW0, gW1 = [0.0] * 10, [0.0] * 10
    for i in range(len(x)):
        h = [1 / (1 + math.exp(-x[i, 0] * W0[0, j])) for j in range(10)]
        error = sum(h[j] * W1[j, 0] for j in range(10)) - t[i, 0]
        for j in range(10):
            gW1[j] += error * h[j]
            gW0[j] += error * W1[j, 0] * h[j] * (1 - h[j]) * x[i, 0]
    return {"dW0": gW0, "dW1": gW1}


@case("sine with biases")
def column_convention(W0, b0, W1, b1, x, t):
    W1_, W2_, X, Y = W0.T, W1.T, x.T, t.T
    m = X.shape[1]
    A1 = np.tanh(np.dot(W1_, X) + b0.reshape(-1, 1))
    A2 = np.dot(W2_, A1) + b1.reshape(-1, 1)
    dZ2 = 2 * (A2 - Y)
    dW2 = np.dot(dZ2, A1.T) / m
    db2 = np.sum(dZ2, axis=1, keepdims=True) / m
    dZ1 = np.multiply(np.dot(W2_.T, dZ2), 1 - np.power(A1, 2))
    return {"dW0": np.dot(dZ1, X.T) / m, "db0": np.sum(dZ1, axis=1, keepdims=True) / m, "dW1": dW2, "db1": db2}


@case("xor")
def trask_deltas(W0, b0, W1, b1, x, t):
    l1 = sigmoid(np.dot(x, W0) + b0)
    l2 = sigmoid(np.dot(l1, W1) + b1)
    l2_delta = (l2 - t) * (l2 * (1 - l2))
    l1_delta = l2_delta.dot(W1.T) * (l1 * (1 - l1))
    return {"dW0": x.T.dot(l1_delta), "db0": l1_delta.sum(0), "dW1": l1.T.dot(l2_delta), "db1": l2_delta.sum(0)}


@case("two outputs")
def one_sample_at_a_time(W0, b0, W1, b1, x, t):
    dW0, db0, dW1, db1 = np.zeros_like(W0), np.zeros_like(b0), np.zeros_like(W1), np.zeros_like(b1)
    for xi, ti in zip(x, t, strict=True):
        h = sigmoid(xi @ W0 + b0)
        o = sigmoid(h @ W1 + b1)
        d2 = (o - ti) * o * (1 - o)
        d1 = (W1 @ d2) * h * (1 - h)
        dW1 += np.outer(h, d2)
        db1 += d2
        dW0 += np.outer(xi, d1)
        db0 += d1
    return {"dW0": dW0, "db0": db0, "dW1": dW1, "db1": db1}


@case("logistic")
def chain_rule_in_full(W0, b0, W1, b1, x, t):
    z1 = x @ W0 + b0
    h = np.maximum(z1, 0)
    p = sigmoid(h @ W1 + b1)
    dp = (-(t / p) + (1 - t) / (1 - p)) / len(x)
    dz2 = dp * p * (1 - p)
    dh = dz2 @ W1.T
    dz1 = dh.copy()
    dz1[z1 <= 0] = 0
    return {"dW0": x.T @ dz1, "db0": dz1.sum(axis=0), "dW1": h.T @ dz2, "db1": dz2.sum(axis=0)}


@case("logistic")
def guarded_against_division_by_zero(W0, b0, W1, b1, x, t):
    h = np.where(x @ W0 + b0 > 0, x @ W0 + b0, 0)
    p = sigmoid(h @ W1 + b1)
    dz2 = (p - t) / (p * (1 - p) + 1e-8) * p * (1 - p) / len(x)
    dz1 = dz2 @ W1.T * (h > 0)
    return {"dW0": x.T @ dz1, "db0": dz1.sum(axis=0), "dW1": h.T @ dz2, "db1": dz2.sum(axis=0)}


@case("digits")
def softmax_minus_one_hot(W0, b0, W1, b1, x, t):
    a = sigmoid(x @ W0 + b0)
    probabilities = softmax(a @ W1 + b1)
    probabilities[range(len(x)), t.argmax(axis=1)] -= 1
    probabilities /= len(x)
    back = probabilities @ W1.T * a * (1 - a)
    return {"dW0": x.T @ back, "db0": back.sum(0), "dW1": a.T @ probabilities, "db1": probabilities.sum(0)}


@case("digits")
def softmax_jacobian_row_by_row(W0, b0, W1, b1, x, t):
    a = sigmoid(x @ W0 + b0)
    p = softmax(a @ W1 + b1)
    delta = np.empty_like(p)
    for i in range(len(x)):
        jacobian = np.diag(p[i]) - np.outer(p[i], p[i])
        delta[i] = jacobian @ (-t[i] / p[i])
    delta /= len(x)
    back = delta @ W1.T * a * (1 - a)
    return {"dW0": x.T @ back, "db0": back.sum(0), "dW1": a.T @ delta, "db1": delta.sum(0)}


@case("digits, deep")
def lists_of_layers(W0, b0, W1, b1, W2, b2, x, t):
    weights, biases = [W0, W1, W2], [b0, b1, b2]
    activations, zs = [x], []
    for i, (w, b) in enumerate(zip(weights, biases, strict=True)):
        zs.append(activations[-1] @ w + b)
        activations.append([lambda z: np.maximum(0, z), np.tanh, softmax][i](zs[-1]))
    primes = [lambda z: (z > 0).astype(float), lambda z: 1 - np.tanh(z) ** 2]
    delta, gradients = (activations[-1] - t) / len(x), {}
    for i in (2, 1, 0):
        gradients[f"dW{i}"], gradients[f"db{i}"] = activations[i].T @ delta, delta.sum(axis=0)
        if i:
            delta = delta @ weights[i].T * primes[i - 1](zs[i - 1])
    return gradients


@case("regression, deep")
def einsums_and_per_sample(W0, b0, W1, b1, W2, b2, x, t):
    a0 = np.tanh(x @ W0 + b0)
    a1 = sigmoid(a0 @ W1 + b1)
    p = a1 @ W2 + b2
    d2 = 2 * (p - t) / t.size
    d1 = np.einsum("bo,io->bi", d2, W2) * a1 * (1 - a1)
    d0 = np.einsum("bo,io->bi", d1, W1) * (1 - a0 * a0)
    pairs = {"dW0": (x, d0), "dW1": (a0, d1), "dW2": (a1, d2)}
    found = {name: np.einsum("bi,bo->bio", a, d) for name, (a, d) in pairs.items()}
    return found | {"db0": d0, "db1": d1, "db2": d2}


@case("regression, deep")
def transposed_everywhere(W0, b0, W1, b1, W2, b2, x, t):
    a0 = np.tanh(x @ W0 + b0)
    a1 = sigmoid(a0 @ W1 + b1)
    d2 = (a1 @ W2 + b2 - t) / len(x)  # two outputs: 2 / 2
    d1 = d2 @ W2.T * a1 * (1 - a1)
    d0 = d1 @ W1.T * (1 - a0**2)
    return {"dW0": d0.T @ x, "dW1": d1.T @ a0, "dW2": d2.T @ a1, "db0": d0.sum(0), "db1": d1.sum(0), "db2": d2.sum(0)}


@case("softmax, squared")
def jacobian_by_einsum(W0, b0, W1, b1, x, t):
    a = np.tanh(x @ W0 + b0)
    p = softmax(a @ W1 + b1)
    jacobians = np.einsum("bi,ij->bij", p, np.eye(p.shape[1])) - np.einsum("bi,bj->bij", p, p)
    delta = np.einsum("bij,bj->bi", jacobians, p - t) / len(x)
    back = delta @ W1.T * (1 - a * a)
    return {"dW0": x.T @ back, "db0": back.mean(0) * len(x), "dW1": a.T @ delta, "db1": np.ones(len(x)) @ delta}


@case("one row")
def a_single_row_in_column_vectors(W0, b0, W1, b1, x, t):
    x, t = x.reshape(-1, 1), t.reshape(-1, 1)
    h = sigmoid(W0.T @ x + b0[:, None])
    o = sigmoid(W1.T @ h + b1[:, None])
    d2 = (o - t) * o * (1 - o)
    d1 = (W1 @ d2) * h * (1 - h)
    return {"dW0": (d1 @ x.T).T, "db0": d1, "dW1": (d2 @ h.T).T, "db1": d2}


@case("xor")
def only_the_last_layer_flattened(W0, b0, W1, b1, x, t):
    h = sigmoid(x @ W0 + b0)
    o = sigmoid(h @ W1 + b1)
    d = (o - t) * o * (1 - o)
    return {"dW1": (h.T @ d).ravel(), "db1": float(d.sum())}


@case("sine with biases")
def finite_differences_of_the_loss(W0, b0, W1, b1, x, t):
    parameters = {"dW0": W0.copy(), "db0": b0.copy(), "dW1": W1.copy(), "db1": b1.copy()}

    def loss():
        hidden = np.tanh(x @ parameters["dW0"] + parameters["db0"])
        return ((hidden @ parameters["dW1"] + parameters["db1"] - t) ** 2).mean()

    found = {}
    for name, array in parameters.items():
        found[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + 1e-6
            up = loss()
            array[index] = kept - 1e-6
            found[name][index] = (up - loss()) / 2e-6
            array[index] = kept
    return found
