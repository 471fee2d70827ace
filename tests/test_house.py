"""The house: one place for one thing, and a stranger finds it."""

import ast
import importlib
import inspect
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import nnkernels as nnk
from nnkernels import testing
from nnkernels._formulas import ACTIVATIONS, FUNCTIONS, LOSSES, OPTIMIZERS
from nnkernels.backends.__main__ import DIALECTS

PACKAGE = Path(nnk.__file__).parent
ROOT = Path(__file__).parent.parent
PUBLIC = [name for name in vars(nnk) if not name.startswith("_") and not inspect.ismodule(getattr(nnk, name))]
PUBLIC_MODULES = {"backends", "estimators", "plots", "testing"}


def run(code, **kwargs):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, **kwargs).stdout


# ---- importing -------------------------------------------------------------------------------------------------------


def test_importing_the_package_imports_numpy_and_nothing_heavy(unwatched):
    heavy = [
        "nnkernels._diagnosis.report",
        "numba",
        "cupy",
        "scipy",
        "sklearn",
        "matplotlib",
        "click",
        "rich",
        "pandas",
        "safetensors",
        "dataclasses",
    ]
    code = f"import nnkernels, sys; print([name for name in {heavy} if name in sys.modules])"
    assert run(code, env=unwatched) == "[]\n"


def test_training_on_numpy_does_not_import_numba():
    code = (
        "import nnkernels as nnk, sys; net = nnk.Sequential(nnk.Dense(1, 1), device='numpy');"
        "net.fit([0.0, 1.0], [0.0, 1.0], loss='huber', steps=3); assert 'numba' not in sys.modules"
    )
    run(code)


def test_a_network_on_numba_is_made_moved_saved_and_draws_rows_without_importing_numba(tmp_path):
    code = (
        "import nnkernels as nnk, numpy as np, sys; net = nnk.Sequential(nnk.Dense(1, 3), device='numba');"
        f"net.to('numpy').to('numba').save({str(tmp_path / 'net.safetensors')!r});"
        f"kernels = nnk.load({str(tmp_path / 'net.safetensors')!r}, device='numba').device.kernels;"
        "rows, mask = np.empty((8, 4), np.int64), np.empty((1, 8, 4));"
        "kernels.draw_indices(1, 0, 0, sampling='permutation', n_rows=9, out=rows);"
        "kernels.dropout_mask(1, 0, 0, np.array(0), 0.5, out=mask);"
        "assert 'numba' not in sys.modules"
    )
    run(code)


def test_no_public_name_is_hidden_by_a_module_of_that_name():
    """Importing every submodule must leave every public function callable."""
    submodules = [info.name for info in pkgutil.walk_packages(nnk.__path__, "nnkernels.")]
    code = (
        "import importlib, inspect, nnkernels as nnk\n"
        f"for name in {submodules}:\n"
        "    if not name.endswith('__main__'): importlib.import_module(name)\n"
        f"assert all(callable(getattr(nnk, name)) for name in {PUBLIC})\n"
    )
    run(code)


def test_every_module_outside_the_public_ones_is_private():
    top = {info.name for info in pkgutil.iter_modules(nnk.__path__)}
    assert {name for name in top if not name.startswith("_")} <= PUBLIC_MODULES


# ---- documentation ---------------------------------------------------------------------------------------------------

ERRORS_AND_RECORDS = {name for name in PUBLIC if inspect.isclass(getattr(nnk, name))} & {
    *(name for name in PUBLIC if isinstance(getattr(nnk, name), type) and issubclass(getattr(nnk, name), Exception)),
    "DeviceStatus",  # what `devices` returns
    "EnsembleHistory",
    "EnsembleProgress",
    "SweepResult",
    "History",  # what `fit` returns
    "Plan",
    "Progress",
    "Initializer",  # bases: their subclasses have the examples
    "Loss",
    "Optimizer",
    "Schedule",
}


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_with_an_example(name):
    text = inspect.getdoc(getattr(nnk, name))
    assert text
    assert name in ERRORS_AND_RECORDS or ">>>" in text, f"{name} has no example"


@pytest.mark.parametrize("name", [n for n, f in vars(nnk.Sequential).items() if callable(f) and not n.startswith("_")])
def test_every_method_of_a_network_is_documented(name):
    text = inspect.getdoc(getattr(nnk.Sequential, name))
    assert text
    assert name == "next_fit_seed" or ">>>" in text, f"Sequential.{name} has no example"


# ---- where things are ------------------------------------------------------------------------------------------------

BACKEND_FOLDERS = ("numpy", "numba", "cupy")
KERNELS = {
    **{f"{name}_forward": "activations.py" for name in ACTIVATIONS},
    **{f"{name}_{way}": "losses.py" for name in LOSSES for way in ("forward", "backward")},
    **{f"categorical_cross_entropy_{way}": "kernels.py" for way in ("forward", "backward")},
    **{f"{name}_update": "optimizers.py" for name in OPTIMIZERS},
    "draw_indices": "random.py",
    "dropout_mask": "random.py",
    "matmul_forward": "kernels.py",
    "softmax_forward": "kernels.py",
}


@pytest.mark.parametrize("folder", BACKEND_FOLDERS)
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_has_one_place_with_the_same_name_in_every_backend(folder, name):
    holding = [
        path.name
        for path in (PACKAGE / "backends" / folder).glob("*.py")
        if re.search(rf"^(def {name}\(|from .* import {name} as {name}$)", path.read_text(), re.MULTILINE)
        and not (path.name == "kernels.py" and KERNELS[name] == "random.py")  # re-exported there
    ]
    assert holding == [KERNELS[name]]


