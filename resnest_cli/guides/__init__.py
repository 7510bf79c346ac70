"""The manual: a page of Markdown for each job."""

from importlib.resources import files

# As people meet them: photos, answers, own classes, what goes round them, and why.
PAGES = [
    *("predict", "inputs", "sort", "xmp", "features", "search", "cluster"),
    *("data", "check", "labels", "finetune", "train", "recipes", "teacher", "unknown"),
    *("distributed", "shards"),
    *("evaluate", "explain", "export", "models", "library", "speed", "development"),
]


def read(page: str) -> str:
    """The Markdown of one of `PAGES`."""
    return files("resnest_cli").joinpath("guides", f"{page}.md").read_text(encoding="utf-8")
