"""Reads our sources and holds every use of TensorRT and the CUDA runtime against the real bindings that it imports.

Run in a process of its own: `python tensorrt_contract_program.py FILE...` prints a JSON object with what was `checked`
and what is `wrong`. Which class a variable is of, its name says: see CLASSES.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import sys
from pathlib import Path

from cuda.bindings import runtime as cuda

# Those of TensorRT for RTX are nearly the same.
trt = importlib.import_module(os.environ.get("TENSORRT_BINDINGS", "tensorrt_bindings"))

CLASSES = {
    "builder": trt.Builder,
    "cache": trt.ITimingCache,
    "config": trt.IBuilderConfig,
    "context": trt.IExecutionContext,
    "engine": trt.ICudaEngine,
    "error": trt.ParserError,
    "network": trt.INetworkDefinition,
    "parser": trt.OnnxParser,
    "parser_refitter": trt.OnnxParserRefitter,
    "profile": trt.IOptimizationProfile,
    "refitter": trt.Refitter,
    "runtime": trt.Runtime,
    "serialization": trt.ISerializationConfig,
    "tensor": trt.ITensor,
}
if hasattr(trt, "IRuntimeCache"):
    CLASSES |= {"runtime_cache": trt.IRuntimeCache, "runtime_config": trt.IRuntimeConfig}
MODULES = {"trt": trt, "cuda": cuda}


def main(paths: list[str]) -> None:
    checked, wrong = [], []
    for path in map(Path, paths):
        tree = ast.parse(path.read_text())
        calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
        for node in ast.walk(tree):
            names = dotted(node)
            if names is None or names[0] not in CLASSES | MODULES:
                continue
            text = ".".join(names)
            target = CLASSES.get(names[0]) or MODULES[names[0]]
            for name in names[1:]:
                missing = not hasattr(target, name)
                if missing:
                    wrong.append(f"{path.name}:{node.lineno}: {text}: there is no {name}")
                    break
                target = getattr(target, name)
            else:
                checked.append(text)
                if id(node) in calls and (problem := misfit(target, calls[id(node)])):
                    wrong.append(f"{path.name}:{node.lineno}: {text}: {problem}")
    print(json.dumps({"version": trt.__version__, "checked": sorted(set(checked)), "wrong": wrong}))  # noqa: T201


def dotted(node: ast.AST) -> list[str] | None:
    """["trt", "Logger", "ERROR"] for the outermost `trt.Logger.ERROR`, and for each part of it."""
    if not isinstance(node, ast.Attribute):
        return None
    inner = [node.value.id] if isinstance(node.value, ast.Name) else dotted(node.value)
    return [*inner, node.attr] if inner else None


def misfit(target: object, call: ast.Call) -> str:
    """Why a call does not fit any signature that the bindings document, or an empty string."""
    documented = target.__init__.__doc__ if isinstance(target, type) else target.__doc__
    name = "__init__" if isinstance(target, type) else target.__name__
    if name == "__init__" and not isinstance(target, type):
        # The instance is an argument of its own, as in `Base.__init__(self)`.
        call = ast.Call(call.func, call.args[1:], call.keywords)
    signatures = re.findall(rf"^(?:\d+\. )?{name}\((.*)\)(?: ->.*)?$", documented or "", re.MULTILINE)
    problems = [fits(split(signature), call) for signature in signatures if "*args" not in signature]
    return "" if not problems or "" in problems else problems[0]


def split(signature: str) -> list[str]:
    """The parameters of a signature, without self; commas inside brackets belong to a type."""
    flat = re.sub(r"\[[^\[\]]*\]", "", re.sub(r"\[[^\[\]]*\]", "", signature))
    parameters = [part.strip() for part in flat.split(",") if part.strip()]
    return [part for part in parameters if not re.match(r"(self|cls)\b", part)]


def fits(parameters: list[str], call: ast.Call) -> str:
    """Why a call does not fit these parameters, or an empty string."""
    # `name: type = default`, or in Cython's words `type name`.
    names = [re.split(r"[:=]", part)[0].strip().split(" ")[-1] for part in parameters]
    required = [name for name, part in zip(names, parameters, strict=True) if "=" not in part]
    if len(call.args) > len(names):
        return f"takes {len(names)} arguments, and gets {len(call.args)}"
    given = names[: len(call.args)]
    for keyword in call.keywords:
        if keyword.arg not in names:
            return f"has no parameter {keyword.arg}"
        given.append(keyword.arg)
    missing = [name for name in required if name not in given]
    return f"misses {', '.join(missing)}" if missing else ""


if __name__ == "__main__":
    main(sys.argv[1:])
