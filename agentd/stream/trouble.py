"""Says in plain words why events do not reach NATS."""

import ssl

from agentd.stream.library import errors

_REASONS = (
    (errors.NoRespondersError, "{server} has no JetStream, or none that is ready"),
    (TimeoutError, "{server} does not answer in time"),
)


class StreamError(Exception):
    """A reason, in words for the operator, why this attempt to stream ended."""


class LoginRefused(StreamError):  # noqa: N818
    """The server does not accept who we are (or we do not accept the server)."""


def explain(error: BaseException, server: str) -> StreamError:
    """The reason behind whatever nats-py, ssl or the socket raised."""
    if isinstance(error, StreamError):
        return error
    text = _plain(str(error))
    login = _login_trouble(error, text.lower())
    if login:
        return LoginRefused(login.format(server=server, text=text))
    for kind, words in _REASONS:
        if isinstance(error, kind):
            return StreamError(words.format(server=server))
    if isinstance(error, OSError):
        return StreamError(f"cannot reach {server}: {error.strerror or text}")
    if "permissions violation" in text.lower():
        return StreamError(f"{server} forbids it: {text}")
    return StreamError(f"the connection to {server} was lost: {text or type(error).__name__}")


def _login_trouble(error: BaseException, text: str) -> str:
    if isinstance(error, errors.SecureConnWantedError):
        return "TLS failed with {server}: the server does not offer TLS"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"TLS failed with {{server}}: certificate not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed with {{server}}: {getattr(error, 'reason', '') or text}"
    if isinstance(error, errors.AuthorizationError) or "authoriz" in text or "authentic" in text:
        return "{server} refused the login: {text}"
    return ""


def refused(answer: dict[str, object], what: str) -> StreamError:
    """The reason in an error object of the JetStream API."""
    description = str(answer.get("description", "no reason given"))
    code = answer.get("err_code")
    if code in {10039, 10076}:
        return StreamError("JetStream is not enabled for this account on the server")
    return StreamError(f"{what}: {description} (JetStream error {code})")


def _plain(text: str) -> str:
    return text.removeprefix("nats:").strip().strip("'")
