"""How our operations get into other packages' classes, and out again."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from types import MethodType, TracebackType
from typing import Any

from torch import nn


class Replacement:
    """What the `apply_visgen_to_…` functions return: `revert()`, or leaving its `with`, puts the original code back."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

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
        """Replaces the method `name` of a class or of one instance; what is replaced already stays as it is.

        `method(original, self, …)` is called in its place and may call `original(self, …)`.
        """
        cls = owner if isinstance(owner, type) else type(owner)
        if getattr(getattr(owner, name), "replaced_by", None) is method:
            return
        original = getattr(cls, name)

        @functools.wraps(original)
        def replaced(self: Any, *args: Any, **kwargs: Any) -> Any:
            return method(original, self, *args, **kwargs)

        replaced.replaced_by = method  # type: ignore[attr-defined]
        self._undo.append(functools.partial(_restore, owner, name, vars(owner).get(name)))
        setattr(owner, name, replaced if owner is cls else MethodType(replaced, owner))


def _restore(owner: Any, name: str, own: Any) -> None:
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
