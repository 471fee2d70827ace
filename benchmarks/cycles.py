"""Cycles of a step of a whole-run program, read from its machine code: `python -m benchmarks.cycles`. No GPU is needed.

One warp issues in order. Each machine instruction says how many cycles the next one waits at least, and which results
of memory and of special functions it waits for itself; ptxas has put that there. What is left to know is how long those
take. So a loop's cycles can be added up, for a warp that has a scheduler to itself, as in a program of one network.
What stands behind a condition is counted as if it were always done, but for the slow paths of divisions.
Printed with it is where the warp waits: that is where there is something to gain.

The fields of the control word are not documented by NVIDIA; they are as in Jia et al., "Dissecting the NVIDIA Volta GPU
Architecture via Microbenchmarking", arXiv 1804.06826, which holds for all architectures since.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import NamedTuple

import click

from benchmarks.floors import FMA, H200, SHARED, SPECIAL
from benchmarks.problem import Problem, dense
from benchmarks.timing import Absent

#: cycles until a result is there, by the beginning of the instruction's name; loads hit the L1 cache
LATENCIES = {"LDG": 38, "LDS": SHARED, "STS": SPECIAL, "MUFU": SPECIAL, "SHFL": 24, "S2": 24, "F2F": 22, "D": 2 * FMA}
OTHER = 20
ITERATIONS = 8  #: until the waits are those of a loop that goes on

_FIRST = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(.*?) ?;? */\* 0x[0-9a-f]{16} \*/")
_SECOND = re.compile(r"\s*/\* 0x([0-9a-f]{16}) \*/")
_LABEL = re.compile(r"(\.L_x_\d+):")
_BRANCH = re.compile(r"\bBRA `\((\.L_x_\d+)\)")


class Instruction(NamedTuple):
    """A machine instruction, or a label.

    Parameters
    ----------
    text : str
        As the disassembler writes it.
    stall : int
        Cycles until the next one may be issued.
    sets : int or None
        The scoreboard that says when its result is there.
    waits : tuple of int
        The scoreboards that it waits for.
    """

    text: str
    stall: int = 0
    sets: int | None = None
    waits: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """What it does, without its predicate and operands."""
        return re.sub(r"^@!?U?P\w+\s+", "", self.text).split(" ")[0]

    @property
    def latency(self) -> int:
        """Cycles until its result is there."""
        return next((cycles for start, cycles in LATENCIES.items() if self.name.startswith(start)), OTHER)


class Estimate(NamedTuple):
    """What a loop takes: cycles of an iteration, its instructions, and where it waits, longest first."""

    cycles: int
    instructions: int
    waits: list[tuple[int, str]]

    @property
    def seconds(self) -> float:
        """At the clock of an H200."""
        return self.cycles / H200.clock


def parse(text: str) -> list[Instruction]:
    """Return the instructions and labels of what `nvdisasm -hex` prints."""
    found, first = [], ""
    for line in text.splitlines():
        if match := _FIRST.match(line):
            first = match[2]
        elif (match := _SECOND.match(line)) and first:
            control = int(match[1], 16) >> 41
            sets, waits = control >> 5 & 7, control >> 11 & 63
            waited = tuple(board for board in range(6) if waits >> board & 1)
            found.append(Instruction(first, control & 15, None if sets == 7 else sets, waited))
            first = ""
        elif match := _LABEL.match(line):
            found.append(Instruction(match[1]))
    return found


def loop(code: list[Instruction]) -> list[Instruction]:
    """Return the longest loop, without the calls of slow paths that numbers of a usual size never take."""
    places = {instruction.text: place for place, instruction in enumerate(code)}
    spans = [
        (place - places[match[1]], places[match[1]], place)
        for place, instruction in enumerate(code)
        if (match := _BRANCH.search(instruction.text)) and places[match[1]] < place
    ]
    _, start, stop = max(spans)
    body = code[start : stop + 1]
    slow: set[int] = set()
    for place, instruction in enumerate(body):
        if instruction.name.startswith("CALL"):  # from the branch around it to the branch back
            slow |= set(_until_branch(body, place, -1)) | {place} | set(_until_branch(body, place, 1))
            slow.add(max(slow) + 1)
    return [one for place, one in enumerate(body) if place not in slow and not _LABEL.match(one.text + ":")]


def _until_branch(body: list[Instruction], place: int, step: int) -> Iterator[int]:
    place += step
    while not _BRANCH.search(body[place].text):
        yield place
        place += step


def estimate(body: list[Instruction]) -> Estimate:
    """Issue a loop's instructions in order, again and again, and return what the last iteration takes."""
    now, ready, waits, start = 0, [0] * 6, list[tuple[int, str]](), 0
    for _ in range(ITERATIONS):
        start, waits = now, []
        for instruction in body:
            begin = max([now, *(ready[board] for board in instruction.waits)])
            if begin > now:
                waits.append((begin - now, instruction.text))
            if instruction.sets is not None:
                ready[instruction.sets] = max(ready[instruction.sets], begin + instruction.latency)
            now = begin + max(1, instruction.stall)
    return Estimate(now - start, len(body), sorted(waits, reverse=True))


