"""The launcher: what a kernel takes is read from its source, and whatever it is given is checked against that."""

import re
import zipfile
from pathlib import Path

import cupy
import numpy as np
import pytest
from emulator.compiler import Library
from hatchling.builders.wheel import WheelBuilder

from nnkernels import DeviceError
from nnkernels.backends.cupy import kernels as cuda
from nnkernels.backends.cupy import launch
from nnkernels.backends.cupy.files import FOLDER, read

DTYPES = ("float32", "float64")

pytestmark = pytest.mark.usefixtures("gpu")


# ---- signatures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file", launch.SOURCES)
def test_a_signature_is_what_the_compiler_sees(file, dtype):
    source = launch.complete(file)
    library, found = Library(source, launch.options(dtype)), launch.signatures(source, dtype)
    assert sorted(found) == sorted(library.names) == sorted(re.findall(r"__global__[^{;]*?(\w+)\(", _bare(source)))
    for name, parameters in found.items():
        codes = ["*" * parameter.pointer + parameter.dtype.str[1:] for parameter in parameters]
        assert codes == library.signature(name), name


def _bare(source):
    return re.sub(r"//[^\n]*|__launch_bounds__\([^)]*\)", "", source)


def test_a_signature_says_what_is_read_only_and_what_may_be_missing():
    out, slope, z, size = launch.signatures(read("activations"), "float32")["sigmoid_forward"]
    assert [parameter.name for parameter in (out, slope, z, size)] == ["out", "slope", "z", "size"]
    assert [parameter.constant for parameter in (out, slope, z)] == [False, False, True]
    assert [parameter.optional for parameter in (out, slope, z)] == [False, True, False]
    assert not size.pointer


@pytest.mark.parametrize("parameter", ["real x[3]", "real *const x", "unsigned x", "Words words", "real"])
def test_a_parameter_that_cannot_be_read_is_an_error(parameter):
    source = f'extern "C" __global__ void odd(real *out, {parameter}) {{ }}'
    with pytest.raises(ValueError, match=rf"odd: cannot read the parameter '{re.escape(parameter)}'"):
        launch.signatures(source, "float32")


# ---- arguments -------------------------------------------------------------------------------------------------------


def arrays(*values, dtype="float32"):
    return [cuda.from_host(np.asarray(value, dtype)) for value in values]


def clip(*arguments, dtype="float32"):
    """Launch clip_by_value(real *g, double limit, int64 size)."""
    launch.kernel("clip_by_value", dtype)(1, 32, *arguments)


def test_a_launch_does_what_the_kernel_says():
    (g,) = arrays([-2, 0.5, 3])
    clip(g, 1, 3)
    assert cuda.to_host(g).tolist() == [-1, 0.5, 1]


@pytest.mark.parametrize("count", [0, 2, 4])
def test_the_number_of_arguments_is_checked(count):
    (g,) = arrays([1])
    with pytest.raises(TypeError, match=f"clip_by_value takes 3 arguments, not {count}"):
        clip(*(g, 1, 1, 1)[:count])


def test_an_array_of_another_dtype_is_refused():
    for wanted, given in (DTYPES, DTYPES[::-1]):
        (g,) = arrays([1], dtype=given)
        with pytest.raises(TypeError, match=f"clip_by_value takes {wanted} as g, not {given}"):
            clip(g, 1, 1, dtype=wanted)


@pytest.mark.parametrize("value", [np.zeros(1, np.float32), [1.0], 0, None])
def test_what_is_no_device_array_is_refused(value):
    with pytest.raises(TypeError, match="clip_by_value takes a CuPy array as g, not"):
        clip(value, 1, 1)


def test_an_array_on_another_device_is_refused_with_the_remedy(monkeypatch):
    (g,) = arrays([1])
    kernel = launch.kernel("clip_by_value", "float32")
    monkeypatch.setattr(launch.runtime, "getDevice", lambda: 1)
    with pytest.raises(DeviceError, match=r'runs on "cuda:1", and its g is on "cuda:0"\. Move it there'):
        kernel(1, 32, g, 1, 1)


def test_null_is_for_optional_parameters_alone():
    out, z = arrays([0, 0], [1, 2])
    launch.elementwise("relu_forward", "float32", 2, out, None, z)
    assert cuda.to_host(out).tolist() == [1, 2]
    for given in ((None, None, z), (out, None, None)):
        with pytest.raises(TypeError, match="not NoneType"):
            launch.elementwise("relu_forward", "float32", 2, *given)


@pytest.mark.parametrize(
    ("size", "limit"),
    [(1.0, 1), ("1", 1), (2**63, 1), (np.uint64(2**63), 1), (1, "1"), (1, None), (1, [1.0]), (None, 1)],
)
def test_a_number_that_does_not_fit_is_refused(size, limit):
    (g,) = arrays([1])
    with pytest.raises(TypeError, match=r"clip_by_value takes (int64 as size|float64 as limit), not"):
        clip(g, limit, size)


def test_a_device_array_is_no_number():
    """CuPy would wait for the GPU and read it."""
    (g,) = arrays([1])
    for arguments in ((g, g, 1), (g, 1, g.view(np.int32))):
        with pytest.raises(TypeError, match=r"clip_by_value takes (float64 as limit|int64 as size), not ndarray"):
            clip(*arguments)


