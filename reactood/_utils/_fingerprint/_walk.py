"""Compute the identity of settings and models, by a walk through all of their parts."""

import contextlib
import enum
import functools
import importlib
import importlib.machinery
import importlib.util
import os
import sys
import types
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.parameter import is_lazy

from reactood._utils._fingerprint._bytecode import uses
from reactood._utils._fingerprint._hashing import (
    content_digest,
    feed_tensor,
    file_version,
    new_hash,
)
from reactood._utils._fingerprint._imports import absolute_name, import_for
from reactood._utils._fingerprint._libraries import (
    find,
    is_library_code,
    is_of_library,
    library_version,
    module_name,
)
from reactood._utils._fingerprint._parts import (
    PARTS,
    are_hooks,
    contents,
    is_special,
    memory_order,
    name_of,
    pickled_parts,
    reduced_state,
)
from reactood._utils._pillow import load_as_it_is

# These types exactly, without subclasses, which may do anything.
_PLAIN = {type(None), bool, int, float, complex, str, bytes, range, type(...)}
_PLAIN |= {torch.dtype, torch.device, torch.memory_format, torch.layout}
_BUILTIN: tuple[Any, ...] = types.BuiltinFunctionType, types.MemberDescriptorType
_BUILTIN += types.GetSetDescriptorType, types.WrapperDescriptorType

# Attributes that Python sets in a class and that do not change what its objects do.
_NOTES = {"__module__", "__dict__", "__weakref__", "__doc__", "_abc_impl"}
_NOTES |= {"__annotations__", "__annotate__", "__annotate_func__"}
_NOTES |= {"__annotations_cache__", "__firstlineno__", "__static_attributes__"}
_NOTES |= {"__abstractmethods__", "__orig_bases__", "__parameters__", "__slotnames__"}
_DISPATCHER: Any = functools.singledispatch(print)
_COMPILED = tuple(importlib.machinery.EXTENSION_SUFFIXES)
_MADE_IN_PYTHON = 1 << 9  # Py_TPFLAGS_HEAPTYPE, the flag of types made at run time


def identity(thing):
    """Return a hexadecimal string that is the same for things that do the same.

    Raises
    ------
    TypeError
        If the thing holds a part that cannot be identified in another process.
    """
    walk = Walk()
    try:
        walk(thing)
    except RecursionError as error:
        raise TypeError(f"it is nested too deeply ({error})") from error
    return walk.digest.hexdigest()


