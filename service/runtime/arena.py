"""The memory that all sessions on a CPU compute in: one arena, which grows by what is requested.

It keeps the most that was ever computed at once, and nothing but a run can make it smaller. The
measurements of a version that is loaded, beside the answers of another, are the most by far.
"""

from functools import cache

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper

SHRINKING = "memory.enable_memory_arena_shrinkage"


@cache
def share() -> None:
    """Makes the arena, for sessions with `session.use_env_allocators`."""
    # Each session would otherwise keep an arena of its own: 15 MB each.
    memory = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(memory, ort.OrtArenaCfg({"arena_extend_strategy": 1}))


def shrink() -> None:
    """Frees what no session computes in at this moment; the next run that needs it takes it again,
    once.
    """
    chosen = ort.RunOptions()
    chosen.add_run_config_entry(SHRINKING, "cpu:0")
    _nothing().run(None, {"x": np.zeros(1, np.float32)}, chosen)


@cache
def _nothing() -> ort.InferenceSession:
    """A session on the arena that computes nothing."""
    share()
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", [x], [y])
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    chosen = ort.SessionOptions()
    chosen.intra_op_num_threads = 1
    chosen.add_session_config_entry("session.use_env_allocators", "1")
    return ort.InferenceSession(model, chosen, providers=["CPUExecutionProvider"])
