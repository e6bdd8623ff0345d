"""What the package offers, by name."""

import importlib
import inspect
import pkgutil
from types import ModuleType
from typing import Any

import also_optax


def public_modules(package: ModuleType = also_optax) -> list[ModuleType]:
    """The modules under a package that users import; what is in `rules` is offered by the package itself."""
    found = []
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        last = module.name.rpartition(".")[2]
        if last.startswith("_") or module.name == "also_optax.rules":
            continue
        found.append(importlib.import_module(module.name))
        if module.ispkg:
            found += public_modules(found[-1])
    return found


def names_of(module: ModuleType) -> dict[str, Any]:
    """What a module offers: its `__all__`, or else the functions and types that it defines, and instances of those."""
    if hasattr(module, "__all__"):
        return {name: getattr(module, name) for name in module.__all__}
    own = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {name: value for name, value in own.items() if _home(value) == module.__name__}


def public_names() -> dict[str, Any]:
    """Everything public by its qualified name."""
    found = {}
    for module in (also_optax, *public_modules()):
        found[module.__name__] = module
        found |= {f"{module.__name__}.{name}": value for name, value in names_of(module).items()}
    del found["also_optax"]  # the site as a whole
    return found


def _home(value: Any) -> str:
    described = value if inspect.isroutine(value) or inspect.isclass(value) else type(value)
    return "" if inspect.ismodule(value) else described.__module__
