"""Benchmarks: every case is validated first, then timed, its rows interleaved. Run `python -m benchmarks`."""
