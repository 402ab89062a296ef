import json
from types import SimpleNamespace

import jsonargparse
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, seed_everything
from lightning.pytorch.tuner import Tuner
from torch import nn

from lightning_optreg.data import (
    BatchTransform,
    CIFAR10DataModule,
    FashionMNISTDataModule,
    ImageDataModule,
    ImageSet,
    PCAColorJitter,
    RandomCrop,
    RandomHorizontalFlip,
    Source,
    compute_statistics,
)
from tests.data.expected_warnings import FEW_BATCHES, WORKERS
from tests.small_runs import quiet_trainer

pytestmark = [*WORKERS, FEW_BATCHES]


class Recorder(LightningModule):
    """Keeps the batches it gets, by stage."""

    def __init__(self):
        super().__init__()
        self.layer = nn.LazyLinear(10)
        self.lr = 0.01
        self.got = {"train": [], "val": [], "sanity": [], "test": [], "predict": []}

    def training_step(self, batch, batch_idx):
        self.got["train"].append(batch)
        return nn.functional.cross_entropy(self.layer(batch[0].flatten(1)), batch[1])

    def validation_step(self, batch, batch_idx):
        self.got["sanity" if self.trainer.sanity_checking else "val"].append(batch)

    def test_step(self, batch, batch_idx):
        self.got["test"].append(batch)

    def predict_step(self, batch, batch_idx):
        self.got["predict"].append(batch)
        return batch[2]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def make_trainer(folder, **options):
    return quiet_trainer(**{"default_root_dir": folder, "max_epochs": 1, **options})


def make_model(data):
    model = Recorder()
    model.layer(torch.zeros(1, torch.Size(data.input_shape).numel()))
    return model


def equal(one, other):
    """Whether two lists of batches are the same, bit for bit."""
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


@pytest.fixture
def fashion(fashion_mnist_dir):
    """Makes datamodules of the small Fashion-MNIST: 9 training batches of 60, and 60 images to validate."""

    def make(**options):
        options = {"batch_size": 60, "verify_checksum": False, **options}
        return FashionMNISTDataModule(str(fashion_mnist_dir), **options)

    return make


def augmentation():
    return [RandomCrop(padding=2), RandomHorizontalFlip(), PCAColorJitter()]


# ---- before anything is read -------------------------------------------------------------------------------


def test_what_the_command_line_links_is_known_at_once():
    for data, shape in ((FashionMNISTDataModule(), (1, 28, 28)), (CIFAR10DataModule(), (3, 32, 32))):
        assert data.num_classes == len(data.class_names) == 10
        assert data.input_shape == shape
    assert CIFAR10DataModule(augment=[RandomCrop(24, padding=0)]).input_shape == (3, 24, 24)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size must be >= 1 or 'full', got 0"),
        ({"batch_size": -3}, ValueError, "batch_size must be >= 1 or 'full', got -3"),
        ({"batch_size": 1.5}, ValueError, "batch_size must be >= 1 or 'full', got 1.5"),
        ({"batch_size": "all"}, ValueError, "batch_size must be >= 1 or 'full', got 'all'"),
        ({"val_fraction": 1.0}, ValueError, r"val_fraction must be in \[0, 1\), got 1.0"),
        ({"val_fraction": -0.1}, ValueError, r"val_fraction must be in \[0, 1\), got -0.1"),
        ({"val_fraction": float("nan")}, ValueError, r"val_fraction must be in \[0, 1\), got nan"),
        ({"train_size": 0}, ValueError, "train_size must be >= 1, got 0"),
        ({"normalize": "minmax"}, ValueError, "normalize must be mean_std, mean, .*, got 'minmax'"),
        ({"num_workers": -1}, ValueError, "num_workers must be >= 0, got -1"),
        ({"augment": [nn.Identity()]}, TypeError, "Identity"),
        ({"augment": [RandomCrop(40)]}, ValueError, "RandomCrop"),
        ({"data_dir": "no-such-folder"}, FileNotFoundError, "data_dir must be a folder, no-such-folder does"),
        ({"data_dir": __file__}, NotADirectoryError, "data_dir must be a folder, .* is a file"),
        ({"cache_dir": __file__}, NotADirectoryError, "cache_dir must be a folder, .* is a file"),
    ],
)
def test_wrong_values_are_one_line_at_construction(options, error, message):
    with pytest.raises(error, match=message) as caught:
        FashionMNISTDataModule(**options)
    assert "\n" not in str(caught.value)


