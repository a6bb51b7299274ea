"""A cell on the devices of two processes is that of one device: run by test_processes.py, a process each."""

import sys

import jax
import numpy as np

from cvfp_jax.config.overrides import replace
from cvfp_jax.contexts.runtime import Runtime
from cvfp_jax.distributed import processes
from cvfp_jax.distributed.mesh import make_mesh
from cvfp_jax.runtime.cluster import Place
from cvfp_jax.sweeps.cell import run_cell
from tests.sweeps.test_cell import CONFIG, TIMES, data_of

# What the sweeps of test_processes.py do not come to.
CHANGES = {
    "effective_rank_rows": 20,
    "model.num_blocks": 2,
    "model.context_mode": "A",
    "model.use_weight_tying": False,
    "phase1.stop": "val_effective_rank",
    "phase1.val_frequency": 2,
    "phase1.initial_contexts": "sequential",
    "phase1.context_dtype": "bfloat16",
    "phase2.train_contexts": "sequential",
}


if __name__ == "__main__":
    with processes.joined(Place(sys.argv[1], 2, int(sys.argv[2]))):
        assert jax.device_count() == 8
        assert jax.local_device_count() == 4
        config = replace(CONFIG, CHANGES)
        mesh = make_mesh({"data": 4, "model": 2})
        one, many = run_cell(config, data_of()).record, run_cell(config, data_of(), Runtime(mesh)).record
        for name in one.keys() - TIMES:
            if isinstance(one[name], float | list):
                # Squares of differences of contexts: as exact as the contexts, however small they get.
                least = 1e-5 * max(one[name]) if name == "val_convergence_losses" else 1e-9
                np.testing.assert_allclose(many[name], one[name], rtol=1e-4, atol=least, err_msg=name)
            else:
                assert many[name] == one[name], name
        print("equal")
