"""Errors that a user can meet, each with the exit code that the command line gives for it.

A message says what failed, what was given, what is allowed and what to do next. The command line prints it without a
traceback; a library user catches :class:`KitError`.
"""


class KitError(Exception):
    """Something failed that the user can act on (exit code 1)."""

    exit_code = 1


class InputError(KitError):
    """What was given cannot be used: a wrong option, file, label or picture (exit code 2)."""

    exit_code = 2


class CheckFailed(KitError):
    """A check of accuracy, parity or delegate coverage did not pass (exit code 3)."""

    exit_code = 3


class NoDeviceError(KitError):
    """No usable device was found (exit code 4)."""

    exit_code = 4
