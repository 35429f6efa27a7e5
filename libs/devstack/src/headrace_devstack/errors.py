"""Errors that keep the embedded stack from running, each named after what the user must do.

Every message says what is wrong, where, and what to do next.
"""


class DevstackError(Exception):
    """Base of all errors of the embedded stack; ``str()`` is a complete message for the user."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n  What to do: {remedy}")
        self.problem = problem
        self.remedy = remedy


class FreeThePort(DevstackError):
    """Another process listens on a port that a part of the stack needs."""


class GoOnline(DevstackError):
    """Files of the first start are missing and could not be downloaded."""


class CheckTheMirror(DevstackError):
    """A downloaded file does not match the pinned digest."""


class InstallNewerPython(DevstackError):
    """This Python is too old."""


class FreeDiskSpace(DevstackError):
    """The disk under the data or cache folder is too full to start."""


class UpgradeHeadrace(DevstackError):
    """The data folder was written by a newer version of Headrace."""


class StopTheOtherStack(DevstackError):
    """Another ``headrace up`` runs on the same data folder."""


class CorrectTheSetting(DevstackError):
    """A setting of the stack has an unusable value."""


class KeepTheBrokers(DevstackError):
    """The data folder has data of another number of Kafka brokers."""


class ProvisionByHand(DevstackError):
    """Topics or schemas could not be created, and retrying would not help."""


class ReadThePartLog(DevstackError):
    """A part of the stack ended or did not become healthy in time; its log says why."""