def test_batch_size_is_checked_when_it_is_changed_too():
    data = FashionMNISTDataModule()
    data.batch_size = 7
    with pytest.raises(ValueError, match="batch_size must be >= 1"):
        data.batch_size = 0
    assert data.batch_size == 7


def test_the_command_lines_parser_builds_them(fashion_mnist_dir):
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(ImageDataModule, "data")
    config = {
        "class_path": "FashionMNISTDataModule",
        "init_args": {
            "data_dir": str(fashion_mnist_dir),
            "batch_size": "full",
            "augment": [{"class_path": "RandomCrop", "init_args": {"padding": 2}}],
            "normalize": "mean",
        },
    }
    data = parser.instantiate(parser.parse_args([f"--data={json.dumps(config)}"])).data
    assert type(data) is FashionMNISTDataModule
    assert data.batch_size == "full"
    with pytest.raises(jsonargparse.ArgumentError, match="nonsense"):
        parser.parse_args([f"--data={json.dumps(config)}", "--data.normalize=nonsense"])


# ---- what the module gets ----------------------------------------------------------------------------------


def test_batches_of_every_stage(fashion, tmp_path):
    data = fashion(augment=augmentation())
    model, trainer = make_model(data), make_trainer(tmp_path)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    predictions = trainer.predict(model, data)
    got = model.got
    assert [len(got[stage]) for stage in ("train", "val", "test", "predict")] == [9, 1, 2, 2]
    for stage, batches in got.items():
        for x, y, *index in batches:
            assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
            assert x.shape == (len(y), 1, 28, 28)
            assert len(index) == (stage == "predict")
    assert torch.cat(predictions).tolist() == list(range(100))
    assert equal([batch[:2] for batch in got["predict"]], got["test"])


def test_only_training_batches_are_augmented(fashion, tmp_path):
    plain, augmented = fashion(), fashion(augment=augmentation())
    models = []
    for data in (plain, augmented):
        models.append(make_model(data))
        trainer = make_trainer(tmp_path)
        trainer.fit(models[-1], data)
        trainer.test(models[-1], data, verbose=False)
    one, other = (model.got for model in models)
    for stage in ("sanity", "val", "test"):
        assert len(one[stage]) > 0
        assert equal(one[stage], other[stage])
    assert [y.tolist() for _, y in one["train"]] == [y.tolist() for _, y in other["train"]]
    assert not any(torch.equal(a[0], b[0]) for a, b in zip(one["train"], other["train"], strict=True))


@pytest.mark.parametrize("normalize", ["mean_std", "mean", "mean_image", "none"])
def test_normalisation_uses_the_training_split(fashion, normalize):
    data = fashion(normalize=normalize, val_fraction=0.5)
    data.setup("fit")
    loader = data.train_dataloader()
    expected = compute_statistics(loader.images, loader.indices)
    assert torch.equal(data.statistics.mean, expected.mean)
    x = torch.cat([x for x, _ in data.batches("train")]).double()
    raw = loader.images[loader.indices].double() / 255
    if normalize == "none":
        assert x.mean().item() == pytest.approx(raw.mean().item(), abs=1e-6)
        assert (x.min().item(), x.max().item()) == (raw.min().item(), pytest.approx(raw.max().item()))
    else:
        assert x.mean().item() == pytest.approx(0, abs=1e-6)
    if normalize == "mean_std":
        assert x.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    if normalize == "mean_image":
        assert x.mean(0).abs().max() < 1e-6


