"""Why a request gets no answer, with the status codes that both protocols have for it."""

from __future__ import annotations


class Refusal(Exception):  # noqa: N818 - a refusal is an answer
    """A request that is not answered; the message is for the client.

    Attributes:
        status: of HTTP.
        code: the name of gRPC's status.
        outcome: the label in metrics and logs.
        retry_after: seconds after which another try makes sense; None where it never does.
    """

    status = 400
    code = "INVALID_ARGUMENT"
    outcome = "invalid"
    retry_after: int | None = None


class Unknown(Refusal):
    """No model, version or page of that name."""

    status, code, outcome = 404, "NOT_FOUND", "unknown"


class Unauthorised(Refusal):
    """The bearer token is missing or wrong."""

    status, code, outcome = 401, "UNAUTHENTICATED", "unauthorised"


class Forbidden(Refusal):
    """The server was not started with leave for this."""

    status, code, outcome = 403, "PERMISSION_DENIED", "forbidden"


class TooLarge(Refusal):
    """A body, or what it unpacks to, beyond the cap."""

    status, code, outcome = 413, "RESOURCE_EXHAUSTED", "too_large"


class TooSlow(Refusal):
    """The client did not send its request in time."""

    status, code, outcome = 408, "DEADLINE_EXCEEDED", "slow_client"


class Full(Refusal):
    """The queue of the model is at its bound."""

    status, code, outcome, retry_after = 503, "UNAVAILABLE", "queue_full", 1


class Late(Refusal):
    """The answer was not there before the request's deadline."""

    status, code, outcome = 504, "DEADLINE_EXCEEDED", "deadline"


class Broken(Refusal):
    """The engine itself failed; the log holds the cause."""

    status, code, outcome = 500, "INTERNAL", "engine_error"
