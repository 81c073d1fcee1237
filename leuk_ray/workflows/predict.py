"""`leuk-ray predict`: answers for image files, here or on Ray, in memory or into a table."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from leuk_ray.bundles.manifest import read_manifest
from leuk_ray.inference.answers import (
    Answers,
    count_labels,
    part_of,
    subjects_table,
    write_subjects,
)
from leuk_ray.inference.challenge import image_numbers, write_challenge
from leuk_ray.inference.files import NamedFile, check_any_scored, find_images
from leuk_ray.inference.naming import name_subjects
from leuk_ray.io.locations import Location
from leuk_ray.io.storage import refuse_existing
from leuk_ray.utils.errors import UserError
from leuk_ray.utils.progress import bar

_HERE = 500  # images that are scored sooner than Ray starts
_PER_PART = 64
_SHOWN = 5  # images without a subject that are named


def predict_to_table(
    bundle: Location,
    images: Sequence[Location],
    out: Location,
    *,
    subject: str | None = None,
    workers: int | None = None,
    gpus: bool = False,
    resume: bool = False,
    challenge: Location | None = None,
    address: str | None = None,
) -> dict[str, Any]:
    """Write a table of answers, one row an image, and one of subjects if asked for.

    Args:
        bundle: that answers.
        images: files, folders and patterns.
        out: the table, .csv or .parquet.
        subject: how a path names its subject: see `naming.name_subjects`.
        workers: actors on Ray; 0 scores in this process. None: 0 up to 500 images, else one
            for each CPU.
        gpus: one for each worker.
        resume: go on with a job that was stopped.
        challenge: archive to write as well, in the format of the C-NMC 2019 challenge.
        address: Ray cluster to join.

    Returns:
        out, images, labels (label -> count), left_out (reason -> files that are no images);
        with `subject` also subjects_out, subjects (how many), patients (see `write_subjects`), and
        without_subject: how many images have none, and the paths of the first.

    Raises:
        UserError: no image, no subject, or a table or parts of another job are there.
    """
    found = find_images(images)
    subjects, spellings = None, {}
    if subject is not None:
        subjects, spellings = name_subjects([file.path for file in found.files], subject)
        refuse_existing(subjects_table(out), "table of subjects")
    if challenge is not None:
        refuse_existing(challenge, "archive of answers")
        if (number := len(read_manifest(bundle).classes)) > 2:
            raise UserError(f"--challenge: knows two classes, and {bundle} has {number}")
        image_numbers([file.name for file in found.files])
    answers = Answers(out, bundle, found.files, resume)
    files = [file.named for file in found.files]
    missing = answers.missing()
    if workers is None:
        workers = 0 if len(missing) <= _HERE and not address else (os.cpu_count() or 1)
    done = len(files) - len(missing)
    with bar("predict: scoring", "image") as progress:
        if missing:
            progress(done, len(files))
        for part in _parts(bundle, files, missing, workers, gpus, address):
            answers.add(part)
            done += len(part)
            progress(done, len(files))
    table = answers.finish()
    values = {"out": str(out), "images": len(table), "labels": count_labels(table)}
    values["left_out"] = found.left_out
    if challenge is not None:
        write_challenge(challenge, table)
        values["challenge"] = str(challenge)
    if subjects is not None:
        nameless = [
            file.path for file, one in zip(found.files, subjects, strict=True) if one is None
        ]
        patients = write_subjects(out, table, subjects, answers.manifest)
        values |= {
            "subjects_out": str(subjects_table(out)),
            "subjects": len(patients),
            "patients": patients,
            "subject_spellings": spellings,
            "without_subject": {"images": len(nameless), "first": nameless[:_SHOWN]},
        }
    return values


def predict_files(
    bundle: Location, images: Sequence[Location], **options: object
) -> dict[str, Any]:
    """Answers in memory, one an image, for a few images: predictions, and left_out as above.

    Raises:
        UserError: no image; more than a few; or an option that is of tables only.
    """
    given = [f"--{name}" for name, value in options.items() if value]
    if given:
        raise UserError(f"{given[0]}: is for tables; add --out answers.csv")
    found = find_images(images)
    if len(found.files) > _HERE:
        raise UserError(f"{len(found.files)} images: more than {_HERE} need --out answers.csv")

    from leuk_ray.inference.classifier import Classifier

    with bar("predict: scoring", "image") as progress:
        files = [file.named for file in found.files]
        answers = Classifier.load(bundle).predict(files, progress)
    predictions = [
        answer.as_dict() | {"path": file.path}
        for answer, file in zip(answers, found.files, strict=True)
    ]
    check_any_scored(predictions)
    return {"predictions": predictions, "left_out": found.left_out}


def _parts(
    bundle: Location,
    files: Sequence[NamedFile],
    numbers: Sequence[int],
    workers: int,
    gpus: bool,
    address: str | None,
) -> Iterator[pa.Table]:
    if not numbers:
        return
    if workers:
        from leuk_ray.cluster import ray_cluster
        from leuk_ray.workflows.pool import answer_on_pool

        ray_cluster.connect(address, num_workers=workers)
        ray_cluster.require(workers, gpus)
        yield from answer_on_pool(bundle, files, numbers, actors=workers, gpus=gpus)
        return
    if gpus:
        raise UserError("--gpus: is for --workers; add --workers 1")

    from leuk_ray.inference.classifier import Classifier

    classifier = Classifier.load(bundle)
    for start in range(0, len(numbers), _PER_PART):
        some = numbers[start : start + _PER_PART]
        answers = classifier.predict([files[number] for number in some])
        yield part_of(some, answers, classifier.manifest.class_set)
