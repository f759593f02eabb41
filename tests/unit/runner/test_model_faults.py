"""What `inferbench validate` says of a model that PyTorch builds, from the sources alone."""

from __future__ import annotations

import sys

import pytest

from inferbench_contract.errors import EnvironmentFault
from inferbench_contract.spec import ModelSpec
from inferbench_runner import model_faults
from inferbench_runner.onnx_faults import Faults, Request

SOURCE = """
import torch
from timm import create_model as made_by_timm
if torch.cuda.is_available():
    def build(): ...
wide = build
"""


def found(folder, **source) -> Faults:
    given = {**source, "inputs": [{"name": "x", "shape": [4]}]}
    return model_faults.find(Request(model=ModelSpec.model_validate(given), model_folder=folder, batch_sizes=(1,)))


def of_factory(folder, factory: str) -> Faults:
    return found(folder, python={"factory": factory})


class TestFactory:
    @pytest.fixture
    def folder(self, tmp_path):
        (tmp_path / "mynet.py").write_text(SOURCE)
        return tmp_path

    @pytest.mark.parametrize("function", ["build", "wide", "made_by_timm"])
    def test_a_name_of_its_module_is_right_wherever_it_is_bound(self, folder, function):
        assert of_factory(folder, f"mynet:{function}") == Faults()

    def test_a_function_that_its_module_has_not_is_a_mistake_that_names_what_is_near(self, folder):
        ((place, sentence),) = of_factory(folder, "mynet:biuld").mistakes

        assert ".".join(place) == "spec.model.python.factory"
        assert sentence == f'found "mynet:biuld", expected a function of {folder / "mynet.py"}. Near it: build.'

    def test_a_module_that_is_not_here_is_a_note_because_a_cluster_looks_elsewhere(self, folder):
        faults = of_factory(folder, "mynett:build")

        assert not faults.mistakes
        assert f"there is no module mynett in {folder} or on PYTHONPATH" in faults.notes[0][1]

    @pytest.mark.parametrize(
        "source",
        [
            "from elsewhere import *\n",
            "def __getattr__(name): ...\n",
            "for n in (18, 50): globals()[f'resnet{n}'] = n\n",
            "import sys\nsetattr(sys.modules[__name__], 'no' + 'pe', 1)\n",
        ],
    )
    def test_where_a_module_may_have_names_that_it_does_not_show_nothing_is_said(self, folder, source):
        (folder / "mynet.py").write_text(source)

        assert of_factory(folder, "mynet:nope") == Faults()

    def test_a_source_that_is_no_python_is_a_mistake_that_names_its_line(self, folder):
        (folder / "mynet.py").write_text("import torch\ndef build(:\n")

        ((_, sentence),) = of_factory(folder, "mynet:build").mistakes

        assert f"expected Python in {folder / 'mynet.py'}: line 2: " in sentence

    @pytest.mark.parametrize("packages", [("nets", "nets/inner"), ("nets",), ()], ids=["all", "the outer one", "none"])
    def test_a_module_is_found_without_importing_the_packages_around_it_which_may_be_mere_folders(
        self, folder, packages
    ):
        (folder / "nets/inner").mkdir(parents=True)
        for package in packages:
            (folder / package / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (folder / "nets/inner/small.py").write_text("def build(): ...\n")

        assert of_factory(folder, "nets.inner.small:build") == Faults()
        assert of_factory(folder, "nets.inner.small:nope").mistakes
        assert of_factory(folder, "nets.inner.large:build").notes


class TestTorchvision:
    @pytest.fixture
    def installed(self, tmp_path, monkeypatch):
        """A torchvision of two models, where the runner would find one."""
        models = tmp_path / "torchvision/models"
        models.mkdir(parents=True)
        (models.parent / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (models / "resnet.py").write_text(
            "@register_model()\n@handle_legacy_interface(weights=('pretrained', None))\ndef resnet18(): ...\n"
            "@register_model(name='resnext50_32x4d')\ndef resnext(): ...\n"
            "def _resnet(): ...\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "torchvision", raising=False)
        return tmp_path

    @pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d"])
    def test_a_registered_name_is_right(self, installed, name):
        assert found(installed, torchvision={"name": name}) == Faults()

    def test_another_is_a_mistake_that_names_what_is_near(self, installed):
        ((place, sentence),) = found(installed, torchvision={"name": "resnet19"}).mistakes

        assert ".".join(place) == "spec.model.torchvision.name"
        assert sentence.startswith('found "resnet19", expected a model of the torchvision that is installed.')
        assert "Near it: resnet18" in sentence

    def test_where_no_model_can_be_read_nothing_is_said(self, installed):
        (installed / "torchvision/models/resnet.py").write_text("")

        assert found(installed, torchvision={"name": "resnet19"}) == Faults()

    def test_without_torchvision_it_is_said_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(model_faults.importlib.util, "find_spec", lambda _: None)

        with pytest.raises(EnvironmentFault, match=r"torchvision is not installed\. Install it: pip install '\.\["):
            found(tmp_path, torchvision={"name": "resnet18"})
