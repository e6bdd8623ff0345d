"""A solver of the `dro` package on the four groups, alone in its process: torch and JAX do not live together in one.

``python -m tests._third_party CLASS CONSTRUCTOR_JSON UPDATE_JSON`` prints the robust value and the parameters as JSON.
"""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np


def main() -> None:
    name, settings, update = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
    for unneeded in ("torchvision", "torchvision.models", "torchvision.transforms", "torchattacks"):
        sys.modules[unneeded] = mock.MagicMock()  # of its neural models
    from dro import linear_model

    with np.load(Path(__file__).parent / "reference" / "four_groups_logistic.npz") as problem:
        inputs, signs = problem["X"], problem["y"]
    model = getattr(linear_model, name)(input_dim=inputs.shape[1], model_type="logistic", **settings)
    model.update(update)
    found = model.fit(inputs, signs)
    params = [float(value) for value in (*found["theta"], found["b"])]
    sys.stdout.write("\n" + json.dumps([float(model.robust_obj), params]))


if __name__ == "__main__":
    main()
