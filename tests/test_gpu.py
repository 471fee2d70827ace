"""What only a real GPU can show: `pytest -m gpu` runs this file, and the whole suite on device="cuda"."""

import gc
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from tolerances import relative
from ways import closeness, distance, problems, reference, rounding_decides, trained

import nnkernels as nnk
from nnkernels.backends.numpy import kernels as oracle

pytestmark = pytest.mark.gpu

cupy = pytest.importorskip("cupy")

from test_cuda_training import FORMS, RELAXED, fits, recipe_of  # noqa: E402 (after CuPy is known to be there)

from nnkernels.backends.cupy import cublas, kernels, memory, training  # noqa: E402
from nnkernels.backends.cupy.codegen import choice  # noqa: E402

FLOAT32_ERROR = 3e-6  #: of a product of matrices in true float32, relative to its norm
TF32_ERROR = 2e-3  #: in tf32, whose numbers have 10 bits: far above the one, and not more than this


def close(got, expected, dtype="float32", operation="trajectory"):
    """Compare the parameters of two networks, by name."""
    for name, right in expected.items():
        error = np.abs(got[name].astype(float) - right).max() / (1 + np.abs(right).max())
        assert error <= relative(dtype, operation), f"{name} is off by {error:.3g}"


def same_bits(got, expected):
    for name, right in expected.items():
        np.testing.assert_array_equal(got[name], right, err_msg=name)


# ---- networks that are trained here ----------------------------------------------------------------------------------

NETWORKS = {
    "sine, units in lanes": (
        [nnk.Dense(1, 10, "sigmoid", bias=False), nnk.Dense(10, 1, bias=False)],
        {"optimizer": nnk.SGD(0.05), "batch_size": 1, "sampling": "replacement"},
    ),
    "rows in lanes": (
        [nnk.Dense(1, 3, "tanh"), nnk.Dense(3, 1)],
        {"optimizer": nnk.Adam(0.01), "batch_size": 32},
    ),
    "a block, in shared memory": (
        [nnk.Dense(1, 40, "tanh"), nnk.Dense(40, 24, "silu"), nnk.Dense(24, 1)],
        {"optimizer": nnk.SGD(0.02, momentum=0.9, clip_norm=1.0), "batch_size": 8},
    ),
    "a block, in the caches": (
        [nnk.Dense(1, 160, "relu"), nnk.Dense(160, 120, "sigmoid"), nnk.Dense(120, 1)],
        {"optimizer": nnk.SGD(0.01), "batch_size": 4, "sampling": "sequential"},
    ),
}
X = np.linspace(-1, 1, 500)
Y = np.sin(3 * X)


def train(name, *, device="cuda", plan="composed", dtype="float32", steps=1000, **more):
    """Train one of the networks; return its parameters and its history."""
    layers, arguments = NETWORKS[name]
    net = nnk.Sequential(*layers, device=device, dtype=dtype, rng=0)
    history = net.fit(X, Y, loss="half_squared_error", steps=steps, plan=plan, **arguments, **more)
    return net.parameters.to_host(), history


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_a_thousand_steps_are_those_of_numpy(name, plan, dtype):
    dtype = np.dtype(dtype).name
    expected, _ = train(name, device="numpy", dtype="float64")
    got, history = train(name, plan=plan, dtype=dtype)
    assert history.plan.way == plan
    close(got, expected, dtype)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_long_whole_run_keeps_to_the_composed_one(name):
    """Ten chunks and more of launches, in float64, where rounding is no excuse."""
    steps = 8000 if "block" in name else 30_000
    whole, _ = train(name, plan="generated", dtype="float64", steps=steps, log_every=2999)
    composed, _ = train(name, dtype="float64", steps=steps)
    for parameter, right in composed.items():
        np.testing.assert_allclose(whole[parameter], right, rtol=1e-6, atol=1e-6, err_msg=parameter)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_repeated_runs_have_the_same_bits_however_they_are_cut(name, plan):
    first, history = train(name, plan=plan)
    again, second = train(name, plan=plan)
    same_bits(again, first)
    np.testing.assert_array_equal(history.loss, second.loss)
    cut, _ = train(name, plan=plan, log_every=137)
    same_bits(cut, first)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_program_trains_a_drawn_network_as_composed_numpy_does(form, dtype, monkeypatch):
    """Few networks: NVRTC takes a second for each."""
    monkeypatch.setattr(choice, "generated", lambda recipe, networks=1: FORMS[form](recipe))
    told = Counter()

    @settings(RELAXED, max_examples=6)
    @given(
        problems(widest=9, most_rows=40, most_steps=25).filter(lambda problem: fits(form, recipe_of(problem, dtype)))
    )
    def compare(problem):
        told[agrees(problem, dtype, "generated")] += 1

    compare()
    assert told[True] >= 3


