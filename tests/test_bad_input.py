"""One clear error that names the argument and the remedy, before anything is changed."""

import numpy as np
import pytest

import nnkernels as nnk

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6.0)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def network(*activations, n_out=1, **kwargs):
    return nnk.Sequential(
        nnk.Dense(2, n_out, activation=activations[0] if activations else None), device="numpy", **kwargs
    )


FITS = {
    "x and y of different length": ({"y": Y[:5]}, nnk.ShapeError, "x has 6 rows and y has 5"),
    "x with the wrong columns": (
        {"x": X[:, :1]},
        nnk.ShapeError,
        r"x has the shape \(6, 1\), but the network has 2 inputs",
    ),
    "x with three axes": ({"x": X[:, :, None]}, nnk.ShapeError, r"Flatten each row: x.reshape\(len\(x\), -1\)"),
    "x a scalar": ({"x": 1.0}, nnk.ShapeError, "Pass an array of rows"),
    "y with the wrong columns": ({"y": X}, nnk.ShapeError, "but the network has 1 outputs"),
    "no rows": ({"x": X[:0], "y": Y[:0]}, nnk.DataError, "no rows"),
    "NaN in x": ({"x": np.where(X == 5, np.nan, X)}, nnk.DataError, "x has the value nan in row 2, column 1"),
    "infinity in y": ({"y": np.where(Y == 5, np.inf, Y)}, nnk.DataError, "y has the value inf in row 5"),
    "two NaNs": ({"x": np.where(X > 9, np.nan, X)}, nnk.DataError, r"row 5, column 0 \(1 more like it\)"),
    "integers that truncate": ({"x": X.astype(int) + 2**25}, nnk.DataError, "would truncate"),
    "numbers beyond float32": ({"x": X * 1e300}, nnk.DataError, "beyond float32. Scale it down"),
    "text": ({"x": X.astype(str)}, nnk.DataError, "x must be numeric"),
    "objects": ({"x": [[None, 1]] * 6}, nnk.DataError, "x must be numeric"),
    "complex": ({"x": X * 1j}, nnk.DataError, "x must be numeric"),
    "ragged rows": ({"x": [[1, 2], [3]]}, nnk.DataError, "x cannot be read as an array"),
    "masked entries": ({"x": np.ma.masked_equal(X, 3)}, nnk.DataError, "x has masked entries"),
    "steps 0": ({"steps": 0}, ValueError, "steps must be at least 1, not 0"),
    "steps -1": ({"steps": -1}, ValueError, "steps must be at least 1"),
    "steps 1.5": ({"steps": 1.5}, TypeError, "steps must be an int, not 1.5"),
    "epochs 0": ({"steps": None, "epochs": 0}, ValueError, "epochs must be at least 1"),
    "steps and epochs": ({"epochs": 1}, TypeError, "steps or epochs, not both"),
    "batch_size 0": ({"batch_size": 0}, ValueError, "batch_size must be at least 1"),
    "batch larger than the data": ({"batch_size": 7}, ValueError, "batch_size is 7, but the data has 6 rows"),
    "log_every 0": ({"log_every": 0}, ValueError, "log_every must be at least 1"),
    "unknown sampling": ({"sampling": "shuffle"}, ValueError, "sampling must be one of permutation, replacement"),
    "unknown loss": ({"loss": "mean_square_error"}, ValueError, "Did you mean 'mean_squared_error'"),
    "a loss class": ({"loss": nnk.Huber}, TypeError, r"write Huber\(...\)"),
    "unknown optimizer": ({"optimizer": "adamm"}, ValueError, "Did you mean 'adam'"),
    "optimizer a number": ({"optimizer": 0.1}, TypeError, "optimizer must be a name or an Optimizer"),
    "weights too short": ({"sample_weight": [1, 2]}, nnk.ShapeError, r"shape \(6,\), one weight a row"),
    "negative weights": ({"sample_weight": -Y}, nnk.DataError, "Weights must be at least 0"),
    "zero weights": ({"sample_weight": 0 * Y}, nnk.DataError, "zero in every row"),
    "half of validation_data": ({"validation_data": (X,)}, TypeError, r"validation_data must be \(x, y\)"),
    "bad validation_data": (
        {"validation_data": (X, Y[:3])},
        nnk.ShapeError,
        "validation_data's x has 6 rows and validation_data's y has 3",
    ),
    "NaN in validation_data": (
        {"validation_data": (X, Y * np.nan)},
        nnk.DataError,
        "validation_data's y has the value nan in row 0",
    ),
    "weights whose sum overflows": ({"sample_weight": [1e308] * 6}, nnk.DataError, "is too large"),
    "a learning rate of text": ({"optimizer": "sgd:0.1"}, ValueError, "unknown optimizer"),
    "a callback class": ({"callbacks": [nnk.EarlyStopping]}, TypeError, "a callback must be a Callback"),
}


