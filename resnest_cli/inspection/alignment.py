"""How much two photos are the same picture: thumbnails laid over each other, then compared.

One of two copies may be mirrored, scaled, cropped, compressed anew or of other colours. So both are
grey thumbnails; the photo of which the other seems to be a crop is moved and scaled, each axis by
itself, until they fit: a search over a few crops at half the size, then the steps of Lucas and
Kanade (1981) in the form that maximises correlation (Evangelidis and Psarakis 2008), which does not
see brightness and contrast. The similarity is the correlation of what has much detail, in two
bands: large shapes alone are alike in many photos of sky or of plates.

All of it is products of stacks of small matrices: a few thousand pairs in a second on one core.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from resnest_cli.inspection.photo_facts import THUMBNAIL

Float32 = NDArray[np.float32]

LIKELY = 0.8  # correlation of the best crops of two copies, at half the size
_HALF = THUMBNAIL // 2
_CROPS = (0.92, 0.84)  # shares of the side that are tried
_COARSE, _FINE = 5, 4  # steps at half and at full size
_MOST_STEP, _LEAST_SCALE, _MOST_SCALE, _MOST_SHIFT = 0.1, 0.6, 1.1, 0.45  # of half a side: [-1, 1]
_BANDS = ((1, 4), (0, 2))  # blurred so often, less blurred so often
_AT_ONCE = 64  # pairs: more of them leave the processor's cache
_MOST_BENT = 0.22  # logarithm of the two scales' ratio: else one bar fits every other
_SMALL = 1e-3


def similarity(
    thumbnails: NDArray[np.uint8], pairs: NDArray[np.int64], *, likely: float = LIKELY
) -> Float32:
    """Similarities of pairs of grey thumbnails in [-1, 1], float32 (P,), 1 for the same picture.

    `thumbnails` are uint8 (N, THUMBNAIL, THUMBNAIL), `pairs` (P, 2) places among them, quickest
    where neighbours share photos. Pairs get -1 where no crop of half the size correlates by at
    least `likely`: a closer look would cost more, and find nothing.
    """
    found = np.full(len(pairs), -1, np.float32)
    for at in range(0, len(pairs), _AT_ONCE):
        chunk = pairs[at : at + _AT_ONCE]
        photos, places = np.unique(chunk, return_inverse=True)
        used = thumbnails[photos].astype(np.float32)
        found[at : at + _AT_ONCE] = _similarity(used, places.reshape(-1, 2), likely)
    return found


def _similarity(thumbnails: Float32, pairs: NDArray[np.int64], least: float) -> Float32:
    found = np.full(len(pairs), -1, np.float32)
    still, moving, warp, fit = _starts(thumbnails, pairs)
    likely = np.flatnonzero(fit >= least)
    if not len(likely):
        return found
    still, moving, warp = still[likely], moving[likely], warp[likely]
    warp = _fitted(_halved(still), _halved(moving), warp, _COARSE)
    warp = _fitted(_blurred(still), _blurred(moving), warp, _FINE)
    rows, columns, mask = _sampling(warp, THUMBNAIL)
    moved = _sampled(moving, rows, columns)
    bands = [_correlation(_band(still, *b), _band(moved, *b), mask) for b in _BANDS]
    bent = np.abs(np.log(warp[:, 0] / warp[:, 2])) > _MOST_BENT
    found[likely] = np.where(bent, -1, np.mean(bands, axis=0))
    return found


def _starts(
    thumbnails: Float32, pairs: NDArray[np.int64]
) -> tuple[Float32, Float32, Float32, Float32]:
    """Of each pair the one that stays, perhaps mirrored, the one that moves, its first warp (P, 4),
    and how well that fits.
    """
    halves = _halved(thumbnails)
    whole, mirrored, crops = _unit(halves), _unit(halves[..., ::-1]), _crops(halves)
    fits = []  # the first moves, to fit the second or its mirror; or the other way round
    for moves, stays in (pairs.T, pairs.T[::-1]):
        fits += [(crops[moves] @ one[stays, :, None])[..., 0] for one in (whole, mirrored)]
    every = np.concatenate(fits, axis=1)  # (P, 4 K)
    best = every.argmax(axis=1)
    way, crop = np.divmod(best, len(_windows()))
    moves = np.where(way < 2, pairs[:, 0], pairs[:, 1])
    stays = np.where(way < 2, pairs[:, 1], pairs[:, 0])
    mirror = (way % 2 == 1)[:, None, None]
    still = np.where(mirror, thumbnails[stays, :, ::-1], thumbnails[stays])
    fit = np.take_along_axis(every, best[:, None], axis=1)[:, 0]
    return still, thumbnails[moves], _windows()[crop], fit


@cache
def _windows() -> Float32:
    """The whole photo and crops of it as warps (K, 4): scale and shift of x, then of y.

    A pixel at u in [-1, 1] of the photo that stays is that at scale * u + shift of the moved one.
    """
    found = [(1.0, 0.0, 1.0, 0.0)]
    for share in _CROPS:
        shifts = (share - 1, 0.0, 1 - share)
        found += [(share, x, share, y) for x in shifts for y in shifts]
    return np.array(found, np.float32)


@cache
def _crop_sampling() -> tuple[Float32, Float32]:
    rows, columns, _ = _sampling(_windows(), _HALF)
    return rows, columns


def _crops(halves: Float32) -> Float32:
    """All crops of thumbnails of half the size, as unit vectors (P, K, D)."""
    rows, columns = _crop_sampling()
    return _unit(_sampled(halves[:, None], rows, columns))


def _sampling(warp: Float32, size: int) -> tuple[Float32, Float32, Float32]:
    """Matrices that sample pictures as warps (P, 4) say: rows @ picture @ columns, bilinearly.

    (P, size, size) each, and a mask of the pixels that come from inside of the picture.
    """
    place = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    weights, inside = [], []
    for at in (0, 2):
        source = (warp[:, at, None] * place + warp[:, at + 1, None] + 1) / 2 * size - 0.5
        inside.append((source > -0.75) & (source < size - 0.25))
        source = np.clip(source, 0, size - 1)[..., None]
        weights.append(np.maximum(0, 1 - np.abs(source - np.arange(size, dtype=np.float32))))
    mask = inside[1][:, :, None] & inside[0][:, None, :]
    return weights[1], weights[0].transpose(0, 2, 1), mask.astype(np.float32)


def _sampled(pictures: Float32, rows: Float32, columns: Float32) -> Float32:
    """rows @ picture @ columns, of each picture."""
    return np.asarray(rows @ pictures @ columns, np.float32)


def _fitted(still: Float32, moving: Float32, warp: Float32, steps: int) -> Float32:
    """Better warps (P, 4), by Gauss-Newton steps on the correlation of pictures (P, S, S)."""
    pairs, size, _ = still.shape
    place = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    ridge = np.eye(4, dtype=np.float32)
    for _ in range(steps):
        rows, columns, mask = _sampling(warp, size)
        moved = _sampled(moving, rows, columns)
        down, across = np.gradient(moved, np.float32(2 / size), axis=(1, 2))
        across /= warp[:, 0, None, None]  # of the picture, not of the warped one
        down /= warp[:, 2, None, None]
        # Unit vectors of the pixels inside, and how the moved one changes with each number.
        target, _ = _normalised(still, mask)
        there, length = _normalised(moved, mask)
        slopes = np.stack((place * across, across, place[:, None] * down, down), axis=1)
        slopes = _centred(slopes, mask[:, None]) / length[:, None]
        slopes = slopes.reshape(pairs, 4, -1)
        there, target = there.reshape(pairs, -1, 1), target.reshape(pairs, -1, 1)
        slopes -= (slopes @ there) * there.transpose(0, 2, 1)
        square = slopes @ slopes.transpose(0, 2, 1)
        damping = _SMALL * np.trace(square, axis1=1, axis2=2) / 4 + _SMALL**2
        step = np.linalg.solve(square + damping[:, None, None] * ridge, slopes @ (target - there))
        warp = warp + np.clip(step[..., 0], -_MOST_STEP, _MOST_STEP)
        warp[:, 0::2] = np.clip(warp[:, 0::2], _LEAST_SCALE, _MOST_SCALE)
        warp[:, 1::2] = np.clip(warp[:, 1::2], -_MOST_SHIFT, _MOST_SHIFT)
    return warp


def _centred(pictures: Float32, mask: Float32) -> Float32:
    """The pictures less their mean inside the mask, 0 outside."""
    count = np.maximum(mask.sum((-2, -1), keepdims=True), 1)
    mean: Float32 = (pictures * mask).sum((-2, -1), keepdims=True) / count
    return (pictures - mean) * mask


def _normalised(pictures: Float32, mask: Float32) -> tuple[Float32, Float32]:
    """The same of length 1, and the length that they had, (P, 1, 1)."""
    found = _centred(pictures, mask)
    length = np.sqrt(np.square(found).sum((-2, -1), keepdims=True)) + np.float32(_SMALL)
    return found / length, length


def _correlation(first: Float32, second: Float32, mask: Float32) -> Float32:
    """Correlations of pairs of pictures inside their masks, (P,)."""
    found: Float32 = (_normalised(first, mask)[0] * _normalised(second, mask)[0]).sum((-2, -1))
    return found


def _unit(pictures: Float32) -> Float32:
    """Pictures (..., S, S) as vectors (..., S * S) of mean 0 and length 1."""
    flat = pictures.reshape(*pictures.shape[:-2], -1)
    flat = flat - flat.mean(-1, keepdims=True)
    length = np.linalg.norm(flat, axis=-1, keepdims=True).astype(np.float32)
    found: Float32 = flat / (length + np.float32(_SMALL))
    return found


def _halved(thumbnails: Float32) -> Float32:
    shape = len(thumbnails), _HALF, 2, _HALF, 2
    found: Float32 = thumbnails.reshape(shape).mean((2, 4))
    return found


def _blurred(thumbnails: Float32, times: int = 1) -> Float32:
    """Thumbnails under a Gaussian of one pixel, so many times over."""
    if not times:
        return thumbnails
    return _sampled(thumbnails, _blur(times), _blur(times).T)


def _band(thumbnails: Float32, fine: int, coarse: int) -> Float32:
    """What is lost between being blurred `fine` and `coarse` times."""
    return _blurred(thumbnails, fine) - _blurred(thumbnails, coarse)


@cache
def _blur(times: int) -> Float32:
    """The matrix that blurs a column; at the edges, the last pixel goes on."""
    reach = np.arange(-3, 4)
    weights = np.exp(-(reach**2) / 2)
    once = np.zeros((THUMBNAIL, THUMBNAIL), np.float32)
    for row in range(THUMBNAIL):
        sources = np.clip(row + reach, 0, THUMBNAIL - 1)
        np.add.at(once[row], sources, (weights / weights.sum()).astype(np.float32))
    return np.linalg.matrix_power(once, times)
