"""Find what a function's code uses from outside, from its bytecode only."""

import dis
import types
from typing import NamedTuple

_SILENT = {"CACHE", "EXTENDED_ARG", "KW_NAMES", "NOP", "NOT_TAKEN", "PRECALL"}
_SILENT |= {"PUSH_NULL", "RESUME"}
_OF_GLOBALS = {"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"}
_OF_OBJECTS = {"LOAD_ATTR", "LOAD_METHOD"}
_RUN_TEXT = {"eval", "exec", "compile"}
_IMPORT = {"import_module", "__import__"}

# Code that uses one of these may read any attribute, by a name not in its bytecode.
_REFLECT = {"__dict__", "__getattribute__", "attrgetter", "dir", "getmembers"}
_REFLECT |= {"methodcaller", "vars"}


class Uses(NamedTuple):
    """What code reads from outside.

    Attributes
    ----------
    names : frozenset of str
        Globals, or builtins.
    attributes : frozenset of str
        Possible attributes of any object: all that are read, perhaps more.
    imports : frozenset of (int, str, tuple of str)
        Modules that the code imports: the number of leading dots, the name, and the
        names that are imported from it.
    any_attribute : bool
        Whether names of attributes are made at run time.
    unknown : str
        The reason if it cannot be determined what the code reads, else empty.
    """

    names: frozenset[str] = frozenset()
    attributes: frozenset[str] = frozenset()
    imports: frozenset[tuple[int, str, tuple[str, ...]]] = frozenset()
    any_attribute: bool = False
    unknown: str = ""

    def __or__(self, other):
        return Uses(
            self.names | other.names,
            self.attributes | other.attributes,
            self.imports | other.imports,
            self.any_attribute or other.any_attribute,
            self.unknown or other.unknown,
        )


def uses(code, own=()):
    """Return what code, and all code inside it, reads from outside.

    Parameters
    ----------
    code : types.CodeType
        Code of a function.
    own : container of str
        The globals of its module: a name in it does not mean a builtin of Python.
    """
    steps = [s for s in dis.get_instructions(code) if s.opname not in _SILENT]
    texts = {text for text in _constants(code.co_consts) if text.isidentifier()}
    found = Uses(attributes=frozenset(code.co_names) | texts)
    for i, step in enumerate(steps):
        found |= _of_step(step, steps[max(0, i - 2) : i], steps[i + 1 : i + 9], own)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= uses(constant, own)
    return found


def _constants(things):
    """Yield the strings among constants, also those inside tuples."""
    for thing in things:
        if isinstance(thing, str):
            yield thing
        elif isinstance(thing, tuple | frozenset):
            yield from _constants(thing)


def _of_step(step, before, after, own):
    """Return what one instruction reads, and the call that begins with it."""
    name, text = step.argval, None
    if step.opname == "IMPORT_NAME":
        dots, parts = (step.argval for step in before)
        return Uses(imports=frozenset({(dots, name, parts or ())}))
    is_global = step.opname in _OF_GLOBALS
    if not is_global and step.opname not in _OF_OBJECTS:
        return Uses()
    found = Uses(names=frozenset({name} if is_global else ()))
    builtin = is_global and name not in own
    if builtin and name in _RUN_TEXT:
        return found | Uses(unknown=f"{name}() runs text")
    if builtin and name == "globals":
        text = _text_after(after[1:]) if _calls(after[:1]) else None
        if text is None:
            return found | Uses(unknown="globals() is asked for more than one name")
        return found | Uses(names=frozenset({text}))
    if name in _IMPORT:
        text = _text_after(after)
        if text is None:
            return found | Uses(unknown=f"{name}() is given a name made at run time")
        return found | Uses(imports=frozenset({(0, text, ())}))
    if name == "modules" and before and before[-1].argval == "sys":
        text = _text_after(after)
        if text is None:
            return found | Uses(unknown="sys.modules is asked for more than one name")
        return found | Uses(imports=frozenset({(0, text, ())}))
    computed = name == "getattr" and _text_after(_after_object(after)) is None
    return found | Uses(any_attribute=computed or name in _REFLECT)


def _after_object(steps):
    """Return the instructions after those that load an object or its attribute."""
    rest = steps[1:] if steps and steps[0].opname.startswith("LOAD_") else []
    while rest and rest[0].opname in _OF_OBJECTS:
        rest = rest[1:]
    return rest


def _text_after(steps):
    """Return the constant text in [text], (text) or .get(text, default), or None."""
    while steps and steps[0].opname in _OF_OBJECTS:
        steps = steps[1:]
    if not steps or steps[0].opname != "LOAD_CONST":
        return None
    last = steps[1:2] + steps[2:3] if _loads(steps[1:2]) else steps[1:2]
    end = last[-1] if last else None
    asked = end is not None and (
        _calls([end])
        or end.opname == "BINARY_SUBSCR"
        or (end.opname == "BINARY_OP" and "[" in end.argrepr)
    )
    text = steps[0].argval
    return text if asked and isinstance(text, str) else None


def _loads(steps):
    return bool(steps) and steps[0].opname.startswith("LOAD_")


def _calls(steps):
    return bool(steps) and steps[0].opname.startswith("CALL")
