"""What the tests say about the CUDA backend's Python: its coverage, and the lines that a stand-in alone has reached.

``NNKERNELS_STAND_INS=FILE pytest --cov --cov-context=test``, then ``python tests/stand_ins.py FILE``. Fails below 95 %.

Kernels are emulated: the lines that launch them are proven. A line of the list runs, and only a GPU can tell whether
cuBLAS, or a captured graph, does there what its stand-in does.
"""

import sys
from itertools import groupby
from pathlib import Path

import coverage

FOLDER = Path("nnkernels", "backends", "cupy")
LEAST = 95.0


def main(noted):
    """Print the coverage of the folder, and the lines that only tests with a stand-in have reached."""
    stand_ins = set(Path(noted).read_text().splitlines())
    measured = coverage.Coverage()
    measured.load()
    statements = covered = 0
    for path in sorted(FOLDER.rglob("*.py")):
        _, lines, _, missing, _ = measured.analysis2(str(path))
        statements, covered = statements + len(lines), covered + len(lines) - len(missing)
        contexts = measured.get_data().contexts_by_lineno(str(path.resolve()))
        alone = [line for line in lines if line not in missing and only(contexts.get(line, []), stand_ins)]
        for name, places in (("not reached", missing), ("by a stand-in alone", alone)):
            if places:
                print(f"{path}: {name}: {ranges(places)}")
    share = 100 * covered / statements
    print(f"{FOLDER}: {share:.1f} % of {statements} statements")
    return share >= LEAST


def only(contexts, stand_ins):
    """Tell whether all tests that reached a line used a stand-in; what is imported was reached by none."""
    tests = {context.rpartition("|")[0] for context in contexts}
    return bool(tests) and tests <= stand_ins


def ranges(lines):
    """Write numbers as "3, 5-7"."""
    groups = [[line for _, line in group] for _, group in groupby(enumerate(lines), lambda pair: pair[1] - pair[0])]
    return ", ".join(str(group[0]) if len(group) == 1 else f"{group[0]}-{group[-1]}" for group in groups)


if __name__ == "__main__":
    sys.exit(not main(*sys.argv[1:]))
