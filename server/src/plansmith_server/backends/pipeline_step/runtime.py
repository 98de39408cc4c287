"""The steps of pipelines as a backend: what a step does stands in the file `step.json` of its version, as data.

```json
{"kind": "image", "options": {"size": [224, 224], "...": "..."}}
```
"""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

from plansmith_server.backends.rows import Rows
from plansmith_server.backends.signature import Signature
from plansmith_server.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from plansmith_server.backends.engine import Instance
    from plansmith_server.backends.pipeline_step.step import Step

__all__ = ["KINDS", "STEP_FILE", "StepEngine", "load_step", "read_signature"]

STEP_FILE = "step.json"
# The module and the class of each kind; a module is imported when a step of its kind is loaded.
KINDS: Mapping[str, tuple[str, str]] = {
    "image": ("images", "ImageStep"),
    "text": ("text", "TextStep"),
    "audio": ("audio", "AudioStep"),
    "boxes": ("boxes", "BoxesStep"),
    "lines": ("lines", "LinesStep"),
    "upright": ("lines", "UprightStep"),
    "ctc": ("ctc", "CtcStep"),
}


def load_step(folder: Path) -> Step:
    """The step that a version's folder describes.

    Raises:
        ModelError: the file is missing or damaged, has an option that the kind does not, or needs a package that is
            not installed.
    """
    path = folder / STEP_FILE
    try:
        document = json.loads(path.read_bytes())
        kind, options = document["kind"], dict(document["options"])
        module, name = KINDS[kind]
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(f"{path} does not hold a kind, one of {', '.join(KINDS)}, and its options") from error
    try:
        # A tokenizer has a file of its own.
        files = {"folder": folder} if kind == "text" else {}
        step: Step = getattr(import_module(f"{__package__}.{module}"), name)(**files, **options)
    except ImportError as error:
        raise ModelError(
            f"a step of kind {kind!r} needs the package {error.name}: plansmith[pipelines] brings it"
        ) from error
    except (TypeError, ValueError, OSError) as error:
        raise ModelError(f"{path}: {error}") from error
    return step


class StepEngine:
    """A step as an `Engine`."""

    def __init__(self, instance: Instance) -> None:
        self._step = load_step(instance.folder)
        self.signature = _signature(self._step)

    def run(self, outputs: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[np.generic]]:
        """See `Engine`."""
        made = self._step.run(inputs)
        return [made[name] for name in outputs]

    def close(self) -> None:
        """See `Engine`."""
        del self._step


def read_signature(folder: Path, _: str) -> Signature:
    """Read what the step in the version folder `folder` takes and gives."""
    return _signature(load_step(folder))


def _signature(step: Step) -> Signature:
    return Signature(step.inputs, (), step.outputs, rows=Rows(kept=True, shared=True))
