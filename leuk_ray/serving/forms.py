"""What a request may hold: named files and a subject; nothing that is sent is passed over."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from leuk_ray.datasets.images import BadImageError
from leuk_ray.serving.errors import Problem
from leuk_ray.serving.settings import Limits

FILE, SUBJECT = "file", "subject"
_NAME_LENGTH = 200
_CHARSETS = (b"utf-8", b"us-ascii", b"iso-8859-1")


def check_query(request: Request, known: Collection[str]) -> None:
    """Raise a Problem for a query parameter that is not known, or is given twice."""
    _check_names("query parameter", request.query_params.keys(), known)
    given = [name for name, _ in request.query_params.multi_items()]
    if twice := [name for name in known if given.count(name) > 1]:
        raise Problem(422, "query", f"the query parameter `{twice[0]}` is given twice")


async def read_body(request: Request, limits: Limits) -> tuple[list[tuple[str, bytes]], str | None]:
    """Named files and the subject, from a form or from a body that is an image itself.

    Raises:
        Problem: no file, a part under another name, or one that is not of its kind.
    """
    content_type, parameters = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        return [("image", await request.body())], None
    charset = parameters.get(b"charset", b"utf-8").lower()
    if charset not in _CHARSETS:  # others may be no text encoding at all, as `idna`
        detail = "the form's charset is none of utf-8, us-ascii, iso-8859-1; leave it out"
        raise Problem(415, "charset", detail)
    parser = MultiPartParser(
        request.headers, request.stream(), max_files=limits.files, max_fields=8
    )
    parser.spool_max_size = limits.body_bytes + 1  # in memory: no upload is written to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise Problem(400, "request", error.message) from error
    try:
        _check_names("form part", form.keys(), (FILE, SUBJECT))
        files = []
        for item in form.getlist(FILE):
            if not isinstance(item, UploadFile):
                detail = "a part named `file` is text, no file; curl sends one by -F file=@cell.bmp"
                raise Problem(422, "no_file", detail)
            files.append(((item.filename or "image")[:_NAME_LENGTH], await item.read()))
        subjects = form.getlist(SUBJECT)
    finally:
        await form.close()
    if not files:
        raise Problem(422, "no_file", "the form has no part named `file`")
    return files, _subject(subjects, limits)


def _subject(given: list[UploadFile | str], limits: Limits) -> str | None:
    if not given:
        return None
    subject, *others = given
    if others:
        detail = "`subject` is given twice; send the cells of each in a request of their own"
        raise Problem(422, "subject", detail)
    if isinstance(subject, UploadFile):
        raise Problem(422, "subject", "`subject` is text, no file")
    if len(subject) > limits.subject_length:
        raise Problem(422, "subject", f"`subject` may have {limits.subject_length} characters")
    return subject or None


def _check_names(what: str, given: Iterable[str], known: Collection[str]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean `{near[0]}`?" if near else ""
            there = f"there are {', '.join(known)}" if known else "there is none"
            reason = what.partition(" ")[0]
            raise Problem(422, reason, f"no {what} is called `{name[:50]}`{hint}; {there}")


def no_image(files: Sequence[tuple[str, bytes]], read: Sequence[object]) -> Problem:
    """Return the problem of a request none of whose files can be read; `read` holds why not."""
    bad = [item for item in read if isinstance(item, BadImageError)]
    errors = [
        {"name": name, "error": str(item)} for (name, _), item in zip(files, bad, strict=True)
    ]
    reasons = {item.reason for item in bad}
    status = 415 if reasons <= {"not_an_image", "unsupported_format"} else 422
    detail = str(bad[0]) if len(bad) == 1 else f"none of {len(bad)} files can be classified"
    # Each image was counted by its own reason where it was read.
    return Problem(status, "no_good_image", detail, errors=errors)
