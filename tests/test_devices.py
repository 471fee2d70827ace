"""Devices: what a string means, what is there, and why something is not."""

import logging
import subprocess
import sys
import types
from importlib.machinery import ModuleSpec

import pytest

import nnkernels as nnk
from nnkernels import backends
from nnkernels.backends.cupy import probe

LAYERS = [nnk.Dense(1, 1)]


def hide(monkeypatch, *packages):
    """Let packages seem not to be installed."""
    for module in (backends, probe):
        real = module.find_spec
        monkeypatch.setattr(module, "find_spec", lambda name, real=real: None if name in packages else real(name))


def fake_cupy(monkeypatch, *, driver=13000, count=1, error=None):
    """Put a CuPy in place whose runtime answers as on a machine with that driver and that number of GPUs."""

    class CUDARuntimeError(RuntimeError):
        pass

    def device_count():
        if error:
            raise CUDARuntimeError(error)
        return count

    runtime = types.SimpleNamespace(
        driverGetVersion=lambda: driver,
        runtimeGetVersion=lambda: 13020,
        getDeviceCount=device_count,
        CUDARuntimeError=CUDARuntimeError,
    )
    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    cupy.__spec__, cupy.cuda, cuda.runtime = ModuleSpec("cupy", None), cuda, runtime
    for name, module in (("cupy", cupy), ("cupy.cuda", cuda)):
        monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.parametrize(
    ("spec", "kind"), [("numpy", "numpy"), ("numba", "numba"), ("cpu", "numba"), ("numpy:0", "numpy")]
)
def test_a_device_string_names_a_backend(spec, kind):
    assert nnk.device(spec) == nnk.Device(kind)
    assert nnk.device(nnk.Device(kind)) == nnk.Device(kind)
    assert nnk.Sequential(*LAYERS, device=spec).device == nnk.Device(kind)


@pytest.mark.parametrize("spec", ["gpu", "cuda:x", "cuda:-1", "numpy:", "", "Numpy", "cpu:0"])
def test_an_unknown_device_is_an_error_that_lists_the_known_ones(spec):
    with pytest.raises(nnk.DeviceError, match="There are: auto, cpu, cuda, numba, numpy"):
        nnk.device(spec)


def test_a_misspelt_device_gets_a_suggestion():
    with pytest.raises(nnk.DeviceError, match="Did you mean 'numba'"):
        nnk.device("nmuba")


def test_a_device_that_is_no_string_is_a_type_error():
    with pytest.raises(TypeError, match="device must be a string or a Device, not int"):
        nnk.device(0)


@pytest.mark.parametrize("spec", ["numpy:1", "numba:1"])
def test_the_host_is_one_device(spec):
    with pytest.raises(nnk.BackendUnavailable, match="the host is one device"):
        nnk.device(spec)


def test_auto_logs_what_it_chose_and_why(monkeypatch, caplog):
    hide(monkeypatch, "cupy")
    with caplog.at_level(logging.INFO, "nnkernels"):
        assert nnk.device("auto").kind == "numba"
    assert caplog.messages == ['device "auto" is "numba": "cuda" needs CuPy, which is not installed']


def test_cpu_is_numpy_where_numba_is_not_installed(monkeypatch):
    hide(monkeypatch, "numba")
    assert nnk.device("cpu").kind == "numpy"
    with pytest.raises(nnk.BackendUnavailable, match="pip install numba"):
        nnk.device("numba")


def test_the_environment_variable_is_read_only_where_no_device_is_given(monkeypatch):
    monkeypatch.setenv("NNKERNELS_DEVICE", "numpy")
    assert nnk.Sequential(*LAYERS).device.kind == "numpy"
    assert nnk.Sequential(*LAYERS, device="cpu").device.kind == "numba"
    monkeypatch.setenv("NNKERNELS_DEVICE", "tpu")
    with pytest.raises(nnk.DeviceError, match="from NNKERNELS_DEVICE"):
        nnk.Sequential(*LAYERS)


