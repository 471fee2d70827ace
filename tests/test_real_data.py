"""Real data: the accuracy that a user may expect, on every device."""

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import ShuffleSplit, StratifiedShuffleSplit

import nnkernels as nnk


def standardize(train, test):
    mean, std = train.mean(axis=0), train.std(axis=0)
    std[std == 0] = 1
    return (train - mean) / std, (test - mean) / std


def test_digits_are_read_with_95_percent_accuracy(real_device):
    x, y = load_digits(return_X_y=True)
    accuracies = []
    for seed, (train, test) in enumerate(StratifiedShuffleSplit(5, test_size=0.25, random_state=0).split(x, y)):
        x_train, x_test = standardize(x[train], x[test])
        net = nnk.Sequential(
            nnk.Dense(64, 32, activation="relu"), nnk.Dense(32, 10, activation="softmax"), device=real_device, rng=seed
        )
        net.fit(x_train, y[train], loss="categorical_cross_entropy", optimizer="adam", batch_size=32, epochs=20)
        accuracies.append((net(x_test).argmax(axis=1) == y[test]).mean())
    assert np.mean(accuracies) >= 0.95


def test_diabetes_is_fitted_as_well_as_by_linear_regression(real_device):
    x, y = load_diabetes(return_X_y=True)
    ours, linear = [], []
    for seed, (train, test) in enumerate(ShuffleSplit(5, test_size=0.25, random_state=0).split(x)):
        x_train, x_test = standardize(x[train], x[test])
        mean, std = y[train].mean(), y[train].std()
        net = nnk.Sequential(nnk.Dense(10, 16, activation="tanh"), nnk.Dense(16, 1), device=real_device, rng=seed)
        net.fit(
            x_train,
            (y[train] - mean) / std,
            loss="mean_squared_error",
            optimizer=nnk.Adam(0.003, l2=0.1),
            batch_size=32,
            epochs=40,
        )
        ours.append(((net(x_test)[:, 0] * std + mean - y[test]) ** 2).mean())
        fitted = LinearRegression().fit(x_train, y[train])
        linear.append(((fitted.predict(x_test) - y[test]) ** 2).mean())
    assert np.mean(ours) <= 1.05 * np.mean(linear)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_count_is_fitted_by_its_rate(real_device, activation):
    """What the fitted rate loses against the true one is a twentieth of what the mean rate loses."""

    def excess(fitted):
        return (fitted - rate * np.log(fitted) - (rate - rate * np.log(rate))).mean()

    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (2000, 1))
    rate = np.exp(1 + np.sin(3 * x))
    net = nnk.Sequential(nnk.Dense(1, 16, activation=activation), nnk.Dense(16, 1), device=real_device, rng=0)
    net.fit(x, rng.poisson(rate), loss="poisson", optimizer=nnk.Adam(0.01), batch_size=50, epochs=30)
    assert excess(np.exp(net(x))) < 0.05 * excess(rate.mean())
