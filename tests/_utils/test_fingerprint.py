"""Things that do different things differ; equal ones agree, in any process."""

import collections
import contextlib
import datetime
import decimal
import functools
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchvision import transforms
from torchvision.transforms import functional, v2

from reactood import TorchFeatureExtractor
from reactood._images._digest import image_digest
from reactood._utils._fingerprint import _walk as identities
from reactood._utils._fingerprint._walk import identity

# --- pairs that differ ----------------------------------------------------------------


def made(source, name="thing", **names):
    """Return what a piece of source makes."""
    space = {"__name__": "__main__", **names}
    exec(textwrap.dedent(source), space)
    return space[name]


KINDS = {
    "tuple": "(2,)",
    "list": "[2]",
    "dict": "{1: 2}",
    "set": "{2}",
    "frozenset": "{2}",
    "str": "'a'",
    "bytes": "b'a'",
    "int": "2",
    "float": "2.5",
    "complex": "2.5j",
}


@pytest.mark.parametrize("base", KINDS)
def test_subclasses_of_plain_types_are_told_by_class_methods_and_state(base):
    value = KINDS[base]
    source = f"""
        class Mine({base}):
            def __call__(self, image):
                return image * FACTOR
        thing = Mine({value})
    """
    one, two, again = (made(source, FACTOR=factor) for factor in (1, 2, 1))
    assert identity(one) != identity(two)
    assert identity(one) == identity(again)
    assert identity(one) != identity(made(f"thing = {base}({value})"))
    again.extra = 3
    assert identity(one) != identity(again)
    other = type(one)()
    assert identity(one) != identity(other)


def test_named_tuples_are_told_by_class_and_methods():
    class Mean(NamedTuple):
        value: float = 1.0

        def __call__(self, image):
            return image - self.value

    class Factor(NamedTuple):
        value: float = 1.0

        def __call__(self, image):
            return image * self.value

    assert len({identity(t) for t in (Mean(), Factor(), Mean(2.0), (1.0,))}) == 4
    Point = collections.namedtuple("Point", "x y")
    Swapped = collections.namedtuple("Point", "y x")
    assert identity(Point(1, 2)) != identity(Swapped(1, 2))


def test_containers_of_the_library_keep_what_is_their_own():
    things = [
        {1: 2},
        collections.OrderedDict({1: 2}),
        collections.defaultdict(int, {1: 2}),
        collections.defaultdict(float, {1: 2}),
        collections.Counter({1: 2}),
        [1],
        (1,),
        torch.Size([1]),
        collections.deque([1]),
        collections.deque([1], 3),
    ]
    assert len({identity(thing) for thing in things}) == len(things)


def test_what_wraps_copies_does_not_hide_the_wrapper():
    """A user's function that says that it is torchvision's."""

    def wrapper(factor):
        @functools.wraps(functional.to_tensor)
        def scaled(image):
            return functional.to_tensor(image) * factor

        return scaled

    class Resize(transforms.Resize):
        def forward(self, image):
            return image

    Resize.__module__, Resize.__qualname__ = transforms.Resize.__module__, "Resize"
    seen = [identity(f) for f in (functional.to_tensor, wrapper(1), wrapper(2))]
    assert len(set(seen)) == 3 and identity(wrapper(2)) == seen[2]
    assert identity(Resize(3)) != identity(transforms.Resize(3))


def test_what_a_library_wraps_counts():
    def wrapped(factor, wrap):
        return wrap(lambda image: image * factor)

    for wrap in torch.no_grad(), contextlib.contextmanager, functools.lru_cache:
        one, two, again = (identity(wrapped(f, wrap)) for f in (1, 2, 1))
        assert one != two and one == again
    liar = functools.update_wrapper(functools.lru_cache(lambda x: x), np.mean)
    with pytest.raises(TypeError, match="calls another function than its __wrapped__"):
        identity(liar)


def test_single_dispatch_is_told_by_what_is_registered():
    def dispatched(factor):
        @functools.singledispatch
        def scale(image):
            return image

        scale.register(int, lambda image: image * factor)
        return scale

    one = dispatched(1)
    before = identity(one)
    assert one(3) == 3 and identity(one) == before
    assert before != identity(dispatched(2))


