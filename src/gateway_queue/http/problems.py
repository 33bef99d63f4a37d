"""What went wrong, as pages (RFC 9457).

For pages only: a request for a turn that fails is not answered.
"""

import structlog
from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from gateway_queue.http.asking import Problem
from gateway_queue.queue.journal import JournalError

log = structlog.get_logger()

PROBLEM = "application/problem+json"


def add_problems(app: QuartTrio) -> None:
    """Have the app answer errors with what a person can act on."""
    app.register_error_handler(Problem, _problem)
    app.register_error_handler(JournalError, _not_written)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failure)


async def _problem(problem: Problem) -> Response:
    headers = {name.decode(): value.decode() for name, value in problem.headers}
    return Response(problem.body, problem.status, headers, content_type=PROBLEM)


async def _http_error(error: HTTPException) -> Response:
    detail, headers = error.description or "no details are available", {}
    if isinstance(error, NotFound):
        detail = "there is nothing at this path, and no turn was taken; ask with /?shard=42"
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(sorted(error.valid_methods or ()))
        detail = f"this page only allows {headers['Allow']}"
    page = await _problem(Problem(error.code or 500, detail))
    page.headers.update(headers)
    return page


async def _failure(error: Exception) -> Response:
    log.error("page_failed", exc_info=error)
    return await _problem(Problem(500, "the server could not create this page; see its log"))


async def _not_written(error: JournalError) -> Response:
    detail = f"nothing has changed, because it could not be written to the journal: {error}"
    return await _problem(Problem(503, detail))
