"""Precision, written into the graph: FP16 and BF16 by casts, INT8 by pairs of QuantizeLinear and DequantizeLinear.

A graph can then be judged on any machine before an engine is compiled from it, and TensorRT, whose networks are
strongly typed since version 11, needs no flags.
"""

__all__: list[str] = []
