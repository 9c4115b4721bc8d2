"""What an error of the broker means, and what to do about it."""

from __future__ import annotations

from typing import Final

from redis.exceptions import AuthenticationError, ResponseError

from celery_dynprio.errors import BrokerRefusedError, BrokerUnavailableError, DynPrioError

_NOT_ALLOWED: Final = "the broker's user may not do this: `celery -A proj dynprio doctor` names the missing rights: {}"
_READ_ONLY: Final = "the broker is a replica and takes no writes: set broker_url to its primary, or to Sentinel: {}"
_OUT_OF_MEMORY: Final = (
    "the broker is out of memory: raise maxmemory in redis.conf, delete what is not needed, or start more workers: {}"
)
_DISK: Final = "the broker cannot write to its disk: free some space there, see its log: {}"
_REPLICAS: Final = "the broker takes no writes while too few replicas follow it (min-replicas-to-write): {}"
_LOGIN: Final = "the broker refuses the user or the password in broker_url: {}"

#: What an answer of the broker raises that is no answer to the question.
REFUSALS: Final = (ResponseError,)

#: What is in the text of an error, and what it means; not its code, which scripts leave out and redis-py takes away.
_MEANINGS: Final = (
    ("ACL failure", _NOT_ALLOWED),
    ("no permissions", _NOT_ALLOWED),
    ("No permissions", _NOT_ALLOWED),
    ("The user executing the script can't", _NOT_ALLOWED),
    ("read only replica", _READ_ONLY),
    ("used memory > 'maxmemory'", _OUT_OF_MEMORY),
    ("MISCONF", _DISK),
    ("NOREPLICAS", _REPLICAS),
)


def explained(problem: Exception) -> DynPrioError:
    """The error of ours that says what the broker's error means, and the remedy."""
    text = str(problem)
    known = (AuthenticationError, *REFUSALS)
    told = problem.__cause__ if isinstance(problem.__cause__, known) else problem  # kombu wraps it
    if isinstance(told, AuthenticationError):
        return BrokerRefusedError(_LOGIN.format(text))
    if not isinstance(told, REFUSALS):
        return BrokerUnavailableError(f"the broker does not answer: {text}")
    refused = "the broker refuses a command: {}"
    return BrokerRefusedError(next((meaning for sign, meaning in _MEANINGS if sign in text), refused).format(text))
