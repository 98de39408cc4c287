"""Ask a running server what a few handwritten digits are: the SDK in ten lines.

Start a server first: `plansmith serve`.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import load_digits

from plansmith_client import Client

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Ask a running server what a few handwritten digits are.")
    parser.add_argument("--url", default="localhost:8001", help="gRPC host:port, or http://host:port [%(default)s]")
    url = parser.parse_args().url

    digits = load_digits()
    images = digits.images[:10].astype(np.float32)
    with Client(url) as client:
        result = client.model("digits")(images)
    print("true     ", *digits.target[:10])
    print("predicted", *result["probabilities"].argmax(axis=1))
