"""Cannot be loaded."""


class TritonPythonModel:
    def initialize(self, _):
        raise RuntimeError("this model never loads")