def test_composed_steps_train_a_drawn_network_as_numpy_does(dtype):
    told = Counter()

    @settings(RELAXED, max_examples=25)
    @given(problems())
    def compare(problem):
        told[agrees(problem, dtype, "composed")] += 1

    compare()
    assert told[True] > 12


def agrees(problem, dtype, plan):
    """Compare a run with the reference; return False where rounding decides how it ends."""
    expected = reference(problem, dtype)
    apart = distance(trained(*problem, device="cuda", dtype=dtype, plan=plan), expected)
    if apart <= closeness(dtype):
        return True
    assert rounding_decides(problem, dtype, expected), f"{apart:.3g} apart"
    return False


def test_a_launch_lasts_no_longer_than_it_may():
    """Chunks are 0.1 s and launches at most 0.2 s, as predicted: the prediction may be off by 2, not by more."""
    chunk = train("sine, units in lanes", plan="generated", steps=10**6)[1].plan.chunk
    stamps = []
    steps, log = 6 * chunk, {"log_every": chunk, "callbacks": lambda progress: stamps.append(time.perf_counter())}
    train("sine, units in lanes", plan="generated", steps=steps, **log)
    assert np.median(np.diff(stamps)) < 2 * training.LAUNCH_SECONDS


@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_a_divergence_is_found_at_its_step(plan):
    """The step is that of NumPy, and the weights from before it are kept."""
    x, found = np.linspace(1, 2, 30), []
    arguments = {"loss": "half_squared_error", "optimizer": nnk.SGD(30.0), "batch_size": 3, "steps": 500}
    for device, way in (("numpy", "composed"), ("cuda", plan)):
        net = nnk.Sequential(nnk.Dense(1, 4), nnk.Dense(4, 1), device=device, dtype="float64", rng=0)
        with pytest.raises(nnk.DivergenceError) as error:
            net.fit(x, x, **arguments, plan=way)
        assert all(np.isfinite(array).all() for array in net.parameters.to_host().values())
        found.append(error.value.step)
    assert found[0] == found[1]


# ---- the order of rows -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 7, 2**33 + 1])
@pytest.mark.parametrize(("n_rows", "batch"), [(1, 1), (500, 1), (500, 32), (4096, 100), (4097, 64), (10**6 + 3, 128)])
@pytest.mark.parametrize("sampling", ["permutation", "replacement", "sequential"])
def test_rows_are_drawn_with_the_bits_of_numpy(sampling, n_rows, batch, first):
    expected = np.empty((3, 40, batch), np.int64)
    oracle.draw_indices(2**63 + 5, 11, first, sampling=sampling, n_rows=n_rows, out=expected)
    out = kernels.from_host(np.full(expected.shape, -7))
    kernels.draw_indices(2**63 + 5, 11, first, sampling=sampling, n_rows=n_rows, out=out)
    np.testing.assert_array_equal(kernels.to_host(out), expected)


# ---- cuBLAS ----------------------------------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (32, 784, 128), (33, 65, 17), (1000, 10, 3), (512, 1024, 256)]


