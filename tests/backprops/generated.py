"""A second corpus, scored by itself: one learner's class for networks of any depth, with one slip or two in it.

Unit by unit and row by row, in the style of a course's first exercise; slips are lines that are replaced.
"""

import numpy as np

from backprops import sigmoid, softmax


def softplus(z):
    return np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0)


FUNCTIONS = {
    "identity": (lambda z: z, lambda z, a: np.ones_like(z)),
    "sigmoid": (sigmoid, lambda z, a: a * (1 - a)),
    "tanh": (np.tanh, lambda z, a: 1 - a**2),
    "relu": (lambda z: np.maximum(z, 0), lambda z, a: np.where(z > 0, 1, 0)),
    "softplus": (softplus, lambda z, a: sigmoid(z)),
    "softmax": (lambda z: softmax(z[None])[0], None),
}

# slip -> the codes that name it
SLIPS = {
    "target - output": {"sign"},
    "no output slope": {"slope_missing"},
    "no hidden slope": {"slope_missing"},
    "slope at the activation": {"slope_at_activation"},
    "slope twice": {"slope_twice"},
    "activation for slope": {"activation_not_slope"},
    "raw error back": {"raw_error_back"},
    "no weights on the way back": {"weights_not_used"},
    "sum, no mean": {"not_divided_by_rows"},
    "mean twice": {"divided_by_rows"},
    "factor 2": {"factor_2"},
    "z for a": {"preactivation"},
    "first bias negative": {"sign"},
    "last row only": {"last_row_only"},
    "bias over units": {"bias_over_units"},
    "no target": {"target_missing"},
    "early update": {"weights_updated_first"},
    "penalty": {"penalty"},
    "no inputs": {"input_missing"},
}


# slips of which only one can be seen
EXCLUSIVE = (
    {"no hidden slope", "slope at the activation", "slope twice", "activation for slope"},
    {"no weights on the way back", "early update"},
    {"no output slope", "raw error back"},
    {"no target", "target - output"},
    {"first bias negative", "bias over units"},
)


class Network:
    """Layers of (n_in, n_out, activation), weights[l][i, j] from unit i to unit j."""

    def __init__(self, layers, weights, biases, loss, slips=()):
        self.layers, self.weights, self.biases, self.loss, self.slips = layers, weights, biases, loss, set(slips)

    def forward(self, row):
        self.z, self.a = [], [row]
        for (_, _, name), w, b in zip(self.layers, self.weights, self.biases, strict=True):
            self.z.append(self.a[-1] @ w + b)
            self.a.append(FUNCTIONS[name][0](self.z[-1]))
        return self.a[-1]

    def prime(self, layer):
        prime, z, a = FUNCTIONS[self.layers[layer][2]][1], self.z[layer], self.a[layer + 1]
        last = layer == len(self.layers) - 1
        if last and ("no output slope" in self.slips):
            return np.ones_like(z)
        if not last and layer == 0:
            if "no hidden slope" in self.slips:
                return np.ones_like(z)
            if "slope at the activation" in self.slips:
                return prime(a, FUNCTIONS[self.layers[layer][2]][0](a))
            if "slope twice" in self.slips:
                return prime(z, a) ** 2
            if "activation for slope" in self.slips:
                return a
        return prime(z, a)

    def output_error(self, output, target):
        error = target - output if "target - output" in self.slips else output - target
        if "no target" in self.slips:
            error = output.copy()
        if self.loss == "mean_squared_error":
            error = 2 * error / len(output)
        return error

    def row_gradients(self, row, target):
        error = self.output_error(self.forward(row), target)
        fused = self.loss in ("binary_cross_entropy", "categorical_cross_entropy")
        delta = (
            error / (len(error) if self.loss == "binary_cross_entropy" else 1)
            if fused
            else error * self.prime(-1 + len(self.layers))
        )
        gradients = []
        for layer in reversed(range(len(self.layers))):
            below = self.z[layer - 1] if layer and "z for a" in self.slips else self.a[layer]
            if layer == 0 and "no inputs" in self.slips:
                below = np.ones_like(below)
            gradients.insert(0, (np.outer(below, delta), delta.copy()))
            if layer:
                sent = error if "raw error back" in self.slips and layer == len(self.layers) - 1 else delta
                w = self.weights[layer]
                if "early update" in self.slips and layer == len(self.layers) - 1:
                    w = w - 0.1 * self.top_gradient
                back = w @ sent
                if "no weights on the way back" in self.slips and layer == len(self.layers) - 1:
                    back = np.full(len(w), sent.sum())
                delta = back * self.prime(layer - 1)
        return gradients

    def gradients(self, x, t):
        if "early update" in self.slips:
            plain = Network(self.layers, self.weights, self.biases, self.loss, self.slips - {"early update"})
            self.top_gradient = plain.gradients(x, t)[f"{len(self.layers) - 1}.weight"]
        sums = [(np.zeros_like(w), np.zeros_like(b)) for w, b in zip(self.weights, self.biases, strict=True)]
        for row, target in zip(x, t, strict=True):
            for (dw, db), (gw, gb) in zip(sums, self.row_gradients(row, target), strict=True):
                if "last row only" in self.slips:
                    dw[...], db[...] = 0, 0
                np.add(dw, gw, out=dw)
                np.add(db, gb, out=db)
        scale = 1 if "sum, no mean" in self.slips else 1 / len(x)
        scale = scale / len(x) if "mean twice" in self.slips else scale
        scale = 2 * scale if "factor 2" in self.slips else scale
        found = {}
        for i, (dw, db) in enumerate(sums):
            found[f"{i}.weight"], found[f"{i}.bias"] = dw * scale, db * scale
            if "penalty" in self.slips:
                found[f"{i}.weight"] = found[f"{i}.weight"] + 0.03 * self.weights[i]
        if "first bias negative" in self.slips:
            found["0.bias"] = -found["0.bias"]
        if "bias over units" in self.slips:
            found["0.bias"] = np.full_like(found["0.bias"], found["0.bias"].sum())
        return found


