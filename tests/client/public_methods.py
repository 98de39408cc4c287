"""The public methods of the client, with arguments that are right, and the use of whatever they give."""

from __future__ import annotations

import inspect

import numpy as np

from plansmith_client import Client, Model

ROW = np.ones((1, 4), np.float32)
# What one has to give, by the parameter's name.
NEEDED = {"name": "m", "inputs": {"x": ROW}, "source": [ROW[0]]}


def arguments(method):
    """The parameters of a method, those that collect included."""
    return [parameter for parameter in inspect.signature(method).parameters.values() if parameter.name != "self"]


def needed(method):
    """Right arguments, of which as few as possible."""
    return {
        one.name: NEEDED.get(one.name)
        for one in arguments(method)
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }


def used(name, made):
    """Whatever a method gives, used to its end."""
    if isinstance(made, (str, tuple, dict, list)) or made is None:
        return
    if hasattr(made, "collect"):
        made.collect()
    elif hasattr(made, "end"):
        with made as sequence:
            sequence.end(ROW)
    elif name == "batched":
        made(ROW)
    elif hasattr(made, "cancelled"):
        made.result()
    elif hasattr(made, "__next__"):
        list(made)


def public():
    """The methods that ask a server: each with the class that has it."""
    return [
        (kind, name)
        for kind in (Client, Model)
        for name, _ in inspect.getmembers(kind, inspect.isfunction)
        if (not name.startswith("_") and name != "close") or (kind is Model and name == "__call__")
    ]
