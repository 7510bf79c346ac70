"""Where an epoch is cut into batches, for one device or for several."""

from itertools import pairwise


def batch_bounds(photos: int, batch_size: int) -> list[tuple[int, int]]:
    """First and last + 1 of each batch; a last batch of one joins the one before.

    Batch norm cannot learn from a single photo (the split attention sees 1 x 1 maps).
    """
    bounds = [(at, min(at + batch_size, photos)) for at in range(0, photos, batch_size)]
    if len(bounds) > 1 and batch_size > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        bounds[-2:] = [(bounds[-2][0], photos)]
    return bounds


def rank_bounds(
    photos: int, batch_size: int, *, ranks: int, accumulated: int = 1
) -> list[tuple[int, int]]:
    """The batches of an epoch for so many devices: the first of each, the second of each, ...

    The same batches as for one device that adds up the gradients of `ranks` times `accumulated` of
    them, but that a smaller last step is dealt out evenly, so that every device has as many
    batches. No batch has a single photo: what is too little for that joins the step before.

    `photos` are at least 2 * `ranks`.
    """
    if ranks == 1:
        return batch_bounds(photos, batch_size)
    step = ranks * accumulated * batch_size
    whole = photos // step * step
    if 0 < photos - whole < 2 * ranks and whole:
        whole -= step
    bounds = [(at, at + batch_size) for at in range(0, whole, batch_size)]
    rest = photos - whole
    if rest:
        each = min(-(-rest // (ranks * batch_size)), accumulated, rest // (2 * ranks))
        parts = ranks * max(1, each)
        cuts = [whole + rest * part // parts for part in range(parts + 1)]
        bounds += list(pairwise(cuts))
    return bounds
