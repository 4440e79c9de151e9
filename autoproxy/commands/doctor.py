"""Whether this installation can work: versions, devices, shipped models, results folder."""

import functools
import importlib
import os
import shutil
import sys
from collections.abc import Callable
from typing import Any

from autoproxy import plugins
from autoproxy.commands.loading import PACKAGES, manifest, space
from autoproxy.commands.workspace import Workspace
from autoproxy.errors import AutoproxyError

NEEDED_BYTES = 200 * 1024**2
"""Room that a default search takes for its ledger, statistics and exports, generously."""


def examine(workspace: Workspace) -> dict[str, Any]:
    """Return a list of checks, each with what was found, and whether all is well."""
    checks = [
        _check("python", lambda: sys.version.split()[0]),
        *(_check(name, functools.partial(_version, name)) for name in PACKAGES),
        _check("device", _device),
        _check("processors", lambda: f"{os.cpu_count()}"),
        _check("plug-ins", _plugins),
        _check("starter model", _starters),
        _check("results folder", lambda: _results(workspace)),
    ]
    return {"healthy": all(check["ok"] for check in checks), "checks": checks}


def _check(name: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "ok": True, "found": look()}
    except (AutoproxyError, ImportError, OSError) as error:
        return {"name": name, "ok": False, "found": str(error)}


def _version(package: str) -> str:
    importlib.import_module(package)
    found: str = manifest(space("importance"))["packages"][package]
    return found


def _device() -> str:
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        return "cpu (no CUDA device)"
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"cpu, cuda: {', '.join(names)}"


def _plugins() -> str:
    loaded = [name for kind in ("space", "evaluator") for name in plugins.names(kind)]
    for kind in ("space", "evaluator"):
        for name in plugins.names(kind):
            plugins.load(kind, name)
    return ", ".join(loaded)


def _starters() -> str:
    # The evaluator, not the engine, knows its shipped models; it is asked through its plug-in.
    found: Any = plugins.load("evaluator", "pruning")
    return ", ".join(f"--model {name}: {folder}" for name, folder in found.shipped().items())


def _results(workspace: Workspace) -> str:
    workspace.prepare()
    free = shutil.disk_usage(workspace.folder).free
    if free < NEEDED_BYTES:
        raise OSError(f"{workspace.folder} has {free / 1e6:.0f} MB left, 200 MB are wanted")
    return f"{workspace.folder}, {free / 1e9:.1f} GB free"
