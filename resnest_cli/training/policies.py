"""The notation of augmentation policies, as timm has it. No torch."""


def parse_aa(text: str) -> tuple[int, int] | str | None:
    """ "none", "auto", "trivial" as they are, "rand-m9-n2" as (magnitude, operations); else None.

    The magnitude lies in 0 to 30, torchvision's bins; magnitude 9 and two operations unless said.
    """
    if text in {"none", "auto", "trivial"}:
        return text
    first, *parts = text.split("-")
    values = {"m": 9, "n": 2}
    for part in parts:
        if part[:1] not in values or not part[1:].isdecimal():
            return None
        values[part[0]] = int(part[1:])
    if first != "rand" or values["m"] > 30 or not 1 <= values["n"] <= 10:
        return None
    return values["m"], values["n"]
