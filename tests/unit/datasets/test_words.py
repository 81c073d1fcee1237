"""Which words mean which class, and which spellings mean one subject."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leuk_ray.cli.data_messages import prepare_text
from leuk_ray.datasets.classes import BINARY, ClassSet
from leuk_ray.datasets.layouts import LayoutOptions, read_layout
from leuk_ray.datasets.words import ClassChoice, read_labels, subject_key, unify_subjects
from leuk_ray.utils.errors import UserError


def table(tmp_path: Path, labels: list[str], subjects: list[str] | None = None) -> Path:
    place = tmp_path / "cells.csv"
    subjects = subjects or [""] * len(labels)
    rows = [f"{n}.png,{one},{two}" for n, (one, two) in enumerate(zip(labels, subjects))]  # noqa: B905
    place.write_text("\n".join(["path,label,subject", *rows]))
    return place


@pytest.mark.parametrize(
    ("labels", "positive", "expected"),
    [
        (["ALL", "hem", ""], None, [1, 0, None]),
        (["All", "Healthy", "unknown"], None, [1, 0, None]),
        (["1.0", "0.0", "NaN", "nan"], None, [1, 0, None, None]),  # a column as pandas writes it
        (["ALL", "normal", "NaN", "NA", "None", "-"], "ALL", [1, 0, None, None, None, None]),
        (["1", "0", "0"], "0", [0, 1, 1]),  # numbers are codes, which --positive names
    ],
)
def test_words_have_the_class_that_they_mean(tmp_path: Path, labels, positive, expected):
    options = LayoutOptions.parse(positive=positive)
    catalogue = read_layout("csv", table(tmp_path, labels), options)
    assert [row["label"] for row in catalogue.rows] == expected
    assert [row["word"] for row in catalogue.rows] == labels
    assert catalogue.classes == BINARY


@pytest.mark.parametrize(
    ("labels", "options", "classes", "positive", "expected"),
    [
        (["pre", "early", "benign", "?"], {}, "benign early pre", "", [2, 1, 0, None]),
        (["pre", "early", "benign"], {"positive": "pre,early"}, "benign early pre", "early pre",
         [2, 1, 0]),
        (["pre", "early", "benign"], {"positive": "pre,early", "binary": True}, "healthy ALL",
         "ALL", [1, 1, 0]),
        (["pre", "early", "benign"], {"classes": "pre,early,benign", "ordered": True},
         "pre early benign", "", [0, 1, 2]),
        (["pre", "early", "benign"], {"classes": "pre,early", "positive": "pre"}, "early pre",
         "pre", [1, 0]),
        (["m10", "m2", "m1"], {}, "m1 m2 m10", "", [2, 1, 0]),  # natural order
        (["2", "1", "1"], {"positive": "2"}, "1 2", "2", [1, 0, 0]),
        (["ALL", "hem", "Größe 3"], {}, "ALL Größe\u00a03 hem", "", [0, 2, 1]),
    ],
)  # fmt: skip
def test_other_words_are_classes(tmp_path: Path, labels, options, classes, positive, expected):
    catalogue = read_layout("csv", table(tmp_path, labels), LayoutOptions.parse(**options))
    names = tuple(name.replace("\u00a0", " ") for name in classes.split(" "))
    assert catalogue.classes.names == names
    assert catalogue.classes.positive == tuple(positive.split())
    assert [row["label"] for row in catalogue.rows] == expected
    assert len(catalogue.rows) + len(catalogue.skipped) == len(labels)
    assert {item.reason for item in catalogue.skipped} <= {"class"}


@pytest.mark.parametrize(
    ("labels", "positive", "words"),
    [
        (["ALL", "all", "hem"], "ALL", r"ALL \(1\), all \(1\) differ by case alone"),
        (["1", "1.0", "0"], "1", r"1 \(1\), 1.0 \(1\) are spellings of one word; write them alike"),
        (
            ["early pre", "early  pre", "hem"],
            "early pre",
            r"early  pre \(1\), early pre \(1\) are sp",
        ),
        (["ALL", "hem", "hem"], "Al", r"--positive Al: .*there are ALL \(1\), hem \(2\); did you"),
        (["ALL", "hem"], "blast", "no image of .* has this label"),
        (["blst", "hem"], "hem", "'hem' in .* means healthy"),
        (["ALL", "AML"], "AML", "'ALL' in .* means ALL, and is left out"),
        (["ALL", "hem", "NaN"], "NaN", "means that the label is unknown"),
        (["blst", "monocyte"], None, r"which of blst \(1\), monocyte \(1\) is the positive class"),
        (["blst", "blst"], None, r"the only class is blst \(2\)"),
        (["ALL", "hem", "blst"], None, r"blst \(1\) is close to the known word blast; correct it"),
        (["a", "b", "lympho blast"], "lympho, blast", "no image of .* has this label"),
        (["a", "b", "Abstain"], None, "'Abstain': is what an unanswered cell is called"),
        (["a", "b", "c" * 101], None, "names have 1 to 100 printable characters"),
        ([f"class {n}" for n in range(101)], None, "101 classes: 2 to 100 are supported"),
        (["a", "b", "c"], "a,b,c", "every class is positive"),
    ],
)
def test_words_whose_class_is_in_doubt_are_refused(tmp_path: Path, labels, positive, words):
    with pytest.raises(UserError, match=words) as told:
        read_layout("csv", table(tmp_path, labels), LayoutOptions.parse(positive=positive))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("classes", "positive", "words"),
    [
        (
            "a",
            "",
            r"--classes a: is one class, and two or more are needed; .* has a \(1\)",
        ),
        ("a,b", "c", "--positive c: is not among --classes a,b; add it there"),
        ("a,b", "a,b", "which of a .* is the positive class"),
    ],
)
def test_classes_that_are_too_few_say_which_option(tmp_path: Path, classes, positive, words):
    options = LayoutOptions.parse(classes=classes, positive=positive or None)
    with pytest.raises(UserError, match=words):
        read_layout("csv", table(tmp_path, ["a", "b", "c"]), options)


def test_options_that_a_layout_does_not_take_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"--positive, .*: are for folders and csv"):
        read_layout("c-nmc", tmp_path, LayoutOptions.parse(positive="ALL"))
    with pytest.raises(UserError, match="--columns: is for csv"):
        read_layout("folders", tmp_path, LayoutOptions.parse(columns="label=x"))


WORDS = st.dictionaries(st.text(max_size=6), st.integers(1, 9), max_size=8)


@given(WORDS, st.lists(st.text(min_size=1, max_size=6), max_size=3), st.booleans())
def test_every_word_gets_one_class_or_the_whole_is_refused(counts, positive, binary):
    try:
        choice = ClassChoice(positive=tuple(positive), binary=binary)
        classes, labels = read_labels(counts, choice, "cells.csv")
    except UserError:
        return
    assert set(labels) == set(counts)
    assert {label for label in labels.values() if label is not None} <= {*range(len(classes))}
    for word in positive:
        label = labels[word]
        assert label is not None
        assert classes.is_positive[label]


@pytest.mark.parametrize(
    "spellings",
    [
        ["7", "007", "7.0", " 7", "07.00", "+7", "+07.0", "\uff17", "\u00a07", "\u0667"],
        ["H7", "h7", "H07", "\uff28\uff17"],
        ["Anna  B", "anna b", "Anna\u00a0B"],
    ],
)
def test_spellings_of_one_subject_are_one(tmp_path: Path, spellings: list[str]):
    labels = ["ALL"] * len(spellings)
    catalogue = read_layout("csv", table(tmp_path, labels, spellings))
    assert {row["subject"] for row in catalogue.rows} == {min(spellings, key=len).strip()}
    assert catalogue.spellings


def test_other_subjects_stay_apart_and_unknown_ones_are_none(tmp_path: Path):
    subjects = ["7", "70", "H7", "7a", "1.5", "007x", "-7", "A+7", "7+", "7-1"]
    unknown = ["nan", "None", "NA", "\uff2e\uff21", "", "unknown"]
    rows = read_layout("csv", table(tmp_path, ["ALL"] * 16, [*subjects, *unknown])).rows
    assert [row["subject"] for row in rows] == [
        *subjects, None, None, None, None, None, None,
    ]  # fmt: skip


def test_folders_of_one_subject_are_one(tmp_path: Path):
    for name in ("ALL/P7/1.png", "healthy/p07/2.png", "healthy/unknown/3.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    rows = read_layout("folders", tmp_path).rows
    assert [row["subject"] for row in rows] == ["P7", "P7", None]


SUBJECTS = st.one_of(
    st.none(),
    st.text(max_size=8),
    st.from_regex(r"[ ]{0,1}[HhPp]?0{0,3}[0-9]{1,3}(\.0{1,2})?", fullmatch=True),
)
WIDE = str.maketrans({chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)})


@given(st.integers(0, 9999), st.sampled_from(["", "+"]), st.integers(0, 3), st.integers(0, 2))
def test_a_number_is_one_subject_however_it_is_written(number, sign, zeros, decimals):
    text = f"{sign}{'0' * zeros}{number}{'.' * bool(decimals)}{'0' * decimals}"
    for written in (text, text.translate(WIDE), f" {text}\u3000"):
        assert subject_key(written) == str(number)


@given(st.lists(SUBJECTS, max_size=12))
def test_writing_subjects_in_one_way_is_idempotent_and_joins_equal_keys_alone(subjects):
    names, several = unify_subjects(subjects)
    assert unify_subjects(names) == (names, {})
    for one, name in zip(subjects, names, strict=True):
        assert subject_key(name) == subject_key(one)
        assert (name is None) == (subject_key(one) is None)
    by_key: dict[str | None, set[str | None]] = {}
    for one, name in zip(subjects, names, strict=True):
        by_key.setdefault(subject_key(one), set()).add(name)
    assert all(len(found) == 1 for found in by_key.values())
    assert set(several) <= set(names)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((5, 3), None),
        ((5, 0), "no cell is healthy: the dataset can be audited, and a bundle evaluated on it,"),
        ((0, 3), "no cell is ALL: the dataset can be audited, and a bundle evaluated on it, but"),
        ((0, 0), "no cell is labelled: the dataset can be audited but not split or trained"),
    ],
)
def test_a_dataset_without_a_class_is_told_what_it_is_for(counts: tuple[int, int], expected):
    manifest = {
        "counts": dict.fromkeys(
            ("files", "rows", "rejected", "skipped", "unlabelled", "subjects",
             "rows_without_subject", "groups"), 0
        ) | {"classes": dict(zip(BINARY.names[::-1], counts, strict=True)), "reasons": {}},
        "labels": [], "subject_spellings": {},
        "classes": BINARY.names, "positive": BINARY.positive, "ordered": False,
    }  # fmt: skip
    told = prepare_text(Path("d"), manifest, {"unknown_patients": "", "error": "none"})
    assert ("warning" in told) == (expected is not None)
    assert expected is None or expected in told


def test_classes_may_name_one_that_no_image_has(tmp_path: Path):
    """A test set may lack a class of the bundle; a typing error is no such class."""
    options = LayoutOptions.parse("mono,eos,blast", positive="blast")
    for layout, root in (
        ("csv", table(tmp_path, ["eos", "mono", "eos", "junk"])),
        ("folders", tmp_path / "lab"),
    ):
        for name in ("mono", "eos", "junk"):
            (tmp_path / "lab" / name).mkdir(parents=True, exist_ok=True)
            (tmp_path / "lab" / name / "1.png").touch()
        found = read_layout(layout, root, options)
        assert found.classes == ClassSet(("mono", "eos", "blast"), ("blast",))
        assert {row["label"] for row in found.rows} == {0, 1}
        assert [item.reason for item in found.skipped] == ["class"]
    for names, told in (
        ("mono,eos,jnk", "--classes jnk: no image .* did you mean junk"),
        ("Mono,eos,blast", "--classes Mono: .* did you mean mono"),
        ("blast,plasma", "--classes blast,plasma: no image of .* has one of these labels"),
    ):
        with pytest.raises(UserError, match=told):
            read_layout("csv", table(tmp_path, ["eos", "mono", "junk"]), LayoutOptions.parse(names))


def test_the_order_of_classes_is_printed_and_many_are_cut():
    names = [f"type {n}" for n in range(60)]
    manifest = {
        "counts": dict.fromkeys(
            ("files", "rows", "rejected", "skipped", "unlabelled", "subjects",
             "rows_without_subject", "groups"), 0
        ) | {"classes": dict.fromkeys(names, 3) | {"type 7": 0}, "reasons": {}},
        "labels": [{"word": name, "class": name, "rows": 3} for name in names],
        "subject_spellings": {}, "classes": names, "positive": ["type 1"], "ordered": False,
    }  # fmt: skip
    told = prepare_text(Path("d"), manifest, {"unknown_patients": "", "error": "none"})
    assert "classes in this order: type 0, type 1 (positive), type 2" in told
    assert "no cell is type 7: the dataset can be audited, and a bundle evaluated on it" in told
    assert max(map(len, told.splitlines())) < 250
    assert told.count("and 52 more") == 3
