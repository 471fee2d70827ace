"""The pretended GPU reports what a real one would leave undefined, and nothing else."""

import numpy as np
import pytest
from emulator import compiler
from emulator.compiler import KernelError
from emulator.host import emulated

from nnkernels.backends.cupy import kernels as cuda
from nnkernels.backends.cupy import launch
from nnkernels.backends.cupy.files import read

ORDERS = [("forward", 0), ("reverse", 0), *((order, seed) for order in ("random", "warps") for seed in range(3))]


def run(body, *, threads=64, blocks=1, order=("forward", 0)):
    """Run a kernel of 64 numbers: real *out, where -1 stands, and const real *in = 0, 1, ...; return out."""
    head = 'extern "C" __global__ void planted(real *out, const real *in)'
    source = f'{read("prelude")}#line 1 "planted.cu"\n{head} {{\n\n{body}\n}}\n'
    with emulated(schedule=order[0], seed=order[1]):
        out, given = (cuda.from_host(array.astype(np.float32)) for array in (np.full(64, -1), np.arange(64)))
        launch.library(source, "float32", 0).kernel("planted")(blocks, threads, out, given)
        return cuda.to_host(out)


# ---- what is reported ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "report"),
    [
        ("if (threadIdx.x < 16) __syncthreads();", "is reached by 16 of 64 threads; the rest returned"),
        (
            "if (threadIdx.x < 16) {\n__syncthreads();\n} else {\n__syncthreads();\n}",
            r"wait at different __syncthreads \(planted.cu:4, planted.cu:6\)",
        ),
        ("if (threadIdx.x < 16) __syncwarp();\nelse __syncthreads();", "deadlock: a lane waits at planted.cu:3"),
        ("if (threadIdx.x == 3) return;\n__syncwarp();", "deadlock: a lane waits at planted.cu:4 .* ffffffff"),
        ("__syncwarp(0xfffffffeu);", "planted.cu:3: the calling lane is not in its own mask fffffffe"),
        (
            "if (threadIdx.x % 32 < 3) __syncwarp(threadIdx.x % 32 ? 0x7u : 0x3u);",
            "lanes of one warp disagree about the mask",
        ),
        ("if (threadIdx.x % 2) __syncwarp();\nelse __syncwarp();", "lanes of one warp wait at different places"),
        (
            "if (threadIdx.x < 4) out[0] = __shfl_sync(0xfu, in[0], 7);",
            "planted.cu:3: a shuffle reads lane 7, outside its mask 0000000f",
        ),
        (
            "if (threadIdx.x < 20) out[0] = __shfl_xor_sync(0xfffffu, in[0], 16);",
            "a shuffle reads lane .., outside its mask 000fffff",
        ),
    ],
    ids=lambda value: value.split("\n")[0][:40],
)
@pytest.mark.parametrize("order", ORDERS, ids=lambda order: f"{order[0]}-{order[1]}")
def test_a_planted_fault_is_reported_with_its_place(body, report, order):
    with pytest.raises(KernelError, match=report) as caught:
        run(body, order=order)
    assert "planted: block (0, 0, 0)" in str(caught.value)


def test_a_shuffle_from_a_lane_that_is_not_there_is_reported():
    with pytest.raises(KernelError, match="a shuffle reads lane 24"):
        run("out[threadIdx.x] = __shfl_xor_sync(ALL_LANES, in[0], 16);", threads=24)


def test_after_a_report_the_next_launch_works():
    with pytest.raises(KernelError):
        run("if (threadIdx.x < 16) __syncthreads();")
    assert (run("__syncthreads();\nout[threadIdx.x] = 2 * in[threadIdx.x];") == 2 * np.arange(64)).all()


REVERSED = """
__shared__ real shared[64];
shared[threadIdx.x] = in[threadIdx.x];
{barrier}
out[threadIdx.x] = shared[63 - threadIdx.x];
"""


def test_a_missing_barrier_shows_in_some_order_and_a_present_one_in_none():
    for barrier, right in (("__syncthreads();", True), ("__syncwarp();", False), (";", False)):
        results = [run(REVERSED.format(barrier=barrier), order=order) for order in ORDERS]
        assert all((result == np.arange(63, -1, -1)).all() for result in results) == right


def test_a_warp_may_be_far_ahead_of_the_others():
    """A value is overwritten while others still read it, though the writer meets its own warp many times before."""
    body = """
    __shared__ real shared[1];
    if (threadIdx.x == 0) shared[0] = 1;
    __syncthreads();
    out[threadIdx.x] = shared[0];
    lane_sum<32>(lane_sum<32>(in[threadIdx.x]));
    {barrier}
    if (threadIdx.x == 0) shared[0] = 2;
    """
    for barrier, right in (("__syncthreads();", True), (";", False)):
        results = [run(body.format(barrier=barrier), order=order) for order in ORDERS]
        assert all((result == 1).all() for result in results) == right


def test_blocks_run_in_the_order_of_the_schedule():
    orders = {run("out[0] = out[0] * 8 + blockIdx.x;", threads=1, blocks=3, order=order)[0] for order in ORDERS}
    assert len(orders) > 2, "a result that hangs on the order of blocks shows"


