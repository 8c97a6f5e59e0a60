"""The runtime of a bundle: a model's results, its command line, and what it refuses."""

import ast
import csv
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from configs import schema, test
from diffad_jax.exporting import infer
from diffad_jax.predicting import predictor, results
from tests.exporting.test_infer_pictures import noise, photograph, write
from tests.input_pipeline.decoding import odd_formats as odd
from tests.support import folders

FILE = pathlib.Path(infer.__file__)
BESIDE = FILE.with_name("image_files.py")
SIZE, LIMITS = 32, {"image": 0.5, "pixel": 0.75, "slope": 3.0}


def graph():
    """score: the mean of the picture in [0, 1], plus that of the noise; map: of its channels."""

    def value(name, kind, *shape):
        return helper.make_tensor_value_info(name, kind, shape)

    shapes = {"noise": (2, 2, SIZE, SIZE, 3), "image_threshold": (), "pixel_threshold": ()}
    square = ("n", SIZE, SIZE)
    node = helper.make_node
    nodes = [
        node("Cast", ["picture"], ["levels"], to=TensorProto.FLOAT),
        node("Div", ["levels", "white"], ["reconstruction"]),
        node("ReduceMean", ["reconstruction"], ["anomaly_map"], axes=[3], keepdims=0),
        node("ReduceMean", ["anomaly_map"], ["mean"], axes=[1, 2], keepdims=0),
        node("ReduceMean", ["noise"], ["more"], keepdims=0),
        node("Add", ["mean", "more"], ["score"]),
        node("GreaterOrEqual", ["score", "image_threshold"], ["verdict"]),
        node("GreaterOrEqual", ["anomaly_map", "pixel_threshold"], ["pixel_mask"]),
    ]
    made = helper.make_graph(
        nodes,
        "toy",
        [
            value("picture", TensorProto.UINT8, *square, 3),
            *(value(name, TensorProto.FLOAT, *shape) for name, shape in shapes.items()),
        ],
        [
            value("score", TensorProto.FLOAT, "n"),
            value("verdict", TensorProto.BOOL, "n"),
            value("anomaly_map", TensorProto.FLOAT, *square),
            value("reconstruction", TensorProto.FLOAT, *square, 3),
            value("pixel_mask", TensorProto.BOOL, *square),
        ],
        [
            helper.make_tensor("white", TensorProto.FLOAT, (), [255.0]),
            *(
                helper.make_tensor(name, TensorProto.FLOAT, shape, np.zeros(shape).ravel())
                for name, shape in shapes.items()
            ),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(made, opset_imports=opset, ir_version=8).SerializeToString()


def bundle(folder, fit="stretch", resize="bilinear", **changes):
    """A bundle folder of the toy graph; `changes` replace keys of bundle.json."""
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(graph())
    shutil.copy(FILE, folder)
    shutil.copy(BESIDE, folder)
    files = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in ("model.onnx", "infer.py", "image_files.py")
    }
    picture = {"size": SIZE, "fit": fit, "resize": resize, "channels": "RGB"}
    facts = {"format": 1, "category": "bottle", "picture": picture, "thresholds": LIMITS}
    (folder / "bundle.json").write_text(json.dumps(facts | {"files": files} | changes))
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return bundle(tmp_path_factory.mktemp("exported") / "bundle")


def test_imports_nothing_that_a_factory_has_not():
    nodes = [node for file in (FILE, BESIDE) for node in ast.walk(ast.parse(file.read_text()))]
    found = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    found |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    found = {name.partition(".")[0] for name in found}
    ours = {"diffad_jax", "image_files"}  # of which a bundle's interpreter sees the second alone
    assert found - set(sys.stdlib_module_names) - ours == {"numpy", "PIL", "onnxruntime"}


# The model


@pytest.mark.parametrize("resize", ["bilinear", "antialias"])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_a_result_is_that_of_prediction(tmp_path, fit, resize):
    model = infer.Model(bundle(tmp_path / "bundle", fit, resize))
    config = test.get_config()
    config.data.fit, config.data.resize, config.model.image_size = fit, resize, SIZE
    config = schema.parse(config)
    path = write(tmp_path / "x.png", odd.saved(photograph(50, 71), "PNG"))
    job = predictor._Job(path, predictor.read_picture, config)
    score, anomaly_map, reconstruction = model.judge(job.tile(0)[None])
    job.add(0, float(score[0]), np.concatenate([anomaly_map[0, ..., None], reconstruction[0]], -1))
    score, anomaly_map, reconstruction = job.result()
    result = model(path)
    assert result.score == score and result.defective is (score >= LIMITS["image"])
    np.testing.assert_array_equal(result.anomaly_map, anomaly_map)
    np.testing.assert_array_equal(result.reconstruction, reconstruction)
    boxes = results.find_boxes(anomaly_map, LIMITS["pixel"])
    assert len(result.boxes) == len(boxes)
    assert all(vars(box) == ours._asdict() for box, ours in zip(boxes, result.boxes, strict=True))


def test_a_list_of_many_sizes_and_a_stack(made):
    model = infer.Model(made)
    given = [noise("many", 9, 5 + n, 3) for n in range(11)]
    judged = model(given)
    assert [one.anomaly_map.shape for one in judged] == [one.shape[:2] for one in given]
    assert [one.score for one in judged] == [model(one).score for one in given]
    stack = noise("stack", 3, SIZE, SIZE, 3)
    expected = stack.reshape(3, -1).mean(1) / 255
    np.testing.assert_allclose([one.score for one in model(stack)], expected, rtol=1e-5)
    np.testing.assert_array_equal(model(stack)[1].reconstruction, stack[1])


def test_thresholds_and_confidence(tmp_path):
    grey = np.full((SIZE, SIZE, 3), 51, np.uint8)  # its score is 0.2
    model = infer.Model(bundle(tmp_path / "bundle"))
    score = model(grey).score
    assert model(grey).defective is False and model(grey, threshold=0.1).defective is True
    assert model(grey, threshold=score).defective is True
    assert model(grey, threshold=score).confidence == 0.5
    for threshold in (0.1, 0.3, 1.0):
        expected = 1 / (1 + (threshold / score) ** LIMITS["slope"])
        assert model(grey, threshold=threshold).confidence == pytest.approx(expected, rel=1e-9)
    assert model(0 * grey).confidence == 0 and model(0 * grey, threshold=0.0).defective is True
    assert model(grey, threshold=0.0).confidence == 1
    with pytest.raises(infer.Refused, match=r"threshold is 1\.5"):
        model(grey, threshold=1.5)
    model = infer.Model(bundle(tmp_path / "none", thresholds=dict.fromkeys(LIMITS)))
    without = model(grey)
    assert (without.defective, without.confidence, without.boxes) == (None, None, ())
    # Where the bundle has no pixel threshold, the boxes are of the other one.
    assert [tuple(box[:5]) for box in model(grey, threshold=0.1).boxes] == [
        (0, 0, SIZE, SIZE, SIZE**2)
    ]


def test_other_noise_is_used_and_its_shape_checked(made):
    black = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    shape = (2, 2, SIZE, SIZE, 3)
    assert infer.Model(made).judge(black)[0].tolist() == [0]
    more = infer.Model(made, noise=np.full(shape, 0.25))
    np.testing.assert_allclose(more.judge(black)[0], 0.25)
    with pytest.raises(infer.Refused, match=r"\(1, 2\).*\(2, 2, 32, 32, 3\)"):
        infer.Model(made, noise=np.zeros((1, 2)))


def test_judge_refuses_another_array(made):
    with pytest.raises(infer.Refused, match=r"\(n, \*\(32, 32, 3\)\), got uint8 \(1, 8, 8, 3\)"):
        infer.Model(made).judge(np.zeros((1, 8, 8, 3), np.uint8))


# Bundles that are refused


def test_bundles_that_are_refused(tmp_path):
    def refused(folder, reason):
        with pytest.raises(infer.Refused, match=reason) as error:
            infer.Model(folder)
        assert "\n" not in str(error.value)

    refused(tmp_path, "bundle.json")
    folder = bundle(tmp_path / "format", format=2)
    refused(folder, r"has format 2, this infer\.py reads 1: use the infer\.py of the bundle")
    for text in ("[1]", "{"):
        (folder / "bundle.json").write_text(text)
        refused(folder, "no JSON" if text == "{" else "reads 1")
    folder = bundle(tmp_path / "changed")
    (folder / "model.onnx").write_bytes(b"changed")
    digest, old = hashlib.sha256(b"changed").hexdigest(), hashlib.sha256(graph()).hexdigest()
    refused(folder, rf"model\.onnx .*{digest[:12]}.*{old[:12]}")
    (folder / "model.onnx").unlink()
    refused(folder, r"model\.onnx: No such file")


def test_providers_that_are_not_there(made, monkeypatch):
    with pytest.raises(infer.Refused, match=r"provider abacus is not there; there are: .*cpu"):
        infer.Model(made, provider="abacus")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(infer.Refused, match="onnxruntime is not installed"):
        infer.Model(made)


LEFT_BEHIND = """
import sys
from diffad_jax.exporting import infer
assert "onnxruntime" not in sys.modules
infer.Model(sys.argv[1])
"""


def test_nothing_is_told_to_the_maker_of_the_runtime(made, tmp_path):
    """Where it reports, it first gives the machine a number and keeps it in the home folder."""
    env = {k: v for k, v in os.environ.items() if k != "CI" and not k.startswith("ORT_")}
    env |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", LEFT_BEHIND, str(made)]
    subprocess.run(command, env=env, cwd=folders.REPOSITORY, check=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


# The command line


def call(folder, *arguments):
    """The file itself, as on a machine without this project."""
    command = [sys.executable, "-Es", folder / "infer.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def inbox(tmp_path):
    folder = tmp_path / "inbox"
    for name, level in (("b/white.png", 255), ("a.png", 30), ("b/.hidden.png", 0)):
        write(folder / name, odd.saved(np.full((20, 30, 3), level, np.uint8), "PNG"))
    write(folder / "notes.txt", b"no picture")
    return folder


def test_lines_of_json_on_standard_output(made, inbox):
    result = call(made, inbox)
    assert (result.returncode, result.stderr) == (0, "")
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert all(tuple(row) == tuple(infer.COLUMNS) for row in rows)
    assert [row["picture"] for row in rows] == ["a.png", "b/white.png"]
    assert [row["verdict"] for row in rows] == ["good", "defective"]
    assert [row["score"] for row in rows] == pytest.approx([30 / 255, 1])
    box = {"x": 0, "y": 0, "width": 30, "height": 20, "area": 600, "peak": 1}
    assert [row["boxes"] for row in rows] == [[], [box]]
    assert [(row["width"], row["height"], row["map"]) for row in rows] == [(30, 20, None)] * 2


def test_tables_and_maps(made, inbox, tmp_path):
    write(inbox / "c.png", b"none")
    output = tmp_path / "new" / "out"
    result = call(made, inbox, "--output", output, "--maps", "--threshold", "0.1", "--batch", "2")
    assert (result.returncode, result.stdout) == (3, "")
    with (output / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    rows = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert list(table[0]) == list(rows[0]) == list(infer.COLUMNS)
    assert [row["picture"] for row in rows] == ["a.png", "b/white.png", "c.png"]
    assert [row["boxes"] for row in table] == ["0", "1", ""]
    assert [row["verdict"] for row in table] == ["defective", "defective", ""]
    assert rows[0]["threshold"] == 0.1 and float(table[0]["score"]) == rows[0]["score"]
    assert "cannot be read as a picture" in rows[2]["error"] and rows[2]["score"] is None
    levels = np.asarray(Image.open(output / rows[1]["map"]))
    assert levels.dtype == np.uint16 and levels.shape == (20, 30) and levels.min() == 65535
    assert sorted(path.name for path in output.iterdir()) == [
        *("maps", "predictions.csv", "predictions.jsonl")
    ]


def test_pictures_from_several_places_have_names_of_their_own(made, inbox):
    shutil.copy(inbox / "a.png", inbox / "b" / "a.png")
    names = ["a.png", "b/a.png", "b/white.png"]
    given = [inbox / "b", inbox / "a.png", inbox / "b" / "a.png"]
    assert [name for name, _ in infer._sources([str(path) for path in given])] == names


def test_wrong_use_is_one_line_and_1(made, inbox, capsys):
    cases = {
        "no such file": [str(inbox / "gone")],
        "no pictures": [str(made)],
        "threshold is 7": [str(inbox), "--threshold", "7"],
        "--batch is 0": [str(inbox), "--batch", "0"],
        "provider abacus": [str(inbox), "--provider", "abacus"],
        "File exists": [str(inbox), "--output", str(inbox / "a.png")],
    }
    for reason, arguments in cases.items():
        assert infer.main([*arguments, "--bundle", str(made)]) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and said.err.count("\n") == 1
        assert reason in said.err and not said.out
    assert infer.main([]) == 1 and "required: pictures" in capsys.readouterr().err
    assert infer.main([str(inbox), "--bundle", str(inbox)]) == 1


def test_what_cannot_begin_leaves_the_output_folder_alone(made, tmp_path):
    given = [str(tmp_path / "gone"), "--bundle", str(made), "--output", str(tmp_path / "out")]
    assert infer.main(given) == 1
    assert not (tmp_path / "out").exists()


def test_ctrl_c_is_130(made, inbox, monkeypatch, capsys):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(infer, "read_picture", stop)
    assert infer.main([str(inbox), "--bundle", str(made)]) == 130
    assert capsys.readouterr().err.count("\n") == 1


def test_the_graph_is_one_that_onnx_accepts():
    onnx.checker.check_model(onnx.load_from_string(graph()))
