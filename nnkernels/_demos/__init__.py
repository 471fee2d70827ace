"""The stories behind the questions that this package grew out of.

A module each. ``run(...)`` does the computation and returns a NamedTuple of numbers, ``story(result)`` the text about
them, ``picture(result)`` a matplotlib figure.
"""
