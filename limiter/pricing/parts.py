"""What in a message is no text: images, documents, sound and film, in whatever interface they are written.

A part is told by its own fields and by where it stands (see :mod:`limiter.pricing.sizes`), never by host or path, so
that an interface that is not known is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple


class Part(NamedTuple):
    """One such part. `kind` is image, document, audio, video or text.

    `data` is its content in base64, `where` the field that says where the content is instead, `low`: OpenAI's
    `detail: low`.
    """

    kind: str
    data: str = ""
    where: str = ""
    low: bool = False


#: An object that may be such a part has one of these. Others are passed over at once.
MARKS: Final = frozenset(
    (
        *("audio", "audio_url", "document", "document_url", "file", "fileData", "file_data", "file_id", "file_url"),
        *("image", "image_url", "inlineData", "inline_data", "input_audio", "source", "video", "video_url"),
        *("image_base64", "video_base64"),
    )
)

_IMAGES: Final = frozenset({"image_url", "input_image", "computer_screenshot"})
_FILES: Final = frozenset({"file", "input_file"})
_NAMED: Final = {
    "input_audio": "audio",
    "audio_url": "audio",
    "video_url": "video",
    "input_video": "video",
    "image_base64": "image",
    "video_base64": "video",
    "document_url": "document",
}

#: Documents whose bytes are their text. Others are packed, and may hold more text than bytes.
_TEXTS: Final = frozenset(
    {
        "txt",
        "text",
        "csv",
        "md",
        "html",
        "htm",
        "json",
        "xml",
        "yaml",
        "yml",
        "x-yaml",
        "javascript",
        "x-python",
        "plain",
    }
)
_MEDIA: Final = frozenset({"image", "audio", "video"})


def read_part(node: Mapping[str, Any]) -> Part | None:
    """Return what `node` is, if it is no text."""
    kind = node.get("type")
    if isinstance(kind, str) and (part := _typed(kind, node)) is not None:
        return part
    for name in ("inlineData", "inline_data"):
        if isinstance(inline := node.get(name), dict) and isinstance(data := inline.get("data"), str):
            return Part(_kind(_mime(inline)), data)
    for name in ("fileData", "file_data"):
        if isinstance(kept := node.get(name), dict):
            return Part(_kind(_mime(kept)), where=name)
    return _bedrock(node)


def is_kept_audio(audio: object) -> bool:
    """Whether a message names sound of an earlier answer, which OpenAI keeps."""
    return isinstance(audio, dict) and bool(audio.get("id")) and "data" not in audio


def _typed(kind: str, node: Mapping[str, Any]) -> Part | None:
    """A part that tells its kind, as in the interfaces of OpenAI and Anthropic."""
    if kind in _IMAGES:
        place = node.get("image_url", node)
        low = (place if isinstance(place, dict) else node).get("detail") == "low"
        return _openai("image", place, node, low=low)
    if kind in _NAMED:
        name = kind if kind in node else kind.replace("input_", "") + "_url"
        return _openai(_NAMED[kind], node.get(name), node)
    if kind in _FILES:
        return _openai("document", node.get("file", node), node)
    if kind == "container_upload":
        return Part("document", where="file_id")
    return _anthropic(kind, source) if isinstance(source := node.get("source"), dict) else None


def _openai(kind: str, place: object, node: Mapping[str, Any], *, low: bool = False) -> Part | None:
    """A URL, or an object with one, with data, or with the id of a file."""
    if isinstance(place, str):
        return _addressed(kind, place, "url", low=low)
    if isinstance(place, dict):
        for name in ("url", "file_url", "file_data", "data"):
            if isinstance(address := place.get(name), str):
                if name == "data" and not address.startswith(("http", "data:")):
                    return Part(kind, address)
                return _addressed(kind, address, name, low=low)
    if any(isinstance(holder, dict) and holder.get("file_id") for holder in (place, node)):
        return Part(kind, where="file_id", low=low)
    return None


def _addressed(kind: str, address: str, name: str, *, low: bool) -> Part:
    if not address.startswith("data:"):
        if kind == "audio" and not address.startswith("http"):
            return Part(kind, address)
        return Part(kind, where=name, low=low)
    mime, _, data = address[5:].partition(",")
    told = mime.partition(";")[0].strip().lower()
    if kind == "document" or (told and told.partition("/")[0] != kind):
        kind = _kind(told)  # hosts go by it: Google's takes a PDF where OpenAI's takes an image
    return Part(kind, data, low=low)


def _anthropic(kind: str, source: Mapping[str, Any]) -> Part | None:
    if kind not in ("image", "document"):
        return None
    if isinstance(data := source.get("data"), str) and source.get("type") == "base64":
        return Part(kind if kind == "image" else _kind(str(source.get("media_type"))), data)
    for name in ("url", "file_id"):
        if isinstance(source.get(name), str):
            return Part(kind, where=name)
    return None  # text, or parts of their own


def _bedrock(node: Mapping[str, Any]) -> Part | None:
    for kind in ("image", "document", "video", "audio"):
        holder = node.get(kind)
        if not isinstance(holder, dict) or not isinstance(source := holder.get("source"), dict):
            continue
        if isinstance(data := source.get("bytes"), str):
            return Part("text" if kind == "document" and holder.get("format") in _TEXTS else kind, data)
        if isinstance(source.get("s3Location"), dict):
            return Part(kind, where="s3Location")
    return None


def _mime(holder: Mapping[str, Any]) -> str:
    told = holder.get("mimeType", holder.get("mime_type"))
    return told if isinstance(told, str) else ""


def _kind(mime: str) -> str:
    kind, _, rest = mime.partition("/")
    if kind in _MEDIA:
        return kind
    return "text" if kind == "text" or rest.partition(";")[0] in _TEXTS else "document"
