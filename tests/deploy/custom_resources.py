"""What a cluster takes: the schemas of Kubernetes, and models that packages made from those of custom resources."""

from __future__ import annotations

import ast
import json
import re
import zipfile
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

import kubernetes_validate
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, RootModel, create_model
from wheels import wheels

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ("1.37", "1.36", "1.35")
KEDA = "cloudcoil-models-keda==2.20.2.1"
OPERATOR = "cloudcoil-models-prometheus-operator==0.93.1.1"
KSERVE = "kserve==0.21.0"
PACKAGES = {
    KEDA: ("7c2232335123ee27564f9ef0849c5f5b3deefb55fdf6fbb462caa8b2184c9cee",),
    OPERATOR: ("3ddf53adde1bebab9f238dd7873363ece3b9a6913cbe196a1572783a008c7208",),
    KSERVE: ("df9bc5888704d9085015e08f1a8fced5ff0698f3becc6212d4e7b8234c71623b",),
}
MODULES = {KEDA: "cloudcoil/models/keda/v1alpha1.py", OPERATOR: "cloudcoil/models/prometheus_operator/v1.py"}
KINDS = {
    "ScaledObject": (KEDA, "ScaledObject"),
    "PodMonitor": (OPERATOR, "PodMonitor"),
    "PrometheusRule": (OPERATOR, "PrometheusRule"),
    "ServingRuntime": (KSERVE, "V1alpha1ServingRuntime"),
    "InferenceService": (KSERVE, "V1beta1InferenceService"),
}
SINGLE = {"str": str, "int": int, "float": float, "bool": bool}


class Schemas:
    """What the API server of a cluster compares objects with."""

    def __init__(self, folder: Path) -> None:
        self._archives = dict(zip(PACKAGES, map(zipfile.ZipFile, wheels(PACKAGES, folder)), strict=True))
        self._model = cache(self._read)

    def validate(self, manifest: dict[str, Any]) -> None:
        """Raise for an object that one of the newest releases does not take, or that has a field it would drop."""
        if manifest["kind"] in KINDS:
            self._model(manifest["kind"]).model_validate_json(json.dumps(manifest), strict=True)
        else:
            for version in VERSIONS:
                kubernetes_validate.validate(manifest, version, strict=True)

    def _read(self, kind: str) -> type[BaseModel]:
        package, name = KINDS[kind]
        archive = self._archives[package]
        return of_kserve(archive, name) if package == KSERVE else of_cloudcoil(classes(archive, MODULES[package]), name)


class Object(BaseModel):
    """An object with no other fields than its own."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())


@cache
def classes(archive: zipfile.ZipFile, module: str) -> dict[str, str]:
    """The source of each class of a module, by name."""
    parts = re.split(r"^class ", archive.read(module).decode(), flags=re.MULTILINE)
    return {part.split("(")[0]: f"class {part}" for part in parts}


def of_cloudcoil(source: dict[str, str], kind: str) -> type[BaseModel]:
    """A class out of a generated module, and those that its fields name, without what builds them."""
    known = {each.__name__: each for each in (AwareDatetime, ConfigDict, RootModel)}
    known |= {"Annotated": Annotated, "Literal": Literal, "Any": Any, "Field": Field}
    known |= {"BaseModel": Object, "Resource": Object, "ObjectMeta": dict}

    def define(name: str) -> None:
        (definition,) = ast.parse(source[name]).body
        fields = [line for line in definition.body if isinstance(line, ast.AnnAssign)]
        definition.body = [line for line in fields if not line.target.id.startswith("__")] or [ast.Pass()]
        for each in ast.walk(definition):
            if isinstance(each, ast.Name) and each.id not in known and each.id in source:
                define(each.id)
        exec(compile(ast.Module([definition], []), name, "exec", dont_inherit=True), known)

    define(kind)
    return known[kind]


def of_kserve(archive: zipfile.ZipFile, kind: str) -> type[BaseModel]:
    """A class of KServe's own client; what is Kubernetes' own is anything."""
    folder = "kserve/models/"
    files = {name.removeprefix(folder).removesuffix(".py").replace("_", ""): name for name in archive.namelist()}

    def typed(words: str) -> Any:
        if found := re.fullmatch(r"(list|dict)(?:\[|\(str, )(.+)[])]", words):
            inner = typed(found[2])
            return list[inner] if found[1] == "list" else dict[str, inner]
        return SINGLE.get(words) or (define(words) if words.lower() in files else Any)

    @cache
    def define(name: str) -> type[BaseModel]:
        text = archive.read(files[name.lower()]).decode()
        types, keys = (
            ast.literal_eval(re.search(rf"{word} = (\{{.*?\}})", text, re.DOTALL)[1])
            for word in ("openapi_types", "attribute_map")
        )
        required = set(re.findall(r"^        self\.(\w+) = \1$", text, re.MULTILINE))
        fields = {
            f"field_{number}": (
                (typed(words), Field(alias=keys[attribute]))
                if attribute in required
                else (typed(words) | None, Field(None, alias=keys[attribute]))
            )
            for number, (attribute, words) in enumerate(types.items())
        }
        return create_model(name, __base__=Object, **fields)

    return define(kind)
