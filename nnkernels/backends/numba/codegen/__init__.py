"""Generators of whole-run programs in the vector language: a network's description in, Python text out.

- `code.py`: lines, loops, tiles;
- `formulas.py`: the table of formulas as functions of the language;
- `program.py`: a program's arguments, its parameters' layout, the pieces that all programs share;
- `units.py` (with `units_frame.py`, `units_loss.py`): the units of a layer in lanes, for small batches;
- `units_shallow.py`: the same for two layers, whose threads meet once a step;
- `rows.py` (with `rows_frame.py`, `rows_loss.py`): the rows of a batch in lanes, for small layers;
- `generic.py`: the tables of the program that reads its sizes when it runs;
- `choice.py`: which of them, how wide, and what it is predicted to take.

A loop is written by a Python loop, and unrolled by the same one. An array all of whose indices are then numbers is kept
in registers by LLVM: that is all that a program "in registers" is.
"""
