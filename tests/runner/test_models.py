"""Models as PyTorch builds them, with the real torchvision and no internet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_contract.spec import ModelSpec
from inferbench_runner import model_faults, models
from inferbench_runner.backends import Unsupported
from tests.runner import tiny

NOWHERE = "http://127.0.0.1:9"
"""A proxy that refuses every connection: there is no internet, whatever this machine has."""


@pytest.fixture(autouse=True)
def _forget_factories(monkeypatch):
    tiny.forget(monkeypatch)


def torchvision_model(name: str, weights: str | dict[str, str] = "random") -> ModelSpec:
    return ModelSpec.model_validate({"torchvision": {"name": name, "weights": weights}})


def prepared(model: ModelSpec, folder: Path) -> Path:
    """Write a model's weights as the prepare process does."""
    file = folder / "prepared.pt"
    torch.save(dict(models.initial_state(model, folder, folder)), file)
    return file


@pytest.fixture(scope="module")
def random_resnet(tmp_path_factory):
    """Weights of a random ResNet-18, and their file."""
    model = torchvision_model("resnet18")
    file = prepared(model, tmp_path_factory.mktemp("resnet18"))
    return model, file


class TestRandomWeights:
    def test_they_are_the_same_every_time(self, random_resnet, tmp_path):
        model, file = random_resnet

        again = torch.load(prepared(model, tmp_path), weights_only=True)

        assert all(torch.equal(again[name], tensor) for name, tensor in torch.load(file, weights_only=True).items())

    def test_answers_depend_on_the_image_and_have_a_size_that_every_precision_holds(self, random_resnet, tmp_path):
        model, file = random_resnet
        images = models.examples(*models.inputs_of(model), models.photographs.EVALUATION, 4)

        scores = models.run(models.build(model, tmp_path, file), images)["output"]

        assert scores.shape == (4, 1000)
        assert 0.1 < scores.std() < 10
        assert np.abs(scores[0] - scores[1]).max() > 0.01

    def test_rounding_to_bf16_stays_small_where_uncalibrated_networks_are_chaotic(self, random_resnet, tmp_path):
        model, file = random_resnet
        images = models.examples(*models.inputs_of(model), models.photographs.EVALUATION, 4)
        module = models.build(model, tmp_path, file)
        exact = models.run(module, images)["output"]

        with torch.inference_mode():
            rounded = module.bfloat16()(torch.from_numpy(images["input"]).bfloat16()).float().numpy()

        assert np.linalg.norm(rounded - exact) / np.linalg.norm(exact) < 0.02

    def test_a_head_of_zeros_is_replaced(self, monkeypatch):
        head = torch.nn.Linear(4, 2)
        torch.nn.init.zeros_(head.weight)
        monkeypatch.setattr(models, "_made", lambda _: torch.nn.Sequential(torch.nn.Flatten(), head))
        model = ModelSpec.model_validate(
            {"torchvision": {"name": "resnet18", "weights": "random"}, "inputs": [{"name": "x", "shape": [4]}]},
        )

        models.initial_state(model, Path(), Path())

        assert head.weight.all()


