"""Practical limits: the best C that we can write, for one network each, under the contract that nnkernels honors.

That is: a sigmoid's slope as ``(e a) a`` with the exponent clamped, never ``a (1 - a)``; Philox for the order of rows;
the loss of every step added up in double. Compiled on the spot for this very processor.
"""
