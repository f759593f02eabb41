"""Of which files a model is made, found by reading them: what has to be the same for results to be put together."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pytest

from inferbench_contract import plan as plans
from inferbench_contract.errors import EnvironmentFault, InferbenchError
from inferbench_contract.plan import Plan
from inferbench_contract.spec import ModelSpec
from inferbench_runner import __main__ as program
from inferbench_runner import artifacts, bundle, models
from tests.documents import scripted_benchmark

TORCHVISION = ModelSpec.model_validate({"torchvision": {"name": "resnet50", "weights": "random"}})


def a_factory(folder: Path, **texts: str) -> ModelSpec:
    """Write modules, by their names with `__` for a folder, and return the model that mine.py makes."""
    for name, text in texts.items():
        file = folder / f"{name.replace('__', '/', 1)}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return ModelSpec.model_validate(
        {"python": {"factory": "mine:make"}, "inputs": [{"name": "image", "shape": [3, 32, 32]}]}
    )


def plan_of(model: ModelSpec) -> Plan:
    """Return a plan in which PyTorch builds the model."""
    given = model.model_dump(mode="json", exclude_none=True)
    return plans.expand(scripted_benchmark(model=given, backends=["torch-eager"], backendOptions={}))


def names(model: ModelSpec, folder: Path) -> list[str]:
    """Return the names of a model's files, as they lie in their folder."""
    return [str(file.relative_to(folder)) for file in models.files(model, folder)]


class TestFactories:
    def test_what_a_factory_imports_from_beside_it_belongs_to_the_model_and_what_that_imports_too(self, tmp_path):
        model = a_factory(
            tmp_path,
            mine="import layers.blocks as blocks\ndef make():\n    from heads import Head",
            layers__blocks="from . import __name__",
            heads="import mine, activations",
            activations="",
            other="",
        )

        assert names(model, tmp_path) == ["mine.py", "heads.py", "layers/blocks.py", "activations.py"]

    def test_a_library_does_not_belong_to_it_nor_what_is_called_as_one_and_not_imported(self, tmp_path):
        model = a_factory(tmp_path, mine="import random, numpy, nowhere", random="", numpy="")

        assert names(model, tmp_path) == ["mine.py"]

    def test_what_stands_beside_an_installed_factory_is_not_read(self, tmp_path, monkeypatch):
        folder = tmp_path / "site-packages"
        folder.mkdir()
        model = a_factory(folder, mine="import heads", heads="")
        monkeypatch.setattr(sys, "path", [*sys.path, str(folder)])

        assert names(model, folder) == ["mine.py"]

    @pytest.mark.parametrize("text", ["def make(:", "\0", "# \udcff"], ids=["a mistake", "a null", "another encoding"])
    def test_what_is_no_python_is_a_file_like_others_and_imports_nothing(self, tmp_path, text):
        model = a_factory(tmp_path, mine="import heads")
        (tmp_path / "heads.py").write_bytes(text.encode(errors="surrogateescape"))

        assert names(model, tmp_path) == ["mine.py", "heads.py"]

    def test_of_a_folder_without_an_init_file_only_what_is_imported_belongs_to_it(self, tmp_path):
        model = a_factory(tmp_path, mine="from data import sizes, nothing", data__sizes="", data__huge="")

        assert names(model, tmp_path) == ["mine.py", "data/sizes.py"]

    def test_a_factory_may_stand_in_such_a_folder(self, tmp_path):
        a_factory(tmp_path, nets__small="import heads", nets__large="", heads="")
        model = ModelSpec.model_validate(
            {"python": {"factory": "nets.small:make"}, "inputs": [{"name": "image", "shape": [3, 32, 32]}]}
        )

        assert names(model, tmp_path) == ["nets/small.py", "heads.py"]

    def test_a_package_is_all_its_files_but_for_links_that_lead_nowhere(self, tmp_path):
        model = a_factory(tmp_path, mine__blocks="", mine__heads="import activations", activations="")
        (tmp_path / "mine/__init__.py").write_text("")
        (tmp_path / "mine/.#heads.py").symlink_to("me@here.1234")

        assert names(model, tmp_path) == ["mine/__init__.py", "mine/blocks.py", "mine/heads.py", "activations.py"]


class TestDigest:
    def test_it_is_another_one_when_a_module_that_is_imported_was_changed(self, tmp_path):
        model = a_factory(tmp_path, mine="from heads import WIDTH", heads="WIDTH = 16", other="1")
        first = models.digest(model, tmp_path)
        (tmp_path / "other.py").write_text("2")
        same = models.digest(model, tmp_path)
        (tmp_path / "heads.py").write_text("WIDTH = 128")

        assert first == same != models.digest(model, tmp_path)

    def test_that_of_one_file_is_the_files_own(self, tmp_path):
        model = a_factory(tmp_path, mine="def make(): pass")

        assert models.digest(model, tmp_path) == artifacts.digest(tmp_path / "mine.py")

    def test_that_of_an_onnx_file_covers_the_tensors_beside_it(self, tmp_path):
        (tmp_path / "model.onnx").write_bytes(b"\n\x08location\x12\x04data")
        digests = set()
        for content in (b"some", b"others"):
            (tmp_path / "data").write_bytes(content)
            digests.add(models.digest(ModelSpec.model_validate({"onnx": {"path": "model.onnx"}}), tmp_path))

        assert len(digests) == 2

    def test_a_model_of_torchvisions_has_none(self, tmp_path):
        assert models.digest(TORCHVISION, tmp_path) is program._model_digest(plan_of(TORCHVISION), tmp_path) is None

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path, monkeypatch):
        def refuse(file):
            raise PermissionError(13, "Permission denied", str(file))

        monkeypatch.setattr(artifacts, "digest", refuse)

        with pytest.raises(InferbenchError, match=r"model's file .*/mine\.py cannot be read: Permission denied\."):
            models.digest(a_factory(tmp_path, mine=""), tmp_path)


