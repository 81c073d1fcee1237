"""Answers for image files: what is asked for, what is written, what a kill leaves."""

from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from leuk_ray import prediction
from leuk_ray.errors import UserError
from leuk_ray.inference.answers import Answers, part_of, summarise
from leuk_ray.inference.classifier import Classifier, Prediction
from leuk_ray.inference.files import answer_files, find_images
from leuk_ray.prediction import predict_files, predict_to_table
from tests.serving_bundles import cells, encode, write_small_bundle


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
    assert find_images([one]) == [("1.png", one)]
    assert len(find_images([folder])) == 10
    assert [name for name, _ in find_images([folder / "subject1" / "*.png"])] == [
        "1.png", "4.png", "7.png",
    ]  # fmt: skip
    found = find_images([folder / "sub*" / "*0*.png"])
    assert [name for name, _ in found] == ["subject0/0.png"]
    assert found[0][1] == folder / "subject0" / "0.png"
    with pytest.raises(UserError, match="no such file, nor a folder"):
        find_images([folder / "*.bmp"])


def test_answers_are_those_of_one_image_at_a_time(bundle: Path, folder: Path):
    classifier = Classifier.load(bundle)
    files = find_images([folder])
    answers = answer_files(classifier, files)
    for (name, place), answer in zip(files, answers, strict=True):
        (alone,) = classifier.predict([(name, place.read_bytes())])
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
    subjects = pacsv.read_csv(values["subjects_out"]).to_pylist()
    assert [row["subject"] for row in subjects] == ["subject0", "subject1", "subject2"]
    assert [row["cells"] for row in subjects] == [4, 3, 3]
    for row in subjects:
        labels = [r["label"] for r in table.to_pylist() if r["name"].startswith(row["subject"])]
        assert row["called_all"] == labels.count("ALL")
    assert not list(tmp_path.glob("*.parts"))


def test_a_stopped_job_goes_on_and_scores_nothing_twice(
    bundle: Path, folder: Path, tmp_path: Path, monkeypatch
):
    whole = tmp_path / "whole.parquet"
    predict_to_table(bundle, [folder], whole)
    out = tmp_path / "answers.parquet"
    files = find_images([folder])
    begun = Answers(out, bundle, [name for name, _ in files], resume=False)
    done = [1, 2, 5]
    begun.add(part_of(done, answer_files(Classifier.load(bundle), [files[i] for i in done])))
    with pytest.raises(UserError, match="add --resume"):
        predict_to_table(bundle, [folder], out)
    with pytest.raises(UserError, match="other images"):
        predict_to_table(bundle, [folder / "subject1"], out, resume=True)
    scored: list[str] = []

    def watch(classifier, some, **_):
        scored.extend(name for name, _ in some)
        return answer_files(classifier, some)

    monkeypatch.setattr(prediction, "answer_files", watch)
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
    with pytest.raises(UserError, match="--resume: is for tables"):
        predict_files(bundle, [folder], resume=True, subject=None)
    assert not list(tmp_path.iterdir())


def test_counts_of_a_subject_leave_out_what_was_not_answered():
    counts = summarise(["ALL", "healthy", "abstain", None, "ALL"])
    assert (counts.cells, counts.answered, counts.called_all) == (5, 3, 2)
    assert counts.share == pytest.approx(2 / 3)
    assert counts.low is not None
    assert counts.high is not None
    assert counts.low < 2 / 3 < counts.high
    assert summarise([None, "abstain"]).share is None
