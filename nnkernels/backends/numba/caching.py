"""Numba's compiler and its cache on disk; imported when a kernel is first called."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

from nnkernels.backends.numba.compile import cache_folder, source_hash, warn_uncached


class _Locator(_CacheLocator):  # type: ignore[misc]  # numba is untyped
    """Numba's cache is pickle, so it lives in a folder that is the user's own, never beside a file somebody sent."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self.line = function.__code__.co_firstlineno
        self.folder = cache_folder() / f"numba-{source_hash()[:16]}"

    def get_cache_path(self) -> str:
        return str(self.folder)

    def ensure_cache_path(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().ensure_cache_path()

    def get_source_stamp(self) -> str:
        return source_hash()

    def get_disambiguator(self) -> str:
        return str(self.line)

    @classmethod
    def from_function(cls, function: Callable[..., Any], path: str) -> _Locator:
        locator = cls(function, path)
        locator.ensure_cache_path()
        return locator


class _CacheFiles(CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(FunctionCache):  # type: ignore[misc]
    _impl_class = _CacheFiles


def dispatcher(function: Callable[..., Any]) -> Any:
    """Compile a kernel: without the GIL, cached on disk, dividing as NumPy does (a raising division is no vector)."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        if "NUMBA_JIT_COVERAGE" not in os.environ:  # a cached kernel is not compiled, so its lines would not be seen
            compiled._cache = _Cache(function)
    except OSError as error:
        warn_uncached(str(error))
    return compiled
