"""Errors of the library of Hugging Face in loading a data set: the cause in one line, and what to do about it.

Its errors wrap each other: the one that arrives may say no more than that another occurred, and the line that names the
cause may come after an empty one.
"""

import os
import re
from collections.abc import Iterator

__all__ = ["explained"]

# Names of exceptions, and parts of messages, with what helps.
_HINTS = {
    "OfflineModeIsEnabled": "HF_HUB_OFFLINE is set, and the data set is not in the cache: unset it, or load it once "
    "with a connection",
    "GatedRepoError|gated": "accept its terms at https://huggingface.co/datasets/{path}, then log in by "
    "`hf auth login` or set HF_TOKEN",
    "RevisionNotFoundError": "data.revision takes a branch, a tag or a commit of it",
    "RepositoryNotFoundError|doesn't exist on the Hub": "look for the name at https://huggingface.co/datasets; of a "
    "private one, log in by `hf auth login` or set HF_TOKEN",
    "scripts are no longer supported|trust_remote_code": "it is a program, which is not run: most have a copy in "
    "parquet, data.revision=refs/convert/parquet, or another name on the hub",
    "Config name is missing|BuilderConfig": "name one by data.config=",
    "Unknown split|Bad split|corresponds to no data": "name one by data.split_train= and data.split_test=",
    "LocalEntryNotFoundError|ConnectionError|Couldn't reach|MaxRetryError|Name or service not known|timed out": "there "
    "is no connection to it and it is not in the cache; files on this machine are read by data=file data.path=...",
    "No space left|Errno 28": "the cache has no room: set HF_HOME to another disk",
}


def explained(error: BaseException, path: str) -> str:
    """The messages of an error and of its causes in one line, with what helps if that is known.

    Args:
        error: The error.
        path: Name of the data set.
    """
    chain = list(_causes(error))
    texts: list[str] = []
    for each in chain:
        text = _message(each)
        # A wrapper says that there was an error, and a repetition nothing new.
        if text and not re.match("An error occurred while generating", text) and not any(text in t for t in texts):
            texts.append(text)
    texts = texts or [type(error).__name__]
    told = "; ".join([texts[0], *texts[1:][-1:]])
    searched = " ".join([*(type(each).__name__ for each in chain), *texts])
    hint = next((hint for pattern, hint in _HINTS.items() if re.search(pattern, searched)), None)
    return told if hint is None else f"{told.rstrip('.')} ({hint.format(path=path)})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _message(error: BaseException) -> str:
    """A message without examples of code and addresses of requests, in one line of some length."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror} ({os.fspath(error.filename)!s})"
    text = re.split(r"Example of usage|\(Request ID|Traceback", str(error))[0]
    return " ".join(text.split())[:300]