class Walk:
    """Updates a hash with everything that an object holds."""

    def __init__(self, seen=()):
        self.digest = new_hash()
        self.seen = dict(seen)  # by id; holds the objects, so that ids stay unique
        self.modules = set()  # those walked, each with the attributes used

    def note(self, *words):
        self.digest.update(repr(words).encode())

    def __call__(self, thing):
        kind = type(thing)
        if kind in _PLAIN:
            self.note(kind.__name__, repr(thing))
        elif kind is tuple:  # equal tuples count as the same one
            self.note("tuple", len(thing))
            for item in thing:
                self(item)
        elif id(thing) in self.seen:
            self.note("seen", self.seen[id(thing)][0])
        else:
            self.seen[id(thing)] = len(self.seen), thing
            self._walk_new(thing, kind)

    def _walk_new(self, thing, kind):
        for base in kind.__mro__:
            if walk := _WALKS.get(base):
                return walk(self, thing)
            if parts := PARTS.get(base):
                self.note(base.__name__)
                if kind is not base:
                    self((kind, getattr(thing, "__dict__", None)))
                return self(parts(thing))
        if isinstance(thing, _BUILTIN):
            self._walk_builtin(thing)
        else:
            self._walk_object(thing)

    def _walk_exactly(self, thing):
        """Walk a dict or a list; walk an instance of a subclass as an object."""
        kind = type(thing)
        if thing is sys.modules:
            raise TypeError("sys.modules holds all imported modules")
        if kind is dict:
            self.note("dict", len(thing))
            for key, value in thing.items():
                self(key)
                self(value)
        elif kind is list:
            self.note("list", len(thing))
            for item in thing:
                self(item)
        else:
            self._walk_object(thing)

    def _walk_set(self, thing):
        kind = type(thing)
        base = set if isinstance(thing, set) else frozenset
        self(kind)
        if kind is not base:
            self(reduced_state(pickled_parts(thing)[2]))
        digests = []
        for item in base.__iter__(thing):
            walk = Walk(self.seen)
            walk(item)
            digests.append(walk.digest.digest())
        self.note(sorted(digests))  # the order of a set differs between processes

    def _walk_tensor(self, tensor):
        self((type(tensor), vars(tensor) or None))
        if is_lazy(tensor):
            return self.note("tensor without shape")
        order = memory_order(tensor.is_contiguous(), tensor.stride())
        self.note("tensor", tuple(tensor.shape), order)
        if tensor.is_meta:
            return self.note("tensor without values", str(tensor.dtype))
        if tensor.is_quantized:
            raise TypeError("a quantized tensor has no identity")
        if tensor.layout != torch.strided:
            return self._walk_object(tensor)
        feed_tensor(self.digest, tensor)

    def _walk_array(self, array):
        if type(array) not in (np.ndarray, np.memmap) or array.dtype.hasobject:
            self(getattr(array, "__dict__", None))
            return self._walk_object(array)
        self(array.dtype)
        order = memory_order(array.flags.c_contiguous, array.strides)
        self.note("array", array.shape, order)
        self.digest.update(np.ascontiguousarray(array).tobytes())

    def _walk_dtype(self, dtype):
        if dtype.names is None and dtype.subdtype is None:
            self.note("dtype", dtype.str, dtype.isalignedstruct)
        else:
            fields = dtype.fields and [dtype.fields[name] for name in dtype.names]
            self.note("fields", dtype.names, dtype.itemsize, dtype.isalignedstruct)
            self((fields, dtype.subdtype))
        self(dtype.metadata)

    def walk_picture(self, image):
        """Walk a PIL image: all that a transform of the user may read."""
        load_as_it_is(image)
        self.note("image", type(image).__name__, image.mode, image.size)
        self.digest.update(image.tobytes())
        if image.palette is not None:
            self.note(image.palette.mode, image.getpalette(None))
        file = getattr(image, "filename", None)
        self((image.format, os.fspath(file) if file else None))
        self(image.info)
        with contextlib.suppress(Exception):  # EXIF is often damaged; info has it, too
            self(dict(image.getexif()))
        if getattr(image, "is_animated", False):  # other frames are only in the file
            version = file_version(file) if file else None
            if version is None:
                raise TypeError("the file with the other frames of an image is missing")
            self.note(image.tell(), *version)

    def _walk_code(self, code):
        self.note("code", code.co_code, code.co_flags, code.co_names, code.co_varnames)
        self.note(code.co_freevars, code.co_cellvars, code.co_argcount)
        self.note(code.co_posonlyargcount, code.co_kwonlyargcount)
        self.note(getattr(code, "co_exceptiontable", b""))
        self(code.co_consts)

    def _walk_function(self, function):
        self.note(*name_of(function))
        code = function.__code__
        if code is _DISPATCHER.__code__:  # singledispatch: without its cache
            return self(function.registry)
        if is_library_code(function):
            name = function.__globals__["__name__"]
            self.note(name, code.co_name, code.co_firstlineno, library_version(name))
            if function.__closure__:  # a library's wrapper around something
                self._walk_bindings(function)
            return
        self(code)
        self(function.__dict__)
        self._walk_bindings(function)
        self._walk_annotations(function)
        found = uses(code, function.__globals__)
        if found.unknown:
            raise TypeError(
                f"what {function.__qualname__} uses cannot be determined: "
                f"{found.unknown}"
            )
        used = found.attributes, found.any_attribute
        for name in sorted(found.names & function.__globals__.keys()):
            self.note(name)
            self._walk_used(name, function, function.__globals__[name], used)
        for level, name, parts in sorted(found.imports):
            name = absolute_name(level, name, function.__globals__)
            self.note("import", name, parts, library_version(name))
            for module in import_for(name, parts):
                self._walk_used(name, function, module, used)

    def _walk_annotations(self, thing):
        """Walk annotations, which code may read; ignore those without an identity."""
        notes = getattr(thing, "__annotate__", None) or getattr(
            thing, "__annotations__", None
        )
        walk = Walk(self.seen)
        with contextlib.suppress(TypeError):
            walk(notes)
            self.note("annotations", walk.digest.digest())

    def _walk_bindings(self, function):
        self((function.__defaults__, function.__kwdefaults__))
        self(function.__closure__)

    def _walk_cell(self, cell):
        try:
            self(cell.cell_contents)
        except ValueError:  # not filled yet
            self.note("empty cell")

    def _walk_used(self, name, function, value, used):
        try:
            self._walk_global(value, used)
        except TypeError as error:
            raise TypeError(
                f"{error}; it is {name!r}, which {function.__qualname__} uses"
            ) from error

    def _walk_global(self, value, used):
        """Walk a global that a function uses; of a module, only the used attributes."""
        if not isinstance(value, types.ModuleType):
            return self(value)
        attributes, any_attribute = used
        self.note(*name_of(value))
        if (value, used) in self.modules:  # modules may refer to each other
            return
        self.modules.add((value, used))
        names = set(vars(value))
        if is_of_library(value):
            self._walk_foreign(value, attributes & names)
            names = {n for n in names if isinstance(vars(value)[n], types.ModuleType)}
            any_attribute = False
        elif type(value) is not types.ModuleType:
            self(type(value))
        if not any_attribute:
            names &= attributes | {"__getattr__"}
        for name in sorted(names):
            if name == "__getattr__" or not is_special(name):
                self.note(name)
                self._walk_global(vars(value)[name], used)

    def _walk_foreign(self, owner, names):
        """Walk the functions and classes that the user has added to a library."""
        for name in sorted(names):
            value = vars(owner)[name]
            if isinstance(value, types.FunctionType):
                foreign = not is_library_code(value)
            else:
                known = library_version(module_name(value)) is not None
                foreign = isinstance(value, type) and not known
            if foreign:
                self.note(name)
                self(value)

    def _walk_loose_module(self, module):
        """Walk a module that is used as a value: any attribute may be used."""
        self._walk_global(module, (frozenset(), True))

    def _walk_class(self, cls):
        self.note("class", *name_of(cls))
        if is_of_library(cls):
            return self._walk_foreign(cls, vars(cls).keys())
        if not cls.__flags__ & _MADE_IN_PYTHON and library_version(cls.__module__):
            return
        self._walk_home(cls.__module__)
        if type(cls) is not type:
            self(type(cls))
        for base in cls.__bases__:
            self(base)
        self._walk_annotations(cls)
        for name, value in sorted(vars(cls).items()):
            if name not in _NOTES:
                self.note(name)
                self(value)

    def _walk_enum(self, member):
        self(type(member))
        self.note("member", member.name)
        own = {k: v for k, v in vars(member).items() if k != "__objclass__"}
        self(own)

    def _walk_module(self, module):
        self(type(module))
        state = dict(vars(module))
        hooks = {name: v for name, v in state.items() if are_hooks(name, v)}
        # Keys of hooks are numbers that depend on the process: use their order.
        keys = sorted({key for table in hooks.values() for key in table})
        for name, value in state.items():
            if name in hooks:
                value = {keys.index(key): hook for key, hook in value.items()} or None
            if not (name.startswith("_") and value is None):
                self.note(name)
                self(value)

    def _walk_builtin(self, thing):
        """Walk a thing that is written in C: its name and its owner."""
        self.note(*name_of(thing))
        owner = getattr(thing, "__self__", getattr(thing, "__objclass__", None))
        if isinstance(owner, types.ModuleType):
            self._walk_home(owner.__name__)
        else:
            self._walk_home(module_name(thing))
            self(owner)

    def _walk_home(self, name):
        """Walk the file of a compiled module that belongs to no known library."""
        file = getattr(sys.modules.get(name), "__file__", None) or ""
        if library_version(name) is None and file.endswith(_COMPILED):
            self.note(content_digest(file_version(file)))

    def _walk_object(self, thing):
        self(type(thing))
        self(contents(thing))
        reduced = pickled_parts(thing)
        if isinstance(reduced, str):
            return self._walk_named(thing, reduced)
        constructor, args, *rest = reduced
        self(constructor)
        self(args)
        state, items, pairs, setter = (*rest, *[None] * 4)[:4]
        self(reduced_state(state))
        for more in items, pairs:
            self(None if more is None else list(more))
        self(setter)
        if not is_of_library(type(thing)):
            self._walk_left_out(thing, state)

    def _walk_left_out(self, thing, state):
        """Walk attributes that a pickle would not hold, if they have an identity."""
        held = state[0] if isinstance(state, tuple) and state else state
        held = held if isinstance(held, dict) else {}
        for name, value in getattr(thing, "__dict__", {}).items():
            if name in held and held[name] is value:
                continue
            self.note(name)
            walk = Walk(self.seen)
            with contextlib.suppress(TypeError):  # a lock, perhaps
                walk(value)
                self.note(walk.digest.digest())

    def _walk_named(self, thing, name):
        """Walk a thing of which a pickle would hold only the name."""
        self.note(*name_of(thing), name)
        if isinstance(thing, np.ufunc):
            if not any(find(m, name) is thing for m in ("numpy", "scipy.special")):
                raise TypeError(f"the ufunc {name!r} belongs to no known library")
        elif find(module_name(thing), name) is not thing or not is_of_library(thing):
            self._walk_home(module_name(thing))
            self(getattr(thing, "__dict__", None))


_WALKS: dict[type, Any] = {
    torch.Tensor: Walk._walk_tensor,
    np.ndarray: Walk._walk_array,
    np.dtype: Walk._walk_dtype,
    dict: Walk._walk_exactly,
    list: Walk._walk_exactly,
    set: Walk._walk_set,
    frozenset: Walk._walk_set,
    type: Walk._walk_class,
    enum.Enum: Walk._walk_enum,
    nn.Module: Walk._walk_module,
    Image.Image: Walk.walk_picture,
    types.CodeType: Walk._walk_code,
    types.FunctionType: Walk._walk_function,
    types.CellType: Walk._walk_cell,
    types.ModuleType: Walk._walk_loose_module,
}
