"""Text of a story: paragraphs that fit a terminal."""

from textwrap import fill

WIDTH = 79


def paragraph(*sentences: str) -> str:
    """Return sentences as lines of at most 79 characters.

    Examples
    --------
    >>> paragraph("One.", "Two.")
    'One. Two.'
    """
    return fill(" ".join(sentences), WIDTH, break_long_words=False, break_on_hyphens=False)