def test_true_double_precision(fashion, tmp_path):
    data = fashion()
    model = make_model(data)
    make_trainer(tmp_path, precision="64-true").fit(model, data)
    assert {x.dtype for x, _ in model.got["train"] + model.got["val"]} == {torch.float64}


def test_other_devices(fashion):
    data = fashion(augment=augmentation())
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    there = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
    assert {t.device.type for t in there[:3]} == {"meta"}
    for training in (True, False):
        x = data.transform(there, training=training)
        assert (x.device.type, x.shape, x.dtype) == ("meta", (60, 1, 28, 28), torch.float32)
    assert data.transfer_batch_to_device(batch, torch.device("cpu"), 0) is batch


def test_foreign_batches_are_refused(fashion):
    data = fashion()
    data.setup("fit")
    with pytest.raises(
        TypeError, match="FashionMNISTDataModule: expected a Batch from its own loaders, got list"
    ):
        data.on_after_batch_transfer([torch.zeros(1)], 0)
    moved = data.transfer_batch_to_device([torch.zeros(1)], torch.device("meta"), 0)
    assert moved[0].device.type == "meta"


# ---- order, seeds, resume ----------------------------------------------------------------------------------


def test_a_trainer_and_a_loop_of_ones_own_get_the_same_batches(fashion, tmp_path):
    data = fashion(augment=augmentation())
    model = make_model(data)
    make_trainer(tmp_path, max_epochs=2).fit(model, data)
    for _ in range(2):  # the second time without a Trainer
        assert equal(model.got["train"], [*data.batches("train", 0), *data.batches("train", 1)])
        assert equal(model.got["val"][:1], list(data.batches("val")))
        data = fashion(augment=augmentation())
        data.setup("fit")


def test_epochs_differ_and_are_reproducible(fashion):
    data, again = fashion(augment=augmentation()), fashion(augment=augmentation())
    data.setup("fit")
    again.setup("fit")
    first, second = list(data.batches("train", 0)), list(data.batches("train", 1))
    assert equal(second, list(again.batches("train", 1)))
    assert not equal(first, second)


def test_seed_comes_from_the_argument_or_seed_everything_or_is_0(fashion):
    def first(**options):
        data = fashion(augment=augmentation(), **options)
        data.setup("fit")
        return next(data.batches("train"))

    assert equal([first()], [first(seed=0)])
    assert not equal([first(seed=1)], [first(seed=0)])
    seed_everything(1, verbose=False)
    assert equal([first()], [first(seed=1)])
    assert equal([first(seed=0)], [first(seed=0)])


def test_global_generator_is_left_alone(fashion):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    data = fashion(augment=augmentation(), num_workers=2)
    data.prepare_data()
    data.setup()
    list(data.batches("train"))
    assert torch.equal(torch.get_rng_state(), before)


class Saver(Callback):
    def __init__(self, folder):
        self.folder = folder
        self.saved = []

    def on_train_batch_end(self, trainer, *_):
        self._save(trainer)

    def on_train_epoch_end(self, trainer, *_):
        self._save(trainer)

    def _save(self, trainer):
        path = self.folder / f"{len(self.saved)}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((path, len(trainer.lightning_module.got["train"])))


@pytest.mark.parametrize(
    "options", [pytest.param({"max_epochs": 2}, marks=pytest.mark.slow), {"max_epochs": -1, "max_steps": 14}]
)
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_continued_runs_get_the_same_augmented_batches(fashion, tmp_path, options, num_workers):
    def run(**fit):
        seed_everything(9 if fit else 1, verbose=False)  # the seed is the run's, also where another is set
        data = fashion(augment=augmentation(), batch_size=100, num_workers=num_workers)
        model = make_model(data)
        saver = Saver(tmp_path)
        trainer = make_trainer(tmp_path, callbacks=[] if fit else [saver], **options)
        trainer.fit(model, data, weights_only=True, **fit)
        return model.got["train"], saver.saved

    straight, saved = run()
    for path, seen in saved[:: 1 if num_workers == 0 else 5]:
        assert equal(run(ckpt_path=path)[0], straight[seen:])