def test_the_same_seed_is_the_same_order():
    body = "out[0] = fmod(out[0] * 3 + threadIdx.x, real(1009));"
    results = [run(body, order=("random", seed))[0] for seed in (0, 1, 2, 0, 1, 2)]
    assert results[:3] == results[3:]
    assert len(set(results)) > 1


@pytest.mark.parametrize("place", [-1, 64])
def test_a_write_beside_an_array_is_seen_by_its_guards(place):
    with pytest.raises(AssertionError, match=r"a kernel wrote beside an array of 256 bytes; launched: \['planted'\]"):
        run(f"if (threadIdx.x == 0) out[{place}] = 0;")


def test_memory_that_nobody_wrote_is_nan():
    body = "__shared__ real shared[64];\nif (threadIdx.x % 2) shared[threadIdx.x] = 0;\n__syncthreads();\n"
    out = run(body + "out[threadIdx.x] = shared[threadIdx.x];")
    assert np.isnan(out[::2]).all()
    assert (out[1::2] == 0).all()
    with emulated():
        assert np.isnan(cuda.to_host(cuda.empty((5,), np.float32))).all()


def test_shared_memory_is_forgotten_between_blocks():
    body = "__shared__ real shared[1];\nout[blockIdx.x] = shared[0];\nshared[0] = 1;"
    assert np.isnan(run(body, threads=1, blocks=3)[:3]).all()


@pytest.mark.parametrize("threads", [0, 1025])
def test_a_launch_that_no_gpu_takes_is_reported(threads):
    with pytest.raises(KernelError, match="invalid configuration"):
        run("out[0] = 0;", threads=threads)


@pytest.mark.parametrize("statement", ["out[0] = nope;", "int unused = 3;", "out[0] = in;"])
def test_what_does_not_compile_is_reported_with_file_and_line(statement):
    with pytest.raises(KernelError, match=r"planted\.cu:3"):
        run(statement)


def test_a_machine_without_a_compiler_fails_and_does_not_skip(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeError, match=r"needs g\+\+: install it, or set CXX"):
        compiler.compiler()


# ---- arguments: the emulator looks at them once more, behind the launcher --------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "report"),
    [
        (lambda array: (array,), "planted: 1 arguments"),
        (lambda array: (array, array, array), "planted: 3 arguments"),
        (lambda array: (array.view(np.int32), array), r"takes \*f4, and was given an array of int32"),
        (lambda array: (np.float32(1), array), r"takes \*f4, and was given"),
        (lambda array: (array, np.uint64(8)), r"takes \*f4, and was given"),
    ],
)
def test_arguments_that_a_kernel_does_not_take_are_reported(arguments, report):
    source = read("prelude") + 'extern "C" __global__ void planted(real *out, const real *in) { out[0] = in[0]; }'
    with emulated() as emulator:
        function = emulator.raw_module(source, launch.options("float32"), "nvrtc").get_function("planted")
        given = arguments(cuda.from_host(np.zeros(4, np.float32)))
        with pytest.raises(AssertionError, match=report):
            function((1,), (1,), given)


def test_a_scalar_of_another_type_is_reported():
    with emulated() as emulator:
        module = emulator.raw_module(launch.complete("updates"), launch.options("float32"), "nvrtc")
        array = cuda.from_host(np.zeros(4, np.float32))
        for limit, size in ((np.float32(1), np.int64(4)), (np.float64(1), np.int32(4))):
            with pytest.raises(AssertionError, match="clip_by_value takes"):
                module.get_function("clip_by_value")((1,), (32,), (array, limit, size))


# ---- what is not reported --------------------------------------------------------------------------------------------

FAULTLESS = {
    "plain": "out[threadIdx.x] = 2 * in[threadIdx.x];",
    "a thread returns where no barrier follows": """
        if (threadIdx.x >= 64) return;
        out[threadIdx.x] = 2 * in[threadIdx.x];
    """,
    "some lanes meet, as their mask says": """
        real x = 2 * in[threadIdx.x];
        if (threadIdx.x % 32 < 8) {
            __syncwarp(0xffu);
            x = __shfl_sync(0xffu, x, threadIdx.x);
        }
        out[threadIdx.x] = x;
    """,
    "warps go different ways": """
        real x = in[threadIdx.x];
        if (threadIdx.x < 32) {
            __syncwarp();
            x += x;
        } else {
            x *= 2;
            __syncwarp();
        }
        __syncthreads();
        out[threadIdx.x] = x;
    """,
    "barriers in a loop": """
        real x = 0;
        for (int turn = 0; turn < 4; ++turn) {
            __syncthreads();
            x += in[threadIdx.x] / 2;
        }
        out[threadIdx.x] = x;
    """,
}


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: f"{order[0]}-{order[1]}")
@pytest.mark.parametrize("name", FAULTLESS)
def test_a_kernel_without_fault_runs_in_every_order(name, order):
    assert (run(FAULTLESS[name], order=order) == 2 * np.arange(64)).all()


def test_a_block_need_not_fill_its_last_warp():
    body = "__syncwarp();\n__syncthreads();\nout[threadIdx.x] = __shfl_xor_sync(ALL_LANES, in[threadIdx.x], 1);"
    out = run(body, threads=40)
    assert (out[:40] == np.arange(40) ^ 1).all()
    assert (out[40:] == -1).all()
