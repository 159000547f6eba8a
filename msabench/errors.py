"""The one exception that users are meant to see."""


class MSABenchError(Exception):
    """A problem that the user can mend.

    Its message is one sentence that names the offending value and what is allowed or what to do.
    The command line prints it without a traceback (``--debug`` shows one) and exits with code 2.
    It does not derive from ``ValueError``, so that argument parsers do not swallow and reword it.
    """


def one_of(what: str, value: object, allowed: object) -> MSABenchError:
    """Build the error for a value outside a closed set.

    Args:
        what: What the value is, e.g. ``"method"``.
        value: The value that was given.
        allowed: An iterable with the allowed values, printed in its order.
    """
    return MSABenchError(f"unknown {what} {value!r}; allowed: {', '.join(map(str, allowed))}")  # type: ignore[call-overload]
