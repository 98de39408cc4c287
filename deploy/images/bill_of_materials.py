"""Lists what a built image holds, with its size: a CycloneDX document beside it.

    python3 deploy/images/bill_of_materials.py plansmith-server > plansmith-server.cdx.json

Asks the image itself, in a container without a network: Debian's packages, and Python's of /opt/plansmith. `--engine
podman` takes another engine than Docker. Needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import uuid
from datetime import UTC, datetime

__all__ = ["bill_of_materials"]

LIST_DEBIAN = ("dpkg-query", "--show", "--showformat", "${binary:Package} ${Version} ${Architecture}\n")
LIST_PYTHON = (
    "/opt/plansmith/bin/python3",
    "-c",
    "from importlib.metadata import distributions\nfor found in distributions(): print(found.name, found.version)",
)


def bill_of_materials(engine: str, image: str) -> dict[str, object]:
    """The document for an image: its digest, its size in bytes, and each package with its purl."""
    (facts,) = json.loads(_out(engine, "image", "inspect", image))
    debian = (line.split() for line in _listed(engine, image, LIST_DEBIAN))
    python = (line.split() for line in _listed(engine, image, LIST_PYTHON))
    packages = {
        f"pkg:deb/debian/{name.partition(':')[0]}@{version.replace('+', '%2B')}?arch={arch}": (name, version)
        for name, version, arch in debian
    }
    packages |= {f"pkg:pypi/{name.lower().replace('_', '-')}@{version}": (name, version) for name, version in python}
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid4()}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.now(UTC).isoformat(),
            "component": {
                "type": "container",
                "bom-ref": "image",
                "name": image,
                "version": facts["Id"].rpartition(":")[2],
                "properties": [{"name": "plansmith:image:bytes", "value": str(facts["Size"])}],
            },
        },
        "components": [
            {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
            for purl, (name, version) in sorted(packages.items())
        ],
    }


def _listed(engine: str, image: str, words: tuple[str, ...]) -> list[str]:
    container = ("run", "--rm", "--network=none", "--user=1000:1000", f"--entrypoint={words[0]}")
    return _out(engine, *container, image, *words[1:]).splitlines()


def _out(*words: str) -> str:
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> int:
    """Print the document; 1 where the engine, which says why, refuses."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("image")
    parser.add_argument("--engine", default="docker", help="docker or podman")
    words = parser.parse_args()
    try:
        document = bill_of_materials(words.engine, words.image)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"{words.image} cannot be listed: {error}", file=sys.stderr)
        return 1
    print(json.dumps(document, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