@pytest.mark.parametrize(
    "line",
    [row for row in (ROOT / "CONTRIBUTING.md").read_text().splitlines() if row.startswith("| ") and " in `nnk" in row],
)
def test_the_map_in_contributing_leads_to_the_function(line):
    for function, path in re.findall(r"`(\w+)` in `(nnkernels/[\w/]+\.py)`", line):
        names = {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
        names |= {
            target.id
            for node in ast.parse((ROOT / path).read_text()).body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert function in names


def test_a_device_string_is_parsed_in_one_place():
    parsing = [path.name for path in PACKAGE.rglob("*.py") if '.partition(":")' in path.read_text()]
    assert parsing == ["_device.py"]


def test_no_file_is_a_house_of_its_own():
    long = {path.name: n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 450}
    assert long == {}


# ---- formulas, and what is printed from them -------------------------------------------------------------------------


@pytest.mark.parametrize(("folder", "dialect"), DIALECTS.items())
def test_the_printed_kernels_are_those_of_the_formulas(folder, dialect):
    for name, source in dialect.files().items():
        printed = (PACKAGE / "backends" / folder / name).read_text()
        assert printed == source, f"run `python -m nnkernels.backends`: {folder}/{name} is not what _formulas.py says"


@pytest.mark.parametrize(
    "formula", [*ACTIVATIONS.values(), *LOSSES.values(), *OPTIMIZERS.values()], ids=lambda f: f.summary
)
def test_a_formula_uses_the_language_and_nothing_else(formula):
    allowed = ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.USub, ast.Compare, ast.Lt, ast.Gt, ast.Call
    allowed += ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow
    for _, expression in formula.statements():
        for node in ast.walk(expression):
            assert isinstance(node, allowed)
            if isinstance(node, ast.Call):
                assert node.func.id in FUNCTIONS


def test_every_backend_takes_the_protocols_arguments(kernels):
    testing.check_signatures(kernels)


def test_contributings_add_a_kernel_followed_literally_adds_an_activation_on_every_backend(tmp_path):
    """The steps of the page, on a copy of the package: the formula, the Protocol's line, the command; then training."""
    page = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a kernel")[2].partition("## Add a backend")[0]
    entry = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    declaration = re.search(r"`(def \w+_forward.*)`", page)[1]
    command = re.search(r"`python -m (nnkernels\.backends)`", page)[1]
    shutil.copytree(PACKAGE, tmp_path / "nnkernels", ignore=shutil.ignore_patterns("__pycache__"))
    formulas, protocol = tmp_path / "nnkernels/_formulas.py", tmp_path / "nnkernels/backends/protocol.py"
    formulas.write_text(formulas.read_text().replace("ACTIVATIONS = {\n", f"ACTIVATIONS = {{\n{entry}"))
    known = "    def gelu_forward(self, z: Array, *, out: Array, slope: Array | None = None) -> None: ...\n"
    protocol.write_text(protocol.read_text().replace(known, f"{known}    {declaration}\n"))

    kwargs = {"cwd": tmp_path, "capture_output": True, "text": True}
    printed = subprocess.run([sys.executable, "-m", command], check=True, **kwargs).stdout
    assert printed.count("activations.py") == len(BACKEND_FOLDERS)
    code = (
        "import numpy as np, nnkernels as nnk; from nnkernels import testing; print(nnk.__file__)\n"
        "x = np.linspace(-3, 3, 30)\n"
        "for device in ('numpy', 'numba'):\n"
        "    testing.check_signatures(nnk.backends.load(device))\n"
        "    net = nnk.Sequential(nnk.Dense(1, 8, activation='softsign'), nnk.Dense(8, 1), device=device, rng=0)\n"
        "    net.fit(x, np.sin(x), loss='mean_squared_error', optimizer=nnk.Adam(0.05), steps=500)\n"
        "    print(net.evaluate(x, np.sin(x), loss='mean_squared_error') < 1e-2)\n"
    )
    path, *learned = subprocess.run([sys.executable, "-c", code], check=True, **kwargs).stdout.split()
    assert path.startswith(str(tmp_path))
    assert learned == ["True", "True"]


def test_a_backend_passes_the_conformance_test_that_others_take(kernels):
    testing.check_backend(kernels)


def test_the_conformance_test_finds_what_is_wrong():
    """Each of these broken backends must be named by the kernel that is broken."""

    class Broken(testing.StrictBackend):
        def __init__(self, name, kernel):
            super().__init__()
            setattr(self, name, kernel)

    def wrong_slope(z, *, out, slope=None):
        reference.sigmoid_forward(z._array, out=out._array, slope=None if slope is None else slope._array)
        if slope is not None:
            slope._array[...] = out._array * (1 - out._array) * 1.001

    def other_names(z, *, result):
        raise AssertionError

    def other_order(seed, network, first_step, *, sampling, n_rows, out):
        reference.draw_indices(seed + 1, network, first_step, sampling=sampling, n_rows=n_rows, out=out._array)

    reference = nnk.backends.load("numpy")
    for name, kernel in (
        ("sigmoid_forward", wrong_slope),
        ("softmax_forward", other_names),
        ("draw_indices", other_order),
        ("relu_forward", None),
    ):
        with pytest.raises(AssertionError, match=name):
            testing.check_backend(Broken(name, kernel))


def test_every_submodule_imports():
    for info in pkgutil.walk_packages(nnk.__path__, "nnkernels."):
        if not info.name.endswith("__main__"):
            importlib.import_module(info.name)
