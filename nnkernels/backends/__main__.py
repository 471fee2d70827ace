"""Print the elementwise kernels of every backend from the formula tables: `python -m nnkernels.backends`."""

from nnkernels.backends._printing import write_all

if __name__ == "__main__":
    for path in write_all():
        print(f"printed {path}")
