"""The stories behind the questions that this package grew out of."""
