"""What this machine, or its limits for a user, refuse: said in words, with a remedy."""

import errno

REMEDIES = {
    errno.EMFILE: "this process may open no more files (`ulimit -n` says how many). Raise the "
    "limit, such as with `ulimit -n 4096`, or use fewer --workers.",
    errno.ENFILE: "the whole machine may open no more files. End other programs, or use fewer "
    "--workers.",
    errno.EAGAIN: "the system refuses another process or thread (`ulimit -u` and the pids limit of "
    "a container say how many). Raise the limit, or use --workers 0.",
    errno.ENOMEM: "the system refuses more memory. End other programs, or use fewer --workers and "
    "a smaller --batch-size.",
}
# What torch, multiprocessing and Python's threads say in place of a number.
_WORDS = {
    "too many open files": errno.EMFILE,
    "items of ancdata": errno.EMFILE,  # a descriptor that was sent found no place here
    "can't start new thread": errno.EAGAIN,
    "resource temporarily unavailable": errno.EAGAIN,
    "cannot allocate memory": errno.ENOMEM,
}


def limit_reached(error: BaseException | None) -> str | None:
    """Which limit an error, or one that it followed, is about, and what to do; None for others."""
    while error is not None:
        if isinstance(error, OSError):
            if error.errno in REMEDIES:
                return REMEDIES[error.errno]
        elif isinstance(error, RuntimeError):
            text = str(error).lower()
            for words, number in _WORDS.items():
                if words in text:
                    return REMEDIES[number]
        error = error.__cause__ or error.__context__
    return None