@pytest.mark.parametrize(("change", "error", "message"), FITS.values(), ids=FITS.keys())
def test_fit_refuses_it_and_changes_nothing(change, error, message):
    net = network()
    before, fits = net.parameters.flat.copy(), net.fits
    with pytest.raises(error, match=message):
        net.fit(**({"x": X, "y": Y, "loss": "mean_squared_error", "steps": 5} | change))
    np.testing.assert_array_equal(net.parameters.flat, before)
    assert net.fits == fits


LABEL_ERRORS = {
    "label out of range": (
        LABELS + 1,
        r"y has the value 3 in row 2 .1 more like it., but the network's 3 outputs stand for the classes 0 to 2",
    ),
    "negative label": (LABELS - 1, "the value -1"),
    "label not whole": (LABELS + 0.5, "the value 0.5"),
    "text labels": (np.array(list("abcabc")), "np.unique"),
    "rows not one-hot": (np.eye(3)[LABELS] * 2, "y must be one-hot; row 0"),
    "two axes of labels": (np.zeros((6, 2)), r"shape \(rows,\) or \(rows, 3\)"),
}


@pytest.mark.parametrize(("y", "message"), LABEL_ERRORS.values(), ids=LABEL_ERRORS.keys())
def test_a_classifier_refuses_labels_that_are_none(y, message):
    with pytest.raises((nnk.DataError, nnk.ShapeError), match=message):
        network("softmax", n_out=3).fit(X, y, loss="categorical_cross_entropy", steps=1)


def test_targets_stay_in_the_domain_of_their_loss():
    with pytest.raises(nnk.DataError, match="labels must be 0 or 1"):
        network("sigmoid").fit(X, Y, loss="binary_cross_entropy", steps=1)
    with pytest.raises(nnk.DataError, match="a Poisson count is at least 0"):
        network().fit(X, -Y, loss="poisson", steps=1)


@pytest.mark.parametrize(
    ("loss", "activation", "remedy"),
    [
        ("binary_cross_entropy", "softmax", "Use activation='sigmoid'"),
        ("binary_cross_entropy", "tanh", "Use activation='sigmoid'"),
        ("categorical_cross_entropy", "sigmoid", "Use activation='softmax'"),
        ("categorical_cross_entropy", "relu", "or None to let the output be logits"),
        ("poisson", "tanh", "Use activation=None"),
    ],
)
def test_a_loss_refuses_an_activation_it_does_not_fit(loss, activation, remedy):
    for call in ("fit", "loss_and_gradients", "evaluate", "plan"):
        with pytest.raises(ValueError, match=remedy):
            getattr(network(activation, n_out=3), call)(X, LABELS, loss=loss)


def test_one_output_is_no_classifier_of_categories():
    with pytest.raises(nnk.ShapeError, match="needs an output for each class"):
        network().fit(X, LABELS, loss="categorical_cross_entropy", steps=1)


CLASS_WEIGHTS = {
    "of a class that is not there": ({3: 1.0}, r"names the classes \[3\]"),
    "too few": ([1.0, 2.0], "one weight for each of 3 classes"),
    "negative": ([1.0, -2.0, 1.0], "finite and at least 0"),
    "another word": ("even", 'must be "balanced"'),
}


@pytest.mark.parametrize(("class_weight", "message"), CLASS_WEIGHTS.values(), ids=CLASS_WEIGHTS.keys())
def test_class_weights_must_fit_the_classes(class_weight, message):
    with pytest.raises(ValueError, match=message):
        network("softmax", n_out=3).fit(X, LABELS, loss=nnk.CategoricalCrossEntropy(class_weight=class_weight), steps=1)


def test_binary_class_weights_are_for_one_output_with_hard_labels():
    loss = nnk.BinaryCrossEntropy(class_weight=[1, 2])
    with pytest.raises(nnk.ShapeError, match="use sample_weight"):
        network("sigmoid", n_out=2).fit(X, np.zeros((6, 2)), loss=loss, steps=1)
    with pytest.raises(nnk.DataError, match="y has probabilities"):
        network("sigmoid").fit(X, np.full(6, 0.5), loss=loss, steps=1)


