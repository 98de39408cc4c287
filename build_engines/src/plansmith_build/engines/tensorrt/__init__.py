"""TensorRT plans: engines compiled for one GPU architecture from a graph that is verified already.

Nothing here imports TensorRT before it is needed. One code path serves TensorRT 10 and 11: networks are strongly typed,
the precision stands in the graph.
"""

from __future__ import annotations

from plansmith_build.engines.tensorrt.availability import unavailable_because
from plansmith_build.engines.tensorrt.options import PlanOptions
from plansmith_build.engines.tensorrt.plan_check import plan_version
from plansmith_build.engines.tensorrt.plans import PlanFailed, build_plan, refit_plan
from plansmith_build.engines.tensorrt.profiles import (
    OptimizationProfile,
    fix_dims,
    parse_profile,
    profile_for,
    provider_profile,
    rows_taken,
)
from plansmith_build.engines.tensorrt.token_axes import find_token_range

__all__ = [
    "OptimizationProfile",
    "PlanFailed",
    "PlanOptions",
    "build_plan",
    "find_token_range",
    "fix_dims",
    "parse_profile",
    "plan_version",
    "profile_for",
    "provider_profile",
    "refit_plan",
    "rows_taken",
    "unavailable_because",
]
