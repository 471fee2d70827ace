"""Each change in words: its code, what is wrong, the wrong formula beside the right one, and the fix.

Names in formulas: x, W0, b0, z0, a0, W1, ... as parameters are numbered; p is the output, t the target, B the number of
rows, and delta1 the slope of the loss with respect to z1.
"""

from __future__ import annotations

from typing import NamedTuple

from nnkernels._diagnosis.factors import Change
from nnkernels._diagnosis.point import Point


class Words(NamedTuple):
    """A mistake, in words."""

    code: str
    message: str
    wrong: str
    right: str


class Formulas:
    """The right backward pass of a network as NumPy code."""

    def __init__(self, point: Point) -> None:
        self.point, self.top = point, point.depth - 1
        self.outputs = f" / {point.n_out}" if point.n_out > 1 else ""
        self.mean = " / B" if point.loss.reduction == "mean" and point.rows > 1 else ""

    def out(self, layer: int) -> str:
        """The layer's output."""
        return "p" if layer == self.top else f"a{layer}"

    def into(self, layer: int) -> str:
        """The layer's input."""
        return f"a{layer - 1}" if layer else "x"

    def slope(self, layer: int) -> str:
        """The slope of the layer's activation, "" if it is 1."""
        return slope_of(self.point.function(layer), f"z{layer}", self.out(layer))

    def error(self, kernel: str | None = None) -> str:
        """The slope of a loss for the output; of the network's own without a name."""
        n = self.outputs
        return {
            "half_squared_error": "(p - t)",
            "mean_squared_error": f"2 * (p - t){n}",
            "squared_error": "2 * (p - t)",
            "absolute_error": f"np.sign(p - t){n}",
            "huber": f"np.clip(p - t, -delta, delta){n}",
            "binary_cross_entropy": f"(p - t) / (p * (1 - p)){n}",
            "categorical_cross_entropy": "-t / p",
            "poisson": f"(np.exp(p) - t){n}",
            "poisson_rate": f"(1 - t / p){n}",
            "poisson_as_rate": f"(p - t){n}",
        }[kernel or self.point.kernel]

    def output_delta(self) -> str:
        """Delta of the last layer."""
        if self.point.fused:
            per_output = self.outputs if self.point.kernel == "binary_cross_entropy" else ""
            return f"(p - t){per_output}{self.mean}"
        return self.unfused(self.error())

    def unfused(self, error: str) -> str:
        """Delta of the last layer from the slope of a loss for the output."""
        if self.point.squash == "softmax":
            return f"p * (e - (e * p).sum(axis=1, keepdims=True)){self.mean} with e = {error}"
        return times(error + self.mean, self.slope(self.top))

    def delta(self, layer: int) -> str:
        """Delta of a layer."""
        if layer == self.top:
            return f"delta{layer} = {self.output_delta()}"
        return f"delta{layer} = " + times(f"(delta{layer + 1} @ W{layer + 1}.T)", self.slope(layer))

    def gradient(self, layer: int, kind: str) -> str:
        """The gradient of a parameter."""
        if kind == "weight":
            return f"dW{layer} = {self.into(layer)}.T @ delta{layer}"
        return f"db{layer} = delta{layer}.sum(axis=0)"


def times(*factors: str) -> str:
    """A product, without the factors that are 1."""
    return " * ".join(factor for factor in factors if factor)


def slope_of(function: str, z: str, a: str) -> str:
    """The slope of an activation, from z or a, as NumPy code."""
    return {
        "identity": "",
        "sigmoid": f"{a} * (1 - {a})",
        "tanh": f"(1 - {a}**2)",
        "relu": f"({z} > 0)",
        "leaky_relu": f"np.where({z} > 0, 1, 0.01)",
        "elu": f"np.where({z} > 0, 1, np.exp({z}))",
        "softplus": f"sigmoid({z})",
        "softmax": f"{a} * (1 - {a})",
    }.get(function, f"{function}_slope({z})")


def words(point: Point, change: Change) -> Words:
    """Return a change in words."""
    formulas, layer = Formulas(point), change.layer
    site, _, factor = change.site.partition(" ")
    own = change.parameter
    if own is None:
        return _shared(formulas, site, change)
    kind, right = site, formulas.gradient(layer, site)
    where = f"In the gradient of {own} alone, "
    if factor == "slope":
        inner = _slope(formulas, layer, change.key)
        code, message, wrong = inner.code, where + inner.message[0].lower() + inner.message[1:], inner.wrong
        return Words(code, message, wrong, f"{formulas.delta(layer)}; {right}")
    if factor == "scale":
        code, message = _scale(point, change.key)
        return Words(code, f"The gradient of {own} {message}.", times_scale(right, change.key), right)
    if factor == "rows":
        code, message, wrong = _rows(change.key, right, formulas, layer)
        return Words(code, where + message, wrong, right)
    if factor == "input":
        code, message, wrong = _input(formulas, layer, kind, change.key)
        return Words(code, where + message, wrong, right)
    return _end(formulas, change, kind, right)