NETWORKS = {
    "no layers": (nnk.Sequential, ValueError, "at least one layer"),
    "layers that do not chain": (
        lambda: nnk.Sequential(nnk.Dense(1, 10), nnk.Dense(11, 1)),
        nnk.ShapeError,
        "layer 1 takes 11 inputs, but layer 0 has 10 outputs",
    ),
    "a list of layers": (lambda: nnk.Sequential([nnk.Dense(1, 1)]), TypeError, "layer 0 must be a Dense"),
    "softmax inside": (
        lambda: nnk.Sequential(nnk.Dense(1, 2, activation="softmax"), nnk.Dense(2, 1)),
        ValueError,
        "only the last layer",
    ),
    "dropout at the end": (lambda: nnk.Sequential(nnk.Dense(1, 2, dropout=0.5)), ValueError, "hidden layer"),
    "half precision": (lambda: network(dtype="float16"), ValueError, "dtype must be one of float32, float64"),
    "no dtype at all": (lambda: network(dtype="floaty"), ValueError, "not 'floaty'"),
    "a negative seed": (lambda: network(rng=-1), ValueError, "rng must be in"),
    "a seed of text": (lambda: network(rng="seed"), TypeError, "rng must be an int"),
    "no inputs": (lambda: nnk.Dense(0, 1), nnk.ShapeError, "n_in must be at least 1"),
    "unknown activation": (lambda: nnk.Dense(1, 1, activation="sigmoyd"), ValueError, "Did you mean 'sigmoid'"),
    "dropout 1": (lambda: nnk.Dense(1, 1, dropout=1.0), ValueError, r"dropout must be in \[0, 1\)"),
    "unknown initializer": (lambda: nnk.Dense(1, 1, weight_initializer="he"), ValueError, "unknown initializer"),
    "unknown distribution": (lambda: nnk.He("gamma"), ValueError, "distribution must be"),
    "orthogonal bias": (
        lambda: nnk.Sequential(nnk.Dense(1, 1, bias_initializer="orthogonal"), device="numpy"),
        ValueError,
        "a bias has no orthogonal start",
    ),
    "unknown reduction": (lambda: nnk.Huber(reduction="none"), ValueError, 'reduction must be "mean" or "sum"'),
    "huber delta 0": (lambda: nnk.Huber(delta=0), ValueError, "delta must be positive"),
    "unknown schedule": (lambda: nnk.SGD(0.1, schedule="linear"), ValueError, "unknown schedule"),
    "warm-up of 0 steps": (lambda: nnk.WarmUp(steps=0), ValueError, "steps must be positive"),
    "a rate of text": (lambda: nnk.SGD("0.1"), TypeError, "SGD: lr must be a number, or one for each .*, not '0.1'"),
    "no rate": (lambda: nnk.Adam(None), TypeError, "Adam: lr must be a number, or one for each network, not None"),
    "an activation of an activation": (
        lambda: nnk.Activation(nnk.Activation("tanh")),
        TypeError,
        "activation must be a name",
    ),
    "patience 0": (lambda: nnk.EarlyStopping(patience=0), ValueError, "patience"),
}


@pytest.mark.parametrize(("make", "error", "message"), NETWORKS.values(), ids=NETWORKS.keys())
def test_a_description_is_checked_when_it_is_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_array_on_a_gpu_is_not_copied_to_the_host_unasked():
    class OnGpu:
        @property
        def __cuda_array_interface__(self):
            return {}

    with pytest.raises(nnk.DeviceError, match=r"Copy it first: x.get\(\) or x.cpu\(\)"):
        network().predict(OnGpu())


def test_predict_names_what_is_wrong_with_x():
    net = nnk.Sequential(nnk.Dense(3, 1), device="numpy")
    with pytest.raises(nnk.ShapeError, match=r"For a single row, pass x.reshape\(1, -1\)"):
        net.predict([1.0, 2.0, 3.0])
    with pytest.raises(nnk.DataError, match="nan"):
        net.predict([[1.0, 2.0, np.nan]])


def test_weights_that_cancel_each_other_are_refused():
    weight = np.where(LABELS == 0, 1.0, 0.0)
    loss = nnk.CategoricalCrossEntropy(class_weight=[0, 1, 1])
    with pytest.raises(nnk.DataError, match="sample_weight times class_weight is zero in every row"):
        network("softmax", n_out=3).fit(X, LABELS, loss=loss, sample_weight=weight, steps=1)
