"""Immutable descriptions with fields, as frozen dataclasses are.

`dataclasses` compiles several methods for each class, some 0.8 ms a class: for the descriptions of this package more
than importing all the rest takes. These methods are written once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

if TYPE_CHECKING:
    from inspect import Signature

_REQUIRED: Any = object()


@dataclass_transform(frozen_default=True)
class Record:
    """Base of the descriptions: annotated names are fields, their values defaults.

    Fields after ``_: KW_ONLY`` are given by keyword only. Two records are equal if their classes and fields are. A
    field is not assigned to; `replace` copies with changes.
    """

    _defaults: ClassVar[dict[str, Any]] = {}
    _keyword_only: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        defaults, keyword_only, after_marker = dict(cls._defaults), set(cls._keyword_only), False
        for name, annotation in cls.__dict__.get("__annotations__", {}).items():  # noqa: RUF063 - for inspect's sake
            if "KW_ONLY" in str(annotation):
                after_marker = True
            elif "ClassVar" not in str(annotation):
                defaults[name] = cls.__dict__.get(name, _REQUIRED)
                if after_marker:
                    keyword_only.add(name)
        cls._defaults, cls._keyword_only = defaults, frozenset(keyword_only)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        positional = [name for name in self._defaults if name not in self._keyword_only]
        if len(args) > len(positional):
            raise TypeError(
                f"{type(self).__name__} takes at most {len(positional)} positional arguments: {self._usage()}"
            )
        given = dict(zip(positional, args, strict=False))
        for name in kwargs:
            if name not in self._defaults or name in given:
                problem = "twice" if name in given else "which it does not have"
                raise TypeError(f"{type(self).__name__} got the argument {name!r}, {problem}: {self._usage()}")
        values = self._defaults | given | kwargs
        for name, value in values.items():
            if value is _REQUIRED:
                raise TypeError(f"{type(self).__name__} needs the argument {name!r}: {self._usage()}")
        self.__dict__.update(values)
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the fields; a subclass may normalize them with `_set`."""

    def _set(self, **fields: Any) -> None:
        self.__dict__.update(fields)

    def replace(self, **fields: Any) -> Any:
        """Return a copy with some fields changed."""
        return type(self)(**(self.__dict__ | fields))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed; make another one with replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items())})"

    @classmethod
    def _usage(cls) -> str:
        return cls.__name__ + str(cls._signature()).replace(" -> None", "")

    @classmethod
    def _signature(cls) -> Signature:
        from inspect import Parameter, Signature

        ordered = sorted(cls._defaults.items(), key=lambda field: field[0] in cls._keyword_only)
        return Signature(
            [
                Parameter(
                    name,
                    Parameter.KEYWORD_ONLY if name in cls._keyword_only else Parameter.POSITIONAL_OR_KEYWORD,
                    default=Parameter.empty if default is _REQUIRED else default,
                )
                for name, default in ordered
            ]
        )


class _SignatureOnDemand:
    """`inspect.signature` and `help` look here; building a Signature imports `inspect`, so it waits for them."""

    def __get__(self, instance: object, owner: type[Record]) -> Signature:
        return owner._signature()


Record.__signature__ = _SignatureOnDemand()  # type: ignore[attr-defined]