# ---- what all gradients below inherit --------------------------------------------------------------------------------


def _shared(formulas: Formulas, site: str, change: Change) -> Words:
    layer, key = change.layer, change.key
    if site == "error":
        return _error(formulas, key)
    if site == "slope":
        return _slope(formulas, layer, key)
    if site == "pass":
        return _pass(formulas, change)
    right = formulas.delta(layer)
    if site == "scale":
        code, message = _scale(formulas.point, key)
        if code == "sign" and layer == formulas.top:
            return Words(
                code,
                "The error has the wrong sign: (target - prediction), subtracted as a gradient is, goes uphill.",
                right.replace("p - t", "t - p") if "p - t" in right else times_scale(right, key),
                right,
            )
        return Words(code, f"delta{layer} {message}, and so is all below it.", times_scale(right, key), right)
    code, message, wrong = _rows(key, right, formulas, layer)
    return Words(code, message[0].upper() + message[1:], wrong, right)


def _error(formulas: Formulas, key: str) -> Words:
    right, top = formulas.delta(formulas.top), formulas.top
    kind, _, name = key.partition(" ")
    slope = "" if formulas.point.squash == "softmax" else formulas.slope(top)
    if kind == "loss":
        wrong = f"delta{top} = {formulas.unfused(formulas.error(name))}"
        loss = name.replace("_", " ")
        return Words(
            "other_loss", f"The slope of another loss, {loss}, stands for that of the network's loss.", wrong, right
        )
    code, message, wrong = {
        "prediction": ("target_missing", "The target is not subtracted from the prediction.", "p"),
        "target": ("prediction_missing", "The target stands alone; the prediction is missing from the error.", "-t"),
        "half_square": ("loss_not_slope", "The loss itself, (p - t)**2 / 2, stands for its slope.", "(p - t)**2 / 2"),
        "square": ("loss_not_slope", "The loss itself, (p - t)**2, stands for its slope.", "(p - t)**2"),
        "broadcast": (
            "broadcast",
            "Each prediction is compared with the targets of all rows: (rows, 1) minus (rows,) is (rows, rows).",
            "(p - t.mean())",
        ),
        "unsquashed": (
            "output_activation_missing",
            f"The error is taken before the output's {formulas.point.squash}: z - t, not p - t.",
            f"(z{top} - t)",
        ),
        "softmax_over_rows": (
            "softmax_over_rows",
            "The softmax is taken over the rows of the batch, and not over the outputs of each row.",
            "np.exp(z) / np.exp(z).sum(axis=0) - t",
        ),
    }[key]
    return Words(
        code, message, f"delta{top} = {times(wrong + formulas.mean, '' if formulas.point.fused else slope)}", right
    )


