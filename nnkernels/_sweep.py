"""sweep: many configurations trained at once; those that share a shape are one ensemble."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nnkernels._device import Device
from nnkernels._ensemble import Ensemble
from nnkernels._layers import Dense
from nnkernels._losses import Loss
from nnkernels._network import Sequential
from nnkernels._optimizers import Optimizer
from nnkernels._optimizers import optimizer as resolve_optimizer
from nnkernels._parameters import initial_parameters
from nnkernels._sampling import Key
from nnkernels._training import _positive

if TYPE_CHECKING:
    from nnkernels._data import Host

NETWORKS_AT_ONCE = 8192  #: of an ensemble, at most

Configuration = dict[str, Any]


class SweepResult:
    """What a sweep has found.

    Attributes
    ----------
    records : list of dict
        One a configuration, in order: its values; "loss" and "std" over folds (NaN where a network diverged or nothing
        was built); "losses", one a fold; "diverged", whether a fold did; "error", a text, or None.
    best : dict
        The configuration whose loss is least.
    network : Sequential or None
        The best one, trained again on all rows.
    """

    def __init__(self, records: list[dict[str, Any]], best: Configuration, network: Sequential | None) -> None:
        self.records, self.best, self.network = records, best, network

    @property
    def table(self) -> Any:
        """The records as a pandas DataFrame, the best first; a list of dicts where pandas is not installed."""
        ranked = sorted(self.records, key=lambda record: (math.isnan(record["loss"]), record["loss"]))
        try:
            import pandas as pd
        except ImportError:
            return ranked
        return pd.DataFrame(ranked)

    def __repr__(self) -> str:
        failed = sum(record["error"] is not None for record in self.records)
        return f"SweepResult({len(self.records)} configurations, {failed} failed, best {self.best})"


class _Trial(NamedTuple):
    """A configuration that could be built."""

    number: int
    layers: tuple[Dense, ...]
    optimizer: Optimizer

    @property
    def shape(self) -> tuple[Any, ...]:
        """What the trials of an ensemble have in common."""
        optimizer = self.optimizer
        kinds = tuple((name, value is None) for name, value in vars(optimizer).items() if name.startswith("clip_"))
        fixed = optimizer.schedule, getattr(optimizer, "nesterov", None)
        return self.layers, type(optimizer), fixed, kinds


class _Fits(NamedTuple):
    """How every network of a sweep is trained and judged."""

    x: Any
    y: Any
    loss: str | Loss
    settings: dict[str, Any]
    validation_data: tuple[Any, ...] | None
    held_out: Host | None  # (folds, rows): 1 where a fold holds a row out
    sample_weight: Host | None
    seed: int
    where: dict[str, Any]

    @property
    def folds(self) -> int:
        """Networks of a configuration."""
        return 1 if self.held_out is None else len(self.held_out)


def sweep(
    build: Callable[..., Any],
    space: Mapping[str, Any] | Iterable[Configuration],
    x: Any,
    y: Any,
    *,
    loss: str | Loss,
    optimizer: str | Optimizer = "adam",
    n: int | None = None,
    folds: int | None = None,
    validation_data: tuple[Any, ...] | None = None,
    batch_size: int | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    sampling: str = "permutation",
    sample_weight: Any = None,
    refit: bool = True,
    on_result: Callable[[dict[str, Any]], Any] | None = None,
    device: str | Device | None = None,
    dtype: str = "float32",
    rng: Key | int | np.random.Generator | None = None,
) -> SweepResult:
    """Train a network for every configuration, and for each fold; judge them by their loss.

    Configurations with the same layers and kind of optimizer are trained together, as one `Ensemble`. What becomes of
    one does not depend on the others.

    Parameters
    ----------
    build : callable
        Takes a configuration's values by name; returns the layers, or the layers and an optimizer. If it raises, the
        configuration's record says so, and the others go on.
    space : mapping, or iterable of mappings
        Names with the values to try, of which all combinations are taken; or, with `n`, to draw from: sequences,
        functions of a `numpy.random.Generator`, or SciPy's distributions. Or the configurations themselves.
    x, y, loss, optimizer, batch_size, steps, epochs, sampling, sample_weight
        As for `Sequential.fit`; `optimizer` is for those that `build` gives none.
    n : int or None
        Number of configurations to draw.
    folds : int or None
        Cross-validation: each configuration is trained once a fold, without the fold's rows, and judged on them.
    validation_data : (x, y) or (x, y, sample_weight)
        Judges without folds; with neither, the training data do.
    refit : bool
        Whether to train the best configuration again, on all rows.
    on_result : callable or None
        Called with each record as soon as it is complete.
    device, dtype, rng
        As for `Sequential`.

    Returns
    -------
    SweepResult
        Records, the best configuration, and its network.

    Raises
    ------
    ValueError, TypeError, DataError, ShapeError
        An argument is wrong, or no configuration could be trained; the first one's error is the cause.

    Examples
    --------
    >>> import numpy as np, nnkernels as nnk
    >>> x = np.linspace(0, 1, 60)
    >>> def build(hidden, lr):
    ...     return [nnk.Dense(1, hidden, activation="tanh"), nnk.Dense(hidden, 1)], nnk.Adam(lr)
    >>> grid = {"hidden": [2, 8], "lr": [1e-5, 0.02]}
    >>> result = nnk.sweep(build, grid, x, np.sin(6 * x), loss="mean_squared_error", folds=3, steps=300, rng=0)
    >>> result.best["lr"], len(result.records)
    (0.02, 4)
    >>> result.network.predict(x).shape
    (60, 1)
    """
    key = Key.of(rng)
    generator = np.random.default_rng([key.seed, 0x5EED])
    chosen = configurations(space, n, generator)
    if folds is not None and validation_data is not None:
        raise TypeError("give folds or validation_data, not both")
    n_rows = len(np.asarray(y))
    settings = {"batch_size": batch_size, "steps": steps, "epochs": epochs, "sampling": sampling}
    weight = None if sample_weight is None else np.asarray(sample_weight, np.float64)
    held_out = None if folds is None else _held_out(folds, n_rows, generator)
    where = {"device": device, "dtype": dtype}
    fits = _Fits(x, y, loss, settings, validation_data, held_out, weight, key.seed, where)
    records = [{**configuration, "loss": math.nan, "std": math.nan} for configuration in chosen]
    for record in records:
        record |= {"losses": [math.nan] * fits.folds, "diverged": False, "error": None}
    failures: list[Exception] = []
    trials = _build_all(build, chosen, resolve_optimizer(optimizer), records, failures)
    for group in _groups(trials, fits.folds):
        try:
            _train(group, fits, records)
        except Exception as error:
            failures.append(error)
            for trial in group:
                records[trial.number]["error"] = _text(error)
        if on_result is not None:
            for trial in group:
                on_result(records[trial.number])
    return _result(chosen, trials, records, fits, failures, refit=refit)


def configurations(
    space: Mapping[str, Any] | Iterable[Configuration], n: int | None, generator: np.random.Generator
) -> list[Configuration]:
    """Return the configurations of a grid, of draws, or as they are given."""
    if not isinstance(space, Mapping):
        given = [dict(configuration) for configuration in space]
        if n is not None:
            raise TypeError("n draws from a mapping of names to values; these configurations are given already")
    elif n is not None:
        given = [{name: _draw(values, generator) for name, values in space.items()} for _ in range(_positive("n", n))]
    else:
        for name, values in space.items():
            if isinstance(values, (str, bytes)) or not isinstance(values, (Sequence, np.ndarray)):
                raise TypeError(f"space[{name!r}] must be a sequence of values, not {values!r}; to draw, give n=")
        given = [dict(zip(space, values, strict=True)) for values in itertools.product(*space.values())]
    if not given:
        raise ValueError("space has no configurations")
    return given


def _draw(values: Any, generator: np.random.Generator) -> Any:
    if hasattr(values, "rvs"):
        return values.rvs(random_state=generator)
    if callable(values):
        return values(generator)
    return values[int(generator.integers(len(values)))]


def _held_out(folds: int, n_rows: int, generator: np.random.Generator) -> Host:
    """Return which rows each fold holds out, (folds, rows)."""
    if not 2 <= _positive("folds", folds) <= n_rows:
        raise ValueError(f"folds must be from 2 to the number of rows, {n_rows}, not {folds}")
    fold = np.empty(n_rows, np.int64)
    fold[generator.permutation(n_rows)] = np.arange(n_rows) % folds
    held_out: Host = (fold == np.arange(folds)[:, None]).astype(np.float64)
    return held_out


def _build_all(
    build: Callable[..., Any],
    chosen: list[Configuration],
    default: Optimizer,
    records: list[dict[str, Any]],
    failures: list[Exception],
) -> list[_Trial]:
    """Build every configuration; those that cannot be get their error."""
    trials = []
    for number, configuration in enumerate(chosen):
        try:
            trials.append(_trial(number, build(**configuration), default))
        except Exception as error:
            failures.append(error)
            records[number]["error"] = _text(error)
    return trials


def _trial(number: int, built: Any, default: Optimizer) -> _Trial:
    layers, optimizer = built, default
    if isinstance(built, tuple) and len(built) == 2 and not isinstance(built[1], Dense):
        layers, optimizer = built[0], resolve_optimizer(built[1])
    if isinstance(layers, Dense):
        layers = [layers]
    if optimizer.varied:
        raise ValueError(f"build returned an optimizer with several numbers for {', '.join(optimizer.varied)}")
    Sequential(*layers, device="numpy", rng=0)  # says what is wrong with them
    return _Trial(number, tuple(layers), optimizer)


def _groups(trials: list[_Trial], folds: int) -> list[list[_Trial]]:
    """Return the trials that are trained together."""
    by_shape: dict[Any, list[_Trial]] = {}
    for trial in trials:
        by_shape.setdefault(trial.shape, []).append(trial)
    size = max(1, NETWORKS_AT_ONCE // folds)
    return [group[start : start + size] for group in by_shape.values() for start in range(0, len(group), size)]


def _train(group: list[_Trial], fits: _Fits, records: list[dict[str, Any]]) -> None:
    """Train a group, one network a trial and fold, and write down what it is worth."""
    folds, held_out, x, y = fits.folds, fits.held_out, fits.x, fits.y
    numbers = np.array([trial.number * folds + fold for trial in group for fold in range(folds)])
    layers, weight, judging = group[0].layers, fits.sample_weight, fits.sample_weight
    ensemble = Ensemble.restored(layers, Key(fits.seed), numbers, **fits.where)
    ensemble.set_flat(initial_parameters(ensemble.layers, fits.seed, numbers, ensemble.dtype))
    if held_out is not None:
        rows = 1.0 if weight is None else weight
        weight, judging = (np.tile(part * rows, (len(group), 1)) for part in (1 - held_out, held_out))
    optimizer = _together([trial.optimizer for trial in group], folds)
    ensemble.fit(x, y, loss=fits.loss, optimizer=optimizer, sample_weight=weight, **fits.settings)
    if fits.validation_data is not None:
        x, y, *rest = fits.validation_data
        judging = rest[0] if rest else None
    losses = ensemble.evaluate(x, y, loss=fits.loss, sample_weight=judging)
    losses[ensemble.diverged >= 0] = math.nan
    for trial, own, diverged in zip(
        group, losses.reshape(-1, folds), ensemble.diverged.reshape(-1, folds) >= 0, strict=True
    ):
        found = {"loss": float(own.mean()), "std": float(own.std()), "losses": own.tolist()}
        records[trial.number] |= found | {"diverged": bool(diverged.any())}


def _together(optimizers: list[Optimizer], folds: int) -> Optimizer:
    """Return one optimizer with the numbers of several, each as often as there are folds."""
    fields: dict[str, Any] = {}
    for name, value in vars(optimizers[0]).items():
        values = [getattr(optimizer, name) for optimizer in optimizers]
        if any(other != value for other in values):
            fields[name] = [other for other in values for _ in range(folds)]
    together: Optimizer = optimizers[0].replace(**fields)
    return together


def _result(
    chosen: list[Configuration],
    trials: list[_Trial],
    records: list[dict[str, Any]],
    fits: _Fits,
    failures: list[Exception],
    *,
    refit: bool,
) -> SweepResult:
    losses = [record["loss"] for record in records]
    if all(math.isnan(loss) for loss in losses):
        first = next((record["error"] for record in records if record["error"]), "every network diverged")
        raise ValueError(f"no configuration could be trained: {first}") from (failures[0] if failures else None)
    best = int(np.nanargmin(losses))
    network = None
    if refit:
        trial = next(trial for trial in trials if trial.number == best)
        network = Sequential(*trial.layers, rng=Key(fits.seed, best * fits.folds), **fits.where)
        network.fit(
            fits.x, fits.y, loss=fits.loss, optimizer=trial.optimizer, sample_weight=fits.sample_weight, **fits.settings
        )
    return SweepResult(records, chosen[best], network)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
