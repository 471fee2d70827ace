"""Every kernel as NVIDIA's compiler takes it: within its budget, without spills, and in the precision it promises."""

import re
from collections import Counter

import pytest
from cuda_budgets import BUDGETS, FLOAT64_IN_FLOAT32, PROGRAM_BUDGETS
from cuda_programs import PROGRAMS, written
from emulator.nvrtc import (
    ARCHITECTURES,
    CompileError,
    build,
    build_file,
    build_program,
    instructions,
    virtual_instructions,
)
from hypothesis import HealthCheck, Phase, given, settings
from ways import problems

from nnkernels._recipe import Recipe
from nnkernels.backends.cupy import launch
from nnkernels.backends.cupy.codegen import choice
from nnkernels.backends.cupy.files import read

DTYPES = ("float32", "float64")
#: what a float32 kernel does with its float64 parameters: it rounds them
ROUNDED = {"cvt.rn.f32.f64"}
MOVES = re.compile(r"(ld|st|mov|selp)\..*")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("file", launch.SOURCES)
def test_a_kernel_keeps_to_its_budget_on_every_architecture(file, dtype):
    for architecture in ARCHITECTURES:
        for name, use in build_file(file, dtype, architecture).use.items():
            _check_budget(name, use, dtype, architecture, BUDGETS[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_whole_run_program_keeps_to_its_budget_if_it_can_be_chosen(name, dtype):
    program, fits = written(name, dtype)
    assert fits == (PROGRAM_BUDGETS[name][DTYPES.index(dtype)] > 0)
    for architecture in ARCHITECTURES if fits else ():
        use = build_program(program.complete, dtype, architecture).use["run"]
        _check_budget(name, use, dtype, architecture, PROGRAM_BUDGETS[name])


def _no_program_spills(dtype, examples):
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(problems(widest=9, most_rows=40))
    def compiled(problem):
        arguments = problem.arguments
        recipe = Recipe.of(
            tuple(problem.layers),
            arguments["loss"],
            arguments["optimizer"],
            n_rows=len(problem.x),
            batch=arguments["batch_size"],
            sampling=arguments["sampling"],
            weighted=arguments["sample_weight"] is not None,
            dtype=dtype,
        )
        for _, write in choice.candidates(recipe, 1):
            program = write()
            local = build_program(program.complete, dtype, "sm_90").use["run"].local
            assert local == 0, f"{recipe}: {program.form} has {local} bytes of local memory"

    compiled()


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_program_that_can_be_chosen_spills(dtype):
    """How many registers a program needs is estimated before it is compiled."""
    _no_program_spills(dtype, 4)


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_program_of_many_that_can_be_chosen_spills(dtype):
    _no_program_spills(dtype, 150)


def _check_budget(name, use, dtype, architecture, budget):
    column = DTYPES.index(dtype)
    registers, shared = budget[column], budget[2 + column]
    assert use.local == 0, f"{name} uses {use.local} bytes of local memory on {architecture}"
    assert use.registers <= registers, f"{name} uses {use.registers} registers on {architecture}"
    assert use.shared <= shared, f"{name} uses {use.shared} bytes of shared memory on {architecture}"


def test_every_kernel_has_a_budget_and_no_budget_is_a_gift():
    names = {name for file in launch.SOURCES for name in build_file(file, "float32", "sm_90").use}
    assert BUDGETS.keys() == names
    assert PROGRAM_BUDGETS.keys() == PROGRAMS.keys()
    for file in launch.SOURCES:
        uses = [build_file(file, "float32", architecture).use for architecture in ARCHITECTURES]
        for name in uses[0]:
            most = max(use[name].registers for use in uses)
            assert BUDGETS[name][0] < most + 16, f"{name} uses {most} registers, and has {BUDGETS[name][0]}"


def test_an_error_names_the_file_and_the_line():
    source = launch.complete("updates").replace("sign(w[i])", "sine(w[i])")
    line = next(n for n, text in enumerate(read("updates").splitlines()) if "sign(w[i])" in text)
    with pytest.raises(CompileError, match=rf'updates\.cu\({line}\): error: identifier "sine" is undefined'):
        build(source, "sm_90", launch.options("float32"))


def test_a_spill_is_seen():
    source = (
        read("prelude")
        + """
extern "C" __global__ void spilling(real *x, int n) {
    real all[64];
    for (int i = 0; i < 64; ++i) all[n * i & 63] = x[i];
    for (int i = 0; i < 64; ++i) x[i] = all[n + i & 63];
}
"""
    )
    compiled = build(source, "sm_90", launch.options("float32"))
    assert compiled.use["spilling"].local > 0
    assert _local(instructions(compiled.cubin)["spilling"])


# ---- the instructions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["sm_90", "sm_120"])
@pytest.mark.parametrize("file", launch.SOURCES)
def test_a_float32_kernel_computes_in_float32_and_touches_no_local_memory(file, architecture):
    for name, found in instructions(build_file(file, "float32", architecture).cubin).items():
        assert len(found) > 5, "the disassembler's output was understood"
        assert not _local(found), name
        assert name in FLOAT64_IN_FLOAT32 or not _float64(found), f"{name}: {_float64(found)}"


def test_float64_is_seen_in_machine_code():
    found = instructions(build_file("updates", "float64", "sm_90").cubin)
    assert all(_float64(found[name]) for name in ("penalty_backward", "clip_by_value", "clip_by_norm"))


@pytest.mark.parametrize("file", launch.SOURCES)
def test_float64_in_a_float32_kernel_is_where_the_table_says(file):
    for name, found in virtual_instructions(build_file(file, "float32", "sm_90").ptx).items():
        where = FLOAT64_IN_FLOAT32.get(name, "nowhere")
        assert _WHERE[where](found), f"{name}: float64 is not {where}: {_virtual_float64(found)}"


@pytest.mark.parametrize("file", launch.SOURCES)
def test_float32_is_ieee_arithmetic(file):
    """Division and roots are rounded correctly, and what is subnormal stays: sigmoid's slope at 90 is not 0."""
    for name, found in virtual_instructions(build_file(file, "float32", "sm_90").ptx).items():
        assert not _rough(found), f"{name}: {_rough(found)}"


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_whole_run_program_computes_in_float32_beside_the_total_and_the_norm(name):
    compiled = build_program(written(name, "float32")[0].complete, "float32", "sm_90")
    found, optimizer = virtual_instructions(compiled.ptx)["run"], PROGRAMS[name][3]
    norm = {"mul.rn.f64", "sqrt.rn.f64"} if optimizer.clip_norm else set()
    assert _virtual_float64(found).keys() <= {"add.rn.f64", "cvt.f64.f32", *norm}
    assert not _rough(found)
    assert not _local(instructions(compiled.cubin)["run"])


def _rough(found):
    """Return float32 instructions of less than IEEE accuracy, but for 1 / x and those in CUDA's exp, log and tanh."""
    rough = {op for op in found if ".f32" in op and ("approx" in op or ".full" in op or ".ftz" in op)}
    return rough - {"ex2.approx.ftz.f32", "ex2.approx.f32", "rcp.approx.ftz.f32", "rcp.approx.f32"}


def _local(found):
    return [op for op in found if op.startswith(("LDL", "STL"))]


def _float64(found):
    """Return machine instructions that compute in float64; rounding a float64 parameter is none."""
    return [
        op for op in found if re.match(r"D[A-Z]{3}|MUFU\.\w+64|(F2F|F2I|I2F|F2FP)\..*F64", op) and op != "F2F.F32.F64"
    ]


def _virtual_float64(found):
    return Counter(op for op in found if ".f64" in op and not MOVES.fullmatch(op)) - Counter(
        {op: len(found) for op in ROUNDED}
    )


def _in_the_total_alone(found):
    """One number a thread is converted, after its loop; the rest is added."""
    used = _virtual_float64(found)
    return used["cvt.f64.f32"] == 1 and used.keys() == {"cvt.f64.f32", "add.f64"}


def _before_the_barrier(found):
    barrier = next(place for place, op in enumerate(found) if op.startswith(("bar.", "barrier.")))
    loop = found[barrier : found.index("ret", barrier)]  # behind it stand rare cases of pow
    return len(loop) > 10 and _virtual_float64(found) and not _virtual_float64(loop) and "call.uni" not in loop


def _in_a_sum_of_squares(found):
    used = _virtual_float64(found)
    once = {op: count for op, count in used.items() if op.startswith(("div", "sqrt", "mul"))}
    return "fma.rn.f64" in used and set(once.values()) == {1}


_WHERE = {
    "nowhere": lambda found: not _virtual_float64(found),
    "total": _in_the_total_alone,
    "once a block": _before_the_barrier,
    "the sum of squares, and once a block": _in_a_sum_of_squares,
}