def test_unsigned_and_short_numbers_have_their_own_range():
    out, step = cuda.empty((1, 1), np.float32), cuda.from_host(np.array(0))
    launch.kernel("dropout_mask", "float32")(1, 32, out, step, 2**64 - 1, 0, 0, 0, 1.0, 1)
    for seed, layer in ((2**64, 0), (-1, 0), (np.int64(-1), 0), (0, 2**31), (0, np.int64(2**31))):
        with pytest.raises(TypeError, match=r"dropout_mask takes (uint64 as seed|int32 as layer), not"):
            launch.kernel("dropout_mask", "float32")(1, 32, out, step, seed, 0, layer, 0, 1.0, 1)


def test_a_launch_of_no_blocks_is_none(gpu):
    (g,) = arrays([])
    clip_everything = launch.kernel("clip_by_value", "float32")
    clip_everything(0, 32, g, 1, 0)
    clip_everything((3, 0), 32, g, 1, 0)
    assert gpu.launched == []


# ---- arrays of any strides -------------------------------------------------------------------------------------------


def test_a_strided_array_is_staged_and_copied_back_between_its_neighbours():
    (base,) = arrays(np.arange(12).reshape(3, 4))
    clip(base[:, ::2], 5, 6)
    assert cuda.to_host(base).tolist() == [[0, 1, 2, 3], [4, 5, 5, 7], [5, 9, 5, 11]]


def test_what_is_only_read_is_not_copied_back(gpu):
    w, out = arrays(np.ones((3, 4)), np.zeros(6))
    launch.elementwise("penalty_backward", "float32", 6, out, w[:, ::2], 1.0, 0.0)
    assert cuda.to_host(out).tolist() == [1] * 6
    assert gpu.launched == ["copy_words4", "penalty_backward"]


def test_strided_arrays_that_are_one_stay_one():
    """``p = p - lr * p`` with g = p: what is read and what is written share their memory."""
    (base,) = arrays(np.arange(8))
    rate, step = cuda.from_host(np.array([0.5], np.float32)), cuda.from_host(np.array(0))
    part = base[::2]
    launch.elementwise("sgd_update", "float32", 4, part, part, rate, step, 0.0, 4)
    assert cuda.to_host(base).tolist() == [0, 1, 1, 3, 2, 5, 3, 7]


def test_arrays_of_more_than_four_axes_are_refused_unless_they_are_contiguous():
    deep = cuda.empty((2, 2, 2, 2, 2), np.float32)
    cuda.fill(3, out=deep.reshape(-1))
    assert (cuda.to_host(deep) == 3).all()
    with pytest.raises(ValueError, match="has at most 4 axes, not 5"):
        cuda.to_host(deep[..., ::2])


# ---- modules ---------------------------------------------------------------------------------------------------------


def test_a_module_is_compiled_once_for_a_source_a_dtype_and_a_device(monkeypatch):
    compiled, device = [], [0]
    raw_module = cupy.RawModule
    monkeypatch.setattr(
        cupy, "RawModule", lambda code, options, backend: compiled.append(options) or raw_module(code, options, backend)
    )
    monkeypatch.setattr(launch.runtime, "getDevice", lambda: device[0])
    for _ in range(3):
        launch.kernel("clip_by_value", "float32")
        launch.kernel("penalty_backward", np.float32)
    assert len(compiled) == 1
    launch.kernel("clip_by_value", "float64")
    assert len(compiled) == 2
    device[0] = 1
    launch.kernel("clip_by_value", "float32")
    assert len(compiled) == 3
    source = launch.complete("updates")
    for _ in range(2):
        launch.library(source, "float32", 1, contracted=False)
    assert ["--fmad=false" in options for options in compiled] == [False, False, False, True]
    assert launch.kernel("clip_by_value", "float32") is launch.kernel("clip_by_value", "float32")


def test_a_kernel_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="no_such_kernel"):
        launch.kernel("no_such_kernel", "float32")


def test_a_constant_is_read_from_its_file():
    assert launch.constant("layers", "TILE") == 16
    with pytest.raises(AssertionError, match=r"layers\.cu defines no NOTHING"):
        launch.constant("layers", "NOTHING")


def test_large_work_is_looped_over(monkeypatch):
    monkeypatch.setattr(launch, "MOST_BLOCKS", 2)
    values = np.linspace(-2, 2, 2000).astype(np.float32).reshape(500, 4)
    ours, out = arrays(values, values)
    cuda.clip_by_value(ours, 1.0)
    assert (cuda.to_host(ours) == values.clip(-1, 1)).all()
    cuda.softmax_forward(arrays(values)[0], out=out)
    expected = np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(cuda.to_host(out), expected, rtol=1e-5)


def test_the_wheel_has_every_source(tmp_path):
    wheel = next(WheelBuilder(str(FOLDER.parents[2])).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        names = {Path(name).name for name in archive.namelist() if name.startswith("nnkernels/backends/cupy/")}
    assert {path.name for path in FOLDER.glob("*.cu")} == {name for name in names if name.endswith(".cu")}
    assert names >= {"kernels.py", "launch.py"}
