"""Model files: safetensors, with the architecture as JSON metadata and a digest over both. Never pickle.

A file's metadata has two entries: ``nnkernels``, the JSON below, and ``sha256``, a digest over that JSON and the
parameters' bytes in order. Schema 1::

    {"schema": 1, "version": "0.1.0", "dtype": "float32", "seed": "0", "network": 0, "fits": 1,
     "layers": [{"n_in": 1, "n_out": 10, "activation": "sigmoid", "bias": false, "dropout": 0.0}, ...]}

The tensors are the parameters under their names, "0.weight", "0.bias", ... A network that was trained on a table has
one more entry, ``"preprocessing"``: an object that says how columns become inputs and outputs become answers, which
`nnkernels._tables.model.Model` makes and understands. A network keeps it from `load` to `save`.

An ensemble's file has, instead of ``"network"``, the entry ``"networks"``, their number n; its parameters have a
leading axis n, and beside them stand "numbers", the networks' in the streams of random numbers, and "diverged".
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels._device import Device
from nnkernels._device import device as resolve
from nnkernels._errors import ModelFileError
from nnkernels._layers import Dense
from nnkernels._sampling import Key
from nnkernels._version import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from nnkernels._ensemble import Ensemble
    from nnkernels._network import Sequential

SCHEMA = 1
LAYER_FIELDS = ("n_in", "n_out", "activation", "bias", "dropout")


def save(network: Sequential | Ensemble, path: str | os.PathLike[str]) -> None:
    """Write a network, or several; see `Sequential.save`."""
    import json

    from safetensors.numpy import save as to_bytes

    from nnkernels._network import Sequential

    tensors = network.parameters.to_host()
    if isinstance(network, Sequential):
        own: dict[str, Any] = {"seed": str(network.key.seed), "network": network.key.network}
        own |= {} if network.preprocessing is None else {"preprocessing": network.preprocessing}
    else:
        own = {"seed": str(network.seed), "networks": network.n}
        tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}  # views of (n, P) are not
        tensors |= {"numbers": network.numbers, "diverged": network.diverged}
    metadata = json.dumps(
        {
            "schema": SCHEMA,
            "version": __version__,
            "dtype": network.dtype,
            "fits": network.fits,
            "layers": [{name: getattr(layer, name) for name in LAYER_FIELDS} for layer in network.layers],
            **own,
        },
        allow_nan=False,
    )
    write_atomically(path, to_bytes(tensors, {"nnkernels": metadata, "sha256": _digest(metadata, tensors)}))


def load(path: str | os.PathLike[str], *, device: str | Device | None = None) -> Any:
    """Read a network that `Sequential.save` or `nnkernels train` wrote, or the ensemble of `Ensemble.save`.

    Parameters
    ----------
    path : path
        The file.
    device : str, Device or None
        Where the network shall live; as for `Sequential`.

    Returns
    -------
    Sequential or Ensemble
        With the saved parameters; its next fit draws what the saved one's would have drawn.

    Raises
    ------
    ModelFileError
        The file is truncated, corrupt, of a newer schema, or not one of ours.
    FileNotFoundError, BackendUnavailable, DeviceError
        There is no such file; the device cannot be used, or does not exist.

    Examples
    --------
    >>> import nnkernels as nnk, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "net.safetensors"
    >>> net = nnk.Sequential(nnk.Dense(1, 1), device="numpy", rng=0)
    >>> net.save(path)
    >>> bool((nnk.load(path, device="numpy").parameters["0.weight"] == net.parameters["0.weight"]).all())
    True
    """
    from pathlib import Path

    metadata, tensors = _read(Path(path))
    device = resolve(device)  # before the `try`: an unavailable device is no fault of the file
    try:
        layers = [Dense(**{name: layer[name] for name in LAYER_FIELDS}) for layer in metadata["layers"]]
        network = (_ensemble if "networks" in metadata else _network)(metadata, tensors, layers, device)
        network.fits = int(metadata["fits"])
        network.parameters.update({name: tensors[name] for name in network.parameters})
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ModelFileError(f"{path} is corrupt: its metadata does not describe its tensors ({error})") from error
    return network


def _network(metadata: Any, tensors: Any, layers: list[Dense], device: Device) -> Any:
    from nnkernels._network import Sequential

    key = Key(int(metadata["seed"]), int(metadata["network"]))
    network = Sequential(*layers, device=device, dtype=metadata["dtype"], rng=key)
    network.preprocessing = metadata.get("preprocessing")
    return network


def _ensemble(metadata: Any, tensors: Any, layers: list[Dense], device: Device) -> Any:
    from nnkernels._ensemble import Ensemble

    key, numbers = Key(int(metadata["seed"])), tensors["numbers"].astype(np.int64)
    if numbers.shape != (int(metadata["networks"]),) or tensors["diverged"].shape != numbers.shape:
        raise ValueError("numbers and diverged are not as long as networks says")
    ensemble = Ensemble.restored(layers, key, numbers, device=device, dtype=metadata["dtype"])
    ensemble.diverged = tensors["diverged"].astype(np.int64)
    return ensemble


def write_atomically(path: str | os.PathLike[str], content: bytes, *, private: bool = False) -> None:
    """Write beside, sync, then rename: a kill at any instant leaves the old file or the new one.

    A private file is its owner's alone; others get the mode that any new file gets.
    """
    import tempfile
    from pathlib import Path  # not above: it would be a fifth of the package's import time

    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target} cannot be written: there is no folder {target.parent}; make it first")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if not private:  # mkstemp makes files that only their owner can read
            umask = os.umask(0)
            os.umask(umask)
            Path(name).chmod(0o666 & ~umask)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink()
        raise


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    import json

    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise FileNotFoundError(f"there is no model file {path}")
    try:
        with safe_open(path, "numpy") as file:
            entries = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path} is truncated, corrupt, or no safetensors file: {error}") from error
    if "nnkernels" not in entries:
        raise ModelFileError(f"{path} is a safetensors file, but not one that nnkernels wrote")
    try:
        metadata = json.loads(entries["nnkernels"])
        schema, version = metadata["schema"], metadata["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelFileError(f"{path} is corrupt: its metadata cannot be read ({error})") from error
    if not isinstance(schema, int):
        raise ModelFileError(f"{path} is corrupt: its schema is {schema!r}")
    if schema > SCHEMA:
        raise ModelFileError(
            f"{path} has schema {schema}; this version reads up to {SCHEMA}. Install nnkernels>={version}."
        )
    if entries.get("sha256") != _digest(entries["nnkernels"], tensors):
        raise ModelFileError(f"{path} is corrupt: its digest does not match its content")
    return metadata, tensors


def _digest(metadata: str, tensors: dict[str, np.ndarray[Any, Any]]) -> str:
    import hashlib

    digest = hashlib.sha256(metadata.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name]).tobytes())
    return digest.hexdigest()