def test_another_seed_can_be_given_at_an_epochs_end_and_is_named(fashion, tmp_path):
    def run(seed, folder, **fit):
        data = fashion(augment=augmentation(), batch_size=100, seed=seed)
        model = make_model(data)
        saver = Saver(folder)
        trainer = make_trainer(folder, callbacks=[] if fit else [saver], max_epochs=2)
        trainer.fit(model, data, weights_only=True, **fit)
        return model.got["train"], saver.saved

    (tmp_path / "other").mkdir()
    other, saved = run(2, tmp_path / "other")
    seen = saved[len(saved) // 2 - 1][1]
    _, saved = run(None, tmp_path)
    with pytest.warns(UserWarning, match="it draws from seed 2, as given; .* drew from 0"):
        got, _ = run(2, tmp_path, ckpt_path=saved[len(saved) // 2 - 1][0])
    assert equal(got, other[seen:])


def test_lr_finder_changes_nothing(fashion, tmp_path):
    def run(find):
        data = fashion(augment=augmentation())
        model, trainer = make_model(data), make_trainer(tmp_path, max_epochs=2)
        if find:
            Tuner(trainer).lr_find(model, data, num_training=13, update_attr=False)
            assert len(model.got["train"]) >= 13
            model.got["train"].clear()
        trainer.fit(model, data)
        return model.got["train"]

    assert equal(run(find=True), run(find=False))


@pytest.mark.slow
def test_batch_size_finder(fashion, tmp_path):
    data = fashion(batch_size=2)
    model, trainer = make_model(data), make_trainer(tmp_path)
    found = Tuner(trainer).scale_batch_size(model, data, init_val=8, max_trials=4, steps_per_trial=1)
    assert data.batch_size == found >= 32
    model.got["train"].clear()
    trainer.fit(model, data)
    assert len(model.got["train"][0][1]) == min(found, 540)


def test_overfit_batches_gives_the_same_images_each_epoch(fashion, tmp_path):
    data = fashion()
    model = make_model(data)
    make_trainer(tmp_path, overfit_batches=2, max_epochs=3).fit(model, data)
    batches = model.got["train"]
    assert len(batches) == 6
    assert equal(batches[:2], batches[2:4])
    assert equal(batches[:2], batches[4:])


# ---- batch sizes and splits --------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "steps"), [(1, 540), (540, 1), ("full", 1), (1000, 1), (7, 78)])
def test_from_stochastic_to_batch_gradient_descent(fashion, tmp_path, batch_size, steps):
    data = fashion(batch_size=batch_size)
    model = make_model(data)
    trainer = make_trainer(tmp_path)
    trainer.fit(model, data)
    assert trainer.global_step == steps
    assert sum(len(y) for _, y in model.got["train"]) == 540


def test_drop_last_is_for_training_only(fashion):
    data = fashion(batch_size=100, drop_last=True, val_fraction=0.5)
    data.setup()
    loaders = (data.train_dataloader(), data.val_dataloader(), data.test_dataloader())
    assert [len(loader) for loader in loaders] == [3, 3, 1]
    data.batch_size = 400
    assert len(data.test_dataloader()) == 1
    with pytest.raises(ValueError, match="drop_last leaves no batch of 300 images"):
        data.train_dataloader()


def test_without_validation_all_is_trained_on(fashion, tmp_path):
    data = fashion(val_fraction=0.0)
    model, trainer = make_model(data), make_trainer(tmp_path)
    trainer.fit(model, data)
    assert sum(len(y) for _, y in model.got["train"]) == 600
    assert model.got["val"] == []
    with pytest.raises(MisconfigurationException, match="val_fraction=0 leaves no images to validate on"):
        trainer.validate(model, data, verbose=False)


def test_the_split_belongs_to_split_seed_alone(fashion):
    def validation(**options):
        data = fashion(**options)
        data.setup("validate")
        return data.val_dataloader().indices.tolist()

    assert validation() == validation(seed=5, batch_size=3) != validation(split_seed=1)


def test_a_few_training_images_are_of_all_classes_and_nested(fashion):
    chosen = {}
    for train_size in (None, 20, 30):
        data = fashion(train_size=train_size, batch_size=7)
        data.setup("fit")
        loader = data.train_dataloader()
        chosen[train_size] = set(loader.indices.tolist())
        labels = loader.labels[loader.indices]
        if train_size is not None:
            assert len(loader.indices) == train_size
            assert labels.bincount(minlength=10).tolist() == [train_size // 10] * 10
            assert data.statistics.mean == pytest.approx(
                (loader.images[loader.indices] / 255.0).mean().item(), abs=1e-6
            )
        assert data.val_dataloader().indices.tolist() == fashion_val(fashion)
    assert chosen[20] < chosen[30] < chosen[None]


def fashion_val(fashion):
    data = fashion()
    data.setup("fit")
    return data.val_dataloader().indices.tolist()


def test_too_many_or_too_few_training_images(fashion):
    with pytest.raises(
        ValueError,
        match=r"^FashionMNISTDataModule: train_size must be <= 540, the training images, got 9999$",
    ):
        fashion(train_size=9999).setup("fit")
    with pytest.raises(ValueError, match=r"leaves no image of class \d to train on"):
        fashion(train_size=3).setup("fit")


def test_too_small_a_validation_split(fashion):
    with pytest.raises(ValueError, match=r"must be 0 or give >= 1 image, got 0\.0001 of 600 images"):
        fashion(val_fraction=0.0001).setup("fit")


def test_loaders_before_setup(fashion):
    for loader in ("train", "val", "test", "predict"):
        part = "test" if loader == "predict" else loader
        with pytest.raises(MisconfigurationException, match=rf"setup\(\) must open the {part} images first"):
            getattr(fashion(), f"{loader}_dataloader")()


# ---- several processes -------------------------------------------------------------------------------------


def as_rank(data, rank, world_size):
    data.trainer = SimpleNamespace(
        distributed_sampler_kwargs={"rank": rank, "num_replicas": world_size},
        overfit_batches=0,
        strategy=SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda number: number),
    )
    data.setup("fit")
    return data


@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_together_get_what_one_gets_bit_for_bit(fashion, world_size):
    one = fashion(augment=augmentation(), batch_size=64)
    one.setup("fit")
    many = [
        as_rank(fashion(augment=augmentation(), batch_size=64 // world_size), rank, world_size)
        for rank in range(world_size)
    ]
    for epoch in range(2):
        steps = zip(
            one.batches("train", epoch), *(data.batches("train", epoch) for data in many), strict=True
        )
        for whole, *parts in steps:
            assert torch.equal(whole[0], torch.cat([x for x, _ in parts]))
            assert torch.equal(whole[1], torch.cat([y for _, y in parts]))


class SeenWriter(Callback):
    """Each process writes the sums of the images it got, by stage and step."""

    def __init__(self, folder):
        self.folder = folder

    def on_fit_end(self, trainer, pl_module):
        got = {k: [[x.double().sum((1, 2, 3)), y] for x, y in v] for k, v in pl_module.got.items()}
        torch.save(got, self.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


def test_two_real_processes(fashion, tmp_path):
    def run(devices, **fit):
        data = fashion(augment=augmentation(), batch_size=90 // devices)  # 6 steps an epoch
        trainer = make_trainer(
            tmp_path,
            devices=devices,
            max_epochs=2,
            strategy="ddp_fork" if devices == 2 else "auto",
            callbacks=[SeenWriter(tmp_path), *([] if fit else [Saver(tmp_path)])],
        )
        trainer.fit(make_model(data), data, weights_only=True, **fit)
        return [torch.load(tmp_path / f"{devices}-{rank}.pt") for rank in range(devices)]

    (one,) = run(1)
    straight = run(2)
    for stage in ("train", "val"):
        assert len(one[stage]) > 0
        for whole, *parts in zip(one[stage], *(got[stage] for got in straight), strict=True):
            for i in range(2):
                assert torch.equal(whole[i], torch.cat([part[i] for part in parts]))
    continued = run(2, ckpt_path=tmp_path / "8.ckpt")  # the second batch of the second epoch
    for rank in range(2):
        assert equal(continued[rank]["train"], straight[rank]["train"][8:])


# ---- the cache ---------------------------------------------------------------------------------------------


def test_a_second_start_reads_nothing_but_the_cache(fashion, tmp_path, monkeypatch):
    def run():
        data = fashion(cache_dir=str(tmp_path / "cache"))
        data.setup()
        return data

    first = run()
    assert sorted(path.name.rsplit("-", 1)[0] for path in (tmp_path / "cache").iterdir()) == [
        "fashion-mnist-test-images",
        "fashion-mnist-train-images",
        "fashion-mnist-train-statistics",
    ]
    monkeypatch.setattr("lightning_optreg.data.fashion_mnist.read_idx", None)
    monkeypatch.setattr("lightning_optreg.data._open_parts.compute_statistics", None)
    second = run()
    assert torch.equal(second.statistics.mean_image, first.statistics.mean_image)
    assert equal(list(second.batches("train")), list(first.batches("train")))


def test_testing_needs_the_statistics_but_not_the_training_images(fashion, monkeypatch):
    first = fashion()
    first.setup("test")  # computes them
    with pytest.raises(MisconfigurationException):
        fashion().train_dataloader()
    second = fashion()
    second.setup("test")
    assert list(second._parts.sets) == ["test"]
    assert torch.equal(second.statistics.mean, first.statistics.mean)


def test_statistics_of_another_split_are_others(fashion):
    means = []
    for options in ({}, {"val_fraction": 0.0}, {"split_seed": 1}):
        data = fashion(**options)
        data.setup("fit")
        means.append(data.statistics.mean.item())
    assert len(set(means)) == 3


def test_no_cache_no_harm(fashion, tmp_path):
    (tmp_path / "file").write_text("in the way")
    data = fashion(cache_dir=str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="Cannot write to the cache"):
        data.setup("fit")
    assert len(list(data.batches("train"))) == 9


# ---- a data set of one's own -------------------------------------------------------------------------------


class Own(ImageDataModule):
    class_names, image_shape = ("a", "b"), (1, 4, 4)

    def __init__(self, images, labels):
        super().__init__(batch_size=5, val_fraction=0.0, normalize="none")
        self.content = ImageSet(images, labels)

    def locate(self, *, download):
        return Source("own", {"train": []}, lambda part: self.content)


def test_own_data_in_memory_are_not_cached(cache_home):
    for value in (0, 51):
        data = Own(torch.full((10, 1, 4, 4), value, dtype=torch.uint8), torch.arange(10) % 2)
        data.setup()
        assert [x.max().item() for x, _ in data.batches("train")] == pytest.approx([value / 255] * 2)
        with pytest.raises(MisconfigurationException, match="Own: the dataset has no test images"):
            data.test_dataloader()
    assert not list(cache_home.rglob("own-*"))


def test_locate_must_be_written():
    class Nothing(ImageDataModule):
        class_names, image_shape = ("a", "b"), (1, 4, 4)

    with pytest.raises(NotImplementedError, match=r"Nothing must implement locate\(\), which finds its data"):
        Nothing().setup()


def test_own_transforms(fashion, tmp_path):
    class Black(BatchTransform):
        def forward(self, images, draws):
            return torch.zeros_like(images)

    data = fashion(augment=[Black()], normalize="none")
    model = make_model(data)
    make_trainer(tmp_path).fit(model, data)
    assert all(x.max() == 0 for x, _ in model.got["train"])
    assert all(x.max() > 0 for x, _ in model.got["val"])
