"""What is wrong in a configuration file, in sentences: the key, the value that stands there, and the nearest valid key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from dicom_node.config_values import FORMS

_SECRET = frozenset({"url", "password", "key", "token", "tokens", "dicomweb", "dicomweb_token"})
Location = Sequence[int | str]


def describe(error: ValidationError, root: type[BaseModel], values: Mapping[str, Any]) -> Iterator[str]:
    """One sentence for each problem."""
    seen = set()
    for problem in error.errors(include_url=False, include_input=False):
        if problem["type"] == "too_short" and _look_up(problem["loc"], values)[0]:
            continue  # its entries are there, and are refused one by one
        message = _wanted(problem["type"], problem.get("ctx") or {}) or problem["msg"]
        sentence = _sentence(problem["type"], message, _known_part(problem["loc"], root, values), root, values)
        if sentence not in seen:
            seen.add(sentence)
            yield sentence


def _sentence(kind: str, message: str, path: Location, root: type[BaseModel], values: Mapping[str, Any]) -> str:
    where = name(path)
    if kind == "extra_forbidden":
        valid = keys_at(path[:-1], root)
        near = get_close_matches(str(path[-1]), valid, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"valid here: {', '.join(valid)}"
        return f"unknown key '{where}'{_value(path, values)}; {hint}"
    if kind == "missing":
        return f"'{where}' is missing"
    text = message.removeprefix("Value error, ")
    return f"'{where}'{_value(path, values)}: {text}" if path else text


# pydantic's kinds of error in the words of a TOML file: what is needed there.
_WANTED = {
    "tuple_type": "a list in brackets is needed, such as ['one', 'two']",
    "dict_type": "a table is needed, such as {{ Modality = 'MR' }}",
    "model_type": "a table is needed",
    "model_attributes_type": "a table is needed",
    "string_type": "a text in quotes is needed",
    "string_too_short": "it must not be empty",
    "string_too_long": "at most {max_length} characters are allowed",
    "string_pattern_mismatch": "it must have the form {pattern}",
    "int_type": "a whole number without quotes is needed",
    "int_parsing": "a whole number without quotes is needed",
    "int_from_float": "a whole number is needed",
    "float_type": "a number without quotes is needed",
    "float_parsing": "a number without quotes is needed",
    "bool_type": "true or false is needed, without quotes",
    "bool_parsing": "true or false is needed, without quotes",
    "greater_than_equal": "it must be {ge} or more",
    "greater_than": "it must be more than {gt}",
    "less_than_equal": "it must be {le} or less",
    "less_than": "it must be less than {lt}",
    "literal_error": "it must be {expected}",
    "path_type": "a path in quotes is needed",
}


def _wanted(kind: str, context: Mapping[str, Any]) -> str | None:
    """What must stand at a place, by the kind of error; None where pydantic's own words have to do."""
    if kind == "too_short":
        least = context["min_length"]
        return f"at least {'one entry is' if least == 1 else f'{least} entries are'} needed"
    if kind == "string_pattern_mismatch" and context["pattern"] in FORMS:
        return FORMS[context["pattern"]]
    if kind == "string_too_short" and context["min_length"] > 1:
        return f"at least {context['min_length']} characters are needed"
    wanted = _WANTED.get(kind)
    return wanted.format(**context) if wanted else None


def name(path: Location) -> str:
    """A place in the file: ``dimse.port``, ``peer[2].host``; tables in arrays are counted from 1."""
    text = ""
    for part in path:
        text += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def _value(path: Location, values: Any) -> str:
    if not path or path[-1] in _SECRET:
        return ""
    found, there = _look_up(path, values)
    return f" = {found!r}" if there and not isinstance(found, dict) else ""


def _look_up(path: Location, values: Any) -> tuple[Any, bool]:
    part: Any
    for part in path:
        if (isinstance(values, Mapping) and part in values) or (isinstance(values, list) and isinstance(part, int) and part < len(values)):
            values = values[part]
        else:
            return None, False
    return values, True


def _known_part(path: Location, root: type[BaseModel], values: Mapping[str, Any]) -> Location:
    """The location without the names of union members that pydantic appends."""
    kept: list[int | str] = []
    for part in path:
        _, there = _look_up([*kept, part], values)
        if there or part in keys_at(kept, root):
            kept.append(part)
        else:
            break
    return kept


def keys_at(path: Location, root: type[BaseModel]) -> list[str]:
    """The keys that are valid in the table at a location."""
    table = root
    for part in path:
        if isinstance(part, str) and part in table.model_fields:
            inner = next(_tables_in(table.model_fields[part].annotation), None)
            if inner is None:
                return []
            table = inner
    return [field.alias or key for key, field in table.model_fields.items()]


def _tables_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) in (tuple, Union, UnionType, Annotated):
        for argument in get_args(annotation):
            yield from _tables_in(argument)