class TestBuilding:
    def test_a_model_is_built_without_drawing_numbers_that_are_replaced(self, random_resnet, tmp_path):
        model, file = random_resnet
        before = torch.random.get_rng_state()

        module = models.build(model, tmp_path, file)

        assert torch.equal(torch.random.get_rng_state(), before)
        assert not module.training
        assert all(parameter.requires_grad for parameter in module.parameters())

    @pytest.mark.parametrize(("function", "requires"), [("make", True), ("make_frozen", False)])
    def test_weights_require_gradients_where_their_maker_has_it_so(self, function, requires, tmp_path):
        model = tiny.a_model(tmp_path, function)

        module = models.build(model, tmp_path, prepared(model, tmp_path))

        assert {parameter.requires_grad for parameter in module.parameters()} == {requires}

    def test_a_fine_tuned_model_keeps_its_own_classes(self, tmp_path):
        trained = torchvision.models.squeezenet1_1(num_classes=7).eval()
        torch.save({"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "mine.pth")
        model = torchvision_model("squeezenet1_1", {"path": "mine.pth"})

        module = models.build(model, tmp_path, prepared(model, tmp_path))

        image = torch.ones(1, 3, 64, 64)
        with torch.inference_mode():
            assert torch.equal(module(image), trained(image))

    def test_a_recipe_makes_it_again_with_torchvision_alone(self, tmp_path):
        """With as many classes as its weights have."""
        trained = torchvision.models.squeezenet1_1(num_classes=7).eval()
        torch.save(trained.state_dict(), tmp_path / "mine.pth")
        model = torchvision_model("squeezenet1_1", {"path": "mine.pth"})

        function, arguments = models.recipe(model, prepared(model, tmp_path))

        assert function == "torchvision.models:get_model"
        assert arguments == {"name": "squeezenet1_1", "weights": None, "num_classes": 7}
        torchvision.models.get_model(**arguments).load_state_dict(trained.state_dict())

    def test_a_model_that_computes_its_own_shape_is_built_too(self, tmp_path):
        """RegNet does so with tensors, which have to hold numbers."""
        trained = torchvision.models.regnet_y_400mf().eval()
        torch.save(trained.state_dict(), tmp_path / "mine.pth")
        model = torchvision_model("regnet_y_400mf", {"path": "mine.pth"})

        module = models.build(model, tmp_path, prepared(model, tmp_path))

        image = torch.ones(1, 3, 64, 64)
        with torch.inference_mode():
            assert torch.equal(module(image), trained(image))

    def test_heads_that_serve_training_only_are_left_out(self, tmp_path):
        trained = torchvision.models.googlenet(init_weights=False, transform_input=True).eval()
        torch.save(trained.state_dict(), tmp_path / "mine.pth")
        model = torchvision_model("googlenet", {"path": "mine.pth"})

        module = models.build(model, tmp_path, prepared(model, tmp_path))

        image = torch.ones(1, 3, 64, 64)
        with torch.inference_mode():
            assert torch.equal(module(image), trained(image))
        assert not any(name.startswith("aux") for name in module.state_dict())

    def test_inputs_have_the_size_that_the_model_was_trained_on(self):
        sizes = {name: models.inputs_of(torchvision_model(name))[0][0].shape for name in ("resnet18", "inception_v3")}

        assert sizes == {"resnet18": (3, 224, 224), "inception_v3": (3, 299, 299)}

    def test_a_factory_makes_the_same_model_everywhere(self, tmp_path):
        model = tiny.a_model(tmp_path)
        file = prepared(model, tmp_path)
        script = (
            "import sys, torch; from pathlib import Path; from inferbench_runner import models;"
            "from inferbench_contract.spec import ModelSpec;"
            "model = ModelSpec.model_validate_json(sys.argv[1]); folder = Path(sys.argv[2]);"
            "module = models.build(model, folder, folder / 'prepared.pt');"
            "print('torchvision' in sys.modules, float(module(torch.ones(1, 3, 32, 32)).detach().sum()))"
        )
        arguments = [sys.executable, "-c", script, model.model_dump_json(), str(tmp_path)]

        there = subprocess.run(arguments, capture_output=True, text=True, check=True)

        here = models.build(model, tmp_path, file)(torch.ones(1, 3, 32, 32)).detach().sum()
        assert there.stdout.split() == ["False", str(float(here))]


class TestErrors:
    def test_an_unknown_name_is_answered_with_those_near_it(self):
        with pytest.raises(InferbenchError, match=r"no such model\. Near it: resnet50"):
            models.inputs_of(torchvision_model("resnet5"))

    def test_unknown_weights_are_answered_with_those_there_are(self, tmp_path):
        with pytest.raises(InferbenchError, match="resnet18 has IMAGENET1K_V1, DEFAULT, random"):
            models.initial_state(torchvision_model("resnet18", "IMAGENET1K_V9"), tmp_path, tmp_path)

    def test_without_internet_the_two_ways_out_are_named(self, tmp_path, monkeypatch):
        monkeypatch.setenv("https_proxy", NOWHERE)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))

        with pytest.raises(EnvironmentFault, match=r"resnet18-.*Two ways out: .*path: FILE.*weights: random"):
            models.initial_state(torchvision_model("resnet18", "DEFAULT"), tmp_path, tmp_path)

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            pytest.param(b"<html>", "6 bytes that begin with b'<html>'", id="a page of a proxy"),
            pytest.param(b"", "found an empty file", id="an empty file"),
        ],
    )
    def test_a_file_that_holds_no_weights_is_named_with_what_it_is(self, tmp_path, content, words):
        (tmp_path / "mine.pth").write_bytes(content)

        with pytest.raises(InferbenchError, match=r"mine\.pth is not a file of weights") as caught:
            models.initial_state(torchvision_model("resnet18", {"path": "mine.pth"}), tmp_path, tmp_path)

        assert words in str(caught.value)

    def test_weights_of_another_model_are_named_as_such(self, tmp_path):
        torch.save(torchvision.models.squeezenet1_1().state_dict(), tmp_path / "mine.pth")

        with pytest.raises(InferbenchError, match="not those of a resnet18"):
            models.initial_state(torchvision_model("resnet18", {"path": "mine.pth"}), tmp_path, tmp_path)

    def test_the_names_that_torchvision_knows_can_be_read_from_its_sources(self):
        """So that `validate` need not import it."""
        sources = Path(torchvision.models.__file__).parent

        assert model_faults.registered(sources) == {*torchvision.models.list_models()}

    def test_a_model_whose_outputs_depend_on_its_data_is_unsupported(self):
        with pytest.raises(Unsupported, match="DataDependent: ssdlite320_mobilenet_v3_large"):
            models.inputs_of(torchvision_model("ssdlite320_mobilenet_v3_large"))

    def test_a_film_needs_its_inputs_said(self):
        with pytest.raises(InferbenchError, match=r"under spec\.model\.inputs"):
            models.inputs_of(torchvision_model("r3d_18"))

    def test_a_factory_that_is_not_there_is_named_with_where_it_was_sought(self, tmp_path):
        model = {"python": {"factory": "nowhere:make"}, "inputs": [{"name": "x", "shape": [1]}]}

        with pytest.raises(InferbenchError, match=rf"module nowhere, and there is none\. .*{tmp_path}"):
            models.identity(ModelSpec.model_validate(model), tmp_path)

    def test_a_factory_that_makes_something_else_is_told_what(self, tmp_path):
        with pytest.raises(InferbenchError, match=r"returned a str; expected a torch\.nn\.Module"):
            models.initial_state(tiny.a_model(tmp_path, "make_no_module"), tmp_path, tmp_path)

    def test_a_function_that_its_module_does_not_have_is_named_with_the_modules_file(self, tmp_path):
        with pytest.raises(InferbenchError, match=r"names the function mak; .*tiny_models\.py has none"):
            models.initial_state(tiny.a_model(tmp_path, "mak"), tmp_path, tmp_path)

    def test_another_argument_or_source_is_another_model(self, tmp_path):
        identities = [models.identity(tiny.a_model(tmp_path, planes=planes), tmp_path) for planes in (8, 16)]
        model = tiny.a_model(tmp_path, planes=8)
        (tmp_path / "tiny_models.py").write_text(tiny.SOURCE + "\n# changed")
        identities.append(models.identity(model, tmp_path))

        assert len({str(identity) for identity in identities}) == 3


def test_outputs_get_names():
    one, two = torch.ones(1), torch.zeros(1)

    assert list(models.named_outputs(one)) == ["output"]
    assert list(models.named_outputs((one, two))) == ["output_0", "output_1"]
    assert list(models.named_outputs({"out": one, "aux": two})) == ["out", "aux"]
    with pytest.raises(Unsupported, match="the model returns a list of dict; expected tensors"):
        models.named_outputs([{"boxes": one}])
