"""What can keep the embedded stack from running, each error named by what the person at the keyboard must do.

Every message has three parts: what is wrong, where, and what to do next.
"""


class DevstackError(Exception):
    """Base of all errors of the embedded stack; ``str()`` is a complete message for a person."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(f"{problem}\n  What to do: {remedy}")
        self.problem = problem
        self.remedy = remedy


class FreeThePort(DevstackError):
    """Another process listens on a port that a part of the stack needs."""


class GoOnline(DevstackError):
    """Files of the first start are missing and could not be downloaded."""


class CheckTheMirror(DevstackError):
    """A downloaded file is not the one that was pinned."""


class InstallNewerPython(DevstackError):
    """This Python is too old."""


class FreeDiskSpace(DevstackError):
    """The disk under the data or cache folder is too full to start."""


class UpgradeHeadrace(DevstackError):
    """The data folder was written by a newer version of Headrace."""


class StopTheOtherStack(DevstackError):
    """Another ``headrace up`` runs on the same data folder."""


class CorrectTheSetting(DevstackError):
    """A setting of the stack has a value that cannot be used."""


class ProvisionByHand(DevstackError):
    """Topics or schemas could not be created, and trying again would not help."""


class ReadThePartLog(DevstackError):
    """A part of the stack ended or did not become healthy in time; its log says why."""
