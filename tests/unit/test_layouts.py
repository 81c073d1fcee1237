import csv
from pathlib import Path

import pytest

from leuk_ray.datasets.layouts import parse_c_nmc, read_layout
from leuk_ray.errors import UserError

ROOT = "C-NMC_Leukemia"


def training(name: str, folder: str = "all", fold: int = 0) -> str:
    return f"{ROOT}/training_data/fold_{fold}/{folder}/{name}"


def test_training_names_say_everything():
    catalogue = parse_c_nmc([training("UID_H3_7_2_hem.bmp", "hem", 1)], {}, "c-nmc-2019")
    assert catalogue.rows == [
        {
            "uid": "UID_H3_7_2_hem",
            "path": training("UID_H3_7_2_hem.bmp", "hem", 1),
            "label": 0,
            "subject": "H3",
            "source": "c-nmc-2019",
            "source_image": "H3_7",
            "official_split": "fold_1",
        }
    ]


def test_subject_is_read_whatever_its_case_and_1_is_not_h1():
    paths = [training("UID_h3_1_1_hem.bmp", "hem"), training("UID_1_1_1_all.bmp")]
    assert [row["subject"] for row in parse_c_nmc(paths, {}, "s").rows] == ["1", "H3"]


def test_tcia_folder_names():
    path = "x/C-NMC_training_data/fold_2/all/UID_4_1_1_all.bmp"
    assert parse_c_nmc([path], {}, "s").rows[0]["official_split"] == "fold_2"


def test_preliminary_set_takes_name_and_label_from_its_file():
    folder = f"{ROOT}/validation_data/C-NMC_test_prelim_phase_data"
    labels = {"1": ("UID_57_29_1_all.bmp", 1)}
    rows = parse_c_nmc([f"{folder}/1.bmp", f"{folder}/2.bmp"], labels, "s").rows
    assert (rows[0]["uid"], rows[0]["subject"], rows[0]["label"]) == ("UID_57_29_1_all", "57", 1)
    assert rows[1] == {
        "uid": "preliminary_2",
        "path": f"{folder}/2.bmp",
        "source": "s",
        "official_split": "preliminary",
    }


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([training("cell.bmp")], "name"),
        ([training("UID_1_1_1_hem.bmp")], "label_disagrees"),
        ([training("UID_H1_1_1_all.bmp")], "label_disagrees"),
        ([f"{ROOT}/other/UID_1_1_1_all.bmp"], "place"),
        ([training("UID_1_1_1_all.bmp"), training("UID_1_1_1_all.bmp", fold=1)], "uid_twice"),
    ],
)
def test_what_does_not_fit_is_rejected_with_its_reason(paths: list[str], reason: str):
    catalogue = parse_c_nmc(paths, {}, "s")
    assert [item.reason for item in catalogue.rejected] == [reason]
    assert len(catalogue.rows) + len(catalogue.rejected) == len(paths)


def test_users_mistakes_take_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="no such folder"):
        read_layout("c-nmc", tmp_path / "nowhere")
    with pytest.raises(UserError, match="choose one of"):
        read_layout("c-mnc", tmp_path)
    with pytest.raises(UserError, match="holds no image"):
        read_layout("c-nmc", tmp_path)
    (tmp_path / "cell.bmp").touch()
    with pytest.raises(UserError, match="none of 1 images fits"):
        read_layout("c-nmc", tmp_path)


def test_the_full_index_parses(real_data: Path):
    with (real_data / "cnmc2019" / "full_index.csv").open() as stream:
        paths = [row["path"] for row in csv.DictReader(stream) if row["path"].endswith(".bmp")]
    catalogue = parse_c_nmc(paths, {}, "c-nmc-2019")
    assert not catalogue.rejected
    training_rows = [r for r in catalogue.rows if str(r["official_split"]).startswith("fold_")]
    assert len(training_rows) == 10_661
    assert sum(r["label"] == 1 for r in training_rows) == 7_272
    assert len({r["subject"] for r in training_rows if r["label"] == 1}) == 47
    assert len({r["subject"] for r in training_rows if r["label"] == 0}) == 26
    for name, count in (("preliminary", 1_867), ("final", 2_586)):
        assert sum(r["official_split"] == name for r in catalogue.rows) == count
