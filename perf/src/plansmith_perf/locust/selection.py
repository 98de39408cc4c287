"""Which users take part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plansmith_perf.errors import LoadTestMisconfigured
from plansmith_perf.locust.users import InferenceUser

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from locust import User

    from plansmith_perf.locust.options import LoadOptions

__all__ = ["protocols_of", "select_users"]


def protocols_of(user_classes: Iterable[type[User]], options: LoadOptions) -> list[str]:
    """The protocols that users of these classes speak, as far as the options let them."""
    spoken = {user_class.protocol for user_class in user_classes if issubclass(user_class, InferenceUser)}
    return sorted(spoken if options.protocol == "both" else spoken & {options.protocol})


def select_users(user_classes: Sequence[type[User]], options: LoadOptions) -> list[type[User]]:
    """The classes that take part: those of the protocol, and those that are not ours.

    Raises:
        LoadTestMisconfigured: no user speaks the protocol.
    """
    selected = [
        user_class
        for user_class in user_classes
        if not issubclass(user_class, InferenceUser) or options.protocol in ("both", user_class.protocol)
    ]
    if not selected:
        names = ", ".join(user_class.__name__ for user_class in user_classes)
        raise LoadTestMisconfigured(f"--protocol {options.protocol} leaves none of the users that were named: {names}")
    return selected
