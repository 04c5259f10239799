"""One exception tree; every class knows its exit code, and every message says what, where and the cure."""

from __future__ import annotations


class MrfastError(Exception):
    """Base of all errors that mrfast raises on purpose; `str()` is one clear line, or a few."""

    exit_code = 1


class UsageError(MrfastError):
    """A bad option or a combination of options that cannot work."""

    exit_code = 2


class AppError(UsageError):
    """The application file is missing, does not load, lacks `reduce`, or names something unusable."""


class ParamMissing(AppError):
    """The application asks for a parameter that is not given and has no default."""


class AppRefused(UsageError):
    """The coordinator refuses this worker: another app, mrfast version, Python minor version or --param."""


class InputMissing(MrfastError):
    """An INPUT names nothing: no such file, key, prefix, or a glob without a match."""

    exit_code = 3


class OutputExists(MrfastError):
    """The output URL holds another job's result, and --overwrite was not given."""

    exit_code = 3


class NameInUse(MrfastError):
    """The --job NAME belongs to another job of this store already."""

    exit_code = 3


class PortInUse(MrfastError):
    """The coordinator's address is taken by another process."""

    exit_code = 3


class UnknownJob(MrfastError):
    """No job of that name or id is in the store."""

    exit_code = 3


class NoEvents(MrfastError):
    """A job or output has no event log, or not yet: the message says why, and where else to look."""

    exit_code = 3


class UnknownCluster(MrfastError):
    """No cluster of that name in this account and region."""

    exit_code = 3


class JobTaken(MrfastError):
    """Another coordinator has taken this job over: it goes on there."""

    exit_code = 3


class StoreError(MrfastError):
    """The object store refused or could not be reached: credentials, bucket, access, network."""

    exit_code = 4


class CloudError(MrfastError):
    """AWS refused or could not be reached: credentials, permissions, quotas, network."""

    exit_code = 4


class NotFound(StoreError):
    """No object under this key."""


class AlreadyExists(StoreError):
    """put_if_absent found an object under this key; nothing was written."""


class PreconditionFailed(StoreError):
    """The object's ETag is not the one that was asked for; nothing was read or written."""


class DamagedJournal(StoreError):
    """The journal of a job is not what was written: the job cannot be resumed from it."""


class CoordinatorLost(MrfastError):
    """No coordinator answers at the address, it went away for good, or it refused the token."""

    exit_code = 5


class JobFailed(MrfastError):
    """The job ended FAILED: the message has the task, its input and offset, the user's traceback, the task's story.

    Its cause is a UserError, if it was an exception of the user's that failed the job.
    """


class UserError(Exception):
    """The exception of an application in another process, as the text of its traceback: the cause of a JobFailed."""


class BadRecord(MrfastError):
    """The application emitted a key or value that cannot be a record; never retried."""


class BoundPassed(MrfastError):
    """A named bound (key, value, object, partitions, ...) was passed; never retried."""


class BadInput(MrfastError):
    """An input's bytes are not what the app's `input` says (a torn record, malformed JSON, CSV, gzip)."""


class CorruptSegment(MrfastError):
    """Bytes of a map object do not match their checksum, count or format; the map must run again."""

    def __init__(self, object: str, partition: int, offset: int, why: str):
        super().__init__(f"map object {object}: partition {partition}, offset {offset}: {why}")
        self.object = object
        self.partition = partition
        self.offset = offset
        self.why = why

    def __reduce__(self) -> tuple[type[CorruptSegment], tuple[str, int, int, str]]:
        return type(self), (self.object, self.partition, self.offset, self.why)
