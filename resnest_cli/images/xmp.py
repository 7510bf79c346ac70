"""Keywords in XMP: the bytes of a sidecar -> the same bytes with other keywords.

    sidecar             which file belongs to a photo
    Keywords            what shall stand in it
    begun, packet_in    a new sidecar, with the keywords that the photo itself holds
    merged              old bytes -> new bytes

Nothing is written anew that is there: expat says where elements stand, and only items of lists are
taken out or put in. So whatever others keep there survives to the byte: their keywords in their
order, unknown namespaces, comments, processing instructions, the packet's wrapper. Libraries of XML
and of XMP (lxml, python-xmp-toolkit) parse and write all of it, and so change what they keep.

Programs read the first of these lists that they find: digiKam and Immich digiKam:TagsList, then
lr:hierarchicalSubject; darktable lr:hierarchicalSubject, then dc:subject; Lightroom and PhotoPrism
dc:subject. So a keyword goes into both of the usual ones, and into TagsList where there is one; and
a hierarchicalSubject that begins here has the keywords of dc:subject first, which it would hide.
What was put there is listed under a namespace of ours, so that the next answer can replace it.

A document type is refused, and with it every entity that a file may define. Sources: ISO 16684-1
(XMP); what those programs read, such as `getTagList` in Immich.
"""

import codecs
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Literal
from xml.parsers import expat

from resnest_cli.text import one_line

SidecarName = Literal["x.jpg.xmp", "x.xmp"]

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_NAMESPACES = {
    "dc": "http://purl.org/dc/elements/1.1/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "resnest": "resnest-cli:ns:xmp/1.0/",
}
_SUBJECT, _HIERARCHY, _TAGS = "dc:subject", "lr:hierarchicalSubject", "digiKam:TagsList"
# Ours: what was put into the first two lists, then the classes behind it. All are lists, too: a
# single value may become an attribute when another program writes the file. No name is that of a
# tag of exiftool, whose users, Immich among them, may look at the name alone: "model" is a camera.
_OUR_SUBJECT, _OUR_HIERARCHY = "resnest:addedSubject", "resnest:addedHierarchy"
_LABELS, _PROBABILITIES = "resnest:classLabels", "resnest:classProbabilities"
_MODEL, _PHOTO = "resnest:classifier", "resnest:classifiedPhoto"
_KINDS = {f"{_RDF} {name}" for name in ("Bag", "Seq", "Alt")}
_SEQUENCES = {_TAGS, _LABELS, _PROBABILITIES}  # the others are bags
_LISTS = {
    f"{_NAMESPACES[name.partition(':')[0]]} {name.partition(':')[2]}": name
    for name in (
        _SUBJECT, _HIERARCHY, _TAGS, _OUR_SUBJECT, _OUR_HIERARCHY, _LABELS, _PROBABILITIES, _MODEL,
        _PHOTO,
    )
}  # fmt: skip
_TAG = re.compile(rb"<([^\s/>]+)(?:[^>\"']++|\"[^\"]*+\"|'[^']*+')*+>")
_END = b"</x:xmpmeta>"
_NEW = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="resnest-cli">\n'
    f' <rdf:RDF xmlns:rdf="{_RDF}">\n </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>\n'
).encode()


class XmpError(ValueError):
    """A file that is no XMP, or holds keywords in a form that XMP does not have."""


DAMAGE = (XmpError, expat.ExpatError)  # what `merged` raises


