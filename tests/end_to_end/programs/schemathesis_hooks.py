"""What OpenAPI cannot say, for schemathesis."""

import math
from typing import Any

import schemathesis
from schemathesis import Case, HookContext


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:  # noqa: ARG001 - called by name
    """Whether the description is true of this case.

    Without a shard nobody may ask to ``wait``, or confirm the turn. An interval below 5 may be
    planned with or not, by what the server's own is.
    """
    query = case.query or {}
    if case.path == "/plan":
        return not 0 < _number(query.get("interval")) < 5
    return case.path != "/" or "shard" in query


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan
