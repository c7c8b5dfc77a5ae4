"""What a client gets instead of an answer, in OpenAI's form."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

_TYPES = {
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
    HTTPStatus.SERVICE_UNAVAILABLE: "service_unavailable_error",
}


class ApiError(Exception):
    """An error with its HTTP status; ``param`` is the path of the field at fault, ``code`` OpenAI's word for it."""

    def __init__(self, status: HTTPStatus, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """The JSON of the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The error for a request that can never be met as asked."""
    return ApiError(HTTPStatus.BAD_REQUEST, message, param=param, code=code)