@dataclass(frozen=True, slots=True)
class Keywords:
    """Classes of a photo: `labels` with their probabilities in [0, 1], most probable first.

    `parent` is where they hang in a hierarchy: "AI|animals", or empty. `photo` is the photo's name
    if several photos might share the sidecar.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    model: str
    parent: str = ""
    photo: str = ""

    def lists(self) -> dict[str, list[str]]:
        """The three lists that programs read, and those behind them."""
        words = list(dict.fromkeys(filter(None, map(one_line, self.labels))))
        path = self.parent.split("|") if self.parent else []
        levels = [[*path, word.replace("|", "-")] for word in words]
        return {
            _SUBJECT: words,
            _HIERARCHY: ["|".join(names) for names in levels],
            _TAGS: ["/".join(name.replace("/", "-") for name in names) for names in levels],
            _LABELS: [one_line(label) for label in self.labels],
            _PROBABILITIES: [f"{share:.4f}" for share in self.probabilities],
            _MODEL: [one_line(self.model)] if words else [],
            _PHOTO: [one_line(self.photo)] if words and self.photo else [],
        }


def sidecar(photo: str, name: SidecarName) -> Path:
    """Where the sidecar of a photo lies: dog.jpg.xmp or dog.xmp beside dog.jpg."""
    path = Path(photo)
    return path.with_suffix(".xmp") if name == "x.xmp" else path.with_name(path.name + ".xmp")


def packet_in(photo: str) -> bytes | None:
    """The XMP inside a photo, which lies there as plain text in most formats; None of none.

    Raises:
        OSError: the photo cannot be read.
    """
    with open(photo, "rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as data:  # noqa: PTH123
        start = data.find(b"<x:xmpmeta")
        end = data.find(_END, start)
        return data[start : end + len(_END)] if 0 <= start < end else None


def begun(packet: bytes | None) -> bytes:
    """A sidecar with nothing but the keywords of the XMP packet inside a photo.

    Programs take keywords from the sidecar once there is one. A packet that cannot be understood
    counts as none.
    """
    try:
        lists = _lists(_rdf(packet)) if packet else {}
    except DAMAGE:
        lists = {}
    held = {name: _texts(lists[name]) for name in (_SUBJECT, _HIERARCHY, _TAGS) if name in lists}
    return _spliced(_NEW, _begin_lists(_NEW, _rdf(_NEW), held))


def photo_of(data: bytes) -> str:
    """The photo whose classes a sidecar holds, as far as that was noted; see `Keywords.photo`."""
    return next(iter(_texts(_lists(_rdf(data)).get(_PHOTO))), "")


def merged(data: bytes, keywords: Keywords) -> bytes:
    """A sidecar with these keywords in place of our earlier ones; the same bytes if it has them.

    Raises:
        XmpError, ExpatError: the file is damaged or is not understood; see `DAMAGE`.
    """
    rdf = _rdf(data)
    lists = _lists(rdf)
    held = {name: _texts(bag) for name, bag in lists.items()}
    wanted = keywords.lists()
    # What of each list is ours; TagsList may have been made of the hierarchy by another program.
    ours = {_SUBJECT: held.get(_OUR_SUBJECT, []), _HIERARCHY: held.get(_OUR_HIERARCHY, [])}
    if _TAGS in held:
        ours[_TAGS] = [path.replace("/", "-").replace("|", "/") for path in ours[_HIERARCHY]]
    else:
        del wanted[_TAGS]
    if wanted[_SUBJECT] and _HIERARCHY not in held:  # it would hide what dc:subject holds
        held[_HIERARCHY] = [word for word in held.get(_SUBJECT, ()) if word not in ours[_SUBJECT]]
        ours[_HIERARCHY] = []
    for name, before in ours.items():
        gone = set(before) - set(wanted[name])
        kept = [word for word in held.get(name, ()) if word not in gone]
        others = {word for word in kept if word not in before}
        put = [word for word in wanted[name] if word not in others]
        if name != _TAGS:
            wanted[_OUR_SUBJECT if name == _SUBJECT else _OUR_HIERARCHY] = put
        wanted[name] = kept + [word for word in put if word not in kept]
    edits = _begin_lists(data, rdf, {name: wanted[name] for name in wanted if name not in lists})
    for name in wanted.keys() & lists.keys():
        edits += _change_list(data, lists[name], wanted[name])
    return _spliced(data, edits)


# Where things stand


@dataclass(slots=True)
class _Element:
    """`data[start:opened]` is its start tag, and `data[closed:end]` its end tag; empty of <x/>."""

    name: str
    attributes: dict[str, str]
    start: int
    opened: int
    closed: int = 0
    end: int = 0
    text: str = ""
    children: "list[_Element]" = field(default_factory=list)


def _parsed(data: bytes) -> _Element:
    """The elements of a document; the names in them are "namespace name"."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in data[:4]:
        raise XmpError("it is not in UTF-8")
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    stack = [_Element("", {}, 0, 0)]

    def declared(_version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.lower() not in {"utf-8", "utf8", "us-ascii"}:
            raise XmpError(f"it is in {encoding}, not in UTF-8")

    def refused(*_: object) -> None:
        raise XmpError("it has a document type, which XMP has not")

    def begin(name: str, attributes: dict[str, str]) -> None:
        start = parser.CurrentByteIndex
        tag = _TAG.match(data, start)
        assert tag is not None, "expat has read a tag here"
        stack[-1].children.append(_Element(name, attributes, start, tag.end()))
        stack.append(stack[-1].children[-1])

    def text(part: str) -> None:
        stack[-1].text += part

    def end(_name: str) -> None:
        element = stack.pop()
        element.closed = element.end = element.opened
        if data[element.opened - 2 : element.opened] != b"/>":
            element.closed = parser.CurrentByteIndex
            element.end = data.index(b">", element.closed) + 1

    parser.XmlDeclHandler, parser.StartDoctypeDeclHandler = declared, refused
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    parser.CharacterDataHandler = text
    parser.Parse(data, True)
    return stack[0].children[0]


def _rdf(data: bytes) -> _Element:
    """The element rdf:RDF, which is the root or stands right below it."""
    root = _parsed(data)
    for element in (root, *root.children):
        if element.name == f"{_RDF} RDF":
            return element
    raise XmpError("it is XML, but no XMP")


def _descriptions(rdf: _Element) -> list[_Element]:
    return [element for element in rdf.children if element.name == f"{_RDF} Description"]


def _lists(rdf: _Element) -> dict[str, _Element]:
    """The bags, or sequences, of the properties that concern us."""
    found: dict[str, _Element] = {}
    for description in _descriptions(rdf):
        for name in filter(_LISTS.get, description.attributes):
            raise XmpError(f"its {_LISTS[name]} is no list")
        for element in description.children:
            if (name := _LISTS.get(element.name, "")) == "":
                continue
            if [one.name in _KINDS for one in element.children] != [True]:
                raise XmpError(f"its {name} is no list")
            if name in found:
                raise XmpError(f"it has {name} twice")
            found[name] = element.children[0]
    return found


def _texts(bag: _Element | None) -> list[str]:
    return [] if bag is None else [item.text for item in bag.children]


# What is changed: (from, to, new bytes)

_Edit = tuple[int, int, bytes]


def _spliced(data: bytes, edits: Iterable[_Edit]) -> bytes:
    parts, at = [], 0
    for start, end, new in sorted(edits, key=lambda edit: edit[:2]):
        parts += [data[at:start], new]
        at = end
    return b"".join((*parts, data[at:]))


def _change_list(data: bytes, bag: _Element, texts: list[str]) -> list[_Edit]:
    """Takes items out of a list that are not among the texts, and adds those that it lacks."""
    if (there := _texts(bag)) == texts:
        return []
    kept = [text for text in there if text in texts]
    if kept != texts[: len(kept)]:
        kept = []
    edits, before, at = list[_Edit](), b"", bag.opened
    for item in bag.children:
        between = data[at : item.start]
        before = between[len(between.rstrip()) :]
        if item.text not in kept:
            edits.append((item.start - len(before), item.end, b""))
        at = item.end
    prefix = _prefix(data, bag)
    new = b"".join(before + _item(prefix, text) for text in texts[len(kept) :])
    return [*edits, _appended(data, bag, new)]


def _begin_lists(data: bytes, rdf: _Element, lists: Mapping[str, list[str]]) -> list[_Edit]:
    """Adds those lists that are not empty, in a description of their own."""
    lists = {name: texts for name, texts in lists.items() if texts}
    if not lists:
        return []
    prefixes = dict.fromkeys(name.partition(":")[0] for name in lists)
    spaces = {f"xmlns:{prefix}": _NAMESPACES[prefix] for prefix in prefixes}
    if _prefix(data, rdf) != b"rdf:":
        spaces["xmlns:rdf"] = _RDF
    attributes = [one.attributes for one in _descriptions(rdf)]
    about = attributes[0].get(f"{_RDF} about", attributes[0].get("about")) if attributes else ""
    lines = [f'  <rdf:Description rdf:about="{escape(about or "")}"']
    lines += [f'    {name}="{space}"' for name, space in spaces.items()]
    lines[-1] += ">"
    for name, texts in lists.items():
        kind = "rdf:Seq" if name in _SEQUENCES else "rdf:Bag"
        items = [f"     {_item(b'rdf:', text).decode()}" for text in texts]
        lines += [f"   <{name}>", f"    <{kind}>", *items, f"    </{kind}>", f"   </{name}>"]
    return [_appended(data, rdf, "\n".join(("", *lines, "  </rdf:Description>")).encode())]


def _appended(data: bytes, element: _Element, new: bytes) -> _Edit:
    """Puts something behind the last child of an element."""
    if element.closed == element.end:
        tag = _TAG.match(data, element.start)
        assert tag is not None
        return element.end - 2, element.end, b">" + new + b"</" + tag[1] + b">" if new else b"/>"
    at = element.children[-1].end if element.children else element.opened
    return at, at, new


def _prefix(data: bytes, element: _Element) -> bytes:
    """What stands before the name in a tag, such as b"rdf:"."""
    tag = _TAG.match(data, element.start)
    assert tag is not None
    before, colon, _ = tag[1].rpartition(b":")
    return before + colon


def _item(prefix: bytes, text: str) -> bytes:
    return b"<%bli>%b</%bli>" % (prefix, escape(text, quote=False).encode(), prefix)
