"""Print the elementwise kernels of every backend from the formula tables: `python -m nnkernels.backends`."""

from pathlib import Path

from nnkernels.backends.cupy.printing import CudaDialect
from nnkernels.backends.numba.printing import NumbaDialect
from nnkernels.backends.numpy.printing import NumpyDialect

DIALECTS = {"numpy": NumpyDialect, "numba": NumbaDialect, "cupy": CudaDialect}

if __name__ == "__main__":
    for folder, dialect in DIALECTS.items():
        for name, source in dialect.files().items():
            path = Path(__file__).with_name(folder) / name
            if not path.exists() or path.read_text() != source:
                path.write_text(source)
                print(f"printed {path}")
