"""How a Numba kernel is compiled: one decorator, when it is first called; and the one cache folder."""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])
_lock, _warned = threading.Lock(), threading.Event()


def cache_folder() -> Path:
    """Where compiled kernels are kept: ``$NNKERNELS_CACHE_DIR``, else the user's cache folder."""
    if chosen := os.environ.get("NNKERNELS_CACHE_DIR"):
        return Path(chosen)
    import platformdirs

    return platformdirs.user_cache_path("nnkernels", appauthor=False)


@cache
def source_hash() -> str:
    """One digest of all sources: kernels use other files' functions and constants; Numba watches only their own."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].glob("num*/**/*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def warn_uncached(error: str) -> None:
    """Say, once a process, that what is compiled now will be compiled again by the next one."""
    if not _warned.is_set():
        _warned.set()
        logging.getLogger("nnkernels").warning(
            "compiled kernels cannot be cached (%s); set NNKERNELS_CACHE_DIR to a folder you can write to", error
        )


class Kernel:
    """A kernel that Numba compiles when it is first called: importing Numba takes longer than many a training run."""

    __slots__ = ("__call__", "__dict__")  # `__call__` is an attribute: a method between would take longer than a call
    __call__: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)
        self.__call__ = self._first_call

    def _first_call(self, *args: Any, **kwargs: Any) -> Any:
        return self.dispatcher(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "dispatcher":
            return self._dispatcher()
        if name.startswith("__"):  # what Python asks of any object is no reason to import Numba
            raise AttributeError(name)
        return getattr(self.dispatcher, name)

    def _dispatcher(self) -> Any:
        """Return what Numba makes of a function; from now on it is what is called."""
        with _lock:
            if "dispatcher" not in self.__dict__:
                from nnkernels.backends.numba.caching import dispatcher

                self.__dict__["dispatcher"] = self.__call__ = dispatcher(self.__wrapped__)
        return self.__dict__["dispatcher"]

    @property
    def _numba_type_(self) -> Any:
        """What another kernel that calls this one sees."""
        return self.dispatcher._numba_type_


def kernel(function: Function) -> Function:
    """Compile a kernel when it is first called."""
    return cast(Function, Kernel(function))
