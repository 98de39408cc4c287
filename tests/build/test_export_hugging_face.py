"""`plansmith export` of folders that Hugging Face's transformers writes."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime
import pytest

from plansmith_build.exporting import export_pytorch
from plansmith_build.exporting.errors import UnsafeModelFile, UnsuitableModel
from plansmith_build.exporting.sources import load_model

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CODE = "open('executed', 'w')\nclass Config: pass\nclass Model: pass\n"


@pytest.fixture(scope="module")
def sentiment(tmp_path_factory):
    """A text classifier of three classes with random weights, and its folder."""
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=50, max_position_embeddings=32, num_labels=3, **SMALL)
    model = transformers.BertForSequenceClassification(config).eval()
    folder = tmp_path_factory.mktemp("hugging_face") / "sentiment"
    model.save_pretrained(folder)
    return model, folder


def test_texts_of_any_number_and_length_are_classified_as_by_transformers(plansmith, sentiment):
    model, folder = sentiment
    done = plansmith("export", "./sentiment", cwd=folder.parent)
    assert "only that length is taken" not in done.stdout
    session = onnxruntime.InferenceSession(folder.parent / "sentiment.onnx")
    assert {tensor.name for tensor in session.get_inputs()} == {"input_ids", "attention_mask", "token_type_ids"}
    for rows, length in ((1, 5), (4, 23)):
        tokens = torch.randint(50, (rows, length))
        mask = torch.ones_like(tokens)
        mask[:, length // 2 :] = 0
        feeds = {"input_ids": tokens, "attention_mask": mask, "token_type_ids": torch.zeros_like(tokens)}
        (logits,) = session.run(["logits"], {name: tensor.numpy() for name, tensor in feeds.items()})
        with torch.no_grad():
            np.testing.assert_allclose(logits, model(**feeds).logits.numpy(), atol=1e-5)


def test_images_have_the_size_that_the_model_says(tmp_path):
    config = transformers.ViTConfig(image_size=[16, 24], patch_size=8, num_labels=4, **SMALL)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "pictures")
    loaded = load_model(str(tmp_path / "pictures"))
    result = export_pytorch(loaded.model, loaded.examples, tmp_path / "m.onnx", dynamic_axes=loaded.dynamic_axes)
    assert [f"{spec.name} {spec}" for spec in result.inputs] == ["pixel_values FP32 [-1, 3, 16, 24]"]
    assert [f"{spec.name} {spec}" for spec in result.outputs] == ["logits FP32 [-1, 4]"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["pipeline"]}, "names the architecture 'pipeline', which transformers"),
        ({"architectures": None}, "names the architecture ''"),
        ({"model_type": "mine", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}, "transformers"),
        ({"model_type": 3}, "is not a model that transformers loads"),
    ],
)
def test_a_folder_that_needs_its_own_code_is_refused_and_the_code_not_run(
    changes, sentence, sentiment, tmp_path, monkeypatch
):
    folder = tmp_path / "changed"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(sentiment[1] / "model.safetensors")
    config = json.loads((sentiment[1] / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    (folder / "code.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsuitableModel, match=sentence):
        load_model(str(folder))
    assert not (tmp_path / "executed").exists()


def test_weights_that_are_a_pickle_are_refused(sentiment, tmp_path):
    (tmp_path / "config.json").write_bytes((sentiment[1] / "config.json").read_bytes())
    torch.save(sentiment[0].state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UnsafeModelFile, match=r"holds no \.safetensors, and other weights are loaded with pickle"):
        load_model(str(tmp_path))


def test_a_model_of_an_encoder_and_a_decoder_takes_a_function(tmp_path):
    config = transformers.T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    with pytest.raises(UnsuitableModel, match=r"which has an encoder and a decoder: write a function"):
        load_model(str(tmp_path))
