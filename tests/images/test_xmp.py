"""Keywords in XMP: what others have written stays to the byte, ours follow the answers."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resnest_cli.images.xmp import DAMAGE, Keywords, begun, merged, packet_in, photo_of, sidecar

RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
SUBJECT = "{http://purl.org/dc/elements/1.1/}subject"
HIERARCHY = "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject"
TAGS = "{http://www.digikam.org/ns/1.0/}TagsList"
OURS = "{resnest-cli:ns:xmp/1.0/}"
NOTHING = Keywords((), (), "net")
OTHERS = """<?xpacket begin='\ufeff' id='W5M0MpCehiHzreSzNTczkc9d'?>
<?editor state="open"?>
<!-- kept by hand: <dc:subject> -->
<x:xmpmeta xmlns:x='adobe:ns:meta/' x:xmptk="XMP Core 4.4.0-Exiv2">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about='uuid:7' xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:tool="http://example.org/tool/" tool:a=">" tool:b='"/&gt;'
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/" xmlns:d="http://www.digikam.org/ns/1.0/">
   <dc:subject>
    <!-- family first -->
    <rdf:Bag>
     <rdf:li>family</rdf:li>
     <rdf:li>a &amp; b</rdf:li><!-- between -->
     <rdf:li><![CDATA[<zoo>]]></rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject><rdf:Bag><rdf:li>People|family</rdf:li></rdf:Bag></lr:hierarchicalSubject>
   <d:TagsList>
    <rdf:Seq>
     <rdf:li>People/family</rdf:li>
    </rdf:Seq>
   </d:TagsList>
   <tool:history><rdf:Seq><rdf:li tool:op="sharpen" tool:n="3"/></rdf:Seq></tool:history>
   <tool:part rdf:parseType="Resource"><dc:subject>of a part, no keyword</dc:subject></tool:part>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>