def test_a_model_that_is_changed_while_it_is_measured_ends_the_run_at_the_next_sweep(tmp_path):
    model = a_factory(tmp_path, mine="WIDTH = 16")
    plan = plan_of(model)
    begun = Namespace(model_folder=tmp_path, model_sha256=models.digest(model, tmp_path))
    program._require_same_model(plan, begun)
    (tmp_path / "mine.py").write_text("WIDTH = 128")

    with pytest.raises(EnvironmentFault, match=rf"model in {tmp_path} was changed while .* start over with --fresh"):
        program._require_same_model(plan, begun)


def test_what_a_sweep_delivered_while_its_model_was_changed_is_taken_back(tmp_path):
    model = a_factory(tmp_path, mine="WIDTH = 16")
    plan = plan_of(model)
    begun = Namespace(model_folder=tmp_path, model_sha256=models.digest(model, tmp_path))
    delivered = tmp_path / "0.json"
    delivered.write_text("{}")
    program._drop_if_changed(plan, begun, delivered)
    assert delivered.exists()
    (tmp_path / "mine.py").write_text("WIDTH = 128")

    with pytest.raises(EnvironmentFault, match="What is kept is of the old one"):
        program._drop_if_changed(plan, begun, delivered)

    assert not delivered.exists()


class TestSweep:
    @pytest.fixture
    def arguments(self, tmp_path):
        """What the runner is called with for the first sweep of a model, when the run was begun with it."""
        model = a_factory(tmp_path, mine="WIDTH = 16")
        (tmp_path / "plan.json").write_text(plan_of(model).dump())
        places = ("--plan", tmp_path / "plan.json", "--output", tmp_path, "--model-folder", tmp_path)
        asked = ("sweep", "--index", 0, *places, "--model-sha256", models.digest(model, tmp_path))
        return program._parser().parse_args([str(each) for each in asked])

    @pytest.fixture
    def measured(self, tmp_path, monkeypatch):
        """What was measured, by a sweep in which somebody changes the model."""
        seen = []

        def measure(plan, wanted, *_):
            seen.append(wanted.index)
            (tmp_path / "results").mkdir()
            (tmp_path / "results/0.json").write_text("{}")
            (tmp_path / "mine.py").write_text("WIDTH = 128")

        monkeypatch.setattr(program.sweep, "run", measure)
        return seen

    def test_nothing_is_measured_of_a_model_that_is_another_one_than_the_run_was_begun_with(
        self, tmp_path, arguments, measured
    ):
        (tmp_path / "mine.py").write_text("WIDTH = 128")

        with pytest.raises(EnvironmentFault, match="was changed while it was measured"):
            arguments.run(arguments)

        assert measured == []

    def test_nothing_is_kept_of_a_sweep_in_which_it_became_another_one(self, tmp_path, arguments, measured):
        with pytest.raises(EnvironmentFault, match="was changed while it was measured"):
            arguments.run(arguments)

        assert measured == [0]
        assert not (tmp_path / "results/0.json").exists()


class TestHandingOver:
    @pytest.fixture
    def model(self, tmp_path):
        return a_factory(tmp_path, mine="from heads import WIDTH", heads="WIDTH = 16")

    @pytest.fixture
    def require_same(self, model):
        """Asks whether a folder holds the model that was measured, by its hash where that was written down."""
        plan = plan_of(model)

        def require_same(folder, sha256):
            bundle._require_same_model(plan, SimpleNamespace(model_folder=folder, model_sha256=sha256))

        return require_same

    def test_a_model_whose_code_was_changed_since_it_was_measured_is_refused(self, tmp_path, model, require_same):
        measured = models.digest(model, tmp_path)
        require_same(tmp_path, measured)
        (tmp_path / "heads.py").write_text("WIDTH = 128")

        with pytest.raises(InferbenchError) as error:
            require_same(tmp_path, measured)

        assert str(error.value) == (
            f"{tmp_path}/mine.py and 1 other file of the model are not those that were measured. Measure it as it is "
            "now (`inferbench run FILE --fresh`), or name the folder that its paths start from: --model-folder FOLDER."
        )

    @pytest.mark.parametrize("sha256", [None, "0" * 64], ids=["of which nothing is known", "that was measured"])
    def test_where_a_model_is_not_the_error_names_the_flag(self, tmp_path, require_same, sha256):
        with pytest.raises(
            InferbenchError, match=r"names the module mine, .*If it is elsewhere, .*: --model-folder FOLDER\."
        ):
            require_same(tmp_path / "elsewhere", sha256)
