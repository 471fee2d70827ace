"""Model files: what is saved comes back bit for bit, and no damaged or foreign file does."""

import json
import os
import stat

import numpy as np
import pytest
from safetensors.numpy import save_file

import nnkernels as nnk

X = np.random.default_rng(0).normal(size=(10, 3))
LAYERS = nnk.Dense(3, 5, activation="gelu", dropout=0.25), nnk.Dense(5, 2, activation="softmax", bias=False)


@pytest.fixture
def saved(tmp_path):
    """A network, and the file it was saved to."""
    net = nnk.Sequential(*LAYERS, device="numpy", rng=2**64 - 1)
    net.fit(X, [0, 1] * 5, loss="categorical_cross_entropy", steps=3)
    net.save(tmp_path / "net.safetensors")
    return net, tmp_path / "net.safetensors"


def test_a_loaded_network_is_the_saved_one(saved, device, dtype, tmp_path):
    net = nnk.Sequential(*LAYERS, device=device, dtype=dtype, rng=5)
    net.save(tmp_path / "this.safetensors")
    loaded = nnk.load(str(tmp_path / "this.safetensors"), device=device)
    assert repr(loaded) == repr(net)
    np.testing.assert_array_equal(loaded(X), net(X))
    for other in (net, loaded):
        other.fit(X, [0, 1] * 5, loss="categorical_cross_entropy", batch_size=2, steps=20)
    np.testing.assert_array_equal(loaded(X), net(X))


def test_a_network_saved_on_one_device_loads_on_another(saved):
    net, path = saved
    np.testing.assert_array_equal(nnk.load(path, device="numba").parameters.flat, net.parameters.flat)


def test_a_loaded_network_goes_on_where_the_saved_one_stood(saved):
    net, path = saved
    loaded = nnk.load(path, device="numpy")
    for other in (net, loaded):
        other.fit(X, [0, 1] * 5, loss="categorical_cross_entropy", batch_size=2, steps=20)
    np.testing.assert_array_equal(loaded(X), net(X))


def test_saving_replaces_the_file_at_once_or_not_at_all(saved, monkeypatch):
    net, path = saved
    before = path.read_bytes()

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        net.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_a_saved_file_has_the_permissions_of_any_new_file(saved, tmp_path):
    (tmp_path / "other").write_text("")
    assert stat.S_IMODE(saved[1].stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


def test_every_truncation_is_noticed(saved):
    path = saved[1]
    content = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(nnk.ModelFileError, match=r"net\.safetensors is truncated, corrupt"):
            nnk.load(path)


def test_a_changed_byte_is_noticed_wherever_it_is(saved):
    path = saved[1]
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(nnk.ModelFileError):
            nnk.load(path)


def test_a_foreign_file_is_told_from_a_damaged_one(tmp_path):
    save_file({"weight": np.ones(3)}, tmp_path / "foreign.safetensors")
    with pytest.raises(nnk.ModelFileError, match="not one that nnkernels wrote"):
        nnk.load(tmp_path / "foreign.safetensors")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG" * 100)
    with pytest.raises(nnk.ModelFileError, match="no safetensors file"):
        nnk.load(tmp_path / "picture.png")
    with pytest.raises(nnk.ModelFileError, match="no safetensors file"):
        nnk.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no model file .*missing"):
        nnk.load(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('"schema": 1', '"schema": 2'), r"has schema 2; this version reads up to 1. Install nnkernels>="),
        (('"n_out": 5', '"n_out": 6'), "digest"),
        (('"schema": 1', '"sch": 1'), "its metadata cannot be read"),
    ],
    ids=["newer schema", "edited", "no schema"],
)
def test_metadata_that_was_changed_is_refused(saved, change, message):
    from safetensors import safe_open

    path = saved[1]
    with safe_open(path, "numpy") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    assert change[0] in metadata["nnkernels"]
    metadata["nnkernels"] = metadata["nnkernels"].replace(*change)
    save_file(tensors, path, metadata)
    with pytest.raises(nnk.ModelFileError, match=message):
        nnk.load(path)


def test_an_unwritable_path_is_an_error_and_leaves_nothing(tmp_path):
    net = nnk.Sequential(*LAYERS, device="numpy")
    with pytest.raises(
        FileNotFoundError, match=r"net\.safetensors cannot be written: there is no folder .*make it first"
    ):
        net.save(tmp_path / "no such folder" / "net.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_preprocessing_travels_with_a_network_from_file_to_file(saved):
    net, path = saved
    net.preprocessing = {"columns": ["a", "b", "c"]}
    net.save(path)
    nnk.load(path, device="numpy").save(path)
    assert nnk.load(path, device="numpy").preprocessing == {"columns": ["a", "b", "c"]}


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "1"},
        {"dtype": "float16"},
        {"seed": "x"},
        {"seed": "-1"},
        {"layers": []},
        {"layers": [{"n_in": 0, "n_out": 5, "activation": "gelu", "bias": True, "dropout": 0.0}]},
        {"layers": [{"n_in": 3, "n_out": 5, "activation": "gleu", "bias": True, "dropout": 0.0}]},
        {"layers": [{"n_in": 5, "n_out": 3, "activation": "gelu", "bias": True, "dropout": 0.0}]},
    ],
    ids=str,
)
def test_metadata_that_make_no_network_are_refused_even_with_the_right_digest(saved, change):
    from nnkernels._io.model_file import _digest, _read

    metadata, tensors = _read(saved[1])
    text = json.dumps(metadata | change)
    save_file(tensors, saved[1], {"nnkernels": text, "sha256": _digest(text, tensors)})
    with pytest.raises(nnk.ModelFileError, match="is corrupt"):
        nnk.load(saved[1])


def test_a_device_that_cannot_be_used_is_no_fault_of_the_file(saved):
    with pytest.raises(nnk.DeviceError):
        nnk.load(saved[1], device="tpu")


def test_a_network_made_with_numpys_scalars_can_be_saved(tmp_path):
    layer = nnk.Dense(np.int64(2), 2, dropout=np.float32(0.25), bias=np.bool_(True))
    nnk.Sequential(layer, nnk.Dense(2, 1), device="numpy").save(tmp_path / "net.safetensors")
    assert nnk.load(tmp_path / "net.safetensors", device="numpy").layers[0] == nnk.Dense(2, 2, dropout=0.25)
