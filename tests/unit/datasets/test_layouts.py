import csv
from pathlib import Path

import pytest

from leuk_ray.datasets.groups import assign_groups
from leuk_ray.datasets.layouts import LayoutOptions, parse_c_nmc, read_layout
from leuk_ray.datasets.layouts.all_idb import CELLS, FIELDS, read_centroids, shown_in
from leuk_ray.utils.errors import UserError

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
            "side": 450,
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
        "side": 450,
    }


@pytest.mark.parametrize(
    ("paths", "reason"),
    [
        ([training("cell.bmp")], "name"),
        ([training("UID_1_1_1_hem.bmp")], "label_disagrees"),
        ([training("UID_H1_1_1_all.bmp")], "label_disagrees"),
        ([f"{ROOT}/other/UID_1_1_1_all.bmp"], "place"),
        ([training("UID_1_1_1_all.png")], "suffix"),
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
    with pytest.raises(UserError, match="did you mean c-nmc"):
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


def fill(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_missing_or_contradictory_label_file_is_told(tmp_path: Path):
    folder = "validation_data/C-NMC_test_prelim_phase_data"
    fill(tmp_path, f"{folder}/1.bmp")
    with pytest.raises(UserError, match=r"label file .* is not under"):
        read_layout("c-nmc", tmp_path)
    labels = tmp_path / "C-NMC_test_prelim_phase_data_labels.csv"
    head = "Patient_ID,new_names,labels\n"
    labels.write_text(head + "UID_57_29_1_all.bmp,1.bmp,1\nUID_H1_1_1_hem.bmp,1.bmp,0\n")
    with pytest.raises(UserError, match=r"line 3: 1\.bmp is UID_H1"):
        read_layout("c-nmc", tmp_path)
    labels.write_text(head + "UID_57_29_1_all.bmp,1.bmp,2\n")
    with pytest.raises(UserError, match="line 2: needs"):
        read_layout("c-nmc", tmp_path)
    labels.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read"):
        read_layout("c-nmc", tmp_path)
    labels.write_text(head + "UID_57_29_1_all.bmp,1.bmp,0\n")
    with pytest.raises(UserError, match="is labelled otherwise"):
        read_layout("c-nmc", tmp_path)


def test_all_idb_tells_fields_from_cells(tmp_path: Path):
    root = fill(
        tmp_path, "ALL_IDB1/im/Im001_1.jpg", "ALL_IDB1/im/Im002_0.jpg",
        "ALL_IDB2/img/Im001_1.tif", "ALL_IDB2/img/Im005_0.tif",
    )  # fmt: skip
    rows = read_layout("all-idb", root).table().to_pylist()
    assert [(r["uid"], r["label"], r["source"]) for r in rows] == [
        ("all-idb1_Im001_1", 1, "all-idb1"),
        ("all-idb1_Im002_0", 0, "all-idb1"),
        ("all-idb2_Im001_1", 1, "all-idb2"),
        ("all-idb2_Im005_0", 0, "all-idb2"),
    ]
    assert {row["subject"] for row in rows} == {None}
    for layout, count in (("all-idb1", 2), ("all-idb2", 2)):
        catalogue = read_layout(layout, root)
        assert (len(catalogue.rows), catalogue.rejected) == (count, [])
        assert [item.reason for item in catalogue.skipped] == ["layout"] * 2


def test_images_of_all_idb_show_fields_cells_or_both():
    assert shown_in([FIELDS]) == "fields"
    assert shown_in([CELLS]) == shown_in([None, "c-nmc"]) == shown_in([]) == "cells"
    assert shown_in([CELLS, FIELDS]) == "both"


def test_all_idb_rejects_what_it_cannot_name(tmp_path: Path):
    root = fill(
        tmp_path, "im/Im001_1.jpg", "im/Im002_0.jpg", "im/Im003_2.jpg", "im/Im004.jpg",
        "im/Im001_1.png", "else/Im001_1.jpg",
    )  # fmt: skip
    (root / "xyc").mkdir()
    (root / "xyc/Im002_0.xyc").write_text("10 20\n")
    catalogue = read_layout("all-idb1", root)
    assert [row["uid"] for row in catalogue.rows] == ["all-idb1_Im001_1"]
    assert {Path(item.path).name: item.reason for item in catalogue.rejected} == {
        "Im001_1.png": "name",
        "Im002_0.jpg": "label_disagrees",
        "Im003_2.jpg": "name",
        "Im004.jpg": "name",
        "Im001_1.jpg": "place",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10 20\n\n 30\t40 \n", [(10, 20), (30, 40)]), ("", []), ("1.0 2.6", [(1, 2)])],
)
def test_centroids(tmp_path: Path, text: str, expected: list):
    (tmp_path / "a.xyc").write_text(text)
    assert read_centroids(tmp_path / "a.xyc") == expected


@pytest.mark.parametrize("text", ["1 2\nx y", "1", "1 2 3", "inf 2", "nan 1"])
def test_damaged_centroids_name_their_line(tmp_path: Path, text: str):
    (tmp_path / "a.xyc").write_text(text)
    with pytest.raises(UserError, match="line"):
        read_centroids(tmp_path / "a.xyc")


def test_class_folders(tmp_path: Path):
    root = fill(tmp_path / "lab", "ALL/a.png", "ALL/P7/b.png", "healthy/a.jpg", "stray.png")
    catalogue = read_layout("folders", root)
    rows = {row["uid"]: (row["label"], row["subject"]) for row in catalogue.rows}
    assert rows == {"ALL/a": (1, None), "ALL/P7/b": (1, "P7"), "healthy/a": (0, None)}
    assert [item.reason for item in catalogue.rejected] == ["place"]
    assert catalogue.rows[0]["source"] == "lab"


@pytest.mark.parametrize(
    ("classes", "positive", "message"),
    [
        (["ALL"], "", "only the folder ALL"),
        ([], "", "no folder"),
        (["a", "b"], "", "which of .* is the positive class"),
        (["ALL", "b"], "", "which of .* is the positive class"),
        (["early", "benign"], "erly", "has this label; there are .*; did you mean early"),
        (["early", "benign"], "early,benign", "'benign' in .* means healthy"),
        (["ALL", "AML", "benign"], "AML", "'ALL' in .* means ALL, and is left out"),
        (["early", "pre", "pro"], "early,pre,pro", "every class is positive"),
        (["ALL", "blast"], "", "none of the folders ALL, blast is healthy"),
        (["lympho, blast", "a", "b"], "", "commas separate class names; rename it"),
        (["ALL", "all", "hem"], "", "differ by case alone"),
    ],
)
def test_unclear_class_folders_are_told(tmp_path: Path, classes, positive: str, message: str):
    root = fill(tmp_path / "lab", *(f"{name}/1.png" for name in classes), "0.png")
    with pytest.raises(UserError, match=message):
        read_layout("folders", root, LayoutOptions.parse(positive=positive))


def test_several_folders_may_be_positive(tmp_path: Path):
    root = fill(tmp_path, "early/1.png", "pre/1.png", "benign/1.png", "benign/1.bmp")
    catalogue = read_layout(
        "folders", root, LayoutOptions.parse(positive="early, pre", binary=True)
    )
    assert {row["uid"]: row["label"] for row in catalogue.rows} == {
        "benign/1": 0,
        "early/1": 1,
        "pre/1": 1,
    }
    assert [item.reason for item in catalogue.rejected] == ["uid_twice"]


def manifest(tmp_path: Path, text: str) -> Path:
    (tmp_path / "cells.csv").write_text(text)
    return tmp_path / "cells.csv"


def test_a_manifest_maps_its_columns(tmp_path: Path):
    text = "file,diagnosis,patient,site\na/1.png,ALL,P1,Milan\n/b/2.png,normal,P2,\n3.png,,,\n"
    options = LayoutOptions.parse(None, "ALL", "path=file,label=diagnosis,subject=patient")
    rows = read_layout("csv", manifest(tmp_path, text), options).table().to_pylist()
    assert [(r["uid"], r["label"], r["subject"], r["site"], r["stain"]) for r in rows] == [
        ("/b/2", 0, "P2", None, None),
        ("3", None, None, None, None),
        ("a/1", 1, "P1", "Milan", None),
    ]
    assert rows[0]["path"] == "/b/2.png"
    assert rows[2]["path"] == (tmp_path / "a/1.png").as_posix()
    assert {row["source"] for row in rows} == {"cells"}


def test_columns_of_a_manifest_are_kept_for_results_by_their_values(tmp_path: Path):
    lines = [f"{n}.png,ALL,P{n},{'fm'[n % 2]},{n}" for n in range(21)]
    table = manifest(tmp_path, "\n".join(["path,label,subject,Sex,age", *lines, "x.png,hem,,,"]))
    options = LayoutOptions.parse(keep="sex")
    catalogue = read_layout("csv", table, options)
    kept = catalogue.kept(options.keep)
    assert kept["uid"].equals(catalogue.table()["uid"])
    assert kept["kept.sex"].to_pylist() == [
        "fm"[int(uid) % 2] for uid in kept["uid"].to_pylist()[:-1]
    ] + [None]
    for keep, message in (
        ("age", r"age: has 22 different values, .* 20 at most; group them"),
        ("race", "race: .*cells.csv has no such column; it has path, label, subject, Sex, age"),
    ):
        with pytest.raises(UserError, match=f"--keep-columns {message}"):
            read_layout("csv", table, LayoutOptions.parse(keep=keep))
    with pytest.raises(UserError, match="--keep-columns: is for csv"):
        read_layout("folders", tmp_path, options)


def test_a_manifests_bad_rows_are_rejected(tmp_path: Path):
    text = "path,label,subject\n1.png,1,7\n1.png,ALL,007\n\n./1.png,1,7\n1.bmp,0,8\n,1\n"
    catalogue = read_layout("csv", manifest(tmp_path, text))
    assert [(row["uid"], row["label"]) for row in catalogue.rows] == [("1", 1)]
    assert [(item.reason, item.detail) for item in catalogue.rejected] == [
        ("listed_twice", f"is listed already ({tmp_path}/cells.csv, line 2)"),
        ("listed_twice", f"is listed already ({tmp_path}/cells.csv, line 2)"),
        ("uid_twice", f"uid 1 is taken by {tmp_path}/1.png"),
        ("path", "the path is empty"),
    ]
    assert catalogue.rejected[-1].path.endswith("cells.csv, line 7")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1.png,1,7\n1.png,0,7\n", r"line 3: label of .*1\.png is 0 here and 1 in .*line 2; cor"),
        ("1.png,ALL,7\n\n./1.png,hem,7\n", r"line 4: label .* is hem here and ALL in .*line 2"),
        ("1.png,hem,7\n1.png,,7\n", "line 3: label of .* is empty here and hem in"),
        ("1.png,hem,7\n1.png,hem,8\n", "line 3: subject of .* is 8 here and 7 in"),
        ("1.png,hem,7\n1.png,hem,\n", "line 3: subject of .* is empty here and 7 in"),
        ("a,1.png,hem,7\n", "line 2: has 4 values for 3 columns; put values that hold"),
    ],
)
def test_rows_that_contradict_each_other_are_refused(tmp_path: Path, rows: str, message: str):
    with pytest.raises(UserError, match=message):
        read_layout("csv", manifest(tmp_path, "path,label,subject\n" + rows))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_manifest_is_read_as_spreadsheets_write_it(tmp_path, encoding, delimiter, end):
    lines = [" Path , LABEL,subject,,", "é.png,ALL,Müller,,x", '"a.png",hem', "", "b.png,hem,2,,"]
    text = end.join(lines).replace(",", delimiter)
    (tmp_path / "cells.csv").write_bytes(text.encode(encoding))
    rows = read_layout("csv", tmp_path / "cells.csv").rows
    assert [(row["uid"], row["label"], row["subject"]) for row in rows] == [
        ("é", 1, "Müller"), ("a", 0, None), ("b", 0, "2"),
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_manifest_of_another_encoding_is_refused(tmp_path: Path, encoding: str):
    (tmp_path / "cells.csv").write_bytes("path,label\né.png,ALL\n".encode(encoding))
    with pytest.raises(UserError, match=r"cells.csv: is not UTF-8; save it as CSV UTF-8$"):
        read_layout("csv", tmp_path / "cells.csv")


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("image,label\n1.png,1\n", None, "no column path"),
        ("path,label,subject\n1.png\n", None, "line 2: has 1 values for 3 columns"),
        ('path,label\n"1.png,ALL\n2.png,hem\n', None, "cannot be read as CSV"),
        ("path,label,Label\n1.png,ALL,hem\n", None, "several columns for label: 'label'"),
        ("path\n1.png\n", "label=diagnosis", "no such column"),
        ("path\n1.png\n", "lable=path", "choose from path, label"),
        ("path\n1.png\n", "label", "write OURS=ITS"),
        ("path\n", None, "holds no image"),
        ("path,label,label\n1.png,1,0\n", None, r"several columns for label: 'label' \(column 2\)"),
        ("path,Label,LABEL\n1.png,1,0\n", None, "several columns for label: 'Label' .* rename all"),
        ("path,x,x\n1.png,1,0\n", "label=x", "several columns for label: 'x'"),
        ("", None, "no column path"),
        ("path,label\n1.png,1\n2.png,blst\n", None, r"blst \(1\) is close to the known word blast"),
    ],
)
def test_manifests_that_cannot_be_read_are_told(tmp_path: Path, text, columns, message: str):
    with pytest.raises(UserError, match=message):
        read_layout("csv", manifest(tmp_path, text), LayoutOptions.parse(columns=columns))
    with pytest.raises(UserError, match="no such file"):
        read_layout("csv", tmp_path)


