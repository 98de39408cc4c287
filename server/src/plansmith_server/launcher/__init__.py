"""Starting Triton from PyPI and watching over it."""
