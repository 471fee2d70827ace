"""From a table in a file to a trained network and back to predictions; what `nnkernels train` and `predict` call.

read -> prepare (columns and target become numbers, rows are split) -> learn -> a `Model` in a file -> predict.
Nothing here prints: what a user ought to know is added to a list of notes.
"""