def product_error(shape, networks, precision, dtype=np.float32):
    """Return the largest error of the four products of a layer, relative to their norms."""
    batch, n_in, n_out = shape
    rng, lead = np.random.default_rng(0), (networks,) if networks else ()
    x, w, dz = (
        rng.standard_normal((*lead, *sizes)).astype(dtype) for sizes in ((batch, n_in), (n_in, n_out), (batch, n_out))
    )
    b = rng.standard_normal((*lead, n_out)).astype(dtype)
    on_gpu = {name: kernels.from_host(array) for name, array in {"x": x, "w": w, "b": b, "dz": dz}.items()}
    z, dx, dw, db = (kernels.from_host(np.full_like(like, np.nan)) for like in (dz, x, w, b))
    given = on_gpu["x"], on_gpu["w"]
    kernels.matmul_forward(*given, on_gpu["b"], out=z, precision=precision)
    kernels.matmul_backward(on_gpu["dz"], *given, dx=dx, dw=dw, db=db, precision=precision)
    x, w, b, dz = (array.astype(float) for array in (x, w, b, dz))
    pairs = [
        (z, x @ w + b[..., None, :]),
        (dx, dz @ w.swapaxes(-1, -2)),
        (dw, x.swapaxes(-1, -2) @ dz),
        (db, dz.sum(-2)),
    ]
    return max(np.linalg.norm(kernels.to_host(got) - right) / np.linalg.norm(right) for got, right in pairs)


def test_cublas_is_there():
    """Without it, products would be right and slow."""
    assert cublas.load() is not None


