"""Several results side by side: on the same questions, with paired tests."""

import json
import pathlib

import pytest

from metro_jax.evaluation import compare
from tests.evaluation import simulated


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    root = tmp_path_factory.mktemp("compare")
    simulated.write(root / "a", {"rte": 0.5, "copa": 0.6}, 60, "x/first")
    simulated.write(root / "b", {"rte": 0.8, "copa": 0.6, "cb": 0.5}, 50, "x/second")
    return [root / "a", root / "b"]


def test_differences_are_on_the_shared_examples(folders: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    made = compare.compare([compare.Contender(folder) for folder in folders])
    assert [(row["task"], row["templates"], row["examples"]) for row in made["tasks"]] == [
        ("rte", 10, 50),
        ("copa", 8, 50),
    ]
    assert made["left_aside"] == {"first": 10 * 18, "second": 15 * 50}
    rte, copa = (row["others"][0] for row in made["tasks"])
    assert rte["difference"] == pytest.approx(made["tasks"][0]["means"][1] - made["tasks"][0]["means"][0])
    assert rte["interval"][0] > 0
    assert rte["p_adjusted"] == pytest.approx(min(1, 2 * rte["p"]))
    assert rte["p"] < 0.01 < copa["p"]
    assert copa["interval"][0] < copa["difference"] < copa["interval"][1]
    assert len(rte["templates"]) == 10
    low, high = made["average"]["others"][0]["interval"]
    assert low < made["average"]["others"][0]["difference"] < high
    assert compare.run(folders, ["one", "two"], str(tmp_path)) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"comparison.{end}" for end in ("csv", "json", "md", "pdf", "png")
    ]
    assert "| task | templates | n | one | two | two - one |" in (tmp_path / "comparison.md").read_text()


def test_other_data_cannot_be_compared(folders: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    simulated.write(tmp_path / "c", {"rte": 0.5}, 5, "x/third")
    (part,) = (tmp_path / "c" / "scores").iterdir()
    lines = [json.loads(line) for line in part.read_text().splitlines()]
    part.write_text("".join(json.dumps(line | {"hash": "0" * 16}) + "\n" for line in lines))
    with pytest.raises(ValueError, match="does not say the same in all results"):
        compare.compare([compare.Contender(folders[0]), compare.Contender(tmp_path / "c")])
    simulated.write(tmp_path / "d", {"wic": 0.5}, 5, "x/fourth")
    with pytest.raises(ValueError, match="share no example"):
        compare.compare([compare.Contender(folders[0]), compare.Contender(tmp_path / "d")])


def test_mistakes(folders: list[pathlib.Path], tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="at least two"):
        compare.run(folders[:1], None, None)
    with pytest.raises(ValueError, match="3 names for 2 results"):
        compare.run(folders, ["a", "b", "c"], None)
    with pytest.raises(FileNotFoundError, match="no result folder"):
        compare.run([folders[0], tmp_path], None, None)
    assert compare._distinct(["a", "b", "a"]) == ["a (1)", "b", "a (3)"]
