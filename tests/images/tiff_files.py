"""The smallest TIFF writer: tags and strips as they are given, whatever they mean together."""

import struct

TYPES = {"B": 1, "H": 3, "I": 4, "f": 11, "d": 12, "Q": 16}


def tiff(
    size: tuple[int, int],
    strips: list[bytes],
    tags: dict[int, object],
    *,
    order: str = "<",
    rows: int | None = None,
    big: bool = False,
) -> bytes:
    """A TIFF of one page. Values of `tags` are numbers (shorts), or (code, values)."""
    width, height = size
    head = 16 if big else 8
    places = [head + sum(map(len, strips[:at])) for at in range(len(strips))]
    entries: dict[int, tuple[str, tuple[float, ...]]] = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        259: ("H", (1,)),
        273: ("I", tuple(places)),
        278: ("I", (rows or height,)),
        279: ("I", tuple(map(len, strips))),
    }
    for tag, value in tags.items():
        entries[tag] = value if isinstance(value, tuple) else ("H", (value,))  # type: ignore[assignment]
    word = "Q" if big else "I"
    inline = struct.calcsize(word)
    data = b"".join(strips)
    start = head + len(data)
    count = struct.pack(order + ("Q" if big else "H"), len(entries))
    behind = start + len(count) + len(entries) * (4 + 2 * inline) + inline
    directory, tail = count, b""
    for tag, (code, values) in sorted(entries.items()):
        content = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(content) > inline:
            place = struct.pack(order + word, behind + len(tail))
            tail += content
        else:
            place = content.ljust(inline, b"\0")
        directory += struct.pack(f"{order}HH{word}", tag, TYPES[code], len(values)) + place
    magic = struct.pack(order + "HHH", 43, 8, 0) if big else struct.pack(order + "H", 42)
    header = (b"II" if order == "<" else b"MM") + magic + struct.pack(order + word, start)
    return header + data + directory + struct.pack(order + word, 0) + tail


def packed(rows: list[list[int]], bits: int, *, reversed_bits: bool = False) -> bytes:
    """Integers of so many bits, the high ones first, each row in whole bytes."""
    content = b""
    for row in rows:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        content += int(text, 2).to_bytes(len(text) // 8, "big")
    if reversed_bits:
        content = bytes(int(f"{byte:08b}"[::-1], 2) for byte in content)
    return content