def _slope(formulas: Formulas, layer: int, key: str) -> Words:
    point, right = formulas.point, formulas.delta(layer)
    f, z, a, slope = point.function(layer), f"z{layer}", formulas.out(layer), formulas.slope(layer)
    da = f"(delta{layer + 1} @ W{layer + 1}.T)" if layer < formulas.top else formulas.error() + formulas.mean
    kind, _, rest = key.partition(" ")
    if kind == "twice" and layer == formulas.top and point.fused and f == "sigmoid":
        message = (
            "The derivative of the output's sigmoid is applied again: in p - t it has cancelled against the loss's."
        )
        return Words("slope_twice", message, f"{right} * {slope}", right)
    where = f"layer {layer}'s {f}" + (" (the output's)" if layer == formulas.top else "")
    code, message, wrong = {
        "missing": ("slope_missing", f"The derivative of {where} is missing.", ""),
        "twice": ("slope_twice", f"The derivative of {where} is applied twice.", f"({slope})**2"),
        "divided": ("slope_divided", f"The derivative of {where} divides and does not multiply.", f"1 / ({slope})"),
        "of_activation": (
            "slope_at_activation",
            f"The derivative of {where} is taken at the activation {a}, as if it were the pre-activation {z}.",
            f"{f}_derivative({a})",
        ),
        "of_function": (
            "slope_of_other_function",
            f"The derivative of {rest} stands for that of {where}.",
            slope_of(rest, z, a),
        ),
        "formula": (
            "slope_formula_at_z" if rest.endswith("z") else "slope_of_other_function",
            f"The formula for the derivative in terms of the activation is given the pre-activation {z}."
            if rest.endswith("z")
            else f"The derivative of {rest.split(' ')[0]} stands for that of {where}.",
            slope_of(rest.split(" ")[0], z, z if rest.endswith("z") else a),
        ),
        "activation": ("activation_not_slope", f"The activation {a} stands for the derivative of {where}.", a),
        "one_minus": ("slope_incomplete", f"Only (1 - {a}) stands for the derivative of {where}.", f"(1 - {a})"),
        "of_layer": (
            "slope_of_other_layer",
            f"The derivative of layer {rest} stands for that of {where}.",
            f"slope{rest}",
        ),
        "delta": ("wrong_delta", f"delta{rest} stands for delta{layer}.", ""),
        "softmax_diagonal": (
            "softmax_diagonal",
            "The softmax's derivative is reduced to p * (1 - p), the diagonal of its Jacobian.",
            "p * (1 - p)",
        ),
        "softmax_p": ("softmax_diagonal", "The softmax's derivative is reduced to p.", "p"),
        "right": (
            "slope_right_here",
            f"The derivative of {where} is right, which it is not in what is sent back.",
            slope,
        ),
    }[kind]
    return Words(code, message, f"delta{layer} = {f'delta{rest}' if kind == 'delta' else times(da, wrong)}", right)


def _pass(formulas: Formulas, change: Change) -> Words:
    layer, above = change.layer, change.layer + 1
    kind, _, other = change.key.partition(" ")
    raw = f"(p - t){formulas.mean}" if above == formulas.top else f"(delta{above + 1} @ W{above + 1}.T)"
    code, message, wrong = {
        "raw": (
            "raw_error_back",
            f"The error before layer {above}'s derivative is sent back, and not delta{above}.",
            f"{raw} @ W{above}.T",
        ),
        "sum": (
            "weights_not_used",
            f"The error is sent back to layer {layer} without the weights W{above} it came through.",
            f"delta{above}.sum(axis=1, keepdims=True)",
        ),
        "raw_sum": (
            "weights_not_used",
            f"The raw error is sent back to layer {layer}, without W{above} and without layer {above}'s derivative.",
            raw if formulas.point.layers[above].n_out == 1 else f"({raw}).sum(axis=1, keepdims=True)",
        ),
        "unweighted": (
            "weights_not_used",
            f"The error is sent back to layer {layer} without the weights W{above} it came through.",
            f"delta{above}",
        ),
        "untransposed": (
            "weight_not_transposed",
            f"W{above} is not transposed on the way back.",
            f"delta{above} @ W{above}",
        ),
        "weight": ("wrong_weight", f"W{other} stands for W{above} on the way back.", f"delta{above} @ W{other}"),
        "delta": ("wrong_delta", f"delta{other} stands for delta{above}.", f"delta{other} @ W{above}.T"),
        "skipped": ("layer_skipped", f"Layer {above} is skipped on the way back.", f"delta{other} @ W{other}.T"),
        "updated_first": (
            "weights_updated_first",
            f"W{above} is updated (learning rate {change.value:.4g}) before layer {layer} has used it.",
            f"delta{above} @ (W{above} - {change.value:.4g} * dW{above}).T",
        ),
    }[kind]
    slope = formulas.slope(layer)
    return Words(code, message, f"delta{layer} = {times(wrong, slope)}", formulas.delta(layer))


# ---- what concerns one gradient --------------------------------------------------------------------------------------

_SCALES = {
    "sign": ("sign", "has the wrong sign", "-1 * "),
    "twice": (
        "factor_2",
        "is twice what it should be: a factor 2 too many, or the same gradient accumulated twice",
        "2 * ",
    ),
    "half": ("factor_half", "is half of what it should be: the factor 2 is missing", "0.5 * "),
    "by_rows": ("divided_by_rows", "is divided by the number of rows once too often", "1 / B * "),
    "times_rows": (
        "not_divided_by_rows",
        "is summed over the rows where the loss is their mean: 1 / B is missing",
        "B * ",
    ),
    "by_outputs": ("divided_by_outputs", "is divided by the number of outputs once too often", "1 / n_out * "),
    "times_outputs": ("not_divided_by_outputs", "misses a division by the number of outputs", "n_out * "),
}


def _scale(point: Point, key: str) -> tuple[str, str]:
    code, message, _ = _SCALES[key]
    if key == "times_rows" and point.loss.reduction == "sum":
        message = "is multiplied with the number of rows"
    return code, message


