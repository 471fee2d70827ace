"""All kernels and programs under g++'s sanitizers, which must see the faults that are planted."""

import subprocess
import sys
from pathlib import Path

import pytest
from emulator.compiler import compiler

FOLDER = Path(__file__).parent
UNDEFINED = "-fsanitize=bounds,undefined -fno-sanitize-recover=all"
ADDRESS = "-fsanitize=address -fsanitize-sections=cuda_shared"


@pytest.fixture
def sanitized(unwatched):
    """Return what runs `sanitized.py` with options and a planted fault, and returns its exit status and output."""

    def run(options, *fault):
        environment = unwatched | {"PYTHONPATH": f"{FOLDER}:{FOLDER.parent}"}
        if "address" in options:  # its library has to be there before everything else
            command = [compiler(), "-print-file-name=libasan.so"]
            library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
            environment |= {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"}  # Python leaks
        command = [sys.executable, str(FOLDER / "sanitized.py"), options, *fault]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("options", [UNDEFINED, ADDRESS], ids=["undefined", "address"])
def test_kernels_and_programs_give_a_sanitizer_nothing_to_report(sanitized, options):
    status, output = sanitized(options)
    assert (status, output) == (0, "no fault\n")


@pytest.mark.parametrize(
    ("options", "fault", "report"),
    [
        (ADDRESS, "write behind an array", "heap-buffer-overflow|WRITE of size 4|in planted"),
        (ADDRESS, "write before an array", "heap-buffer-overflow|WRITE of size 4|in planted"),
        (ADDRESS, "read behind an array", "heap-buffer-overflow|READ of size 4|in planted"),
        (ADDRESS, "read before an array", "heap-buffer-overflow|READ of size 4|in planted"),
        (ADDRESS, "pointer out of shared memory", "global-buffer-overflow|WRITE of size 4|in put"),
        (UNDEFINED, "index out of shared memory", "planted.cu:5|index 10 out of bounds for type 'float [10]'"),
        (UNDEFINED, "overflow", "planted.cu:6|signed integer overflow"),
        (UNDEFINED, "shift", "planted.cu:5|shift exponent 32 is too large"),
    ],
    ids=lambda value: value if " " not in value or "-f" not in value else value[11:18],
)
def test_a_planted_fault_ends_the_process_with_a_report(sanitized, options, fault, report):
    status, output = sanitized(options, fault)
    assert status != 0
    assert all(part in output for part in report.split("|")), output


@pytest.mark.parametrize("options", [UNDEFINED, ADDRESS], ids=["undefined", "address"])
def test_a_kernel_without_fault_is_let_through(sanitized, options):
    assert sanitized(options, "none") == (0, "no fault\n")
