"""metro_t0_inference.ipynb: a model of the Hub asked, ranked, looked into."""

from tests.hub_server import HubServer
from tests.notebooks.conftest import MODEL, cell, pictures, printed

LOOK = """{
    "answers": answers,
    "scores": [ranking.scores for ranking in rankings],
    "best": [ranking.best for ranking in rankings],
    "attention": [list(attention.weights.shape), attention.weights.sum(-1).round(4).tolist()],
    "pieces": [attention.pieces, found.pieces, found.likely],
    "shares": shares,
    "heavy": [name for name in ("tensorflow", "torch", "seqio") if name in sys.modules],
}"""


def test_from_the_first_cell_to_the_last(run_notebook, hub: HubServer) -> None:
    notebook, seen = run_notebook("metro_t0_inference.ipynb", LOOK)
    assert seen["heavy"] == []
    assert "model.safetensors" in hub.downloads()
    assert f"{MODEL} in float32 on 1 x cpu" in printed(cell(notebook, "model"))
    assert len(seen["answers"]) == 3
    assert all(isinstance(answer, str) for answer in seen["answers"])
    assert all(answer in printed(cell(notebook, "ask")) for answer in seen["answers"])
    for scores, best in zip(seen["scores"], seen["best"], strict=True):
        assert all(-1000 < score < 0 for score in scores)  # finite, and log-probabilities
        assert scores[best] == max(scores)
    assert printed(cell(notebook, "rank")).count("->") == 3
    shape, sums = seen["attention"]
    text_pieces, answer_pieces, likely = seen["pieces"]
    assert shape == [2, 4, len(text_pieces), len(text_pieces)]
    assert all(value == 1 for layer in sums for head in layer for value in head)
    assert answer_pieces[-1] == "</s>"
    assert all(len(names) == 5 for names in likely)
    assert len(likely) == len(answer_pieces)
    assert len(seen["shares"]) == 4
    assert all(0 <= share <= 1 for share in seen["shares"].values())
    for name in ("probabilities", "attention", "prompts-picture"):
        assert len(pictures(cell(notebook, name))) == 1, name
