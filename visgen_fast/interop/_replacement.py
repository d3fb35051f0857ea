"""How our operations get into other packages' classes, and out again."""

from __future__ import annotations

import copy
import copyreg
import functools
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from torch import nn


class Replacement:
    """What the `apply_visgen_to_…` functions return: `revert()`, or leaving its `with`, puts the original code back.

    Instances get a class of their own, so that deep copies and the replicas of `nn.DataParallel` have our methods too,
    and lose them with `revert()`. Pickled, they are instances of the original class.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._subclasses: dict[type, type] = {}

    def revert(self) -> None:
        """Puts the original methods back; a second call changes nothing."""
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> Replacement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.revert()

    def replace(self, owner: Any, name: str, method: Callable[..., Any]) -> None:
        """Replaces the method `name` of a class or of one instance; a method that is replaced already stays as it is.

        `method(original, self, …)` is called in its place and may call `original(self, …)`.
        """
        cls = owner if isinstance(owner, type) else type(owner)
        original = getattr(cls, name)
        if getattr(original, "replaced_by", None) is method:
            return
        cls = cls if owner is cls else self._class_of_its_own(owner)

        @functools.wraps(original)
        def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
            return method(original, self, *args, **kwargs)

        replaced.replaced_by = method  # type: ignore[attr-defined]
        self._undo.append(functools.partial(_restore, cls, name, vars(cls).get(name)))
        setattr(cls, name, replaced)

    def _class_of_its_own(self, instance: Any) -> type:
        cls = type(instance)
        if cls in self._subclasses.values():
            return cls
        if cls not in self._subclasses:
            self._subclasses[cls] = _subclass(cls)
        instance.__class__ = self._subclasses[cls]
        self._undo.append(functools.partial(setattr, instance, "__class__", cls))
        return self._subclasses[cls]


def original_class(instance: Any) -> type:
    """The instance's class, or the one that it had before its methods were replaced."""
    cls = type(instance)
    while "replaces" in vars(cls):
        cls = vars(cls)["replaces"]
    return cls


def _subclass(cls: type) -> type:
    """A class that differs from `cls` in nothing that can be seen, whose methods can be replaced."""
    named = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    copied = {} if hasattr(cls, "__deepcopy__") else {"__deepcopy__": _deep_copy}
    return type(cls)(cls.__name__, (cls,), {**named, **copied, "__reduce_ex__": _reduce, "replaces": cls})


def _reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
    """For pickle, which finds classes by their names: as an instance of the original class."""
    cls: Any = original_class(self)
    return copyreg._reconstructor, (cls, object, None), cls.__reduce_ex__(self, 4)[2]  # type: ignore[attr-defined]


def _deep_copy(self: Any, memo: dict[int, Any]) -> Any:
    """An instance of the same class, whose methods are replaced as long as those of this one."""
    memo[id(self)] = made = object.__new__(type(self))
    state = copy.deepcopy(_reduce(self, 4)[2], memo)
    if hasattr(made, "__setstate__"):  # which plain objects don't have
        made.__setstate__(state)
    else:
        vars(made).update(state)
    return made


def _restore(owner: type, name: str, own: Any) -> None:
    if own is None:
        delattr(owner, name)
    else:
        setattr(owner, name, own)


def find_classes(model: nn.Module | None, name: str, methods: Sequence[str], *, needed: bool = True) -> list[Any]:
    """The modules of `model` whose class has that name and those methods; without a model such classes themselves.

    Packages that are copied rather than installed have no import path to rely on: classes are found by what they are.
    """
    if model is None:
        candidates = [vars(module).get(name) for module in list(sys.modules.values()) if hasattr(module, "__dict__")]
        found: list[Any] = [candidate for candidate in candidates if isinstance(candidate, type)]
    else:
        found = [module for module in model.modules() if name in (cls.__name__ for cls in type(module).__mro__)]
    found = [owner for owner in found if all(hasattr(owner, method) for method in methods)]
    if needed and not found:
        where = "model must have one in it" if model is not None else "import it before, or give a model"
        raise ValueError(f"no {name} with {', '.join(methods)} was found: {where}")
    return list(dict.fromkeys(found))
