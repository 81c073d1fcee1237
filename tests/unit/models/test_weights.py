"""Weights to start from: files, bundles, fetched files; what is another network's is refused."""

import shutil
from pathlib import Path

import pytest
import timm
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torchvision.models import AlexNet_Weights

from leuk_ray.bundles.bundle import load_bundle, write_bundle
from leuk_ray.bundles.manifest import ModelManifest
from leuk_ray.cli.main import cli
from leuk_ray.datasets.images import StorageSettings
from leuk_ray.io.hashes import sha256
from leuk_ray.models import weights as started_from
from leuk_ray.models.settings import ModelSettings
from leuk_ray.models.weights import origin
from leuk_ray.models.zoo import build
from leuk_ray.recipes.recipe import load_recipe
from leuk_ray.utils.errors import UserError

SMALL = {"input_size": 32, "attention": "eca"}


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


@pytest.fixture(scope="module")
def trained() -> torch.nn.Module:
    torch.manual_seed(1)
    return build(ModelSettings(weights="scratch", **SMALL), load_weights=True)


@pytest.fixture(scope="module")
def bundle(trained, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "bundle"
    manifest = ModelManifest(
        model=ModelSettings(weights="scratch", **SMALL), storage=StorageSettings(size=32),
        synthetic=True, protocol="subject-disjoint", dataset_fingerprint="0" * 64, recipe="lite",
        seed=0,
    )  # fmt: skip
    write_bundle(path, manifest, trained)
    return path


def test_fetched_weights_are_the_pretrained_ones(tmp_path: Path):
    done = CliRunner().invoke(cli, ["weights", "fetch", "lite", "--to", str(tmp_path)])
    assert done.exit_code == 0, done.output
    file = tmp_path / "tf_efficientnet_lite0.in1k.safetensors"
    assert str(file) in done.output
    fetched = build(ModelSettings(weights=str(file), **SMALL), load_weights=True)
    packaged = build(ModelSettings(**SMALL), load_weights=True)
    assert same(fetched.backbone, packaged.backbone)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_a_backbone_with_its_classifier_initialises_the_backbone(
    suffix, trained, tmp_path
):
    path = tmp_path / f"backbone{suffix}"
    state = dict(trained.backbone.state_dict()) | {"classifier.weight": torch.zeros(1000, 1280)}
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file({name: value.contiguous() for name, value in state.items()}, path)
    model = build(ModelSettings(weights=str(path), **SMALL), load_weights=True)
    assert same(model.backbone, trained.backbone)
    assert not same(model.head, trained.head)


def test_a_bundle_is_fine_tuned_from_head_to_stem(bundle: Path, trained):
    model = build(ModelSettings(weights=str(bundle), **SMALL), load_weights=True)
    assert same(model, trained)


def test_a_bundle_names_what_it_began_with_and_no_path(bundle: Path, tmp_path: Path):
    file = tmp_path / "start.safetensors"
    shutil.copy(bundle / "model.safetensors", file)
    for weights, name, hashed in [
        (file, "start.safetensors", file),
        (bundle, bundle.parent.name, bundle / "bundle.json"),
    ]:
        recipe = load_recipe("lite", [f"weights={weights}", "attention=eca", "input_size=32"])
        assert recipe.model.weights == str(weights)
        (tmp_path / "config.yaml").write_text(recipe.to_yaml())
        assert load_recipe(str(tmp_path / "config.yaml")) == recipe  # a run can be resumed
        model = build(recipe.model, load_weights=True)
        manifest = load_bundle(bundle).manifest.model_copy(update={"model": recipe.model})
        assert isinstance(manifest, ModelManifest)
        write_bundle(tmp_path / "tuned", manifest, model)
        began = f"{name}@sha256:{sha256(hashed)}"
        tuned = load_bundle(tmp_path / "tuned").manifest
        assert isinstance(tuned, ModelManifest)
        assert tuned.model.weights == began
        for written in ("bundle.json", "MODEL_CARD.md"):
            text = (tmp_path / "tuned" / written).read_text()
            assert began in text
            assert str(tmp_path) not in text
            assert str(bundle) not in text
    with pytest.raises(UserError, match="not where they lie; give the file or the bundle"):
        build(tuned.model, load_weights=True)
    file.unlink()  # gone when a long training ends: it must not cost the bundle
    assert origin(str(file)) == "start.safetensors@sha256:unknown"
    assert ModelSettings(weights=origin(str(file))).weights == origin(str(file))


def test_a_changed_bundle_is_no_start(bundle: Path, tmp_path: Path):
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    save_file(load_file(copy / "model.safetensors"), copy / "model.safetensors", {"a": "b"})
    with pytest.raises(UserError, match="changed since it was written"):
        build(ModelSettings(weights=str(copy), **SMALL), load_weights=True)


def test_weights_of_another_network_are_told_in_one_line(bundle: Path, tmp_path: Path):
    file = bundle / "model.safetensors"
    (tmp_path / "text.pth").write_text("text")
    torch.save({"a": Path("x")}, tmp_path / "code.pth")
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
    cases = [
        ({"attention": "multi"}, file, r"has no head.branches.0.channel.w0.weight"),
        (
            {"attention": "eca", "hidden": 8},
            file,
            r"head.hidden.weight of shape \(256, 1280\), the",
        ),
        ({"backbone": "resnet18"}, file, "has no"),
        ({}, tmp_path / "a.safetensors", "has no conv_stem.weight"),
        ({}, tmp_path / "text.pth", "no plain tensors that can be read"),
        ({}, tmp_path / "code.pth", "no plain tensors that can be read"),
        ({}, tmp_path / "missing.pth", "there is no such file or bundle$"),
        (
            {},
            tmp_path / "dinobloom-s.safetensors",
            "no such file.*huggingface.co/1aurent/vit_small_.*give the file as model.weights=FILE",
        ),
        ({}, tmp_path, "is no bundle"),
    ]
    for changes, path, message in cases:
        settings = ModelSettings(**SMALL | changes, weights=str(path))
        with pytest.raises(UserError, match=message) as caught:
            build(settings, load_weights=True)
        assert "\n" not in str(caught.value)


def test_fetching_what_there_is_not_says_so(tmp_path: Path):
    for name, message in [("bukhari2022-se", "no weights to fetch"), ("resnet18x", "has none")]:
        done = CliRunner().invoke(cli, ["weights", "fetch", name, "--to", str(tmp_path / "w")])
        assert isinstance(done.exception, UserError)
        assert message in str(done.exception)
    assert not (tmp_path / "w").exists()


def test_weights_that_are_here_are_known_without_asking_the_hub(monkeypatch, tmp_path: Path):
    names = ["tf_efficientnet_lite0.in1k", "vgg16.tv_in1k", "legacy_xception.tf_in1k", "alexnet"]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(started_from, "try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr(started_from, "_hub_answers", lambda: True)
    assert started_from.missing_imagenet(names) == []
    monkeypatch.setattr(started_from, "_hub_answers", lambda: False)
    assert started_from.missing_imagenet(names) == names[1:]
    downloads = tmp_path / "checkpoints"
    downloads.mkdir()
    xception = timm.get_pretrained_cfg(names[2])
    assert xception is not None
    for url in (AlexNet_Weights.IMAGENET1K_V1.url, xception.url):
        (downloads / Path(str(url)).name).touch()
    assert started_from.missing_imagenet(names) == ["vgg16.tv_in1k"]
    monkeypatch.setattr(started_from, "try_to_load_from_cache", lambda repository, file: "/there")
    assert started_from.missing_imagenet(names) == []


DINO = {"architecture": "timm", "backbone": "vit_small_patch14_dinov2.lvd142m", "input_size": 224}


@pytest.fixture(scope="module")
def dinobloom(tmp_path_factory) -> tuple[dict[str, torch.Tensor], Path, Path]:
    """Random weights of a ViT-S/14 for 224 pixels in timm's layout and in that of its authors."""
    torch.manual_seed(3)
    network = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=False, img_size=224, num_classes=0
    )
    state = {name: torch.randn_like(value) / 50 for name, value in network.state_dict().items()}
    assert state["pos_embed"].shape == (1, 257, 384)
    folder = tmp_path_factory.mktemp("dinobloom")
    save_file(state, folder / "timm.safetensors")
    teacher = {f"backbone.{name}": value for name, value in state.items()}
    teacher |= {"backbone.mask_token": torch.zeros(1, 384), "dino_head.mlp.0.weight": torch.ones(3)}
    torch.save({"teacher": teacher, "student": {}}, folder / "authors.pth")
    return state, folder / "timm.safetensors", folder / "authors.pth"


def test_dinobloom_is_read_in_both_layouts(dinobloom, tmp_path: Path):
    state, of_timm, of_authors = dinobloom
    for file in (of_timm, of_authors):
        recipe = load_recipe("dinobloom-s-probe", [f"weights={file}"])
        loaded = build(recipe.model, load_weights=True, num_classes=3)
        own = loaded.backbone.state_dict()
        assert own.keys() == state.keys()
        assert all(torch.equal(own[name], state[name]) for name in own)
        mean = loaded.preprocess.mean.flatten() / 255
        assert mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    torch.save({"teacher": {"dino_head.x": torch.ones(3)}}, tmp_path / "heads.pth")
    with pytest.raises(UserError, match=r"heads.pth has no cls_token"):
        build(ModelSettings(**DINO, weights=str(tmp_path / "heads.pth")), load_weights=True)


@pytest.mark.parametrize("size", [112, 280])
def test_position_embeddings_are_resampled_as_timm_does(dinobloom, size: int):
    state, file, _ = dinobloom
    settings = ModelSettings(**(DINO | {"input_size": size, "weights": str(file)}))
    own = build(settings, load_weights=True).backbone.state_dict()
    theirs = timm.create_model(
        "vit_small_patch14_dinov2", pretrained=True, img_size=size, num_classes=0,
        pretrained_cfg_overlay={"file": str(file)},
    ).state_dict()  # fmt: skip
    assert own["pos_embed"].shape == (1, (size // 14) ** 2 + 1, 384)
    assert not torch.equal(own["pos_embed"][:, :5], state["pos_embed"][:, :5])
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], theirs[name]) for name in own)
