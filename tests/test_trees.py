import errno
import os
import pickle

import pytest
import safetensors.torch
import torch

from optsearch import trees
from optsearch.errors import FileError
from optsearch.seeds import generator, seed_for

SHAPES = {"scalar": (), "vector": (3,), "matrix": (4, 5), "kernel": (2, 3, 3, 3), "empty": (2, 0)}
TREES = {
    "float32": {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor(1.5)},
    "bfloat16": {"half": torch.linspace(-3, 3, 15).reshape(3, 5).bfloat16()},
    "mixed": {"numbers": torch.tensor([1, 2]), "flag": torch.tensor(True), "double": torch.tensor([0.1]).double()},
    "hollow": {"hollow": torch.zeros(0, 4)},
    "empty": {},
    "strided": {"transposed": torch.arange(6.0).reshape(2, 3).T, "shared": torch.ones(1).expand(4)},
}


def fail(number):
    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))
    return failing


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "tree.safetensors"


@pytest.mark.parametrize("batch", [(), (2,), (2, 3)])
def test_unravel_undoes_ravel(batch):
    tree = {name: torch.randn((*batch, *shape), generator=generator(0, name)) for name, shape in SHAPES.items()}
    vector = trees.ravel(tree, len(batch))
    assert vector.shape == (*batch, 1 + 3 + 20 + 54)
    back = trees.unravel(vector, trees.shapes_of(tree, len(batch)))
    assert list(back) == list(tree)
    for name, leaf in tree.items():
        torch.testing.assert_close(back[name], leaf, rtol=0, atol=0)


def test_ravel_keeps_the_order_of_the_tree():
    tree = {"b": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "a": torch.tensor(5.0)}
    assert trees.ravel(tree).tolist() == [1, 2, 3, 4, 5]


def test_a_prefix_goes_on_and_comes_off():
    tree = {"x.y": torch.ones(1), "z": torch.zeros(1)}
    both = trees.prefixed("left", tree) | trees.prefixed("leftover", tree)
    assert list(both) == ["left.x.y", "left.z", "leftover.x.y", "leftover.z"]
    assert trees.within("left", both) == tree


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_a_saved_tree_comes_back_bit_for_bit(path, tree):
    trees.save(path, tree, {"kind": "größe", "n": "3"})
    back, metadata = trees.load(path)
    assert metadata == {"kind": "größe", "n": "3"}
    assert back.keys() == tree.keys()
    for name, leaf in tree.items():
        assert back[name].dtype == leaf.dtype
        assert back[name].shape == leaf.shape
        assert torch.equal(back[name], leaf)


def test_saving_makes_the_folders_on_the_way(tmp_path):
    trees.save(tmp_path / "a" / "b" / "tree.safetensors", {}, {})
    assert trees.load(tmp_path / "a" / "b" / "tree.safetensors") == ({}, {})


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_draft(path, monkeypatch, function):
    trees.save(path, {"old": torch.ones(2)}, {})
    before = path.read_bytes()
    monkeypatch.setattr(os, function, fail(errno.ENOSPC))
    with pytest.raises(FileError, match=r"tree\.safetensors could not be written: No space left"):
        trees.save(path, {"new": torch.zeros(2)}, {})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_no_draft(path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        trees.save(path, {}, {})
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["file/tree.safetensors", "folder", "n" * 300])
def test_a_place_that_cannot_be_written_is_named(tmp_path, name):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match=r"could not be written: .+ choose another place"):
        trees.save(tmp_path / name, {"a": torch.ones(1)}, {})
    assert sorted(place.name for place in tmp_path.iterdir()) == ["file", "folder"]


def test_any_damaged_byte_is_found(path):
    trees.save(path, {"weight": torch.arange(4.0)}, {"kind": "test"})
    whole = path.read_bytes()
    for index in range(len(whole)):
        path.write_bytes(whole[:index] + bytes([whole[index] ^ 1]) + whole[index + 1:])
        with pytest.raises(FileError, match=r"damaged|not a whole|somebody else's"):
            trees.load(path)


def test_a_truncated_file_is_refused_at_every_length(path):
    trees.save(path, {"weight": torch.arange(4.0)}, {"kind": "test"})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError, match="not a whole safetensors file"):
            trees.load(path)


@pytest.mark.parametrize("write", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value))],
                         ids=["torch.save", "pickle"])
def test_a_pickle_is_refused_and_not_run(path, tmp_path, write):
    write({"weight": Trap(tmp_path / "mark")}, path)
    with pytest.raises(FileError, match="could run code"):
        trees.load(path)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_a_safetensors_file_of_somebody_else_is_refused(path, metadata):
    safetensors.torch.save_file({"weight": torch.ones(2)}, path, metadata)
    with pytest.raises(FileError, match="somebody else's"):
        trees.load(path)


def test_changed_metadata_are_found(path):
    trees.save(path, {"weight": torch.ones(2)}, {"kind": "test"})
    path.write_bytes(path.read_bytes().replace(b'"kind":"test"', b'"kind":"rest"'))
    with pytest.raises(FileError, match="damaged"):
        trees.load(path)


def test_a_missing_file_is_named(path):
    with pytest.raises(FileError, match=r"tree\.safetensors could not be read: No such file"):
        trees.load(path)


def test_streams_depend_on_the_seed_and_on_every_word():
    purposes = [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", "b"), (0, "ab")]
    assert len({seed_for(*purpose) for purpose in purposes}) == len(purposes)
    assert torch.equal(torch.rand(3, generator=generator(7, "x")), torch.rand(3, generator=generator(7, "x")))
    # The same on every machine and in every version.
    assert seed_for(0, "a") == 1481238324449861677
