"""Fixtures that every test shares: which backends there are, and how arrays get in and out of them."""

import os
from importlib import import_module

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from emulator.host import emulated, pretended

import nnkernels as nnk
from nnkernels.backends.cupy import probe

BACKENDS = (  # the one place to add another
    "numpy",
    "numba",
    pytest.param("cuda", id="cuda-emulated"),
    pytest.param("cuda", id="cuda", marks=pytest.mark.gpu),
)

hypothesis.settings.register_profile(
    "nnkernels", deadline=None, max_examples=25, derandomize=True, print_blob=False, database=None
)
hypothesis.settings.load_profile("nnkernels")


def pytest_configure(config):
    """Emulate a GPU for the whole session, except where `-m gpu` asks for the real one."""
    config.emulator = None
    if config.option.markexpr != "gpu":
        emulation = emulated()
        config.emulator = emulation.__enter__()
        config.add_cleanup(lambda: emulation.__exit__(None, None, None))


def pytest_collection_modifyitems(config, items):
    """Skip the tests marked `gpu` where there is no CUDA device, and those marked `long` unless asked for; say why."""
    if "long" not in config.option.markexpr:
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: pytest -m long"))
    for item in items:
        if item.get_closest_marker("gpu") and (reason := _why_no_gpu(config)):
            item.add_marker(pytest.mark.skip(reason=reason))


def _why_no_gpu(config):
    if config.emulator:
        return "needs a GPU: pytest -m gpu"
    cuda = next(status for status in nnk.devices() if status.device == "cuda")
    return "" if cuda.available else f'"cuda" {cuda.reason}. {cuda.remedy}'.strip()


@pytest.fixture(autouse=True)
def emulator(request):
    """The emulated GPU, there for the tests of the "cuda" backend; None where the GPU is real, or none is used."""
    emulator, parameters = request.config.emulator, getattr(request.node, "callspec", None)
    given = [] if parameters is None else [value for value in parameters.params.values() if isinstance(value, str)]
    if emulator is None or "cuda" not in given:
        yield None
        return
    with pytest.MonkeyPatch.context() as patch:  # not the test's own, which `gpu` undoes before its emulator ends
        patch.setattr(probe, "check_cuda", lambda: None)
        patch.setattr(probe, "count_devices", lambda: 1)
        yield emulator
    emulator.check_guards()


@pytest.fixture
def gpu(monkeypatch):
    """An emulated GPU of the test's own, whatever becomes of it."""
    with pretended() as emulator:
        yield emulator
        monkeypatch.undo()  # before the emulator takes back what it patched itself


def load(backend):
    """Return a backend's module; "cuda" without asking whether there is a GPU."""
    return import_module(f"nnkernels.backends.{'cupy' if backend == 'cuda' else backend}.kernels")


@pytest.fixture(scope="session", params=BACKENDS)
def kernels(request):
    """A backend's module."""
    return load(request.param)


@pytest.fixture(scope="session", params=BACKENDS)
def device(request):
    """The string that names a backend's device."""
    return request.param


@pytest.fixture(
    scope="session", params=[backend for backend in BACKENDS if getattr(backend, "id", "") != "cuda-emulated"]
)
def real_device(request):
    """The same without the emulated one, which takes thousands of steps in minutes."""
    return request.param


@pytest.fixture(scope="session", params=(np.float32, np.float64), ids=("float32", "float64"))
def dtype(request):
    """The type of every array of a network."""
    return request.param


@pytest.fixture
def unwatched():
    """The environment without coverage's watch over child processes: it imports modules there, and loses interrupts."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("COV_", "COVERAGE_"))}


def on_host(array):
    """Return a NumPy array of what a network on any device hands out."""
    return array if isinstance(array, np.ndarray) else load("cuda").to_host(array)


class Arrays:
    """Host arrays in, a backend's own arrays for its kernels, host arrays out.

    With `steps`, every array that is put is a view with gaps between its elements: axis by axis, from the last one,
    it is every second (2), every third (3), or every second from the end (-2). The gaps hold a mark, and
    `gaps_are_intact` tells whether a kernel wrote beside its output.
    """

    def __init__(self, kernels, steps=None):
        self.kernels = kernels
        self.steps = steps
        self.placed = []

    def put(self, host):
        """Return a copy of a host array on the device."""
        host = np.asarray(host)
        if self.steps is None or host.ndim == 0:
            return self.kernels.from_host(host)
        steps = self.steps[-host.ndim :]
        window = tuple(slice(None, None, step) for step in steps)
        mark = np.nan if host.dtype.kind == "f" else -999
        shape = [length * abs(step) for length, step in zip(host.shape, steps, strict=True)]
        base = self.kernels.from_host(np.full(shape, mark, host.dtype))
        view = base[window]
        self.kernels.copy(self.kernels.from_host(host), out=view)
        self.placed.append((base, window))
        return view

    def blank(self, shape, dtype):
        """Return an array for a result, filled with a number that no kernel of these tests writes."""
        return self.put(np.full(shape, 12345, dtype))

    def get(self, array):
        """Return a host copy of a device array."""
        return self.kernels.to_host(array)

    def gaps_are_intact(self):
        """Tell whether the gaps between the elements of all arrays are as they were."""
        for base, window in self.placed:
            host = self.kernels.to_host(base)
            gap = np.ones(host.shape, bool)
            gap[window] = False
            if not (np.isnan(host[gap]) if host.dtype.kind == "f" else host[gap] == -999).all():
                return False
        return True


@pytest.fixture(scope="session")
def arrays(kernels):
    """Make an `Arrays` on the backend under test."""
    return lambda steps=None: Arrays(kernels, steps)


@st.composite
def layouts(draw):
    """A shape (networks, rows, width), the steps of its arrays or None, and a dtype.

    Contiguous arrays come in both dtypes, with no rows and with one; strided ones in float64 and with at least two
    networks, which keeps the number of compiled specializations small.
    """
    width = draw(st.integers(1, 6))
    if draw(st.booleans()):
        shape = draw(st.integers(2, 3)), draw(st.integers(1, 5)), width
        return shape, draw(st.tuples(*[st.sampled_from((2, 3, -2, -3))] * 3)), np.float64
    shape = draw(st.integers(1, 3)), draw(st.integers(0, 5)), width
    return shape, None, draw(st.sampled_from((np.float32, np.float64)))
