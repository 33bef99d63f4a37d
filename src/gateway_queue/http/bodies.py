"""The bodies of an operator's requests, and what may be wrong with them. Pure."""

import json
import unicodedata
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from gateway_queue.http.asking import Problem
from gateway_queue.operate.plan import LONGEST_INTERVAL

# Bytes; enough for the longest reason.
LONGEST_BODY = 2**14

# Characters.
LONGEST_REASON = 300

# A month, in seconds: people forget longer orders, but one without an end is shown as such.
LONGEST_ORDER = 30 * 86_400


def _plain(reason: str) -> str:
    """The reason. Raises ValueError if it has characters that control a terminal or a log."""
    if any(unicodedata.category(sign) in {"Cc", "Cs", "Zl", "Zp"} for sign in reason):
        raise ValueError("control characters")
    return reason


For = Annotated[float, Field(gt=0, le=LONGEST_ORDER, allow_inf_nan=False)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class PauseBody(_Body):
    """A pause for ``seconds``, or, if None, until somebody resumes."""

    reason: Annotated[str, Field(max_length=LONGEST_REASON), AfterValidator(_plain)] = ""
    seconds: For | None = Field(None, alias="for")


class IntervalBody(_Body):
    """An ``interval`` in seconds, for ``seconds``, or, if None, until it is withdrawn."""

    interval: Annotated[
        float, Field(alias="seconds", gt=0, le=LONGEST_INTERVAL, allow_inf_nan=False)
    ]
    seconds: For | None = Field(None, alias="for")


# What is allowed, by the field's name in the body.
ALLOWED = {
    "reason": f"a text of at most {LONGEST_REASON} characters, none of them a control character",
    "for": f"a number of seconds above 0, at most {LONGEST_ORDER}; without it there is no end",
    "seconds": f"a number of seconds, at most {LONGEST_INTERVAL:g}",
}

B = TypeVar("B", PauseBody, IntervalBody)


def pause_of(body: bytes) -> PauseBody:
    """Parse ``{"reason": "deployment", "for": 1800}``; raises Problem for anything else."""
    return _read(PauseBody, body or b"{}", '{"reason": "deployment", "for": 1800}')


def interval_of(body: bytes, configured: float) -> IntervalBody:
    """Parse ``{"seconds": 10}``; raises Problem if malformed, or faster than configured."""
    said = _read(IntervalBody, body, '{"seconds": 10, "for": 3600}')
    if said.interval <= configured:
        raise Problem(
            400,
            f"seconds is {said.interval:g}; it must be more than the configured interval,"
            f" which is {configured:g}: an operator may slow the queue down, not speed it up",
        )
    return said


def _read(kind: type[B], body: bytes, example: str) -> B:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first: Any = error.errors(include_url=False)[0]
    name = str(first["loc"][0])[:40] if first["loc"] else None
    known = [str(field.alias or name) for name, field in kind.model_fields.items()]
    if name is None:
        why = "the body is not a JSON object"
    elif first["type"] == "extra_forbidden":
        why = f"{name!r} is unknown; known are {' and '.join(known)}"
    elif first["type"] == "missing":
        why = f"{name} is missing"
    else:
        why = f"{name} is {_shown(first['input'])}; it must be {ALLOWED[name]}"
    raise Problem(400, f"{why}. For example {example}")


def _shown(value: object) -> str:
    """A value as ASCII JSON, shortened."""
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
