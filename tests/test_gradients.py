"""Gradients of whole networks against the complex step through a forward pass written here."""

import numpy as np
import pytest
from conftest import on_host
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf
from tolerances import relative

import nnkernels as nnk

ACTIVATIONS = {
    "identity": lambda z: z,
    "sigmoid": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
    "relu": lambda z: np.where(z.real > 0, z, 0),
    "leaky_relu": lambda z: np.where(z.real > 0, z, 0.01 * z),
    "elu": lambda z: np.where(z.real > 0, z, np.exp(z) - 1),
    "softplus": lambda z: np.log(1 + np.exp(z)),
    "silu": lambda z: z / (1 + np.exp(-z)),
    "gelu": lambda z: z * (1 + erf(z / np.sqrt(2))) / 2,
    "softmax": lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True),
}


def magnitude(z):
    return np.where(z.real < 0, -z, z)


# name -> (last activations it fits, targets it takes, loss of each row from the network's output and the targets)
LOSSES = {
    "half_squared_error": (list(ACTIVATIONS), "real", lambda p, t: ((p - t) ** 2).sum(-1) / 2),
    "mean_squared_error": (list(ACTIVATIONS), "real", lambda p, t: ((p - t) ** 2).mean(-1)),
    "absolute_error": (list(ACTIVATIONS), "real", lambda p, t: magnitude(p - t).mean(-1)),
    "huber": (
        list(ACTIVATIONS),
        "real",
        lambda p, t: np.where(abs(p - t) <= 1, (p - t) ** 2 / 2, magnitude(p - t) - 0.5).mean(-1),
    ),
    "poisson": (["identity"], "counts", lambda p, t: (np.exp(p) - t * p).mean(-1)),
    "poisson_rate": (["softplus", "sigmoid", "softmax"], "counts", lambda p, t: (p - t * np.log(p)).mean(-1)),
    "binary_cross_entropy": (
        ["sigmoid"],
        "probabilities",
        lambda p, t: -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean(-1),
    ),
    "binary_cross_entropy_of_logits": (
        ["identity"],
        "probabilities",
        lambda p, t: (np.log(1 + np.exp(p)) - t * p).mean(-1),
    ),
    "categorical_cross_entropy": (["softmax"], "one-hot", lambda p, t: -np.log((t * p).sum(-1))),
    "categorical_cross_entropy_of_logits": (
        ["identity"],
        "one-hot",
        lambda p, t: np.log(np.exp(p).sum(-1)) - (t * p).sum(-1),
    ),
}
CLASSES = {
    "poisson_rate": nnk.Poisson,
    "poisson": nnk.Poisson,
    "half_squared_error": nnk.HalfSquaredError,
    "mean_squared_error": nnk.MeanSquaredError,
    "absolute_error": nnk.AbsoluteError,
    "huber": nnk.Huber,
    "binary_cross_entropy": nnk.BinaryCrossEntropy,
    "binary_cross_entropy_of_logits": nnk.BinaryCrossEntropy,
    "categorical_cross_entropy": nnk.CategoricalCrossEntropy,
    "categorical_cross_entropy_of_logits": nnk.CategoricalCrossEntropy,
}


def forward(layers, parameters, x):
    a = x
    for number, layer in enumerate(layers):
        z = a @ parameters[f"{number}.weight"] + parameters.get(f"{number}.bias", 0)
        a = ACTIVATIONS[layer.activation](z)
    return a


def reduced_loss(layers, parameters, x, t, name, reduction, weight):
    rows = LOSSES[name][2](forward(layers, parameters, x), t)
    return (weight * rows).sum() / (weight.sum() if reduction == "mean" else 1)


def complex_step(function, parameters):
    gradients = {}
    for name, value in parameters.items():
        gradients[name] = np.empty_like(value)
        for index in np.ndindex(value.shape):
            moved = {key: array.astype(complex) for key, array in parameters.items()}
            moved[name][index] += 1e-200j
            gradients[name][index] = function(moved).imag / 1e-200
    return gradients


def draw_targets(rng, kind, batch, n_out):
    if kind == "one-hot":
        return np.eye(n_out)[rng.integers(0, n_out, batch)]
    if kind == "counts":
        return rng.poisson(2.0, (batch, n_out)).astype(float)
    return rng.uniform(0, 1, (batch, n_out)) if kind == "probabilities" else rng.normal(size=(batch, n_out))


@st.composite
def problems(draw):
    """A network of random depth, widths and activations, a loss that fits it, data, weights and a reduction."""
    name = draw(st.sampled_from(sorted(LOSSES)))
    last, kind, _ = LOSSES[name]
    widths = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    widths[-1] += kind == "one-hot"
    hidden = [activation for activation in ACTIVATIONS if activation != "softmax"]
    layers = []
    for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
        activation = draw(st.sampled_from(last if len(layers) == len(widths) - 2 else hidden))
        layers.append(nnk.Dense(n_in, n_out, activation=activation, bias=draw(st.booleans())))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    batch = draw(st.integers(1, 6))
    t = draw_targets(rng, kind, batch, widths[-1])
    weight = rng.uniform(0.1, 2, batch) if draw(st.booleans()) else np.ones(batch)
    return layers, name, rng.normal(size=(batch, widths[0])), t, weight, draw(st.sampled_from(["mean", "sum"]))


@given(problem=problems())
def test_loss_and_gradients_are_those_of_the_complex_step(problem, device):
    layers, name, x, t, weight, reduction = problem
    net = nnk.Sequential(*layers, device=device, dtype="float64", rng=0)
    value, gradients = net.loss_and_gradients(x, t, loss=CLASSES[name](reduction=reduction), sample_weight=weight)

    parameters = net.parameters.to_host()
    expected = complex_step(lambda p: reduced_loss(layers, p, x, t, name, reduction, weight), parameters)
    assert value == pytest.approx(reduced_loss(layers, parameters, x, t, name, reduction, weight), rel=1e-12, abs=1e-14)
    for key, gradient in expected.items():
        np.testing.assert_allclose(
            on_host(gradients[key]),
            on_host(gradient),
            rtol=relative(net.dtype, "gradient"),
            atol=relative(net.dtype, "gradient"),
            err_msg=key,
        )


def test_float32_gradients_are_those_of_float64(device):
    rng = np.random.default_rng(0)
    layers = nnk.Dense(4, 8, activation="gelu"), nnk.Dense(8, 6, activation="silu"), nnk.Dense(6, 3)
    single = nnk.Sequential(*layers, device=device, rng=0)
    double = nnk.Sequential(*layers, device=device, dtype="float64", rng=0)
    x, t = rng.normal(size=(20, 4)), rng.normal(size=(20, 3))
    _, gradients = single.loss_and_gradients(x, t, loss="huber")
    _, expected = double.loss_and_gradients(x, t, loss="huber")
    for key, gradient in expected.items():
        np.testing.assert_allclose(
            on_host(gradients[key]),
            on_host(gradient),
            rtol=relative("float32", "gradient"),
            atol=relative("float32", "gradient"),
            err_msg=key,
        )


def test_a_saturated_sigmoid_passes_its_true_gradient_back(device, dtype):
    net = nnk.Sequential(nnk.Dense(1, 1, activation="sigmoid", bias=False), device=device, dtype=dtype)
    net.parameters["0.weight"] = [[0.8]]
    _, gradients = net.loss_and_gradients([62.5], [0.0], loss="half_squared_error")
    assert float(on_host(gradients["0.weight"])[0, 0]) == pytest.approx(62.5 * 1.9287498479639178e-22, rel=1e-4)


def test_matt_mazurs_published_example(device):
    """2-2-2, all sigmoid, biases held fixed: the losses and weights of his "Step by Step Backpropagation Example"."""
    net = nnk.Sequential(
        nnk.Dense(2, 2, activation="sigmoid"), nnk.Dense(2, 2, activation="sigmoid"), device=device, dtype="float64"
    )
    net.parameters.update(
        {"0.weight": [[0.15, 0.25], [0.20, 0.30]], "0.bias": [0.35, 0.35], "1.weight": [[0.40, 0.50], [0.45, 0.55]]}
        | {"1.bias": [0.60, 0.60]}
    )
    x, t, loss = [[0.05, 0.10]], [[0.01, 0.99]], nnk.HalfSquaredError()
    assert net.evaluate(x, t, loss=loss) == pytest.approx(0.298371109, abs=5e-10)
    net.fit(x, t, loss=loss, optimizer=nnk.SGD(0.5), steps=1)
    published = {
        "0.weight": [[0.149780716, 0.24975114], [0.19956143, 0.29950229]],
        "1.weight": [[0.35891648, 0.511301270], [0.408666186, 0.561370121]],
    }
    for name, weights in published.items():
        np.testing.assert_allclose(on_host(net.parameters[name]), weights, atol=5e-9)
    net.parameters.update({"0.bias": [0.35, 0.35], "1.bias": [0.60, 0.60]})
    # he printed 0.291027924, having used an updated weight before its last use
    assert net.evaluate(x, t, loss=loss) == pytest.approx(0.29102777369, abs=5e-12)