@pytest.mark.parametrize("networks", [0, 1, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_are_true_float32_unless_tf32_is_asked_for(shape, networks):
    assert product_error(shape, networks, "float32") < FLOAT32_ERROR
    tf32 = product_error(shape, networks, "tf32")
    assert tf32 < TF32_ERROR
    if shape == (512, 1024, 256) and int(cupy.cuda.Device(0).compute_capability) >= 80:  # tensor cores take it
        assert tf32 > 10 * FLOAT32_ERROR
    assert product_error(shape, networks, "float32") < FLOAT32_ERROR, "tf32 outlived the call that asked for it"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_products_in_float64(shape):
    assert product_error(shape, 2, "float32", np.float64) < 1e-14


# ---- graphs ----------------------------------------------------------------------------------------------------------


@contextmanager
def observed_captures():
    """Yield the graphs, or None, that captured runs get, and the runs' notes."""
    graphs, record = [], training.CapturedRun._record
    with pytest.MonkeyPatch.context() as patch:

        def observed(run, stream, size):
            graph = record(run, stream, size)
            graphs.append((graph, run.note))
            return graph

        patch.setattr(training.CapturedRun, "_record", observed)
        yield graphs


def test_kernels_can_be_captured_and_replayed_on_new_data():
    """cuBLAS too, with its own workspace; what is replayed reads what lies in the same buffers then."""
    rng = np.random.default_rng(0)
    host = [rng.standard_normal(shape).astype(np.float32) for shape in ((64, 50), (50, 20), (20,))]
    x, w, b = map(kernels.from_host, host)
    z, a = (kernels.from_host(np.zeros((64, 20), np.float32)) for _ in range(2))

    def forward():
        kernels.matmul_forward(x, w, b, out=z)
        kernels.sigmoid_forward(z, out=a)

    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        forward()
        stream.synchronize()
        stream.begin_capture()
        forward()
        graph = stream.end_capture()
        for number in range(3):
            memory.upload(host[0] * number, out=x)
            kernels.fill(np.nan, out=a)
            graph.launch()
            expected = 1 / (1 + np.exp(-(host[0].astype(float) * number @ host[1] + host[2])))
            np.testing.assert_allclose(kernels.to_host(a), expected, atol=2e-6)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_composed_step_is_captured(name):
    with observed_captures() as graphs:
        train(name, steps=20)
    assert graphs
    assert all(graph is not None and note == "" for graph, note in graphs), graphs


def test_short_batches_have_a_graph_of_their_own():
    net = nnk.Sequential(nnk.Dense(1, 3, "tanh"), nnk.Dense(3, 1), device="cuda", rng=0)
    with observed_captures() as graphs:
        net.fit(X[:50], Y[:50], loss="half_squared_error", batch_size=16, epochs=5, plan="composed")
    assert len(graphs) == 2


def test_a_step_that_cuda_refuses_to_capture_runs_kernel_by_kernel(monkeypatch):
    """To wait for the device is refused while a graph is captured."""
    name = "rows in lanes"
    expected, _ = train(name)
    call = training.CapturedRun._call

    def waits(run, size):
        call(run, size)
        kernels.to_host(run.total)

    monkeypatch.setattr(training.CapturedRun, "_call", waits)
    with observed_captures() as graphs:
        got, _ = train(name)
    assert [graph for graph, _ in graphs] == [None]
    assert "refused" in graphs[0][1]
    same_bits(got, expected)


# ---- streams and threads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_training_on_a_users_stream_has_the_same_bits(plan):
    expected, _ = train("rows in lanes", plan=plan)
    with cupy.cuda.Stream(non_blocking=True):
        got, _ = train("rows in lanes", plan=plan)
    same_bits(got, expected)


def test_a_prediction_waits_for_what_the_users_stream_still_computes():
    net = nnk.Sequential(nnk.Dense(1, 1, bias=False, weight_initializer="ones"), device="cuda")
    with cupy.cuda.Stream(non_blocking=True) as stream:
        x = cupy.zeros((10**6, 1), np.float32)
        for _ in range(200):
            x += 1
        out = net.predict(x)
        total = out.sum()
        stream.synchronize()
    assert isinstance(out, cupy.ndarray)
    assert float(total) == 200 * 10**6


def test_threads_predict_at_once_each_on_a_stream_of_its_own():
    net = nnk.Sequential(nnk.Dense(8, 32, "tanh"), nnk.Dense(32, 2), device="cuda", rng=0)
    rows = [np.random.default_rng(seed).standard_normal((3000, 8)).astype(np.float32) for seed in range(8)]
    expected = [net.predict(x) for x in rows]

    def predict(x):
        with cupy.cuda.Stream(non_blocking=True):
            return [net.predict(x) for _ in range(5)]

    with ThreadPoolExecutor(8) as pool:
        for results, right in zip(pool.map(predict, rows), expected, strict=True):
            for got in results:
                np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_threads_train_at_once_with_the_bits_of_training_alone(plan):
    expected = {name: train(name, plan=plan)[0] for name in NETWORKS}
    with ThreadPoolExecutor(len(NETWORKS)) as pool:
        futures = {name: pool.submit(train, name, plan=plan) for name in NETWORKS}
        for name, future in futures.items():
            same_bits(future.result()[0], expected[name])


@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_nothing_is_read_back_between_two_logs(plan, monkeypatch):
    """Host round trips do not grow with the number of steps."""
    counts, download = [], memory.download

    def counted(array, *, out):
        counts[-1] += 1
        download(array, out=out)

    monkeypatch.setattr(memory, "download", counted)
    for steps in (100, 400):
        counts.append(0)
        train("rows in lanes", plan=plan, steps=steps, log_every=steps)
    assert counts[0] == counts[1]


# ---- memory ----------------------------------------------------------------------------------------------------------


@contextmanager
def memory_limit(nbytes):
    """Let CuPy's pool have so many bytes more than it uses, and no more."""
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    before = pool.get_limit()
    pool.set_limit(size=pool.total_bytes() + nbytes)
    try:
        yield pool
    finally:
        pool.set_limit(size=before)


def test_more_memory_than_the_gpu_has_is_one_clear_error():
    asked = 1 << 42
    with pytest.raises(nnk.DeviceMemoryError, match="Use a smaller batch_size") as error:
        memory.empty((asked,), np.uint8)
    assert error.value.asked == asked
    assert 0 < error.value.free < cupy.cuda.runtime.memGetInfo()[1]
    assert kernels.to_host(kernels.from_host(np.arange(3))).tolist() == [0, 1, 2]


def test_what_the_pool_keeps_is_given_back_before_memory_is_short():
    with memory_limit(64 << 20) as pool:
        kept = [memory.empty((1 << 20,), np.uint8) for _ in range(48)]
        del kept
        assert pool.free_bytes() >= 48 << 20
        assert memory.empty((60 << 20,), np.uint8).nbytes == 60 << 20


def test_data_too_large_for_the_gpu_leave_the_network_as_it_was():
    net = nnk.Sequential(nnk.Dense(100, 4, "tanh"), nnk.Dense(4, 1), device="cuda", rng=0)
    before = net.parameters.to_host()
    x = np.random.default_rng(0).standard_normal((100_000, 100)).astype(np.float32)
    with memory_limit(8 << 20), pytest.raises(nnk.DeviceMemoryError):
        net.fit(x, x[:, :1], loss="half_squared_error", batch_size=100, steps=10)
    same_bits(net.parameters.to_host(), before)
    net.fit(x, x[:, :1], loss="half_squared_error", batch_size=100, steps=10)


def test_memory_is_given_back_after_runs():
    """Ten runs take no more than the second one left: no graph, handle or buffer outlives its run."""
    pool, used = cupy.get_default_memory_pool(), []
    for _ in range(10):
        for plan in ("composed", "generated"):
            train("rows in lanes", plan=plan, steps=50)
        gc.collect()
        used.append(pool.used_bytes())
    assert used[-1] <= used[1]


# ---- faults ----------------------------------------------------------------------------------------------------------

FAULT = """
import numpy as np
import nnkernels as nnk
from nnkernels.backends.cupy import kernels

x, out = kernels.from_host(np.ones((4, 1), np.float32)), kernels.empty((1, 1), np.float32)
far = kernels.from_host(np.array([2**40]))  # what such a row gives is undefined: here an address that is nobody's
try:
    kernels.gather(x, far, out=out)
    for _ in range(100):
        kernels.sigmoid_forward(out, out=out)
    kernels.to_host(out)
except nnk.KernelFault as fault:
    print("kernels:", *fault.kernels)
    print(fault)
"""


def test_an_asynchronous_fault_names_the_kernel():
    """In a process of its own, which it costs."""
    done = subprocess.run([sys.executable, "-c", FAULT], capture_output=True, text=True, timeout=120, check=False)
    report = done.stdout
    assert report.startswith("kernels:"), done.stdout + done.stderr
    assert "gather" in report or "sigmoid_forward" in report
    assert "llegal" in report or "ILLEGAL" in report
    assert "CUDA_LAUNCH_BLOCKING=1" in report


def test_with_blocking_launches_a_fault_is_at_its_own_kernel(monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    done = subprocess.run([sys.executable, "-c", FAULT], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[0].split()[-1] == "gather", done.stdout + done.stderr


# ---- a second GPU ----------------------------------------------------------------------------------------------------


@pytest.fixture
def second():
    count = cupy.cuda.runtime.getDeviceCount()
    if count < 2:
        pytest.skip(f"needs two GPUs: there is {count}")
    return "cuda:1"


@pytest.mark.parametrize("plan", ["composed", "generated"])
def test_the_second_gpu_trains_with_the_bits_of_the_first(second, plan):
    same = cupy.cuda.Device(0).compute_capability == cupy.cuda.Device(1).compute_capability
    first, other = (train("rows in lanes", device=device, plan=plan)[0] for device in ("cuda:0", second))
    (same_bits if same else close)(other, first)


def test_an_array_of_another_gpu_is_refused(second):
    net = nnk.Sequential(nnk.Dense(1, 1), device=second)
    with cupy.cuda.Device(0):
        x = cupy.zeros((3, 1), np.float32)
    with pytest.raises(nnk.DeviceError, match="cuda:0"):
        net.predict(x)


def test_a_network_moves_between_gpus(second):
    net = nnk.Sequential(nnk.Dense(2, 3, "tanh"), nnk.Dense(3, 1), device="cuda:0", rng=0)
    x = np.ones((4, 2), np.float32)
    before = net.predict(x)
    np.testing.assert_array_equal(net.to(second).predict(x), before)


def test_a_gpu_that_is_not_there_is_said_to_be_missing():
    count = cupy.cuda.runtime.getDeviceCount()
    with pytest.raises(nnk.BackendUnavailable, match="does not exist"):
        nnk.device(f"cuda:{count}")
