"""What people call train, val and test."""

import pytest

from resnest_cli.data.labelled_photos import meaning, named_sides, sides_of
from resnest_cli.errors import UsageError


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        ("train val test", "train val test"),
        ("Training Testing", "train test"),
        ("training validation", "train val"),
        ("TRAIN VALID", "train val"),
        ("train Val", "train val"),
        ("train dev", "train val"),
        ("train eval", "train val"),
        ("training_set test_set", "train test"),
        ("trainset testset", "train test"),
        ("TrainingSet ValidationSet", "train val"),
        ("train-images val-images", "train val"),
        ("imagesTrain imagesTest", "train test"),
        ("trainimages testimages", "train test"),
        ("Train_Data Test_Data", "train test"),
        ("seg_train seg_test seg_pred", "train test -"),
        ("train2017 val2017", "train val"),
        ("fruits-360_Training fruits-360_Test", "train test"),
        ("cat dog", "- -"),
        ("bus train truck", "- train -"),  # the folders' own folders decide
        ("speed_test cat", "- -"),
        ("train1 test2", "- -"),
        ("trainer tester", "- -"),
        ("device evaluator", "- -"),
        ("train_test val", "- val"),
    ],
)
def test_names_beside_each_other(names: str, sides: str) -> None:
    found = sides_of(names.split())
    assert [found.get(name, "-") for name in names.split()] == sides.split()


@pytest.mark.parametrize(
    ("name", "side", "rest"),
    [
        ("Train", "train", ""), ("dev", "val", ""), ("test set", "test", ""), ("0", None, "0"),
        ("", None, ""), ("speed_test", "test", "speed"), ("Images", None, ""),
        ("train_test", None, "train test"), ("train2017", "train", "2017"),
    ],
)  # fmt: skip
def test_a_name_by_itself(name: str, side: str | None, rest: str) -> None:
    assert meaning(name) == (side, tuple(rest.split()))


def test_names_that_the_user_gives() -> None:
    assert named_sides("A,B,C") == {"A": "train", "B": "val", "C": "test"}
    assert named_sides("A, B") == {"A": "train", "B": "val"}
    assert named_sides("A,,C") == {"A": "train", "C": "test"}
    for wrong in ("", ",B", "A,A", "A,B,C,D"):
        with pytest.raises(UsageError, match="--split-names"):
            named_sides(wrong)