def test_a_folder_is_read_alike_from_inside_and_from_outside(tmp_path: Path, monkeypatch):
    for name in ("ALL/P1/a.b.bmp", "healthy/P2/c.png", "loose.bmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    outside = read_layout("folders", tmp_path)
    monkeypatch.chdir(tmp_path)
    for root in (Path(), Path("ALL/..")):
        inside = read_layout("folders", root)
        for ours, theirs in zip(inside.rows, outside.rows, strict=True):
            assert {**ours, "path": ""} == {**theirs, "path": ""}
            assert Path(str(ours["path"])).resolve() == Path(str(theirs["path"])).resolve()
        assert [item.reason for item in inside.rejected] == ["place"]
    assert [row["uid"] for row in outside.rows] == ["ALL/P1/a.b", "healthy/P2/c"]
    assert [row["subject"] for row in outside.rows] == ["P1", "P2"]


def test_a_table_names_the_field_of_each_cell_and_they_are_one_group(tmp_path: Path):
    table = tmp_path / "crops.csv"
    table.write_text("path,label,source_image\na.png,ALL,f1\nb.png,healthy,f1\nc.png,ALL,f2\n")
    rows = read_layout("csv", table).table()
    assert rows["source_image"].to_pylist() == ["f1", "f1", "f2"]
    cells = rows.append_column("pixels_sha256", rows["uid"])
    assert assign_groups(cells)["group"].to_pylist() == ["uid:a", "uid:a", "uid:c"]
