"""States that are instances of the user's own classes: dataclasses, msgspec's Structs, pydantic's models."""

from __future__ import annotations

from collections.abc import Mapping

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

    Converters: TypeAlias = tuple[Callable[[dict[Any, Any]], Any], Callable[[Any], dict[Any, Any]]]


def converters(kind: type[Any] | None) -> Converters:
    """How to make a `kind` of a mapping, which raises ValueError if it is none, and a mapping of a `kind`.

    >>> from holdfast._typed import converters
    >>> load, save = converters(None)
    >>> save({"theme": "dark"})
    {'theme': 'dark'}
    """
    if kind is None:
        return (lambda mapping: mapping), _mapping
    if not isinstance(kind, type):
        raise TypeError(f"type must be a class, not {kind!r}")
    return _of_pydantic(kind) if hasattr(kind, "model_validate") else _of_msgspec(kind)


def _mapping(data: Any) -> dict[Any, Any]:
    if not isinstance(data, Mapping):
        raise TypeError(f"a state must be a mapping, such as a dict, not {type(data).__name__}")
    return {**data}


def _of_pydantic(kind: Any) -> Converters:
    def dump(data: Any) -> dict[Any, Any]:
        return _mapping(_instance(data, kind).model_dump(mode="json", by_alias=True))

    return kind.model_validate, dump


def _of_msgspec(kind: type[Any]) -> Converters:
    try:
        import msgspec
    except ModuleNotFoundError as error:
        text = "type= needs msgspec for this class; install it with: pip install 'holdfast[typed]'"
        raise ModuleNotFoundError(text, name=error.name) from error

    def load(mapping: dict[Any, Any]) -> Any:
        try:
            return msgspec.convert(mapping, kind, str_keys=True)  # JSON has no others
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    def dump(data: Any) -> dict[Any, Any]:
        return _mapping(msgspec.to_builtins(_instance(data, kind), str_keys=True))

    return load, dump


def _instance(data: Any, kind: type[Any]) -> Any:
    if not isinstance(data, kind):
        raise TypeError(f"the state must be a {kind.__name__}, not {type(data).__name__}")
    return data