def test_fit_never_moves_a_network(monkeypatch):
    net = nnk.Sequential(*LAYERS, device="numpy")
    monkeypatch.setenv("NNKERNELS_DEVICE", "numba")
    history = net.fit([0.0, 1.0], [0.0, 1.0], loss="huber", steps=1)
    assert (net.device.kind, history.device.kind) == ("numpy", "numpy")


# ---- cuda: why it cannot be used -------------------------------------------------------------------------------------

CUDA_REASONS = {
    "no CuPy": (None, "needs CuPy, which is not installed", "pip install 'nnkernels[cuda13]'"),
    "no driver": ({"driver": 0}, "needs an NVIDIA driver", "Install the driver"),
    "old driver": (
        {"driver": 11080, "error": "cudaErrorInsufficientDriver: CUDA driver version is insufficient"},
        "has a driver for CUDA 11.8, older than CuPy's CUDA 13.2",
        "nnkernels[cuda12]",
    ),
    "no visible GPU": ({"error": "cudaErrorNoDevice: no CUDA-capable device"}, "finds no GPU", "CUDA_VISIBLE_DEVICES"),
    "zero GPUs": ({"count": 0}, "finds no GPU", "nvidia-smi"),
    "broken": ({"error": "cudaErrorUnknown: unknown error"}, "cannot be used: cudaErrorUnknown", ""),
}


@pytest.mark.parametrize(("machine", "reason", "remedy"), CUDA_REASONS.values(), ids=CUDA_REASONS.keys())
def test_cuda_says_precisely_why_it_is_unavailable_and_never_falls_back(monkeypatch, machine, reason, remedy):
    if machine is None:
        hide(monkeypatch, "cupy")
    else:
        fake_cupy(monkeypatch, **machine)
    with pytest.raises(nnk.BackendUnavailable) as caught:
        nnk.Sequential(*LAYERS, device="cuda")
    assert reason in caught.value.reason
    assert remedy in caught.value.remedy
    assert str(caught.value).startswith('"cuda" ' + reason)
    status = next(status for status in nnk.devices() if status.device == "cuda")
    assert (status.available, status.reason, status.remedy) == (False, caught.value.reason, caught.value.remedy)


def test_a_cupy_that_cannot_be_imported_says_so(monkeypatch):
    cupy = types.ModuleType("cupy")
    cupy.__spec__ = ModuleSpec("cupy", None)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.delitem(sys.modules, "cupy.cuda", raising=False)
    with pytest.raises(nnk.BackendUnavailable, match="which cannot be imported"):
        nnk.device("cuda")


def test_an_error_about_a_device_survives_a_process_boundary():
    import pickle

    error = pickle.loads(pickle.dumps(nnk.BackendUnavailable("cuda", "is away", "Wait")))
    assert str(error) == '"cuda" is away. Wait'
    assert pickle.loads(pickle.dumps(nnk.DivergenceError(7))).step == 7


def test_devices_lists_every_device_without_importing_numba():
    code = "import nnkernels as nnk, sys; print([s.device for s in nnk.devices()]); assert 'numba' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['cuda', 'numba', 'numpy']\n"


@pytest.mark.parametrize(
    ("module", "reason"),
    [(RuntimeError("boom"), "cannot be loaded: RuntimeError('boom')"), (types, "is no backend")],
    ids=["raises", "no backend"],
)
def test_a_broken_plugin_leaves_the_other_devices_usable(monkeypatch, module, reason):
    class Point:
        value = "broken.kernels"

        def load(self):
            if isinstance(module, Exception):
                raise module
            return module

    monkeypatch.setattr(backends, "_entry_points", lambda: {"broken": Point()})
    statuses = {status.device: status for status in nnk.devices()}
    assert not statuses["broken"].available
    assert reason in statuses["broken"].reason
    assert statuses["numpy"].available