def test_functions_put_into_a_library_are_seen(monkeypatch):
    def prepare(image):
        return transforms.functional.to_tensor(image)

    before = identity(prepare), identity(transforms.ToTensor())
    monkeypatch.setattr(transforms.functional, "to_tensor", lambda image: image)
    monkeypatch.setattr(transforms.ToTensor, "__call__", lambda self, image: image)
    assert identity(prepare) != before[0]
    assert identity(transforms.ToTensor()) != before[1]


def test_a_script_named_like_a_library_is_the_users(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    seen = set()
    for factor in 1, 2:
        path = tmp_path / "timm.py"
        path.write_text(f"def scale(image):\n    return image * {factor}\n")
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        module = types.ModuleType("timm")
        module.__file__ = str(path)
        exec(compile(path.read_text(), str(path), "exec"), vars(module))
        monkeypatch.setitem(sys.modules, "timm", module)
        seen.add(identity(module.scale))
    assert len(seen) == 2


ENUM = """
import enum
class Way(enum.{kind}):
    UP = {value}
    def __call__(self, image):
        return image * {factor}
thing = Way.UP
"""


@pytest.mark.parametrize("kind", ["Enum", "IntEnum", "Flag", "IntFlag"])
def test_enum_members_are_told_by_value_and_methods(kind):
    one, again, value, factor = (
        identity(made(ENUM.format(kind=kind, value=v, factor=f)))
        for v, f in [(1, 1), (1, 1), (2, 1), (1, 2)]
    )
    assert one == again and len({one, value, factor}) == 3


def test_enum_members_are_told_by_what_their_init_made():
    source = """
        import enum
        class Way(enum.Enum):
            UP = 1
            def __init__(self, value):
                self.factor = value * {factor}
        thing = Way.UP
    """
    one, two = (identity(made(source.format(factor=f))) for f in (1, 2))
    assert one != two


IMPORTS = {
    "from": "from {m} import scale\n    return scale(image)",
    "from as": "from {m} import scale as s\n    return s(image)",
    "import": "import {m}\n    return {m}.scale(image)",
    "import as": "import {m} as h\n    return h.scale(image)",
    "submodule": "from {p} import {m}\n    return {m}.scale(image)",
    "dotted": "import {p}.{m}\n    return {p}.{m}.scale(image)",
    "dotted as": "import {p}.{m} as h\n    return h.scale(image)",
    "dotted from": "from {p}.{m} import scale\n    return scale(image)",
    "getattr": "import {m} as h\n    return getattr(h, 'scale')(image)",
    "getattr of a name": "import {m} as h\n    return getattr(h, NAME)(image)",
    "getattr of text": "import {m} as h\n    return getattr(h, 's' + CALE)(image)",
    "vars": "import {m} as h\n    return vars(h)[NAME](image)",
    "dict": "import {m} as h\n    return h.__dict__[NAME](image)",
    "attrgetter": "import {m} as h\n    return attrgetter(NAME)(h)(image)",
    "import_module": "return importlib.import_module('{m}').scale(image)",
    "import_module as": "return import_module('{p}.{m}').scale(image)",
    "__import__": "return __import__('{m}').scale(image)",
    "sys.modules": "import {m}\n    return sys.modules['{m}'].scale(image)",
    "nested": "def f(i):\n        from {m} import scale\n        return scale(i)\n"
    "    return f(image)",
    "lambda": "import {m}\n    return (lambda i: {m}.scale(i))(image)",
    "class": "class C:\n        from {m} import scale\n    return C.scale(image)",
    "tried": "try:\n        import {m} as h\n    except ImportError:\n"
    "        return image\n    return h.scale(image)",
    "missing": "try:\n        import nothing_of_this_name\n    except ImportError:\n"
    "        import {m} as h\n    return h.scale(image)",
}


@pytest.fixture
def helpers(tmp_path, monkeypatch):
    """Return a function that writes a module of helpers anew."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "package_with_helpers").mkdir()
    (tmp_path / "package_with_helpers" / "__init__.py").write_text("")

    def forget():
        for name in list(sys.modules):
            if "helpers_of_mine" in name or "package_with_helpers" in name:
                del sys.modules[name]

    def write(factor):
        forget()
        importlib_caches()
        source = f"def scale(image):\n    return image * {factor}\n"
        for folder in tmp_path, tmp_path / "package_with_helpers":
            (folder / "helpers_of_mine.py").write_text(source)

    yield write
    forget()


def importlib_caches():
    import importlib

    importlib.invalidate_caches()


@pytest.mark.parametrize("how", IMPORTS)
def test_modules_imported_inside_a_function_are_looked_into(helpers, how):
    body = IMPORTS[how].format(m="helpers_of_mine", p="package_with_helpers")
    source = (
        "import importlib, sys\nfrom importlib import import_module\n"
        "from operator import attrgetter\nNAME, CALE = 'scale', 'cale'\n"
        f"def thing(image):\n    {body}\n"
    )

    def look(factor):
        helpers(factor)
        thing = made(source)
        before = identity(thing)
        assert thing(10) == 10 * factor
        assert identity(thing) == before, "running it has changed it"
        return before

    one, two, again = look(1), look(2), look(1)
    assert one != two and one == again


@pytest.mark.parametrize("where", ["attribute", "default", "closure", "partial"])
def test_a_module_that_is_a_value_is_looked_into(helpers, where):
    def look(factor):
        helpers(factor)
        import helpers_of_mine as module

        def default(image, module=module):
            return module.scale(image)

        def closure(image):
            return module.scale(image)

        class Attribute:
            def __init__(self):
                self.module = module

            def __call__(self, image):
                return self.module.scale(image)

        def partial(module, image):
            return module.scale(image)

        thing = {
            "attribute": Attribute(),
            "default": default,
            "closure": closure,
            "partial": functools.partial(partial, module),
        }[where]
        assert thing(10) == 10 * factor
        return identity(thing)

    assert look(1) != look(2)


GLOBALS = {
    "subscript": "globals()['FACTOR']",
    "get": "globals().get('FACTOR')",
    "get with default": "globals().get('FACTOR', 1)",
}


@pytest.mark.parametrize("how", GLOBALS)
def test_globals_that_are_asked_for_by_name_are_seen(how):
    source = f"def thing(image):\n    return image * {GLOBALS[how]}"
    one, two = (identity(made(source, FACTOR=f)) for f in (1, 2))
    assert one != two


UNKNOWN = {
    "globals": ("globals()['FAC' + name]", "globals\\(\\) is asked"),
    "a dict of globals": ("list(globals().values())", "globals\\(\\) is asked"),
    "globals later": ("(globals, name)[0]()", "globals\\(\\) is asked"),
    "eval": ("eval('FACTOR')", "eval\\(\\) runs text"),
    "exec": ("exec('FACTOR')", "exec\\(\\) runs text"),
    "import_module": ("import_module(name).x", "import_module\\(\\) is given"),
    "__import__": ("__import__(name).x", "__import__\\(\\) is given"),
    "sys.modules": ("sys.modules[name].x", "sys.modules is asked"),
}


@pytest.mark.parametrize("how", UNKNOWN)
def test_what_cannot_be_known_is_refused(how):
    expression, message = UNKNOWN[how]
    source = "import sys\nfrom importlib import import_module\n"
    thing = made(source + f"def thing(image, name='x'):\n    return {expression}")
    with pytest.raises(TypeError, match=message):
        identity(thing)


def test_methods_named_like_builtins_are_no_builtins():
    thing = made(
        "import re\n"
        "def thing(model, image):\n"
        "    return model.eval(image), re.compile('a'), getattr(image, model.name)"
    )
    identity(thing)


def test_code_is_told_by_its_parameters_and_cells():
    sources = [
        "def thing(a, b): return a",
        "def thing(a, *, b): return a",
        "def thing(a, b, /): return a",
        "def thing(a, *b): return a",
        "def thing(a, **b): return a",
        "async def thing(a, b): return a",
    ]
    assert len({identity(made(source)) for source in sources}) == len(sources)
    closure = "def make(a, b):\n    return lambda x: x * {} + {}\nthing = make(2, 3)"
    one, two = (identity(made(closure.format(*p))) for p in ("ab", "ba"))
    assert one != two


def test_constants_of_equal_value_and_other_type_differ():
    source = "def thing(image):\n    return image, {}"
    texts = "1", "1.0", "True", "-0.0", "0.0", "(1,)", "(1.0,)", "'1'", "b'1'", "1j"
    assert len({identity(made(source.format(text))) for text in texts}) == len(texts)


def test_properties_and_slots_and_metaclasses_count():
    source = """
        class Meta(type):
            def __call__(cls, *args):
                thing = super().__call__(*args)
                thing.y = {meta}
                return thing
        class Thing(metaclass=Meta):
            __slots__ = ("x", "y", "__dict__")
            __hash__ = {hash}
            @property
            def a(self): return {get}
            @a.setter
            def a(self, value): self.x = {set}
            @a.deleter
            def a(self): self.x = {delete}
        thing = Thing()
        thing.x = {slot}
    """
    usual = {"meta": 1, "hash": None, "get": 1, "set": 1, "delete": 1, "slot": 1}
    changes = [{}, {"hash": "object.__hash__"}]
    changes += [{key: 2} for key in usual if key != "hash"]
    seen = {identity(made(source.format(**usual | change))) for change in changes}
    assert len(seen) == len(changes)


def test_arrays_are_told_by_fields_metadata_order_and_mask():
    plain = np.arange(6.0).reshape(2, 3)
    fields = np.zeros(2, [("a", "f4"), ("b", "f4")])

    class Mine(np.ndarray):
        pass

    mine, other = plain.view(Mine), plain.view(Mine)
    other.factor = 2
    things = [
        plain,
        np.asfortranarray(plain),
        plain.astype(np.dtype("f8", metadata={"unit": "m"})),
        plain.astype(np.dtype("f8", metadata={"unit": "km"})),
        plain.astype(">f8"),
        np.ma.array(plain, mask=False),
        np.ma.array(plain, mask=plain > 2),
        mine,
        other,
        fields,
        fields.view([("b", "f4"), ("a", "f4")]),
        fields.view([(("title", "a"), "f4"), ("b", "f4")]),
        fields.view(np.recarray),
        np.array([1, "a"], dtype=object),
        np.array([1, "b"], dtype=object),
        np.array([(1, "a")], dtype=[("a", "i4"), ("b", "O")]),
        np.array([(1, "b")], dtype=[("a", "i4"), ("b", "O")]),
        np.array(["2020-01-01"], "M8[D]"),
        np.array(["2020-01-01"], "M8[s]"),
        np.float32(1),
        np.float64(1),
        1.0,
    ]
    assert len({identity(thing) for thing in things}) == len(things)
    packed = np.dtype({"names": ["a", "b"], "formats": ["u1", "u4"]})
    aligned = np.dtype([("a", "u1"), ("b", "u4")], align=True)
    spread = np.dtype({"names": ["a", "b"], "formats": ["u1", "u4"], "offsets": [0, 5]})
    assert len({identity(dtype) for dtype in (packed, aligned, spread)}) == 3


def test_tensors_are_told_by_type_layout_and_attributes():
    plain = torch.arange(4.0).reshape(2, 2)
    named = plain.clone()
    named.factor = 2
    things = [
        plain,
        plain.clone().T.contiguous().T,
        nn.Parameter(plain),
        named,
        plain.to_sparse(),
        torch.complex(plain, plain),
        torch.complex(plain, plain).conj(),
        plain.to("meta"),
        plain.to("meta")[:1],
    ]
    assert len({identity(thing) for thing in things}) == len(things)


def test_a_module_in_training_mode_is_another():
    dropout = nn.Sequential(nn.Dropout(0.5))
    assert identity(dropout) != identity(nn.Sequential(nn.Dropout(0.5)).eval())


def test_hooks_are_told_by_what_they_are_given():
    def net(first, second):
        module = nn.Linear(1, 1)
        nn.init.zeros_(module.weight), nn.init.zeros_(module.bias)
        module.register_forward_hook(print, with_kwargs=first)
        module.register_forward_hook(print, with_kwargs=second)
        return module

    seen = [identity(net(*flags)) for flags in ((0, 1), (1, 0), (1, 1), (0, 0))]
    assert len(set(seen)) == 4 and identity(net(0, 1)) == seen[0]


def test_tables_that_are_only_called_hooks_are_walked_like_others():
    def net(**hooks):
        module = nn.Identity()
        module.hooks = module._my_hooks = hooks
        return module

    assert identity(net(a=1)) != identity(net(b=1))
    assert identity(net(a=1)) != identity(net(a=2))


# --- what is refused, and what is not ----------------------------------------------


def test_the_ordinary_has_an_identity():
    @functools.singledispatch
    def dispatched(x):
        return x

    seeded = torch.Generator().manual_seed(3)
    makers = {
        "regex": lambda: re.compile("a+", re.I),
        "ufunc": lambda: np.add,
        "vectorized": lambda: np.vectorize(abs),
        "numpy function": lambda: np.mean,
        "path": lambda: pathlib.Path("a", "b"),
        "datetime": lambda: datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        "decimal": lambda: decimal.Decimal("1.10"),
        "random": lambda: random.Random(3),
        "numpy generator": lambda: np.random.default_rng(3),
        "numpy state": lambda: np.random.RandomState(3),
        "torch generator": lambda: torch.Generator().manual_seed(3),
        "torch module function": lambda: nn.functional.gelu,
        "slice": lambda: slice(1, None),
        "namespace": lambda: types.SimpleNamespace(a=1),
        "picture": lambda: Image.new("RGB", (3, 2), "red"),
        "v2": lambda: v2.Compose(
            [v2.ToImage(), v2.Resize(9), v2.ToDtype(torch.float32, scale=True)]
        ),
        "augment": lambda: v2.RandAugment(),
        "normalize": lambda: transforms.Normalize([0.5], [0.5]),
    }
    seen = {name: identity(make()) for name, make in makers.items()}
    assert len(set(seen.values())) == len(seen)
    assert seen == {name: identity(make()) for name, make in makers.items()}
    assert identity(seeded) == seen["torch generator"]
    assert identity(torch.Generator().manual_seed(4)) != identity(seeded)
    assert identity(np.random.default_rng(4)) != seen["numpy generator"]
    assert identity(re.compile("a+")) != seen["regex"]
    assert identity(dispatched)


def test_an_object_that_leaves_its_lock_out_of_pickles_has_an_identity():
    source = """
        import threading
        class Transform:
            def __init__(self, factor):
                self.factor, self.lock = factor, threading.Lock()
            def __getstate__(self):
                return {"factor": self.factor}
            def __call__(self, image):
                with self.lock:
                    return image * self.factor
        thing = Transform
    """
    Transform = made(source)
    assert identity(Transform(1)) == identity(Transform(1)) != identity(Transform(2))


def test_what_a_pickle_leaves_out_or_says_of_another_class_counts():
    class Base:
        def __init__(self, factor, hidden=0):
            self.factor, self.hidden = factor, hidden

        def __getstate__(self):
            return {"factor": self.factor}

    class Derived(Base):
        def __call__(self, image):
            return image

    class Reduced(Base):
        def __reduce__(self):
            return Base, (self.factor,)

    class Number(int):
        def __reduce_ex__(self, protocol):
            return Number, (0,)

    class Hiding(dict):
        def items(self):
            return []

    things = [
        *(Base(1), Base(1, hidden=2), Derived(1), Reduced(1), Reduced(1, hidden=2)),
        *(Number(1), Number(2), Hiding(a=1), Hiding(a=2)),
    ]
    assert len({identity(thing) for thing in things}) == len(things)
    assert identity(Base(1, hidden=2)) == identity(Base(1, hidden=2))


def test_annotations_count_as_code_may_read_them():
    source = """
        class Convert:
            factor: {kind}
            def __call__(self, image):
                return self.__annotations__["factor"](image)
        def convert(image: {kind}):
            return convert.__annotations__["image"](image)
        lock = __import__("threading").Lock()
        def locked(image: lock):
            return image
        thing = Convert(), convert, locked
    """
    one, two, again = (
        [identity(thing) for thing in made(source.format(kind=kind))]
        for kind in ("int", "float", "int")
    )
    assert one == again and one[0] != two[0] and one[1] != two[1]


def test_modules_of_a_class_of_their_own_are_told_by_it():
    source = """
        import types
        class Lazy(types.ModuleType):
            def __getattr__(self, name):
                return {factor}
        helpers = Lazy("helpers")
        def thing(image):
            return image * helpers.factor
    """
    one, two = (identity(made(source.format(factor=f))) for f in (1, 2))
    assert one != two


def test_functions_without_a_name_of_their_own_are_refused():
    with pytest.raises(TypeError, match=r"ufunc '<lambda> .vectorized.'"):
        identity(np.frompyfunc(lambda x: x, 1, 1))
    with pytest.raises(TypeError, match="generator has no identity"):
        identity(i for i in "ab")
    with pytest.raises(TypeError, match=r"sys\.modules holds"):
        identity(sys.modules)
    nested = []
    for _ in range(20_000):
        nested = [nested]
    with pytest.raises(TypeError, match="nested too deeply"):
        identity(nested)


# --- generated programs -----------------------------------------------------------

PIECES = [
    "def f(x):\n    return x * {c} + 1",
    "def f(x, by={c}):\n    return x + by",
    "def f(x, *, by=({c}, 1)):\n    return x + by[0]",
    "def make(c):\n    return lambda x: x - c\nf = make({c})",
    "def f(x):\n    def g(y):\n        return y + {c}\n    return g(x) * 2",
    "C = [{c}]\ndef f(x):\n    return x + C[0]",
    "C = {c}\ndef f(x):\n    return x * globals()['C']",
    "class K:\n    by = {c}\n    def __call__(self, x):\n"
    "        return x + self.by\nf = K()",
    "class K:\n    def __init__(self):\n        self.by = {c}\n"
    "    def __call__(self, x):\n        return x - 2 * self.by\nf = K()",
    "class K:\n    @staticmethod\n    def g(x):\n        return x * {c} - 3\nf = K.g",
    "class K:\n    by = {c}\n    @classmethod\n    def g(cls, x):\n"
    "        return x * cls.by + 3\nf = K.g",
    "class B:\n    def g(self, x):\n        return x + {c}\n"
    "class K(B):\n    def __call__(self, x):\n        return super().g(x) * 3\nf = K()",
    "class K(NamedTuple):\n    by: int = {c}\n"
    "    def __call__(self, x):\n        return x + 5 * self.by\nf = K()",
    "class K(int):\n    def __call__(self, x):\n"
    "        return x + 7 * self\nf = K({c})",
    "class K(dict):\n    def __call__(self, x):\n        return x + self['a']\n"
    "f = K(a={c})",
    "class E(enum.Enum):\n    A = {c}\n    B = 'b'\n"
    "    def __call__(self, x):\n        return x * self.value\nf = E.A",
    "class E(enum.IntEnum):\n    A = {c}\ndef f(x):\n    return x + E.A",
    "def g(by, x):\n    return x + by\nf = functools.partial(g, {c})",
    "def g(x, by):\n    return x * by\nf = functools.partial(g, by={c})",
    "@dataclasses.dataclass\nclass K:\n    by: int = {c}\n"
    "    def __call__(self, x):\n        return x + self.by\nf = K()",
    "@dataclasses.dataclass\nclass K:\n"
    "    by: list = dataclasses.field(default_factory=lambda: [{c}])\n"
    "def f(x):\n    return x + K().by[0]",
    "@functools.lru_cache\ndef g():\n    return {c}\ndef f(x):\n    return x + g()",
    "@functools.wraps(print)\ndef f(x):\n    return x + {c}",
    "class K:\n    @property\n    def by(self):\n        return {c}\n"
    "def f(x):\n    return x + K().by",
    "class K:\n    @functools.cached_property\n    def by(self):\n        return {c}\n"
    "def f(x):\n    return x * K().by",
    "def f(x):\n    return sum(y * {c} for y in [x, x + 1] if y not in {{1, 2, 'a'}})",
    "def f(x):\n    try:\n        return x // ({c} - 2)\n"
    "    except ZeroDivisionError:\n        return {c}",
    "def f(x):\n    class K:\n        by = {c}\n    return x + K.by",
    "class D:\n    def __get__(self, thing, kind):\n        return {c}\n"
    "class K:\n    by = D()\ndef f(x):\n    return x + K().by",
    "T = {{'a': ({c}, frozenset(['u', 'v', 'w']))}}\n"
    "def f(x):\n    return x + T['a'][0]",
    "import types\nm = types.ModuleType('m')\nm.by = {c}\n"
    "def f(x):\n    return x + m.by",
    "import types\nm = types.ModuleType('m')\nm.by = {c}\n"
    "def f(x):\n    return x * getattr(m, 'by')",
    "A = np.array([{c}, 1])\ndef f(x):\n    return x + int(A[0])",
    "A = torch.tensor([{c}, 1])\nf = lambda x: x * int(A[0])",
]
HEAD = (
    "import dataclasses, enum, functools\nfrom typing import NamedTuple\n"
    "import numpy as np, torch\n"
)


def run(program):
    """Return the function that a generated program makes, of pieces in a row."""
    parts = []
    for number, constant in program:
        space = {"__name__": "__main__"}
        exec(HEAD + PIECES[number].format(c=constant), space)
        parts.append(space["f"])

    def composed(x):
        for part in parts:
            x = part(x)
        return x

    return composed


PROGRAMS = st.lists(
    st.tuples(st.integers(0, len(PIECES) - 1), st.integers(-2, 3)),
    min_size=1,
    max_size=3,
)


@given(PROGRAMS, PROGRAMS, st.data())
def test_programs_that_do_different_things_differ(one, two, data):
    near = list(one)  # one constant apart: the hardest
    place = data.draw(st.integers(0, len(one) - 1))
    near[place] = one[place][0], data.draw(st.integers(-2, 3))
    for other in two, near:
        ours, theirs = run(one), run(other)
        if [ours(x) for x in range(-4, 5)] != [theirs(x) for x in range(-4, 5)]:
            assert identity(ours) != identity(theirs), (one, other)
        if one == other:
            assert identity(ours) == identity(theirs)


def test_every_piece_of_program_sees_its_constant():
    for number in range(len(PIECES)):
        seen = {identity(run([(number, constant)])) for constant in range(-2, 4)}
        assert len(seen) == 6, PIECES[number]


ELSEWHERE = """
import json, sys
sys.path[:0] = {tests!r}
from test_fingerprint import identity, run
print(json.dumps([identity(run(p)) for p in json.loads(sys.stdin.read())]))
"""


def test_programs_agree_across_processes():
    programs = [[(n, 2), ((n + 7) % len(PIECES), 3)] for n in range(len(PIECES))]
    here = [identity(run(program)) for program in programs]
    code = ELSEWHERE.format(tests=[*map(str, Path(__file__).parents[:2])])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": seed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    for process in processes:
        out, _ = process.communicate(json.dumps(programs))
        assert json.loads(out or "0") == here


SCRIPT = """
import multiprocessing
from reactood._utils._fingerprint._walk import identity
FACTOR = 3
class Scale:
    def __call__(self, image):
        return image * FACTOR
def look(thing):
    return identity(thing)
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(look, (Scale(),)) == look(Scale()))
"""


def test_the_functions_of_a_script_are_the_same_in_its_processes(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


# --- images -----------------------------------------------------------------------


def tagged(**notes):
    image = Image.new("RGB", (4, 3), "red")
    for key, value in notes.items():
        image.info[key] = value
    return image


def with_exif(orientation):
    image = tagged()
    image.getexif()[0x0112] = orientation
    return image


def with_palette(colour):
    image = Image.new("P", (4, 3), 0)
    image.putpalette([*colour, *[0] * 765])
    return image


def test_pictures_are_told_by_all_that_a_transform_can_see():
    grey16 = Image.fromarray(np.full((3, 4), 257, np.uint16))
    images = [
        tagged(),
        tagged(icc_profile=b"one"),
        tagged(icc_profile=b"two"),
        tagged(transparency=(255, 0, 0)),
        tagged(exif=b"Exif\x00\x00II*\x00"),  # damaged
        tagged(anything={"a": [1, 2]}),
        with_exif(1),
        with_exif(6),
        with_palette((255, 0, 0)),
        with_palette((254, 0, 0)),
        tagged().convert("RGBA"),
        tagged().convert("CMYK"),
        tagged().convert("HSV"),
        tagged().convert("L"),
        tagged().convert("LA"),
        tagged().convert("1"),
        tagged().convert("I"),
        tagged().convert("F"),
        grey16,
        Image.fromarray(np.full((3, 4), 258, np.uint16)),
    ]
    assert len({image_digest(image) for image in images}) == len(images)
    assert image_digest(tagged(icc_profile=b"one")) == image_digest(images[1])


def test_a_picture_of_several_frames_is_its_file(tmp_path):
    digests = set()
    for colour in "green", "blue":
        path = tmp_path / f"{colour}.gif"
        frames = [Image.new("P", (4, 3), 0), Image.new("RGB", (4, 3), colour)]
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with Image.open(path) as image:
            digests.add(image_digest(image))
            path.unlink()
            with pytest.raises(TypeError, match="other frames of an image is missing"):
                image_digest(image)
    assert len(digests) == 2


def test_a_file_replaced_by_one_of_the_same_size_and_time_is_another(tmp_path):
    path, other = tmp_path / "a.bin", tmp_path / "b.bin"
    seen = set()
    for content in b"1", b"2":
        other.write_bytes(content)
        os.replace(other, path)
        os.utime(path, ns=(1, 1))
        seen.add(image_digest(path))
    path.write_bytes(b"3")  # in place
    os.utime(path, ns=(1, 1))
    seen.add(image_digest(str(path)))
    assert len(seen) == 3


def test_rows_of_transforms_with_the_same_pixels_are_not_mixed(tmp_path):
    """A transform of the user's sees EXIF; the cache must not serve the other image."""

    def oriented(image):
        turned = image.transpose(Image.Transpose.ROTATE_180)
        return functional.to_tensor(
            turned if image.getexif().get(0x0112) == 3 else image
        )

    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    upright, turned = Image.fromarray(pixels), Image.fromarray(pixels)
    turned.getexif()[0x0112] = 3
    cached = TorchFeatureExtractor(model, preprocess=oriented, cache=tmp_path)
    cached.fit([upright])
    plain = TorchFeatureExtractor(model, preprocess=oriented).fit([upright])
    cached.transform([upright])
    np.testing.assert_array_equal(cached.transform([turned]), plain.transform([turned]))


def test_files_written_twice_within_a_tick_of_the_clock_differ(tmp_path, monkeypatch):
    real = os.stat

    def coarse(path, **options):
        status = real(path, **options)
        ctime = status.st_ctime_ns // 10_000_000 * 10_000_000
        return types.SimpleNamespace(
            **{n: getattr(status, n) for n in dir(status) if n.startswith("st_")}
            | {"st_ctime_ns": ctime, "st_mtime_ns": 1}
        )

    path = tmp_path / "a.bin"
    path.write_bytes(b"00")
    monkeypatch.setattr(identities.os, "stat", coarse)
    seen = set()
    for i in range(10, 25):
        with open(path, "r+b") as file:
            file.write(b"%d" % i)
        seen.add(image_digest(path))
    assert len(seen) == 15