<?xpacket end='w'?>"""


def keywords(*labels: str, **more: str) -> Keywords:
    return Keywords(labels, tuple(0.5 / n for n, _ in enumerate(labels, 1)), "net", **more)


def lists(data: bytes) -> dict[str, list[str]]:
    """The lists of a document, as another reader finds them."""
    found = {}
    for description in ElementTree.fromstring(data.strip()).iter(f"{RDF}Description"):
        for element in description:
            items = element.findall(f"./*/{RDF}li")
            found[element.tag] = ["".join(item.itertext()) for item in items]
    return found


def is_within(old: bytes, new: bytes) -> bool:
    """Whether each tag, comment and text of the old file stands in the new one, in their order."""
    rest = iter(part.strip() for part in re.split(rb"(?=<)", new))
    return all(part.strip() in rest for part in re.split(rb"(?=<)", old))


def test_names() -> None:
    assert sidecar("a/dog.v2.jpg", "x.jpg.xmp") == Path("a/dog.v2.jpg.xmp")
    assert sidecar("a/dog.v2.jpg", "x.xmp") == Path("a/dog.v2.xmp")


def test_a_new_sidecar_has_the_lists_that_programs_read() -> None:
    new = merged(begun(None), Keywords(("dog", "wolf"), (0.91237, 0.05), "net", "AI|animals"))
    assert lists(new) == {
        SUBJECT: ["dog", "wolf"],
        HIERARCHY: ["AI|animals|dog", "AI|animals|wolf"],
        OURS + "addedSubject": ["dog", "wolf"],
        OURS + "addedHierarchy": ["AI|animals|dog", "AI|animals|wolf"],
        OURS + "classLabels": ["dog", "wolf"],
        OURS + "classProbabilities": ["0.9124", "0.0500"],
        OURS + "classifier": ["net"],
    }
    assert new.startswith('<?xpacket begin="\ufeff"'.encode())
    assert begun(None) == merged(begun(None), NOTHING)


@pytest.mark.parametrize("change", ["as it is", "BOM", "CRLF"])
def test_what_others_wrote_stays(change: str) -> None:
    old = OTHERS.encode()
    old = {"BOM": b"\xef\xbb\xbf" + old, "CRLF": old.replace(b"\n", b"\r\n")}.get(change, old)
    before = lists(old)
    new = merged(old, keywords("dog", "family", "cat"))
    assert is_within(old, new)
    after = lists(new)
    assert after[SUBJECT] == ["family", "a & b", "<zoo>", "dog", "cat"]
    assert after[HIERARCHY] == ["People|family", "dog", "family", "cat"]
    assert after[TAGS] == ["People/family", "dog", "family", "cat"]
    assert after[OURS + "addedSubject"] == ["dog", "cat"]  # `family` is not ours to take away
    assert b'<rdf:Description rdf:about="uuid:7"' in new
    assert merged(new, keywords("dog", "family", "cat")) == new

    other = merged(new, keywords("cat", "bird"))
    assert lists(other)[SUBJECT] == ["family", "a & b", "<zoo>", "cat", "bird"]
    assert lists(other)[TAGS] == ["People/family", "cat", "bird"]
    assert lists(other)[OURS + "classLabels"] == ["cat", "bird"]
    none = merged(other, NOTHING)
    assert is_within(old, none)
    assert {name: lists(none)[name] for name in before} == before
    assert merged(none, NOTHING) == none


def test_a_hierarchy_that_begins_does_not_hide_other_keywords() -> None:
    """Immich, digiKam and darktable read the first list that they find."""
    text = OTHERS.replace("lr:hierarchicalSubject", "lr:weightedFlatSubject")
    new = merged(text.encode(), keywords("dog", "family"))
    assert lists(new)[HIERARCHY] == ["family", "a & b", "<zoo>", "dog"]
    assert lists(new)[OURS + "addedHierarchy"] == ["dog"]
    assert lists(merged(new, NOTHING))[HIERARCHY] == ["family", "a & b", "<zoo>"]


def test_our_keywords_are_ours_in_a_list_that_a_program_made_of_them() -> None:
    """Immich writes TagsList, of all that it has read, when somebody adds a tag there."""
    old = merged(begun(None), keywords("dog", parent="AI")).decode()
    old = old.replace("<rdf:Description", f"<rdf:Description xmlns:d='{TAGS[1:-9]}'", 1).replace(
        "<dc:subject>", "<d:TagsList><rdf:Seq><rdf:li>AI/dog</rdf:li><rdf:li>mine</rdf:li>"
        "</rdf:Seq></d:TagsList><dc:subject>", 1,
    )  # fmt: skip
    assert lists(merged(old.encode(), keywords("cat", parent="AI")))[TAGS] == ["mine", "AI/cat"]


@pytest.mark.parametrize(
    ("old", "bag"),
    [
        ("<rdf:Bag/>", "<rdf:Bag><rdf:li>dog</rdf:li></rdf:Bag>"),
        ("<rdf:Seq />", "<rdf:Seq ><rdf:li>dog</rdf:li></rdf:Seq>"),
        ("<rdf:Bag><!-- 0 --></rdf:Bag>", "<rdf:Bag><rdf:li>dog</rdf:li><!-- 0 --></rdf:Bag>"),
        ("<rdf:Alt>\n  <rdf:li>x</rdf:li>\n</rdf:Alt>",
         "<rdf:Alt>\n  <rdf:li>x</rdf:li>\n  <rdf:li>dog</rdf:li>\n</rdf:Alt>"),
    ],
)  # fmt: skip
def test_forms_of_a_list(old: str, bag: str) -> None:
    text = (
        f'<r:RDF xmlns:r="{RDF[1:-1]}"><r:Description r:about="" '
        f'xmlns:q="{SUBJECT[1:-8]}"><q:subject>OLD</q:subject></r:Description></r:RDF>'
    )
    old, bag = old.replace("rdf:", "r:"), bag.replace("rdf:", "r:")
    new = merged(text.replace("OLD", old).encode(), keywords("dog"))
    assert f"<q:subject>{bag}</q:subject>" in new.decode()
    assert lists(new)[HIERARCHY][-1] == "dog"


def test_a_packet_without_properties() -> None:
    empty = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r:RDF xmlns:r="{RDF[1:-1]}"/></x:xmpmeta>'
    assert lists(merged(empty.encode(), keywords("dog")))[SUBJECT] == ["dog"]
    assert merged(empty.encode(), NOTHING) == empty.encode()


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa">'
    + "".join(
        f'<!ENTITY {b} "{f"&{a};" * 10}">' for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    + "]><x>&i;</x>"
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (OTHERS.partition("</x:x")[0], "no element found"),
        (OTHERS.replace("</rdf:Bag>", "</rdf:Seq>"), "mismatched tag"),
        ("no XML", "syntax error"),
        ("<html/>", "no XMP"),
        (BOMB, "document type"),
        ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>', "document type"),
        ('<?xml version="1.0" encoding="ISO-8859-1"?><x/>', "ISO-8859-1, not in UTF-8"),
        (OTHERS.replace("<tool:history>", "<dc:subject/><tool:history>"), "dc:subject is no list"),
        (OTHERS.replace("tool:part rdf", "dc:subject rdf").replace("/tool:part", "/dc:subject"),
         "dc:subject is no list"),
        (OTHERS.replace("tool:a", "dc:subject"), "dc:subject is no list"),
        (OTHERS.replace("<tool:history>", "<dc:subject><rdf:Bag/></dc:subject><tool:history>"),
         "dc:subject twice"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(text: str, why: str) -> None:
    with pytest.raises(DAMAGE, match=why):
        merged(text.encode(), keywords("dog"))


def test_utf_16_is_refused() -> None:
    with pytest.raises(DAMAGE, match="not in UTF-8"):
        merged(OTHERS.encode("utf-16"), keywords("dog"))


def test_odd_labels() -> None:
    odd = keywords("a|b", "c/d", "<&>\"'", "line\nbreak\x01", "\udcff ", "crane", "crane", "犬")
    new = merged(OTHERS.encode(), odd)
    words = ["a|b", "c/d", "<&>\"'", "line break", "crane", "犬"]
    assert lists(new)[SUBJECT][3:] == words
    assert lists(new)[HIERARCHY][1:] == ["a-b", *words[1:]]
    assert lists(new)[TAGS][1:] == ["a-b", "c-d", *words[2:]]
    assert len(lists(new)[OURS + "classLabels"]) == len(odd.labels)
    assert merged(new, odd) == new
    assert lists(merged(new, NOTHING))[TAGS] == ["People/family"]


LABELS = st.lists(st.text(max_size=4) | st.sampled_from(["family", "dog", "<zoo>"]), max_size=4)


@settings(max_examples=60, deadline=None)
@given(st.lists(LABELS, min_size=1, max_size=3))
def test_any_answers_in_turn(answers: list[list[str]]) -> None:
    data = OTHERS.encode()
    for labels in answers:
        data = merged(data, keywords(*labels))
        assert merged(data, keywords(*labels)) == data
        assert lists(data)[SUBJECT][:3] == ["family", "a & b", "<zoo>"]
    assert {name: texts for name, texts in lists(merged(data, NOTHING)).items() if texts} == {
        name: texts for name, texts in lists(OTHERS.encode()).items() if texts
    }


def test_keywords_inside_a_photo_begin_its_sidecar(tmp_path: Path) -> None:
    inside = OTHERS[OTHERS.index("<x:") : OTHERS.index("</x:xmpmeta>") + 12]
    (tmp_path / "a.jpg").write_bytes(b"\xff\xd8...." + inside.encode() + b"\0" * 100)
    packet = packet_in(str(tmp_path / "a.jpg"))
    assert packet == inside.encode()
    new = lists(merged(begun(packet), keywords("dog")))
    assert new[SUBJECT] == ["family", "a & b", "<zoo>", "dog"]
    assert new[TAGS] == ["People/family", "dog"]
    assert "{http://example.org/tool/}history" not in new  # the rest stays with the photo
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8...<x:xmpmeta")
    assert packet_in(str(tmp_path / "b.jpg")) is None
    assert begun(b"<x:xmpmeta ") == begun(None)


def test_the_photo_is_noted_where_several_could_share() -> None:
    assert photo_of(merged(begun(None), keywords("dog", photo="a.jpg"))) == "a.jpg"
    assert photo_of(OTHERS.encode()) == ""


@pytest.mark.skipif(not shutil.which("exiftool"), reason="needs exiftool")
def test_exiftool_reads_it_and_what_it_writes_is_read(tmp_path: Path) -> None:
    def exiftool(*arguments: str) -> str:
        command = ["exiftool", "-charset", "filename=utf8", *arguments, str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    file = tmp_path / "a.jpg.xmp"
    old = OTHERS.replace("<![CDATA[<zoo>]]>", "&lt;zoo&gt;").replace('tool:a=">"', "")
    old = old.replace("d:TagsList", "digiKam:TagsList").replace("xmlns:d=", "xmlns:digiKam=")
    file.write_bytes(merged(old.encode(), Keywords(("dog",), (0.9,), "net", "AI")))
    (found,) = json.loads(exiftool("-json", "-G1", "-xmp:all"))
    assert found["XMP-dc:Subject"] == ["family", "a & b", "<zoo>", "dog"]
    assert found["XMP-lr:HierarchicalSubject"] == ["People|family", "AI|dog"]
    assert found["XMP-digiKam:TagsList"] == ["People/family", "AI/dog"]
    assert found["XMP-resnest:ClassProbabilities"] == 0.9
    (plain,) = json.loads(exiftool("-json"))  # no name of ours hides one of theirs
    assert plain["Subject"] == found["XMP-dc:Subject"]
    assert plain["HierarchicalSubject"] == found["XMP-lr:HierarchicalSubject"]
    assert not {"Model", "Keywords"} & set(plain)

    exiftool("-q", "-overwrite_original", "-XMP-dc:Subject+=late", "-XMP-xmp:Rating=4")
    file.write_bytes(merged(file.read_bytes(), Keywords(("cat",), (0.8,), "net", "AI")))
    (found,) = json.loads(exiftool("-json", "-G1", "-xmp:all"))
    assert found["XMP-dc:Subject"] == ["family", "a & b", "<zoo>", "late", "cat"]
    assert found["XMP-lr:HierarchicalSubject"] == ["People|family", "AI|cat"]
    assert found["XMP-xmp:Rating"] == 4
    file.write_bytes(merged(begun(None), keywords("dog", "cat")))
    assert exiftool("-validate", "-warning", "-s3").split() == ["OK"]
