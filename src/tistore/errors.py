"""
Every error tistore raises on purpose, cut by what a caller would do about it.

    TistoreError                      exit 1
    ├── ConfigError                   exit 2   mend the config or the arguments
    ├── DatasetError                           mend the prompt set or the scenarios
    │   └── ForeignFileError                   leave the file out, or write it anew
    ├── StoreError
    │   ├── StoreNotFoundError                 create it, or mend the path
    │   ├── StoreExistsError                   open it instead
    │   ├── NotAStoreError                     the path holds something else
    │   ├── FormatVersionError                 install a newer tistore
    │   ├── NoRoomError               exit 5   free space, then run the same command again
    │   │   └── NoMemoryError         exit 5   give it more memory, then the same
    │   ├── ReadOnlyError                      mend the permissions, or copy the store
    │   ├── DeviceError                        the disk failed: look after it, then verify
    │   ├── TooManyFilesError                  raise the limit: ulimit -n
    │   ├── UnsafePlaceError                   write to another file system
    │   └── RewriteConflictError               run the same command again
    ├── IntegrityError                exit 4   committed bytes are missing or altered
    ├── InvalidRecordError                     the record breaks a rule; nothing was written
    │   ├── NonFiniteError                     the model produced NaN or infinity
    │   └── KeyConflictError                   the key is committed with other content
    ├── NotStoredError                         no such reading, layer or component here
    ├── FitError                               give the method other rows, or take another method
    ├── JudgeError                             mend the address, key or model of the judge
    ├── ChoiceError                            name the vector, or add what tells which is best
    ├── QueryError
    │   ├── SqlError                           mend the SQL
    │   ├── UnknownVectorError                 add or extract the vector, or mend its name
    │   ├── AmbiguousVectorError               name it more fully
    │   ├── VectorMismatchError                the vector and the data do not belong together
    │   ├── PairingError                       leave those pairs out, or ask for them by name
    │   └── ReadBudgetError                    narrow the query, or raise the budget
    └── CaptureError
        ├── ModelLoadError                     mend the base or adapter
        ├── SiteNotFoundError                  the model has no such layer or component
        ├── SiteNotReachedError                a forward pass did not run through the site
        ├── HeadError                          capture without the head: no logit lens then
        ├── ParityError                        a batch gives other states than its sequences alone
        └── PartialRunError           exit 6   stopped early; run the same command again
            └── InterruptedRunError   exit 130
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class TistoreError(Exception):
    """
    Something expected went wrong.

    Args:
        message: What happened, where and why.
        mend: What to do about it; shown on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, mend: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        """Join what happened and what mends it."""
        return f"{self.message}\n  {self.mend}" if self.mend else self.message


class ConfigError(TistoreError):
    """A configuration or an argument makes no sense."""

    exit_code = 2


class DatasetError(TistoreError):
    """A prompt set, a trait folder or a text cannot be used as it is."""


class ForeignFileError(DatasetError):
    """A file of another tool's is damaged, hostile or unknown; nothing in it was run."""


class StoreError(TistoreError):
    """The store cannot be opened, created or written."""


class StoreNotFoundError(StoreError):
    """No store lies at the path."""


class StoreExistsError(StoreError):
    """A store already lies at the path."""


class NotAStoreError(StoreError):
    """The path holds something that is not a store."""


class FormatVersionError(StoreError):
    """The store was written in a format this version does not know."""


class NoRoomError(StoreError):
    """The disk is full or would be; everything committed is intact."""

    exit_code = 5


class NoMemoryError(NoRoomError):
    """Memory ran out during a commit; everything committed is intact."""


class ReadOnlyError(StoreError):
    """The place of the store does not let this user write, or read."""


class DeviceError(StoreError):
    """The disk failed to read or write; nothing was acknowledged, and nothing is tried again."""


class TooManyFilesError(StoreError):
    """The process, or the machine, may not open more files."""


class UnsafePlaceError(StoreError):
    """The file system does not keep one writer from replacing what another has written."""


class RewriteConflictError(StoreError):
    """Another process has replaced or removed the same in the meantime."""


class IntegrityError(TistoreError):
    """Committed bytes are missing or altered."""

    exit_code = 4


class InvalidRecordError(TistoreError):
    """A record breaks a rule of the store; nothing of it was written."""


class NonFiniteError(InvalidRecordError):
    """Activations hold NaN or infinity."""


class KeyConflictError(InvalidRecordError):
    """The key is already committed with other content."""


class NotStoredError(TistoreError):
    """The store holds no such reading, layer or component."""


class FitError(TistoreError):
    """The rows give no direction by that method."""


class JudgeError(TistoreError):
    """A judge's endpoint refuses what it is asked, or does not answer."""


class ChoiceError(TistoreError):
    """Nothing tells which of a trait's vectors is the best."""


class QueryError(TistoreError):
    """A question cannot be answered as it was put."""


class SqlError(QueryError):
    """The SQL is malformed, refused, or failed while it ran."""


class UnknownVectorError(QueryError):
    """No vector answers to the reference."""


class AmbiguousVectorError(QueryError):
    """Several vectors answer to the reference."""


class VectorMismatchError(QueryError):
    """The vector's width, model, layer or component is not the data's."""


class PairingError(QueryError):
    """The readings of a difference differ in precision, template or tokenizer."""


class ReadBudgetError(QueryError):
    """The query would read more than its budget allows."""


class CaptureError(TistoreError):
    """A model cannot be read as asked."""


class ModelLoadError(CaptureError):
    """A base model or an adapter cannot be loaded."""


class SiteNotFoundError(CaptureError):
    """A site names no module of the model."""


class SiteNotReachedError(CaptureError):
    """A forward pass ended without running through a site's module."""


class ParityError(CaptureError):
    """Two readings of the same tokens by the same model differ by more than rounding."""


class HeadError(CaptureError):
    """A model's final norm and unembedding cannot be read, or do not give its logits."""


class PartialRunError(CaptureError):
    """A run stopped before its end; what was acknowledged is committed."""

    exit_code = 6


class InterruptedRunError(PartialRunError):
    """A run was interrupted from the keyboard."""

    exit_code = 130


def nearest(name: str, known: Iterable[str]) -> str:
    """Phrase what the caller may have meant: the closest known name, or all of them."""
    names = sorted(set(known))
    if close := get_close_matches(name, names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    if not names:
        return "there are none"
    shown = ", ".join(names[:12])
    return f"there are: {shown}" + (f" and {len(names) - 12} more" if len(names) > 12 else "")
