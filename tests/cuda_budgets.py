"""What each kernel may use of a GPU: the one table. `python tests/cuda_budgets.py` prints it as measured.

A GPU hands out registers to a thread in eights, and shared memory to a block in steps of 128 bytes. With 32 registers a
thread, a multiprocessor of 65,536 holds its 2,048 threads; with 40, it holds 1,632. No kernel may spill a register or
keep an array in local memory.
"""

#: kernel: registers of a thread in float32 and in float64, bytes of shared memory in float32 and in float64
BUDGETS = {
    "absolute_error_backward": (32, 32, 0, 0),
    "absolute_error_forward": (32, 40, 128, 128),
    "activation_backward": (24, 24, 0, 0),
    "adam_update": (40, 48, 128, 128),
    "adamw_update": (40, 48, 128, 128),
    "add_bias": (32, 32, 0, 0),
    "begin_step": (40, 40, 0, 0),
    "bias_elu_forward": (32, 32, 0, 0),
    "bias_gelu_forward": (32, 40, 0, 0),
    "bias_identity_forward": (32, 32, 0, 0),
    "bias_leaky_relu_forward": (32, 32, 0, 0),
    "bias_relu_forward": (32, 32, 0, 0),
    "bias_sigmoid_forward": (32, 32, 0, 0),
    "bias_silu_forward": (32, 32, 0, 0),
    "bias_softplus_forward": (32, 40, 0, 0),
    "bias_tanh_forward": (32, 32, 0, 0),
    "binary_cross_entropy_backward": (32, 32, 0, 0),
    "binary_cross_entropy_forward": (32, 40, 128, 128),
    "categorical_cross_entropy_backward": (56, 72, 0, 0),
    "categorical_cross_entropy_forward": (40, 64, 128, 128),
    "clip_by_norm": (32, 40, 256, 256),
    "clip_by_value": (24, 24, 0, 0),
    "column_sums": (48, 48, 4096, 8192),
    "copy_words4": (32, 32, 0, 0),
    "copy_words8": (32, 32, 0, 0),
    "draw_feistel": (40, 40, 0, 0),
    "draw_nothing": (32, 32, 0, 0),
    "draw_replacement": (32, 32, 0, 0),
    "draw_sequential": (32, 32, 0, 0),
    "draw_sorted": (48, 48, 2048, 2048),
    "dropout_mask": (40, 40, 0, 0),
    "elu_forward": (32, 32, 0, 0),
    "fill_words4": (32, 32, 0, 0),
    "fill_words8": (32, 32, 0, 0),
    "gather": (32, 32, 0, 0),
    "gelu_forward": (32, 48, 0, 0),
    "half_squared_error_backward": (32, 32, 0, 0),
    "half_squared_error_forward": (32, 32, 128, 128),
    "huber_backward": (32, 32, 0, 0),
    "huber_forward": (32, 40, 128, 128),
    "identity_forward": (32, 32, 0, 0),
    "leaky_relu_forward": (32, 32, 0, 0),
    "matmul": (40, 40, 2176, 4352),
    "mean_squared_error_backward": (32, 32, 0, 0),
    "mean_squared_error_forward": (32, 40, 128, 128),
    "penalty_backward": (24, 24, 0, 0),
    "poisson_backward": (32, 32, 0, 0),
    "poisson_forward": (32, 40, 128, 128),
    "poisson_rate_backward": (32, 40, 0, 0),
    "poisson_rate_forward": (32, 40, 128, 128),
    "relu_forward": (32, 32, 0, 0),
    "rmsprop_update": (32, 40, 128, 128),
    "sgd_momentum_update": (32, 32, 0, 0),
    "sgd_nesterov_update": (32, 32, 0, 0),
    "sgd_update": (32, 32, 0, 0),
    "sigmoid_forward": (32, 32, 0, 0),
    "silu_forward": (32, 32, 0, 0),
    "softmax_backward": (48, 48, 0, 0),
    "softmax_forward": (48, 64, 0, 0),
    "softplus_forward": (32, 40, 0, 0),
    "tanh_forward": (32, 32, 0, 0),
}

#: the same for the whole-run programs of `cuda_programs.py`; 0 where float64 is too much for the registers
PROGRAM_BUDGETS = {
    "rows": (168, 248, 0, 0),
    "rows of 8 lanes": (160, 0, 0, 0),
    "units": (64, 104, 256, 384),
    "units of three layers": (240, 0, 384, 0),
    "block": (152, 176, 8192, 16256),
    "block of two warps a row": (80, 96, 20096, 39680),
    "block in global memory": (120, 128, 5376, 10496),
}

#: Kernels of float32 that compute in float64, and where; no other kernel may.
FLOAT64_IN_FLOAT32 = {
    "categorical_cross_entropy_forward": "total",
    "absolute_error_forward": "total",
    "binary_cross_entropy_forward": "total",
    "half_squared_error_forward": "total",
    "huber_forward": "total",
    "mean_squared_error_forward": "total",
    "poisson_forward": "total",
    "poisson_rate_forward": "total",
    "adam_update": "once a block",
    "adamw_update": "once a block",
    "rmsprop_update": "once a block",
    "clip_by_norm": "the sum of squares, and once a block",
}


def main() -> None:
    """Print the tables as they are measured: the most of any architecture, rounded up to what hardware hands out."""
    from cuda_programs import PROGRAMS, written
    from emulator.nvrtc import ARCHITECTURES, build_file, build_program

    from nnkernels.backends.cupy import launch

    rows: dict[str, list[int]] = {}
    for column, dtype in enumerate(("float32", "float64")):
        for architecture in ARCHITECTURES:
            uses = [item for file in launch.SOURCES for item in build_file(file, dtype, architecture).use.items()]
            for name in PROGRAMS:
                program, fits = written(name, dtype)
                if fits:
                    uses.append((name, build_program(program.complete, dtype, architecture).use["run"]))
            for name, use in uses:
                row = rows.setdefault(name, [0] * 4)
                row[column] = max(row[column], -(-use.registers // 8) * 8)
                row[2 + column] = max(row[2 + column], -(-use.shared // 128) * 128)
    for name in (*sorted(rows.keys() - PROGRAMS.keys()), *PROGRAMS):
        print(f'    "{name}": {tuple(rows[name])},')  # noqa: T201


if __name__ == "__main__":
    main()
