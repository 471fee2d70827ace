"""Products through cuBLAS, by a stand-in that is told what the library would be told."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
from cuda import pathfinder
from emulator.blas import TF32, Cublas
from emulator.host import load_cublas
from kernel_checks import Check
from tolerances import relative

import nnkernels as nnk
from nnkernels.backends.cupy import cublas, memory
from nnkernels.backends.cupy import kernels as cuda

DTYPES = ("float32", "float64")


@pytest.fixture
def blas(gpu, monkeypatch):
    """The stand-in, in the place of the library."""
    library = Cublas(gpu)
    monkeypatch.setattr(cublas, "load", lambda: library)
    return library


def product(x, w, b=None, precision="float32"):
    """Multiply host arrays on the GPU."""
    ours = [None if array is None else cuda.from_host(array) for array in (x, w, b)]
    out = cuda.empty((*x.shape[:-1], w.shape[-1]), x.dtype)
    cuda.matmul_forward(*ours, out=out, precision=precision)
    return cuda.to_host(out)


def drawn(*shape, dtype="float64"):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


# ---- products --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (1, 1), (33, 17), (1, 4, 6), (3, 5, 2), (2, 1, 7)])
def test_a_layer_forward_and_back_is_numpy_s(gpu, blas, dtype, shape):
    Check(dtype, shape).layers()
    letter, kind = "SD"[DTYPES.index(dtype)], "gemmStridedBatched" if len(shape) > 2 and shape[0] > 1 else "gemm_v2"
    products = [name for name in blas.calls if "gemm" in name]
    assert len(products) == 4
    assert set(products) == {f"cublas{letter}{kind}"}
    assert "matmul" not in gpu.launched


def test_the_bias_is_added_where_there_is_one(gpu, blas):
    x, w, b = drawn(4, 3), drawn(3, 2), drawn(2)
    np.testing.assert_allclose(product(x, w, b), x @ w + b, rtol=1e-13)
    assert gpu.launched == ["add_bias"]
    np.testing.assert_allclose(product(x, w), x @ w, rtol=1e-13)
    assert gpu.launched == ["add_bias"]


def test_strided_matrices_are_staged_and_the_result_is_copied_back(gpu, blas):
    x, w, out = (cuda.from_host(array) for array in (drawn(2, 8, 6), drawn(2, 3, 4), drawn(2, 4, 12)))
    whole = cuda.to_host(out)
    cuda.matmul_forward(x[:, ::2, ::2], w[..., ::-1], None, out=out[..., ::3])
    whole[..., ::3] = cuda.to_host(x)[:, ::2, ::2] @ cuda.to_host(w)[..., ::-1]
    np.testing.assert_allclose(cuda.to_host(out), whole, rtol=1e-12)


@pytest.mark.parametrize("shapes", [((0, 3), (3, 2)), ((4, 0), (0, 2))], ids=["no rows", "nothing to sum"])
def test_matrices_without_elements_are_not_given_to_cublas(blas, shapes):
    x, w = (drawn(*shape) for shape in shapes)
    assert (product(x, w, np.ones(2)) == x @ w + 1).all()
    assert not any("gemm" in name for name in blas.calls)


# ---- precision -------------------------------------------------------------------------------------------------------


def test_tensor_cores_round_only_where_they_are_asked_to(blas):
    x, w = drawn(20, 30, dtype="float32"), drawn(30, 10, dtype="float32")
    exact = x.astype(np.float64) @ w
    size = np.abs(x).astype(np.float64) @ np.abs(w)
    for precision, rounded in (("float32", False), ("tf32", True), ("float32", False)):
        error = (np.abs(product(x, w, precision=precision) - exact) / size).max()
        assert (error > 1e-5) == rounded
        assert error < (2e-3 if rounded else relative("float32", "matmul"))
        assert next(iter(blas.handles.values()))["mode"] == (TF32 if rounded else 0)


def test_an_unknown_precision_is_an_error(blas):
    with pytest.raises(KeyError, match="bf16"):
        product(drawn(2, 2), drawn(2, 2), precision="bf16")


# ---- handles ---------------------------------------------------------------------------------------------------------


def test_a_handle_gets_its_stream_and_then_its_own_workspace(blas):
    handle = cublas.handle()
    assert blas.calls == ["cublasCreate_v2", "cublasSetStream_v2", "cublasSetWorkspace_v2"]
    state = blas.handles[handle.pointer.value]
    assert state["stream"] == 1, "the emulated stream's"
    assert state["workspace"] == (handle.workspace.data.ptr, 32 << 20)
    assert handle.workspace.nbytes == 32 << 20


def test_a_handle_is_kept_by_its_thread_for_a_device_and_a_stream(blas, monkeypatch):
    first, others = cublas.handle(), []
    assert cublas.handle() is first
    thread = threading.Thread(target=lambda: others.append(cublas.handle()))
    thread.start()
    thread.join()
    monkeypatch.setattr(cublas.cupy.cuda, "get_current_stream", lambda: SimpleNamespace(ptr=77))
    others.append(cublas.handle())
    assert blas.handles[others[-1].pointer.value]["stream"] == 77
    monkeypatch.setattr(cublas.runtime, "getDevice", lambda: 1)
    others.append(cublas.handle())
    assert len({id(handle) for handle in (first, *others)}) == 4
    assert cublas.handle() is others[-1]


def test_a_thread_keeps_a_few_handles_and_a_graph_the_one_it_was_captured_with(blas, monkeypatch):
    kept = cublas.handle()
    for stream in range(100, 120):
        monkeypatch.setattr(cublas.cupy.cuda, "get_current_stream", lambda stream=stream: SimpleNamespace(ptr=stream))
        cublas.handle()
    assert {state["stream"] for state in blas.handles.values()} == {1, 116, 117, 118, 119}
    del kept
    assert len(blas.handles) == cublas.MOST_HANDLES


@pytest.mark.parametrize(
    "name",
    ["cublasCreate_v2", "cublasSetWorkspace_v2", "cublasSetMathMode", "cublasDgemm_v2", "cublasDgemmStridedBatched"],
)
def test_a_status_that_is_not_success_is_an_error_that_names_the_function(blas, name):
    blas.fails[name] = 13
    shape = (2, 3, 3) if "Batched" in name else (3, 3)
    with pytest.raises(nnk.KernelFault, match=f"cuBLAS reports status 13; the kernels launched last are {name}"):
        product(drawn(*shape), drawn(*shape))


def test_a_workspace_that_does_not_fit_is_a_clear_error(gpu, blas):
    gpu.free = 1 << 20
    with pytest.raises(nnk.DeviceMemoryError, match="33,554,432 bytes"):
        cublas.handle()
    assert "cublasCreate_v2" not in blas.calls, "nothing is left behind"


# ---- the library -----------------------------------------------------------------------------------------------------


def test_without_the_library_products_are_the_package_s_own(gpu, monkeypatch):
    def missing(name):
        raise RuntimeError(f"no {name}")

    monkeypatch.setattr(pathfinder, "load_nvidia_dynamic_lib", missing)
    load_cublas.cache_clear()
    assert load_cublas() is None
    load_cublas.cache_clear()
    x, w = drawn(3, 4), drawn(4, 2)
    np.testing.assert_allclose(product(x, w), x @ w, rtol=1e-13)
    assert gpu.launched == ["matmul"]


def test_the_library_is_found_once(monkeypatch):
    asked = []
    monkeypatch.setattr(
        pathfinder, "load_nvidia_dynamic_lib", lambda name: asked.append(name) or SimpleNamespace(abs_path=None)
    )
    load_cublas.cache_clear()
    assert load_cublas() is load_cublas()  # dlopen(NULL) is the process itself
    assert asked == ["cublas"]
    load_cublas.cache_clear()


# ---- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("refused", [False, True], ids=["captured", "refused"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_composed_run_on_cublas_is_numpy_s(gpu, blas, dtype, refused):
    gpu.refuses_capture = refused
    layers = nnk.Dense(3, 8, activation="tanh"), nnk.Dense(8, 2, bias=False)
    x, y = drawn(37, 3), drawn(37, 2)
    arguments = {"loss": "huber", "optimizer": nnk.Adam(0.01), "batch_size": 8, "steps": 23, "plan": "composed"}
    trained = []
    for device in ("numpy", "cuda"):
        net = nnk.Sequential(*layers, device=device, dtype=dtype, rng=2)
        net.fit(x, y, **arguments)
        trained.append(net.parameters.to_host())
    assert any("gemm" in name for name in blas.calls)
    for name, expected in trained[0].items():
        np.testing.assert_allclose(trained[1][name], expected, atol=relative(dtype, "short trajectory"), rtol=0)


def test_a_captured_step_calls_no_function_of_cublas_again(gpu, blas):
    net = nnk.Sequential(nnk.Dense(2, 3), device="cuda", rng=0)
    counts = []
    for steps in (2, 40):
        blas.calls.clear()
        net.fit(drawn(8, 2), drawn(8, 3), loss="huber", optimizer="sgd", batch_size=8, steps=steps, plan="composed")
        counts.append(len([name for name in blas.calls if "gemm" in name]))
    assert counts[0] == counts[1] > 0


def test_the_workspace_is_the_memory_s_own(blas):
    """A captured graph keeps no reference to it."""
    handle = cublas.handle()
    assert cublas._threads.handles[0, 1] is handle
    assert memory.empty((1,), np.uint8).data.ptr != handle.workspace.data.ptr
