import os
import subprocess
import sys

import jax

from cvfp_jax.mesh import make_mesh, over_rows, replicated

SCRIPT = """
import jax
import numpy as np
import sys
sys.path.insert(0, sys.argv[1])
from test_phase2 import learn, problem
from cvfp_jax.mesh import make_mesh

assert jax.device_count() == 8
for frozen in (True, False):
    model, config, train, val = problem(batch_size=20, epochs=2, freeze_embedding=frozen)
    one = learn(model, config, train, val)
    many = learn(model, config, train, val, make_mesh(jax.devices()))
    np.testing.assert_allclose(many.batch_losses, one.batch_losses, rtol=1e-5)
    np.testing.assert_allclose([e.val_loss for e in many.epochs], [e.val_loss for e in one.epochs], rtol=1e-5)
    assert [e.val_acc for e in many.epochs] == [e.val_acc for e in one.epochs]
model, config, train, val = problem(batch_size=20, epochs=2, train_contexts="recomputed")
one = learn(model, config, train, val)
many = learn(model, config, train, val, make_mesh(jax.devices()))
np.testing.assert_allclose(many.batch_losses, one.batch_losses, rtol=1e-5)
print("equal")
"""


def test_a_mesh_of_one():
    mesh = make_mesh()
    assert dict(mesh.shape) == {"data": 1}
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)
    assert over_rows(mesh).spec == jax.sharding.PartitionSpec("data")
    assert replicated(mesh).is_fully_replicated


def test_phase2_on_many_devices_equals_one():
    # A batch of 20 rows divides neither by 8 nor into the stream's 59.
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    environment = {**os.environ, **flags}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, os.path.dirname(__file__)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "equal", run.stderr[-2000:]
