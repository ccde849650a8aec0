"""What can go wrong, as one tree.

    OptsearchError
    ├── UsageError            asked for something that can't be done (exit status 2)
    │   ├── DesignError       a part, field or named design that doesn't exist or doesn't fit
    │   ├── TaskError         an unknown task, or a module or dataset that can't be one
    │   ├── SpaceError        a search space's file, row or range
    │   └── StudyError        a study that exists, doesn't exist, or has changed
    └── FailureError          something broke (exit status 1)
        ├── FileError         a file that is damaged, foreign, missing or can't be written
        ├── StorageError      a database that is locked, read-only or not ours
        ├── TrialError        a trial that died or couldn't be finished
        └── CompileError      a function that couldn't be compiled here

Every message says what came, what was expected and what to do.
"""


class OptsearchError(Exception):
    """Base of everything that optsearch raises on purpose."""

    exit_status = 1


class UsageError(OptsearchError):
    """Something was asked for that can't be done as asked."""

    exit_status = 2


class DesignError(UsageError):
    """A part, a field or a named design does not exist or does not fit."""


class TaskError(UsageError):
    """A task is unknown, or a module or a dataset can't be made into one."""


class SpaceError(UsageError):
    """A search space has an unknown name, an empty range or a row that can't be reached."""


class StudyError(UsageError):
    """A study exists already, does not exist, or no longer fits its space."""


class FailureError(OptsearchError):
    """Something broke that was asked for rightly."""


class FileError(FailureError):
    """A file is damaged, foreign, missing or can't be written."""


class StorageError(FailureError):
    """A database is locked, read-only, full or not one of ours."""


class TrialError(FailureError):
    """A trial died or could not be finished."""


class CompileError(FailureError):
    """A function could not be compiled on this machine."""
