"""What OpenAPI cannot say, for schemathesis."""

import math
from typing import Any

import schemathesis
from schemathesis import Case, HookContext


@schemathesis.hook
def filter_case(context: HookContext, case: Case[Any]) -> bool:  # noqa: ARG001 - called by name
    """Whether the description is true of this case.

    Without a shard nobody may ask to ``wait``, or confirm the turn. An interval below 5 may be
    planned with or not, by what the server's own is, and so may an interval be ordered. A probe
    is to be held, or has an id; what else it has is ignored.
    """
    query = case.query or {}
    if case.path == "/operator/interval" and isinstance(case.body, dict):
        return not 0 < _number(case.body.get("seconds")) < 5
    if case.path == "/plan":
        return not 0 < _number(query.get("interval")) < 5
    if case.path == "/probe":
        return set(query) in ({"hold"}, {"id"}, {"hold", "id"})
    return case.path != "/" or "shard" in query


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:  # noqa: ARG001
    """Have probes held for no longer than this test can wait."""
    if case.path == "/probe" and 0 < _number((case.query or {}).get("hold")) <= 900:
        case.query["hold"] = "0.001"


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan
