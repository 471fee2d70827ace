"""What goes wrong on a GPU: asynchronous faults that name the kernels, and memory that runs out."""

import threading

import numpy as np
import pytest
from cupy.cuda import driver, runtime
from emulator.host import Stream

import nnkernels as nnk
from nnkernels import _training
from nnkernels.backends.cupy import faults, launch, memory
from nnkernels.backends.cupy import kernels as cuda

LAYERS = nnk.Dense(3, 16, activation="tanh"), nnk.Dense(16, 2)
pytestmark = pytest.mark.usefixtures("gpu")

ILLEGAL_ADDRESS, STREAM_CAPTURE_UNSUPPORTED = 700, 900  #: of cudaError


def fail_once(monkeypatch, owner, name, error):
    """Let the next call of a function raise; return the list of calls."""
    real, calls = getattr(owner, name), []

    def failing(*arguments):
        calls.append(name)
        if len(calls) == 1:
            raise error
        return real(*arguments)

    monkeypatch.setattr(owner, name, failing)
    return calls


# ---- asynchronous faults ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["streamSynchronize", "memcpyAsync"])
def test_a_fault_surfaces_where_the_host_waits_and_names_the_kernels(monkeypatch, name):
    x = cuda.from_host(np.ones((2, 3), np.float32))
    cuda.tanh_forward(x, out=x)
    cuda.clip_by_value(x, 1.0)
    fail_once(monkeypatch, runtime, name, runtime.CUDARuntimeError(ILLEGAL_ADDRESS))
    with pytest.raises(nnk.KernelFault, match=r"launched last are tanh_forward, clip_by_value\. Set CUDA_LAUNCH_BLOCK"):
        cuda.to_host(x)


class DriverError(driver.CUDADriverError):
    """CuPy's asks the driver for its text, and there is none."""

    def __init__(self, text):
        RuntimeError.__init__(self, text)


@pytest.mark.parametrize("error", [runtime.CUDARuntimeError(ILLEGAL_ADDRESS), DriverError("CUDA_ERROR_LAUNCH_FAILED")])
def test_a_fault_that_a_launch_reports_names_that_kernel_last(monkeypatch, error):
    x = cuda.from_host(np.ones((2, 3), np.float32))
    cuda.tanh_forward(x, out=x)
    monkeypatch.setattr(launch.kernel("clip_by_value", "float32"), "function", _raising(error))
    with pytest.raises(nnk.KernelFault) as caught:
        cuda.clip_by_value(x, 1.0)
    assert caught.value.kernels == ("tanh_forward", "clip_by_value")
    assert caught.value.__cause__ is error


def _raising(error):
    def function(*arguments):
        raise error

    return function


def test_a_fault_during_training_leaves_the_last_good_weights(monkeypatch):
    net = nnk.Sequential(*LAYERS, device="cuda", rng=0)
    x, y = np.ones((8, 3)), np.zeros((8, 2))
    net.fit(x, y, loss="mean_squared_error", optimizer="sgd", batch_size=4, steps=3, plan="composed")
    before, first = net.parameters.to_host(), nnk.Sequential(*LAYERS, device="numpy", rng=0).parameters.to_host()
    assert any((value != first[name]).any() for name, value in before.items())
    kernel = launch.kernel("sgd_update", "float32")
    monkeypatch.setattr(kernel, "function", _raising(runtime.CUDARuntimeError(ILLEGAL_ADDRESS)))
    with pytest.raises(nnk.KernelFault, match="sgd_update"):
        net.fit(x, y, loss="mean_squared_error", optimizer="sgd", batch_size=4, steps=3, plan="composed")
    assert all((net.parameters.to_host()[name] == value).all() for name, value in before.items())


def test_the_last_eight_kernels_are_remembered_by_each_thread(monkeypatch):
    x = cuda.from_host(np.ones((2, 3), np.float32))
    for _ in range(5):
        cuda.relu_forward(x, out=x)
        cuda.tanh_forward(x, out=x)
    found = []

    def other():
        fail_once(monkeypatch, runtime, "streamSynchronize", runtime.CUDARuntimeError(ILLEGAL_ADDRESS))
        with pytest.raises(nnk.KernelFault) as caught:
            faults.synchronize()
        found.append(caught.value.kernels)

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    fail_once(monkeypatch, runtime, "streamSynchronize", runtime.CUDARuntimeError(ILLEGAL_ADDRESS))
    with pytest.raises(nnk.KernelFault) as caught:
        faults.synchronize()
    assert caught.value.kernels == ("relu_forward", "tanh_forward") * 4
    assert found == [()]


@pytest.mark.parametrize("ends", ["well", "badly"])
def test_a_capture_that_fails_midway_is_abandoned_and_changes_no_bit(gpu, monkeypatch, ends):
    """CUDA refuses a kernel of the step, and then perhaps to end the capture, too."""
    x, y = np.ones((8, 3)), np.zeros((8, 2))
    arguments = {"loss": "mean_squared_error", "optimizer": "sgd", "batch_size": 4, "steps": 9, "plan": "composed"}
    flats, end = [], Stream.end_capture

    def refused(*launched):
        if gpu.recording is not None:
            raise runtime.CUDARuntimeError(STREAM_CAPTURE_UNSUPPORTED)
        real(*launched)

    def end_badly(stream):
        end(stream)
        raise runtime.CUDARuntimeError(STREAM_CAPTURE_UNSUPPORTED)

    for fails in (False, True):
        if fails:
            kernel = launch.kernel("sgd_update", "float32")
            real = kernel.function
            monkeypatch.setattr(kernel, "function", refused)
            monkeypatch.setattr(Stream, "end_capture", end if ends == "well" else end_badly)
        net = nnk.Sequential(*LAYERS, device="cuda", rng=0)
        history = net.fit(x, y, **arguments)
        assert ("refused to capture a step" in history.plan.explain()) == fails
        flats.append(cuda.to_host(net.parameters.flat))
    np.testing.assert_array_equal(*flats)


# ---- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def pool(gpu):
    """A GPU with 1,000 bytes free, whose pool keeps 500 more."""
    gpu.free, gpu.kept = 1000, 500
    return gpu


def test_memory_that_is_there_is_given_without_freeing_the_pool(pool):
    assert memory.empty((250,), np.float32).nbytes == 1000
    assert pool.times_freed == 0


def test_where_memory_is_short_the_pool_is_freed_once_and_the_allocation_tried_again(pool):
    assert memory.empty((300,), np.float32).nbytes == 1200
    assert pool.times_freed == 1


def test_memory_that_is_not_there_is_an_error_that_says_how_much_was_asked_and_is_free(pool):
    with pytest.raises(
        nnk.DeviceMemoryError, match=r"4,000 bytes .* were asked for, and 1,500 are free\. Use a"
    ) as caught:
        memory.empty((10, 50), np.float64)
    assert (caught.value.asked, caught.value.free) == (4000, 1500)
    assert pool.times_freed == 1


# ---- many rows -------------------------------------------------------------------------------------------------------

ROWS = 2000


@pytest.fixture
def networks():
    """The same network on NumPy and on the GPU, and data."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(ROWS, 3)), rng.normal(size=(ROWS, 2))
    return [nnk.Sequential(*LAYERS, device=device, dtype="float64", rng=0) for device in ("numpy", "cuda")], x, y


@pytest.fixture
def rows(gpu, monkeypatch):
    """The numbers of rows of the hidden layers that were allocated; more than 512 do not fit."""
    monkeypatch.setattr(_training, "ROWS_AT_ONCE", 1500)
    seen, allocate = [], memory.empty

    def empty(shape, dtype):
        if len(shape) == 2 and shape[1] == 16:
            seen.append(shape[0])
            if shape[0] > gpu.most_rows:
                raise nnk.DeviceMemoryError(1, 0)
        return allocate(shape, dtype)

    gpu.most_rows = 512
    monkeypatch.setattr(cuda, "empty", empty)
    return seen


def test_prediction_takes_fewer_rows_at_once_where_memory_is_short(networks, rows):
    (host, device), x, _ = networks
    np.testing.assert_allclose(device.predict(x), host.predict(x), rtol=1e-12)
    assert rows == [1500, 512, 512, 512, ROWS % 512]


def test_evaluation_takes_fewer_rows_at_once_where_memory_is_short_and_one_workspace_for_all(networks, rows):
    (host, device), x, y = networks
    loss = nnk.MeanSquaredError()
    assert device.evaluate(x, y, loss=loss) == pytest.approx(host.evaluate(x, y, loss=loss), rel=1e-12)
    assert rows == [1500, 512, ROWS % 512]


def test_what_does_not_fit_at_all_is_one_clear_error(gpu, networks, rows):
    (_, device), x, y = networks
    gpu.most_rows = 100
    for call in (lambda: device.predict(x), lambda: device.evaluate(x, y, loss="mean_squared_error")):
        rows.clear()
        with pytest.raises(nnk.DeviceMemoryError):
            call()
        assert rows == [1500, 512]


@pytest.mark.parametrize("kind", ["numpy", "cuda"])
def test_blocks_of_a_validation_set_do_not_overwrite_each_other(networks, monkeypatch, kind):
    """They share a workspace, and are evaluated at every log point."""
    (host, device), x, y = networks
    net, arguments = (device if kind == "cuda" else host), {"loss": "mean_squared_error", "optimizer": "sgd"}
    monkeypatch.setattr(_training, "ROWS_AT_ONCE", 300)
    history = net.fit(x[:10], y[:10], **arguments, steps=6, log_every=2, validation_data=(x, y), plan="composed")
    again = nnk.Sequential(*LAYERS, device="numpy", dtype="float64", rng=0)
    losses = []
    for _ in range(3):
        again.fit(x[:10], y[:10], **arguments, steps=2, sampling="sequential", plan="composed")
        losses.append(((again.predict(x) - y) ** 2).mean())
    np.testing.assert_allclose(history.validation_loss, losses, rtol=1e-9)
