"""PyTorch state dicts into ours and back; a checkpoint of the authors' as a run."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from configs import default, schema
from configs.errors import UserError
from diffad_jax import import_torch
from diffad_jax.method import train_state
from diffad_jax.models import torch_file, torch_weights
from diffad_jax.runs import checkpoint, sharding
from diffad_jax.scoring import scorer
from tests.support import goldens_io, helpers

META = goldens_io.META["train_a"]
MODEL = dataclasses.replace(
    schema.parse(default.get_config()).model,
    image_size=META["img_size"],
    unet_base=META["base_channels"],
    unet_multipliers=tuple(map(float, META["channel_mults"])),
    attention_widths=(int(META["attention_resolutions"]),),
    segmentation_base=META["seg_base_channels"],
)


@pytest.fixture
def states():
    """(U-Net, segmentation) state dicts with the reference's names and shapes."""
    return (
        goldens_io.weights("unet", META["unet_manifest"]),
        goldens_io.weights("seg", META["seg_manifest"]),
    )


def test_round_trip_is_exact(states):
    for given, back in zip(
        states,
        torch_weights.to_torch(*torch_weights.from_torch(*states, MODEL), MODEL),
        strict=True,
    ):
        assert back.keys() == given.keys()
        for name, value in given.items():
            assert back[name].dtype == value.dtype
            np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_layouts(states):
    """Axes land where the layers read them; the goldens of the networks prove the names."""
    params, stats = torch_weights.from_torch(*states, MODEL)
    unet, seg = states
    block = params["unet"]["down"][1][0]
    theirs = unet["down.1.0.in_layers.2.weight"]
    assert block["conv1"]["kernel"][2, 0, 5, 7] == theirs[7, 5, 2, 0]
    assert block["embed"]["kernel"][3, 4] == unet["down.1.0.embed_layers.1.weight"][4, 3]
    qkv = params["unet"]["middle"][1]["qkv"]["kernel"]
    assert qkv[1, 2] == unet["middle.1.to_qkv.weight"][2, 1, 0]
    np.testing.assert_array_equal(
        stats["segmentation"]["decoder"][0]["norm2"]["var"],
        seg["decoder_segment.db_b.4.running_var"],
    )


@pytest.mark.parametrize("net", [0, 1])
@pytest.mark.parametrize("damage", ["missing", "extra", "shape"])
def test_wrong_tensors_are_named(states, net, damage):
    name = ("middle.1.to_qkv.weight", "decoder_segment.up_b.2.running_mean")[net]
    shape = states[net][name].shape
    if damage == "missing":
        del states[net][name]
        words = [name, str(shape)]
    elif damage == "extra":
        states[net]["spare.weight"] = np.zeros((3, 5), np.float32)
        words = ["spare.weight", "(3, 5)"]
    else:
        states[net][name] = states[net][name][1:]
        words = [name, str(shape), str((shape[0] - 1, *shape[1:]))]
    with pytest.raises(UserError) as raised:
        torch_weights.from_torch(*states, MODEL)
    message = str(raised.value)
    assert all(word in message for word in words), message
    assert "\n" not in message


def test_wrong_arrays_are_named(states):
    params, stats = torch_weights.from_torch(*states, MODEL)
    del params["unet"]["down"][0][0]["bias"]
    with pytest.raises(UserError, match=r"lack down\.0\.0\.bias"):
        torch_weights.to_torch(params, stats, MODEL)


def test_torch_is_asked_for_when_missing(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match="torch"):
        torch_file.read(tmp_path / "params-last.pt")


class TestFile:
    """The file that the authors' code writes."""

    @pytest.fixture
    def torch(self):
        return pytest.importorskip("torch")

    @pytest.fixture
    def content(self, torch, states):
        args = collections.defaultdict(str, {"T": 1000, "img_size": [64, 64], "channel_mults": ""})
        unet, seg = (
            {name: torch.from_numpy(value) for name, value in state.items()} for state in states
        )
        return {
            "n_epoch": 3000,
            "unet_model_state_dict": collections.OrderedDict(unet),
            "seg_model_state_dict": collections.OrderedDict(seg),
            "args": args,
        }

    def test_reads_it(self, torch, content, states, tmp_path):
        torch.save(content, tmp_path / "params-last.pt")
        epoch, *read = torch_file.read(tmp_path / "params-last.pt")
        assert epoch == 3000
        for given, back in zip(states, read, strict=True):
            assert back.keys() == given.keys()
            for name, value in given.items():
                np.testing.assert_array_equal(back[name], value, err_msg=name)

    def test_refuses_what_could_run_code(self, torch, content, tmp_path):
        content["args"] = pytest.Config  # any class: unpickling it imports a module
        torch.save(content, tmp_path / "params-last.pt")
        with pytest.raises(UserError, match=r"params-last\.pt cannot be read"):
            torch_file.read(tmp_path / "params-last.pt")

    def test_refuses_what_is_not_a_checkpoint(self, torch, content, tmp_path):
        path = tmp_path / "params-last.pt"
        with pytest.raises(UserError, match="no checkpoint file"):
            torch_file.read(path)
        path.write_bytes(b"not a checkpoint")
        with pytest.raises(UserError, match="cannot be read"):
            torch_file.read(path)
        del content["seg_model_state_dict"]
        torch.save(content, path)
        with pytest.raises(UserError, match="holds no seg_model_state_dict"):
            torch_file.read(path)


def test_command_makes_a_run_that_evaluates_as_the_weights(tmp_path):
    """A file as the authors write it becomes a checkpoint that holds exactly its weights."""
    torch = pytest.importorskip("torch")

    config = helpers.parsed()
    shapes = jax.eval_shape(lambda: train_state.init_variables(config.model, jax.random.key(0)))
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    states = [
        {
            key: torch.from_numpy(np.asarray(goldens_io.weights(net, {key: value.shape})[key]))
            for key, value in state.items()
        }
        for net, state in zip(
            ("unet", "seg"),
            torch_weights.to_torch(zeros.params, zeros.batch_stats, config.model),
            strict=True,
        )
    ]
    file = tmp_path / "params-last.pt"
    args = collections.defaultdict(str, {"img_size": [32, 32], "T": 1000})
    torch.save(
        {
            "n_epoch": 3,
            "unet_model_state_dict": states[0],
            "seg_model_state_dict": states[1],
            "args": args,
        },
        file,
    )
    workdir = tmp_path / "run"
    import_torch.run(file, config, workdir)
    with checkpoint.Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(scorer.restore_target(config, sharding.data_mesh()))
    assert int(state.step) == 3
    for variables in (state.variables, state.ema):
        host = jax.device_get(variables)
        back = torch_weights.to_torch(host.params, host.batch_stats, config.model)
        for ours, theirs in zip(back, states, strict=True):
            assert all(np.array_equal(ours[key], theirs[key]) for key in theirs)
    with pytest.raises(UserError, match="already holds checkpoints"):
        import_torch.run(file, config, workdir)
