"""Answers for image files: what is asked for, what is written, what a kill leaves."""

import os
from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from leuk_ray.cli.main import cli
from leuk_ray.cli.messages import predict_table_text, predict_text
from leuk_ray.inference.answers import Answers, part_of
from leuk_ray.inference.classifier import Classifier
from leuk_ray.inference.files import find_images
from leuk_ray.inference.naming import name_subjects
from leuk_ray.inference.predictions import Prediction
from leuk_ray.utils.errors import UserError
from leuk_ray.workflows.predict import predict_files, predict_to_table
from tests.support.serving_bundles import cells, encode, write_small_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_small_bundle(tmp_path_factory.mktemp("bundles") / "small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Nine images of three subjects and a file that is none."""
    folder = tmp_path_factory.mktemp("images")
    for number, pixels in enumerate(cells(9)):
        place = folder / f"subject{number % 3}" / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(encode(pixels))
    (folder / "subject0" / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_files_folders_and_patterns_name_images(folder: Path):
    one = folder / "subject1" / "1.png"
    (alone,) = find_images([one]).files
    assert (alone.named, alone.path, alone.size) == (("1.png", one), "1.png", one.stat().st_size)
    assert len(find_images([folder]).files) == 10
    assert find_images([folder]).left_out == {"suffix": 1}
    assert [file.name for file in find_images([folder / "subject1" / "*.png"]).files] == [
        "1.png", "4.png", "7.png",
    ]  # fmt: skip
    found = find_images([folder / "sub*" / "*0*.png"])
    assert [file.named for file in found.files] == [
        ("subject0/0.png", folder / "subject0" / "0.png")
    ]
    assert found.left_out == {}
    with pytest.raises(UserError, match="no such file, nor a folder"):
        find_images([folder / "*.bmp"])


def test_answers_are_those_of_one_image_at_a_time(bundle: Path, folder: Path):
    classifier = Classifier.load(bundle)
    files = [file.named for file in find_images([folder]).files]
    answers = classifier.predict(files)
    for (name, place), answer in zip(files, answers, strict=True):
        (alone,) = classifier.predict([(name, Path(place).read_bytes())])
        assert answer.name == alone.name == name
        if isinstance(alone, Prediction):
            assert isinstance(answer, Prediction)
            assert answer.probability == pytest.approx(alone.probability, abs=1e-5)
        else:
            assert answer == alone


def test_a_table_has_a_row_an_image_and_a_table_of_subjects(
    bundle: Path, folder: Path, tmp_path: Path
):
    out = tmp_path / "answers.csv"
    values = predict_to_table(bundle, [folder], out, subject="^(subject[0-9])/")
    table = pacsv.read_csv(out)
    assert values["images"] == len(table) == 10
    assert values["labels"]["failed"] == 1
    assert sum(values["labels"].values()) == 10
    failed = [row for row in table.to_pylist() if row["error"]]
    assert [row["name"] for row in failed] == ["subject0/broken.png"]
    assert table["path"].to_pylist() == table["name"].to_pylist()
    assert values["without_subject"] == {"images": 0, "first": []}
    subjects = pacsv.read_csv(values["subjects_out"]).to_pylist()
    assert [row["subject"] for row in subjects] == ["subject0", "subject1", "subject2"]
    assert [row["cells"] for row in subjects] == [4, 3, 3]
    for row in subjects:
        labels = [r["label"] for r in table.to_pylist() if r["name"].startswith(row["subject"])]
        assert row["called_positive"] == labels.count("ALL")
    assert not list(tmp_path.glob("*.parts"))


def test_spellings_of_one_subject_are_counted_once_and_said():
    subjects, spellings = name_subjects(["001/a.png", "1/b.png", "2/c.png"], "^([^/]+)/")
    assert subjects == ["1", "1", "2"]
    assert spellings == {"1": ["001"]}


def test_a_stopped_job_goes_on_and_scores_nothing_twice(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch
):
    whole = tmp_path / "whole.parquet"
    predict_to_table(bundle, [folder], whole)
    out = tmp_path / "answers.parquet"
    found = find_images([folder]).files
    files = [file.named for file in found]
    begun = Answers(out, bundle, found, resume=False)
    done = [1, 2, 5]
    begun.add(part_of(done, Classifier.load(bundle).predict([files[i] for i in done])))
    with pytest.raises(UserError, match="add --resume"):
        predict_to_table(bundle, [folder], out)
    with pytest.raises(UserError, match="other images"):
        predict_to_table(bundle, [folder / "subject1"], out, resume=True)
    scored: list[str] = []

    predict = Classifier.predict

    def watch(classifier, some):
        scored.extend(name for name, _ in some)
        return predict(classifier, some)

    monkeypatch.setattr(Classifier, "predict", watch)
    predict_to_table(bundle, [folder], out, resume=True)
    assert scored == [name for i, (name, _) in enumerate(files) if i not in done]
    ours, theirs = pq.read_table(out).to_pydict(), pq.read_table(whole).to_pydict()
    assert ours.pop("probability") == pytest.approx(theirs.pop("probability"), abs=1e-5)
    assert ours == theirs
    with pytest.raises(UserError, match="never overwritten"):
        predict_to_table(bundle, [folder], out, resume=True)


def test_mistakes_are_told_before_anything_is_scored(bundle: Path, folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"\.csv or \.parquet"):
        predict_to_table(bundle, [folder], tmp_path / "answers.txt")
    with pytest.raises(UserError, match="needs one group"):
        predict_to_table(bundle, [folder], tmp_path / "a.csv", subject="subject[0-9]")
    with pytest.raises(UserError, match="no regular expression"):
        predict_to_table(bundle, [folder], tmp_path / "a.csv", subject="(")
    with pytest.raises(UserError, match=r"names a subject in none of 10 images.*as subject0/0"):
        predict_to_table(bundle, [folder], tmp_path / "a.csv", subject="(UID_[0-9]+)")
    with pytest.raises(UserError, match="--resume: is for tables"):
        predict_files(bundle, [folder], resume=True, subject=None)
    assert not list(tmp_path.iterdir())


def test_images_of_one_name_in_two_folders_are_told_apart(
    bundle: Path, tmp_path: Path, monkeypatch
):
    """Whatever is typed: files, their folders, or from inside one of them; no file counts twice."""
    for pixels, place in zip(cells(3), ("P1/1.png", "P2/1.png", "P2/x.png"), strict=True):
        (tmp_path / "in" / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / place).write_bytes(encode(pixels))
    one, two = tmp_path / "in" / "P1", tmp_path / "in" / "P2"
    monkeypatch.chdir(one)
    for number, given in enumerate(
        ([one / "1.png", two / "1.png", two / "x.png"], [one, two], [Path("1.png"), Path("../P2")])
    ):
        out = tmp_path / f"{number}.csv"
        values = predict_to_table(bundle, given, out, subject="^(P[0-9])/")
        table = pacsv.read_csv(out).to_pylist()
        assert [row["name"] for row in table] == ["1.png", "1.png", "x.png"]
        assert [row["path"] for row in table] == ["P1/1.png", "P2/1.png", "P2/x.png"]
        subjects = pacsv.read_csv(values["subjects_out"]).to_pylist()
        assert [(row["subject"], row["cells"]) for row in subjects] == [("P1", 1), ("P2", 2)]
    told = predict_files(bundle, [one, two, two / "1.png"])
    assert [item["path"] for item in told["predictions"]] == ["P1/1.png", "P2/1.png", "P2/x.png"]
    assert told["left_out"] == {"given twice": 1}
    assert "P2/1.png: " in predict_text(told)
    assert "1 other file left out: 1 given twice" in predict_text(told)


def test_images_without_a_subject_are_named_and_belong_to_none(bundle: Path, tmp_path: Path):
    """C-NMC's own names, whose healthy subject H3 is once written h3."""
    names = ("UID_1_1_1_all", "UID_H3_1_1_hem", "UID_h3_2_1_hem", "UID_3_1_1_all", "holiday")
    for pixels, name in zip(cells(5), names, strict=True):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.png").write_bytes(encode(pixels))
    values = predict_to_table(bundle, [tmp_path / "in"], tmp_path / "a.csv", subject="c-nmc")
    subjects = pacsv.read_csv(values["subjects_out"]).to_pylist()
    assert [(str(row["subject"]), row["cells"]) for row in subjects] == [
        ("1", 1), ("3", 1), ("H3", 2),
    ]  # fmt: skip
    assert values["subjects"] == 3
    assert values["without_subject"] == {"images": 1, "first": ["holiday.png"]}
    assert "1 image without a subject, in none of its rows: holiday.png" in predict_table_text(
        values
    )
    own = predict_to_table(bundle, [tmp_path / "in"], tmp_path / "b.csv", subject="UID_([^_]+)_")
    assert own["subjects"] == 3
    (tmp_path / "c-subjects.csv").touch()
    with pytest.raises(UserError, match=r"table of subjects is never overwritten"):
        predict_to_table(bundle, [tmp_path / "in"], tmp_path / "c.csv", subject="c-nmc")


def test_a_job_goes_on_with_its_own_images_alone(bundle: Path, tmp_path: Path):
    """The same names in another folder, or changed files, are other images."""
    pictures = cells(4)
    for folder, own in (("one", pictures[:2]), ("two", pictures[2:])):
        (tmp_path / folder).mkdir()
        for number, pixels in enumerate(own):
            (tmp_path / folder / f"{number}.png").write_bytes(encode(pixels))
    out = tmp_path / "a.csv"
    Answers(out, bundle, find_images([tmp_path / "one"]).files, resume=False)
    with pytest.raises(UserError, match="begun with other images"):
        predict_to_table(bundle, [tmp_path / "two"], out, resume=True)
    changed = tmp_path / "one" / "0.png"
    before = changed.stat()
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(UserError, match="these have changed since"):
        predict_to_table(bundle, [tmp_path / "one"], out, resume=True)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    other = write_small_bundle(tmp_path / "other", threshold=0.4)
    with pytest.raises(UserError, match="begun with another bundle"):
        predict_to_table(other, [tmp_path / "one"], out, resume=True)
    assert predict_to_table(bundle, [tmp_path / "one"], out, resume=True)["images"] == 2


def test_hidden_and_unreadable_names_are_left_out_with_a_count(bundle: Path, tmp_path: Path):
    (tmp_path / "1.png").write_bytes(encode(cells(1)[0]))
    (tmp_path / ".Trash-1000").mkdir()
    (tmp_path / ".Trash-1000" / "1.png").touch()
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")).touch()
    (tmp_path / "up").symlink_to(tmp_path)
    told = predict_files(bundle, [tmp_path])
    assert [item["path"] for item in told["predictions"]] == ["1.png"]
    assert told["left_out"] == {"hidden": 1, "name": 1, "link": 1}


def test_images_that_all_fail_are_an_error_and_leave_nothing(
    bundle: Path, folder: Path, tmp_path: Path
):
    broken, out = [folder / "subject0" / "broken.png"], tmp_path / "answers.csv"
    with pytest.raises(UserError, match=r"broken\.png: not_an_image: .*none of 1 image could be"):
        predict_files(bundle, broken)
    with pytest.raises(UserError, match="none of 1 image could be scored, and nothing was written"):
        predict_to_table(bundle, broken, out)
    assert list(tmp_path.iterdir()) == []


def test_files_that_cannot_be_read_are_answers_with_their_reason_and_counted(
    bundle: Path, tmp_path: Path
):
    """Nobody waits for a pipe either."""
    folder, out = tmp_path / "cells", tmp_path / "answers.csv"
    folder.mkdir()
    (folder / "cell.png").write_bytes(encode(cells(1)[0]))
    os.mkfifo(folder / "pipe.png")
    (folder / "link.png").symlink_to("gone.png")
    told = predict_files(bundle, [folder])
    assert [item.get("error") for item in told["predictions"]] == [
        None,
        "unreadable: is a link to gone.png: No such file or directory",
        "unreadable: is a pipe, a device or a folder, not a file",
    ]
    last = "2 of 3 images could not be scored"
    assert predict_text(told).splitlines()[-1] == last
    assert predict_table_text(predict_to_table(bundle, [folder], out)).splitlines()[-1] == last
    done = CliRunner().invoke(cli, ["predict", str(bundle), str(folder)])
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, last), done.stderr


def test_names_that_a_spreadsheet_would_run_are_quoted_in_csv_alone(bundle: Path, tmp_path: Path):
    (folder := tmp_path / "images").mkdir()
    names = ["=cmd|' C'!A0.png", "+1.png", "-1.png", "@sum.png", "\tx.png", "plain=1.png"]
    for name in names:
        (folder / name).write_bytes(encode(cells(1)[0]))
    (folder / "loop").symlink_to(folder)
    Path(os.fsdecode(os.fsencode(folder) + b"/h\xe9.png")).write_bytes(encode(cells(1)[0]))
    values = predict_to_table(bundle, [folder], tmp_path / "t.csv", subject="^(.)")
    predict_to_table(bundle, [folder], tmp_path / "t.parquet")
    assert values["images"] == len(names), "a linked folder's images are no more images"
    assert values["left_out"]["name"] >= 1, "a name that is not UTF-8"
    for column in ("name", "path"):
        assert pq.read_table(tmp_path / "t.parquet")[column].to_pylist() == sorted(names)
        read = pacsv.read_csv(tmp_path / "t.csv")[column].to_pylist()
        assert read == [name if name[0] == "p" else f"'{name}" for name in sorted(names)]
    subjects = pacsv.read_csv(tmp_path / "t-subjects.csv")["subject"].to_pylist()
    assert not [name for name in subjects if name[0] in "=+-@\t"]


def test_a_job_killed_at_its_very_start_can_be_started_again(bundle: Path, folder, tmp_path: Path):
    (tmp_path / "t.csv.parts").mkdir()
    assert predict_to_table(bundle, [folder], tmp_path / "t.csv")["images"] == 10
