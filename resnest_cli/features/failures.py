"""Errors of inputs by kind, for the summary of a run."""

# The beginning of an error's text, as `images` words it, -> what people call it.
_KINDS = (
    ("does not exist", "missing"),
    ("is empty", "empty"),
    ("is truncated", "truncated"),
    ("is damaged", "damaged"),
    ("cannot be read: the decoder crashed", "crashed the decoder"),
    ("cannot be read: decoding took", "timed out"),
    ("cannot be read", "unreadable"),
    ("cannot be fetched", "not fetched"),
    ("is a URL, and --offline", "not fetched"),
    ("is a folder that cannot", "unreadable"),
    ("is a pattern", "matched nothing"),
    ("has ", "too large"),
    ("is larger", "too large"),
    ("is refused", "too large"),
    ("does not fit", "too large"),
    ("is standard input", "unreadable"),
    ("gives no finite", "no finite numbers"),
    ("has values", "beyond float16"),
    ("is ", "not an image"),
)


def kind_of(error: str) -> str:
    """A word or two for an error's text, which goes on after the input's name."""
    if error.startswith("has values"):
        return "beyond float16"
    return next((kind for start, kind in _KINDS if error.startswith(start)), "other")


def summary(failures: dict[str, int]) -> str:
    """The kinds and their numbers, most frequent first: 3 damaged, 1 missing."""
    ranked = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in ranked)
