"""A layout is read into the right splits and classes, or one sentence says what is unclear."""

import tarfile

import pytest

from service.image.resize import Input
from support.images import draw, encode
from training.data import DataError, read

SPEC = Input(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
EACH = 10  # images of a folder

# folders → the classes, and the folders of each split that the source itself has
READ = {
    "train, val and test": (
        ["train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog"],
        {"train": "train", "val": "validation", "test": "test"},
    ),
    "Roboflow's valid": (
        ["train/cat", "train/dog", "valid/cat", "valid/dog"],
        {"train": "train", "valid": "validation"},
    ),
    "folders of years below the classes": (
        ["cat/2023", "cat/2024", "dog/2023"],
        {"cat": "train", "dog": "train"},
    ),
    "classes alone": (["cat", "dog"], {"cat": "train", "dog": "train"}),
    "train and test": (
        ["train/cat", "train/dog", "test/cat", "test/dog"],
        {"train": "train", "test": "test"},
    ),
    "train alone": (["train/cat", "train/dog"], {"train": "train"}),
    "validation and testing, with capitals": (
        ["Train/cat", "Train/dog", "Validation/cat", "Validation/dog", "TEST/cat", "TEST/dog"],
        {"Train": "train", "Validation": "validation", "TEST": "test"},
    ),
    "splits far below the top": (
        [
            "data/set 1/train/cat",
            "data/set 1/train/dog",
            "data/set 1/val/cat",
            "data/set 1/val/dog",
        ],
        {"data/set 1/train": "train", "data/set 1/val": "validation"},
    ),
    "nested folders below the classes of splits": (
        ["train/cat/2023/may", "train/dog", "test/cat/2024", "test/dog/a"],
        {"train": "train", "test": "test"},
    ),
    "hidden folders beside classes": (
        ["cat", "dog", ".ipynb_checkpoints", "__MACOSX/cat"],
        {"cat": "train", "dog": "train"},
    ),
    "a class with the name of a split": (
        ["train/test", "train/dog", "test/test", "test/dog"],
        {"train": "train", "test": "test"},
    ),
}
REJECTED = {
    "flat": (["."], "holds images and no class folders"),
    "flat splits": (["train", "test"], "test holds images and no class folders"),
    "a flat test folder, as Kaggle's": (
        ["train/cat", "train/dog", "test"],
        "test holds images and no class folders.*or name a CSV",
    ),
    "one class": (["cat"], "has one class, cat: a classifier needs two"),
    "one class with folders": (["cat/2023", "cat/2024"], "one class, cat"),
    "one class in splits": (["train/cat", "test/cat"], "one class, cat"),
    "one folder above the classes": (["photos/cat", "photos/dog"], "one class, photos"),
    "splits below the classes": (
        ["cat/train", "cat/test", "dog/train"],
        r"split test/ below the class cat/.*\(test/cat/\)",
    ),
    "splits further below the classes": (
        ["cat/2023/train", "cat/2023/test", "dog/2023/train"],
        "split test/ below the class cat/",
    ),
    "two sets with splits": (
        ["a/train/cat", "a/test/cat", "b/train/dog"],
        "split test/ below the class a/",
    ),
    "splits below one class": (["cat/train", "cat/test"], "holds images and no class folders"),
    "a split below a class of a split": (
        ["train/cat/val", "train/dog", "test/cat", "test/dog"],
        "split val/ below the class cat/",
    ),
    "a split beside classes": (
        ["cat", "dog", "test"],
        r"folders of splits \(test\) beside others \(cat, dog\)",
    ),
    "annotations beside splits": (
        ["train/cat", "train/dog", "preview"],
        r"splits \(train\) beside others \(preview\)",
    ),
    "no training images": (["val/cat", "val/dog"], "no images for training .but validation"),
    "a class in test alone": (
        ["train/cat", "train/dog", "test/cat", "test/dog", "test/cow"],
        "classes in test alone: cow",
    ),
    "a class in train alone": (
        ["train/cat", "train/dog", "train/cow", "test/cat", "test/dog"],
        "classes in train alone: cow",
    ),
    "a class without training images": (
        ["train/cat", "train/dog", "val/cow", "test/cow"],
        "classes in train alone: cat, dog",
    ),
    "capitals": (
        ["train/Cat", "train/dog", "test/cat", "test/dog"],
        "'Cat' and 'cat', which differ in capitals",
    ),
    "YOLO's detection": (["train/images", "val/images"], "one class, images"),
    "nothing": ([], "holds no images"),
}


def write(root, folders):
    root.mkdir(exist_ok=True)
    for number, folder in enumerate(folders):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for image in range(EACH):
            content = encode(draw(size=8, seed=100 * number + image))
            (root / folder / f"{image}.png").write_bytes(content)
    return root


def packed(root, path, name):
    with tarfile.open(path, "w") as archive:
        archive.add(root, name)
    return path


def check(data, folders, splits, prefix=""):
    """Every image is in the split of its folder, with the class of its folder."""
    parts = {"train": data.training, "validation": data.validation, "test": data.test}
    seen = 0
    for split, images in parts.items():
        for name, label in zip(images.names, images.labels, strict=True):
            path = name.removeprefix(prefix)
            top = next(top for top in splits if path.startswith(f"{top}/"))
            has_splits = splits[top] != "train" or "train" in top.lower()
            rest = path.removeprefix(f"{top}/") if has_splits else path
            assert data.classes[label] == rest.split("/")[0], path
            assert splits[top] == (split if split in splits.values() else "train"), path
            seen += 1
    assert seen == EACH * sum("." not in folder and "__" not in folder for folder in folders)


@pytest.mark.parametrize("layout", READ)
def test_a_layout_is_read_into_its_splits_and_classes(layout, tmp_path):
    folders, splits = READ[layout]
    data = read.read(str(write(tmp_path / "data", folders)), SPEC)
    check(data, folders, splits)
    assert not data.skipped
    assert set(data.drawn) == {"validation", "test"} - set(splits.values())


@pytest.mark.parametrize("layout", REJECTED)
def test_an_unclear_layout_is_rejected_in_a_sentence(layout, tmp_path):
    folders, message = REJECTED[layout]
    with pytest.raises(DataError, match=message):
        read.read(str(write(tmp_path / "data", folders)), SPEC)


@pytest.mark.parametrize("layout", ["train, val and test", "classes alone"])
def test_a_tar_may_hold_the_folder_under_its_own_name(layout, tmp_path):
    folders, splits = READ[layout]
    path = packed(write(tmp_path / "data", folders), tmp_path / "pets.tar", "pets")
    check(read.read(str(path), SPEC), folders, splits, "pets/")


def test_a_tar_with_classes_below_another_name_is_rejected(tmp_path):
    path = packed(write(tmp_path / "data", ["cat", "dog"]), tmp_path / "pets.tar", "photos")
    with pytest.raises(DataError, match=r"one class, photos.*unpack"):
        read.read(str(path), SPEC)


def test_loose_images_beside_class_folders_are_skipped_with_a_reason(tmp_path):
    root = write(tmp_path / "data", ["train/cat", "train/dog"])
    for name in ("overview.png", "train/overview.png"):
        (root / name).write_bytes(encode(draw(size=8)))
    data = read.read(str(root), SPEC)
    assert sorted(data.skipped) == [
        ("overview.png", "lies in no class folder"),
        ("train/overview.png", "lies in no class folder"),
    ]


def test_a_class_of_images_in_another_format_is_not_left_out_in_silence(tmp_path):
    root = write(tmp_path / "data", ["cat", "dog"])
    (root / "cow").mkdir()
    (root / "cow" / "1.JP2").write_bytes(b"any")
    with pytest.raises(DataError, match=r"no JPEG, PNG or WebP of the class cow.*convert them"):
        read.read(str(root), SPEC)


def test_letters_that_macos_writes_otherwise_are_one_class(tmp_path):
    data = read.read(
        str(write(tmp_path / "data", ["train/ne\u0301", "train/x", "test/n\u00e9", "test/x"])), SPEC
    )
    assert data.classes == ("n\u00e9", "x")


def test_linked_class_folders_are_followed(tmp_path):
    write(tmp_path / "all", ["cat", "dog", "cow"])
    (tmp_path / "some").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "some" / name).symlink_to(tmp_path / "all" / name)
    (tmp_path / "all" / "cat" / "round").symlink_to(tmp_path / "all")
    data = read.read(str(tmp_path / "some"), SPEC)
    assert data.classes == ("cat", "dog")
    assert sum(map(len, (data.training, data.validation, data.test))) == 2 * EACH
