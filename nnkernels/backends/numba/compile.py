"""How a Numba kernel is compiled: one decorator, one cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import CompileResultCacheImpl, FunctionCache, _CacheLocator

Function = TypeVar("Function", bound=Callable[..., Any])


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``$NNKERNELS_CACHE_DIR``, else the user's cache folder."""
    if chosen := os.environ.get("NNKERNELS_CACHE_DIR"):
        return Path(chosen)
    import platformdirs

    return platformdirs.user_cache_path("nnkernels", appauthor=False)


@cache
def _source_hash() -> str:
    """One digest of all sources: kernels use other files' functions and constants; Numba watches only their own."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].glob("num*/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Locator(_CacheLocator):  # type: ignore[misc]  # numba is untyped
    """Numba's cache is pickle, so it lives in a folder that is the user's own, never beside a file somebody sent."""

    def __init__(self, function: Callable[..., Any], path: str) -> None:
        self.line = function.__code__.co_firstlineno
        self.folder = cache_folder() / f"numba-{_source_hash()[:16]}"

    def get_cache_path(self) -> str:
        return str(self.folder)

    def ensure_cache_path(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        super().ensure_cache_path()

    def get_source_stamp(self) -> str:
        return _source_hash()

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


@cache
def warn_uncached(error: str) -> None:
    logging.getLogger("nnkernels").warning(
        "compiled kernels cannot be cached (%s); set NNKERNELS_CACHE_DIR to a folder you can write to", error
    )


def kernel(function: Function) -> Function:
    """Compile a kernel: without the GIL, cached on disk, dividing as NumPy does (a raising division is no vector)."""
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    try:
        if "NUMBA_JIT_COVERAGE" not in os.environ:  # a cached kernel is not compiled, so its lines would not be seen
            compiled._cache = _Cache(function)
    except OSError as error:
        warn_uncached(str(error))
    return cast(Function, compiled)
