import numpy as np
import pytest
from safetensors.numpy import save_file

from lora_studio.core.errors import UserError
from lora_studio.tagger.aesthetic import FILE, load_head


def head(folder, weight, bias=(5.0,), **more):
    tensors = {"weight": np.atleast_2d(np.float32(weight)), "bias": np.float32(bias), **more}
    save_file(tensors, folder / FILE)
    return str(folder)


def test_a_head_scores_embeddings_from_one_to_ten(tmp_path):
    model = load_head(head(tmp_path, [2.0, 0.0, -1.0]), 3)
    scores = model.score(np.float32([[1, 0, 0], [0, 1, 0], [0, 0, 1], [10, 0, 0], [-10, 0, 0]]))
    assert scores.tolist() == [7, 5, 4, 10, 1]


def test_half_precision_is_widened(tmp_path):
    save_file({"weight": np.float16([[1, 2]]), "bias": np.float16([3])}, tmp_path / FILE)
    assert load_head(str(tmp_path), 2).score(np.float32([[1, 0]])).tolist() == [4]


def test_without_weights_there_is_no_score(tmp_path):
    assert load_head(str(tmp_path), 3) is None and load_head("starter", 512) is None


@pytest.mark.parametrize(
    ("weight", "bias", "part"),
    [
        ([1.0] * 4, (5.0,), r"weight \(1, 4\)"),
        ([1.0] * 3, (5.0, 1.0), r"bias \(2,\)"),
        ([np.nan] * 3, (5.0,), "not num"),
    ],
)
def test_a_head_of_another_model_is_refused(tmp_path, weight, bias, part):
    with pytest.raises(UserError, match=part) as error:
        load_head(head(tmp_path, weight, bias), 3)
    assert FILE in error.value.message and error.value.remedy


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / FILE).write_bytes(b"no tensors")
    with pytest.raises(UserError, match="damaged"):
        load_head(str(tmp_path), 3)