def fits(slip, layers, loss, rows):
    """Tell whether a slip changes anything in such a network."""
    hidden, last = len(layers) > 1, layers[-1][2]
    if slip in ("no output slope", "raw error back") and (last == "identity" or loss.endswith("entropy")):
        return False
    if slip in ("no hidden slope", "slope at the activation", "slope twice", "activation for slope", "raw error back"):
        first = layers[0][2]
        return hidden and not (first == "relu" and slip in ("slope at the activation", "slope twice"))
    if slip in ("z for a", "no weights on the way back", "early update"):
        return hidden
    if slip in ("sum, no mean", "mean twice", "last row only"):
        return rows > 2
    return not (slip == "bias over units" and layers[0][1] == 1)


def draw(rng, *, depth=None):
    """Draw layers, loss, weights, biases, x and t: 1 to 3 hidden layers, widths 1 to 20, batches 1 to 64."""
    depth = depth or int(rng.integers(1, 4))
    widths = [int(rng.integers(1, 21)) for _ in range(depth + 2)]
    loss = str(
        rng.choice(["half_squared_error", "mean_squared_error", "binary_cross_entropy", "categorical_cross_entropy"])
    )
    last = {"binary_cross_entropy": "sigmoid", "categorical_cross_entropy": "softmax"}.get(loss) or str(
        rng.choice(["identity", "sigmoid", "tanh"])
    )
    if loss == "categorical_cross_entropy":
        widths[-1] = max(widths[-1], 2)
    hidden = [str(rng.choice(["sigmoid", "tanh", "relu", "softplus"])) for _ in range(depth)]
    layers = list(zip(widths[:-1], widths[1:], [*hidden, last], strict=True))
    rows = int(rng.integers(1, 65))
    weights = [rng.normal(0, 1.2 / np.sqrt(n), (n, m)) for n, m, _ in layers]
    biases = [rng.normal(0, 0.4, m) for _, m, _ in layers]
    x, t = rng.normal(size=(rows, widths[0])), rng.normal(size=(rows, widths[-1]))
    if loss == "categorical_cross_entropy":
        t = np.eye(widths[-1])[rng.integers(0, widths[-1], rows)]
    elif loss == "binary_cross_entropy":
        t = rng.integers(0, 2, t.shape).astype(float)
    return layers, loss, weights, biases, x, t