# ---- of a problem ----------------------------------------------------------------------------------------------------


def of_problem(problem: Problem, form: str | None = None, architecture: str = "sm_90") -> Estimate:
    """Return the estimate of a problem's whole-run program: the one that is chosen, or of a form.

    Raises
    ------
    Absent
        There is no disassembler.
    """
    from nnkernels._recipe import Recipe
    from nnkernels.backends.cupy.codegen import choice, rows, units
    from nnkernels.backends.cupy.codegen.program import Whole

    recipe = Recipe.of(
        tuple(dense(problem.layers)),
        problem.own_loss(),
        problem.own_optimizer(),
        n_rows=len(problem.x),
        batch=problem.batch,
        sampling=problem.sampling,
        weighted=False,
        dtype=problem.dtype,
    )
    forms: dict[str | None, Callable[[Recipe], Whole]] = {
        None: choice.generated,
        "thread": lambda recipe: rows.write(recipe, 1),
        "warp": units.write,
    }
    cubin = compiled(forms[form](recipe).complete, recipe.dtype, architecture)
    return estimate(loop(parse(disassembled(cubin))))


def compiled(source: str, dtype: str, architecture: str) -> bytes:
    """Return the machine code of a whole-run program."""
    from cupy.cuda import nvrtc

    from nnkernels.backends.cupy import launch

    program = nvrtc.createProgram(source, "source.cu", (), ())
    try:
        nvrtc.compileProgram(program, (f"-arch={architecture}", *launch.options(dtype, contracted=False)))
        code: bytes = nvrtc.getCUBIN(program) + b"\0"  # CuPy drops a last byte that ends strings
        return code
    finally:
        nvrtc.destroyProgram(program)


def disassembled(cubin: bytes) -> str:
    """Return machine code as text, with its control words."""
    try:
        wheel = files("nvidia-cuda-nvdisasm") or []
        program = next(str(file.locate()) for file in wheel if file.name == "nvdisasm")
    except (PackageNotFoundError, StopIteration):
        raise Absent("not installed: pip install nvidia-cuda-nvdisasm") from None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "code.cubin"
        path.write_bytes(cubin)
        return subprocess.run([program, "-hex", str(path)], capture_output=True, text=True, check=True).stdout


@click.command()
@click.option("--waits", default=8, metavar="N", help="How many of the longest waits to show.")
def command(waits: int) -> None:
    """Estimate the cycles of a step of the cases that whole-run programs are for."""
    from benchmarks.cases import autoencoder, sine

    for name, problem, form in (
        ("sine", sine.problem(1), None),
        ("autoencoder", autoencoder.problem(1), None),
        ("many, a thread a network", sine.problem(1), "thread"),
        ("many, a warp a network", sine.problem(1), "warp"),
    ):
        found = of_problem(problem, form)
        click.echo(f"{name}: {found.cycles} cycles, {found.seconds * 1e9:.0f} ns, {found.instructions} instructions")
        for cycles, text in found.waits[:waits]:
            click.echo(f"    {cycles:4} cycles for {text}")


if __name__ == "__main__":
    command(prog_name="python -m benchmarks.cycles")
