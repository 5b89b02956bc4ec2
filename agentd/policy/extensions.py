"""Extension modules of other packages, without the Python code around them.

Importing `cel` brings a command-line tool with it (20 MB, 180 ms), `pydantic_core` a description of
schemas (4 MB, 20 ms). The engine needs neither: the module is found beside the package's
`__init__`, which never runs. A later import of the whole package uses the same module.
"""

import importlib.util
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader
from pathlib import Path
from types import ModuleType


def load(package: str, name: str) -> ModuleType:
    """The extension module `package.name`. Raises ImportError."""
    full_name = f"{package}.{name}"
    loaded = sys.modules.get(full_name)
    if loaded is not None:
        return loaded
    found = importlib.util.find_spec(package)
    for directory in (found.submodule_search_locations or []) if found else []:
        for suffix in EXTENSION_SUFFIXES:
            file = Path(directory) / f"{name}{suffix}"
            if file.is_file():
                loader = ExtensionFileLoader(full_name, str(file))
                spec = importlib.util.spec_from_loader(full_name, loader)
                if spec is not None:
                    module = importlib.util.module_from_spec(spec)
                    loader.exec_module(module)
                    sys.modules[full_name] = module
                    return module
    raise ImportError(f"no extension module {full_name} for this Python", name=full_name)
