"""The reference backend. Read kernels.py first."""
