"""Every single change that a network's backward pass can have, for the tests of `diagnose`."""

from nnkernels._diagnosis.factors import (
    FREE,
    Chain,
    Change,
    apply_slopes,
    bias_inputs,
    errors,
    inputs,
    passes,
    row_choices,
    scales,
)


def space(point):
    """Return all single changes of a point's backward pass, but those that need a number."""
    top, chain = point.depth - 1, Chain()
    changes = [Change("error", top, key) for key in errors(point) if key]
    changes += [Change("rows", top, key) for key in row_choices(point.rows) if key]
    for layer in reversed(range(point.depth)):
        if layer == top:
            da, joint = errors(point)[""]
        else:
            choices = passes(point, layer, chain)
            da, joint = choices[""], None
            changes += [Change("pass", layer, key) for key in choices if key]
        deltas = apply_slopes(point, layer, da, joint)
        chain = chain.add(layer, da, deltas[""])
        changes += [Change("slope", layer, key) for key in deltas if key not in FREE]
        changes += [Change("scale", layer, key) for key in scales(point)]
        for kind, choices in (("weight", inputs), ("bias", bias_inputs)):
            changes += [Change(f"{kind} slope", layer, key) for key in deltas if key not in FREE and layer]
            changes += [Change(f"{kind} rows", layer, key) for key in row_choices(point.rows) if key]
            changes += [Change(f"{kind} scale", layer, key) for key in scales(point)]
            changes += [Change(f"{kind} input", layer, key) for key in choices(point, layer) if key]
        changes.append(Change("weight rows", layer, "averaged_first"))
    return changes