def times_scale(formula: str, key: str) -> str:
    """A formula with a scale before its right side."""
    name, _, value = formula.partition(" = ")
    if key == "times_rows" and " / B" in value:
        return f"{name} = {value.replace(' / B', '', 1)}"
    return f"{name} = {_SCALES[key][2]}{value}"


def _rows(key: str, right: str, formulas: Formulas, layer: int) -> tuple[str, str, str]:
    into = formulas.into(layer)
    return {
        "first_row": ("first_row_only", "only the first row counts.", f"{right}   # of row 0"),
        "last_row": (
            "last_row_only",
            "only the last row counts: each row's gradient overwrites the one before (= where += is meant).",
            f"{right}   # of row B - 1",
        ),
        "running_sum": (
            "running_sum",
            "earlier rows count several times: a sum that is still growing is added for each row.",
            "total += running, where running holds the rows so far",
        ),
        "averaged_first": (
            "averaged_before_product",
            "inputs and deltas are averaged over the rows before they are multiplied.",
            f"dW{layer} = np.outer({into}.mean(axis=0), delta{layer}.sum(axis=0))",
        ),
    }[key]


def _input(formulas: Formulas, layer: int, kind: str, key: str) -> tuple[str, str, str]:
    into, name, _, other = formulas.into(layer), *key.partition(" ")
    delta = f"delta{layer}"
    if kind == "bias":
        return {
            "times_input": (
                "bias_times_input",
                "delta is multiplied with the input.",
                f"db{layer} = ({into} * {delta}).sum(axis=0)",
            ),
            "times_bias": (
                "bias_times_bias",
                "delta is multiplied with the bias itself.",
                f"db{layer} = b{layer} * {delta}.sum(axis=0)",
            ),
            "over_units": ("bias_over_units", "delta is summed over the units, too.", f"db{layer} = {delta}.sum()"),
        }[name]
    activation = (
        "p" if other and int(other) == formulas.point.depth else ("x" if other == "0" else f"a{int(other or 1) - 1}")
    )
    code, message, wrong = {
        "missing": ("input_missing", f"the input {into} is missing.", f"np.ones_like({into})"),
        "preactivation": (
            "preactivation",
            f"the pre-activation z{layer - 1} stands for the activation {into}.",
            f"z{layer - 1}",
        ),
        "slope": (
            "slope_not_activation",
            f"the derivative of layer {layer - 1} stands for its activation {into}.",
            f"slope{layer - 1}",
        ),
        "activated": (
            "input_activated",
            "the activation is applied to the input x.",
            f"{formulas.point.function(0)}(x)",
        ),
        "activation": ("wrong_activation", f"{activation} stands for the layer's input {into}.", activation),
    }[name]
    return code, message, f"dW{layer} = {wrong}.T @ {delta}"


def _end(formulas: Formulas, change: Change, kind: str, right: str) -> Words:
    layer, value = change.layer, change.value
    symbol = f"{'W' if kind == 'weight' else 'b'}{layer}"
    name, _, formula = right.partition(" = ")
    code, message, wrong = {
        "unsummed": (
            "bias_not_summed",
            f"The gradient of {change.parameter} is not summed over the rows.",
            f"{name} = delta{layer}",
        ),
        "transposed": (
            "transposed",
            f"The outer product of {change.parameter} is in the wrong orientation.",
            f"{name} = delta{layer}.T @ {formulas.into(layer)}",
        ),
        "penalty": (
            "penalty",
            f"The gradient of {change.parameter} has a term {value:.6g} * {symbol} of an L2 penalty too many.",
            f"{right} + {value:.6g} * {symbol}",
        ),
        "absolute_penalty": (
            "penalty",
            f"The gradient of {change.parameter} has a term {value:.6g} * sign({symbol}) of an L1 penalty too many.",
            f"{right} + {value:.6g} * np.sign({symbol})",
        ),
        "rounded": (
            "rounded",
            f"The gradient of {change.parameter} is rounded to {value:g} decimals.",
            f"{name} = np.round({formula}, {value:g})",
        ),
        "truncated": (
            "integer_dtype",
            f"The gradient of {change.parameter} is cut off to integers by its dtype.",
            f"{name} = ({formula}).astype(int)",
        ),
        "zero": (
            "zero",
            f"The gradient of {change.parameter} is zero: it is not computed, reset, or a factor of it is 0.",
            f"{name} = 0",
        ),
    }[change.key]
    return Words(code, message, wrong, right)
