"""Where Ray runs already: python ray_predict.py RUN PICTURES OUTPUT (a Parquet file a block).

Run once, with Ray 2.60 on two CPU cores (benchmarks/RESULTS.md). With GPUs, give map_batches
num_gpus=1 and concurrency=GPUS: an actor for each. Reading needs a core besides the actors'.
"""

import pathlib
import sys

import ray

from diffad_jax import predict
from input_pipeline.decoding.pictures import decode_rgb


class Judge:
    """An actor with the model, which is loaded once."""

    def __init__(self, run):
        self.model = predict.load(run)

    def __call__(self, batch):
        files = zip(batch["path"], batch["bytes"], strict=True)
        found = self.model([decode_rgb(pathlib.PurePath(path), data) for path, data in files])
        verdicts = [one.defective for one in found]
        return {"picture": batch["path"], "score": [r.score for r in found], "defective": verdicts}


if __name__ == "__main__":
    run, pictures, output = sys.argv[1:]
    files = ray.data.read_binary_files(pictures, include_paths=True, file_extensions=["png", "jpg"])
    judged = files.map_batches(Judge, fn_constructor_args=(run,), batch_size=16, concurrency=1)
    judged.write_parquet(output)
